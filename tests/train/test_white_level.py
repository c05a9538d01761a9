"""16-bit images of cameras with fewer bits: training sees what is white, and everything else knows.

The same pictures with 8 bits and with 12 in files of 16 give the same features but for rounding.
"""

import itertools
import json
import shutil

import numpy as np
import pytest
import yaml
from helpers.command import error_of
from helpers.images import make_images
from PIL import Image

import grad.check.__main__
import grad.evaluate.__main__
import grad.predict.__main__
from grad.data.images import load_image
from grad.detector.checkpoint import load_checkpoint
from grad.detector.detector import Detector
from grad.train.__main__ import main

SIZE = 48
LEVELS = {10: 1023, 12: 4095, 14: 16383}


def deepen(folder, bits):
    """Every image in a folder as grey that uses so many bits, of files with 8 or 16."""
    for path in folder.rglob("*/*/*.png"):
        if "ground_truth" not in path.parts:
            grey = np.asarray(Image.open(path).convert("L")).astype(np.float64)
            values = (grey * ((1 << bits) - 1) / 255).round()
            values = values.astype(np.uint8 if bits == 8 else np.uint16)
            Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grey images in ``eight`` and ``twelve`` bits, a run on each, and a cache that they share."""
    root = tmp_path_factory.mktemp("white")
    make_images(root / "colour", classes=("a", "b"), train=6, test=3, size=SIZE)
    for name, bits in (("eight", 8), ("twelve", 12)):
        shutil.copytree(root / "colour", root / name)
        deepen(root / name, bits)
        assert train(root, name, root / f"run-{name}") == 0
    return root


def train(root, name, out, *more):
    quick = "--backbone tf_efficientnet_lite0 --preset grad-plus --epochs 2 --batch-size 4"
    options = f"{quick} --image-size {SIZE} --device cpu --precision float32".split()
    data = ["--data", str(root / name), "--cache", str(root / "cache"), "--out", str(out)]
    return main([*options, *data, *more])


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("bits", LEVELS)
def test_the_white_level_is_taken_from_the_training_images(folder, tmp_path, capsys, bits):
    make_images(tmp_path / "data", classes=("a",), train=6, test=2, size=SIZE)
    for path in tmp_path.rglob("train/good/*.png"):
        pixels = np.array(Image.open(path))
        pixels[0, 0] = 250
        Image.fromarray(pixels).save(path)
    deepen(tmp_path / "data", bits)
    assert grad.check.__main__.main([str(tmp_path / "data")]) == 0
    said = f"White of 16-bit images is {LEVELS[bits]}; the brightest value"
    assert said in " ".join(capsys.readouterr().out.split())
    assert train(tmp_path, "data", tmp_path / "run", "--epochs", "1") == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert load_checkpoint(tmp_path / "run").info.white_level == LEVELS[bits]
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["white_level"] == LEVELS[bits]
    assert metrics(tmp_path / "run")["settings"]["white_level"] == LEVELS[bits]


def test_twelve_bits_are_judged_as_eight(folder):
    """The same picture has the same score but for rounding, and the runs the same metrics."""
    detector = Detector.load(folder / "run-twelve", device="cpu")
    for path in (folder / "eight").glob("*/test/*/*.png"):
        score = detector.predict(path).score
        other = folder / "twelve" / path.relative_to(folder / "eight")
        assert detector.predict(other).score == pytest.approx(score, rel=0.02)
    eight, twelve = (metrics(folder / f"run-{name}")["classes"] for name in ("eight", "twelve"))
    for name, key in itertools.product("ab", ("image_auroc", "pixel_auroc")):
        assert twelve[name][key] == pytest.approx(eight[name][key], abs=0.05)


def test_everything_that_reads_images_knows_the_level(folder, tmp_path, capsys):
    run, data = folder / "run-twelve", folder / "twelve"
    records = {
        record["path"]: record["score"]
        for record in map(json.loads, (run / "records.jsonl").open())
        if "path" in record
    }
    path = data / "a/test/dark/a0.png"
    stored = next(score for name, score in records.items() if name.endswith("a/test/dark/a0.png"))
    detector = Detector.load(run, device="cpu")
    for image in (path, Image.open(path), np.asarray(Image.open(path))):
        result = detector.predict(image)
        assert result.score == pytest.approx(stored, rel=1e-2) and not result.clipped
    assert np.asarray(result.image).max() > 50  # it is shown as it is seen, too
    out = tmp_path / "again"
    assert grad.evaluate.__main__.main([str(run), "--data", str(data), "--out", str(out)]) == 0
    for name in ("a", "b"):
        first, second = (metrics(folder)["classes"][name] for folder in (run, out))
        assert first["image_auroc"] == second["image_auroc"]
    assert metrics(out)["settings"]["white_level"] == 4095


def test_values_above_the_level_are_white_and_said(folder, tmp_path, capsys):
    path = tmp_path / "bright.png"
    values = np.asarray(Image.open(folder / "twelve/a/test/good/a0.png")).copy()
    values[:9, :9] = 60000
    Image.fromarray(values).save(path)
    run = folder / "run-twelve"
    result = Detector.load(run, device="cpu").predict(path)
    assert result.clipped
    values[:9, :9] = 4095
    assert Detector.load(run, device="cpu").predict(values).score == result.score
    assert grad.predict.__main__.main([str(run), str(path)]) == 0
    assert "1 with values above 4095, which count as white" in capsys.readouterr().err

    shutil.copytree(folder / "twelve", tmp_path / "data")
    shutil.copy(path, tmp_path / "data/a/test/good/a0.png")
    said = "1 image with values above the white level 4095, which count as white, the first is"
    assert grad.check.__main__.main([str(tmp_path / "data")]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    where = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert grad.evaluate.__main__.main([str(run), *where]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_level_that_is_given_is_taken(folder, tmp_path, capsys):
    assert train(folder, "twelve", tmp_path / "run", "--white-level", "65535", "--epochs", "1") == 0
    assert load_checkpoint(tmp_path / "run").info.white_level == 65535
    capsys.readouterr()
    assert train(folder, "twelve", tmp_path / "other", "--white-level", "0") == 2
    assert "--white-level 0 must be from 1 to 65535" in error_of(capsys)


def test_eight_bits_and_floats_do_not_depend_on_it(tmp_path):
    values = np.random.default_rng(0).random((9, 9), np.float32)
    Image.fromarray((values * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        path = tmp_path / name
        assert load_image(path, (9, 9), 4095).equal(load_image(path, (9, 9)))
