"""Training, thresholds, metrics and evaluation with a region of interest know nothing outside."""

import json
import shutil

import numpy as np
import pytest
from helpers.command import error_of
from helpers.images import make_images
from PIL import Image

from grad.check.__main__ import main as check
from grad.detector.checkpoint import load_checkpoint
from grad.evaluate.__main__ import main as evaluate
from grad.info.__main__ import main as show_info
from grad.train.__main__ import main as train

COLUMNS = 40  # of 64 are looked at; defects lie at 16 to 31


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same two classes twice; all images of the second have a hand in the picture, outside."""
    root = tmp_path_factory.mktemp("roi")
    for name in ("plain", "hand"):
        make_images(root / name, classes=("a", "b"), train=8, test=4, size=64)
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :COLUMNS] = 255
        Image.fromarray(mask).save(root / name / "a/roi.png")
        Image.fromarray(mask).save(root / name / "all.png")
    for path in (root / "hand").glob("*/*/*/*.png"):
        pixels = np.array(Image.open(path))
        pixels[10:50, COLUMNS + 2 :] = 255
        Image.fromarray(pixels).save(path)
    return root


def run(root, name, out, preset):
    options = f"--backbone tf_efficientnet_lite0 --preset {preset} --epochs 2 --image-size 64"
    where = ["--data", str(root / name), "--roi", str(root / name / "all.png")]
    rest = ["--device", "cpu", "--out", str(out), "--cache", str(out.parent / "cache")]
    assert train([*options.split(), *where, *rest]) == 0
    return json.loads((out / "metrics.json").read_text())


def scores(out):
    lines = map(json.loads, (out / "records.jsonl").read_text().splitlines())
    return [(line["class_name"], line["score"], line["map_maximum"]) for line in lines]


@pytest.mark.parametrize("preset", ["grad-plus", "grad-tiny"])
def test_a_hand_outside_changes_nothing(folders, tmp_path, preset, capsys):
    plain = run(folders, "plain", tmp_path / "plain", preset)
    said = " ".join(capsys.readouterr().out.split())
    assert "a: 62% of each image is looked at" in said and "b: 62% of each image" in said
    hand = run(folders, "hand", tmp_path / "hand", preset)
    assert plain["classes"] == hand["classes"] and plain["thresholds"] == hand["thresholds"]
    assert scores(tmp_path / "plain") == scores(tmp_path / "hand")
    rois = load_checkpoint(tmp_path / "plain").info.rois
    assert set(rois) == {"a", "b"}
    capsys.readouterr()
    assert show_info([str(tmp_path / "plain")]) == 0
    assert "a 62%, b 62%" in " ".join(capsys.readouterr().out.split())
    out = tmp_path / "evaluation"
    again = ["--data", str(folders / "hand"), "--cache", str(tmp_path / "cache")]
    assert evaluate([str(tmp_path / "plain"), *again, "--out", str(out), "--device", "cpu"]) == 0
    assert scores(out) == scores(tmp_path / "plain")


def test_a_wrong_region_is_said_by_check_and_train(folders, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(folders / "plain", data)
    assert check([str(data)]) == 0
    assert "62% of each image is looked at" in " ".join(capsys.readouterr().out.split())
    Image.new("L", (64, 64)).save(data / "a/roi.png")
    assert train(["--data", str(data), "--out", str(tmp_path / "run")]) == 2
    assert "a/roi.png is black everywhere" in error_of(capsys)
    assert check([str(data)]) == 2
    assert "black everywhere" in " ".join(capsys.readouterr().out.split())
