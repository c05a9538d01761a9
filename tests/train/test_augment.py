"""Training with --augment: variants are learned from, and counted nowhere as images."""

import json

import pytest
from helpers.command import error_of
from helpers.images import make_images

from grad.detector import checkpoint
from grad.detector.checkpoint import load_calibration
from grad.evaluate.__main__ import main as evaluate
from grad.train.__main__ import main as train
from grad.train.options import TrainOptions


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("augment")
    make_images(root / "data", classes=("a", "b"), train=12, test=3, size=64)
    return root / "data"


def run(data, out, *options):
    base = "--backbone tf_efficientnet_lite0 --epochs 2 --image-size 64 --device cpu --seed 0"
    where = ["--data", str(data), "--out", str(out), "--cache", str(data.parent / "cache")]
    assert train([*base.split(), *where, *options]) == 0
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize("preset", ["grad-plus", "grad-tiny"])
def test_variants_train_and_are_counted_nowhere(data, tmp_path, preset, capsys):
    found = run(data, tmp_path / "run", "--preset", preset, "--augment", "light,flip")
    said = " ".join(capsys.readouterr().out.split())
    assert "2 epochs of 24 images and 168 variants in batches of 8 are 48 steps" in said
    assert "a │ 12" in said
    settings = found["settings"]
    assert settings["augment"] == ["light", "flip"]
    assert [settings["images"][name]["train"] for name in "ab"] == [12, 12]
    calibration = load_calibration(tmp_path / "run" / "model.safetensors")[1]
    assert {name: limit.images for name, limit in calibration.classes.items()} == {
        "a": 12,
        "b": 12,
    }
    assert set(calibration.sources.values()) == {"folds"}
    listed = (tmp_path / "run" / "oddest.txt").read_text().splitlines()
    names = [line for line in listed if not line.startswith("#")]
    assert len(names) == len(set(names)) == 4
    plain = run(data, tmp_path / "plain", "--preset", preset)
    assert load_calibration(tmp_path / "plain" / "model.safetensors")[0].augment == ()
    assert plain["settings"]["augment"] == [] and plain["classes"] != found["classes"]


@pytest.mark.parametrize("apart", ["share", "validation"])
def test_images_kept_for_thresholds_are_counted_as_they_come(data, tmp_path, apart):
    options = ["--preset", "grad-plus", "--augment", "light,rotate90"]
    if apart == "share":
        options += ["--calibration-share", "0.25"]
    else:
        make_images(tmp_path / "more", classes=("a", "b"), train=3, test=0, size=64)
        for name in "ab":
            (tmp_path / "more" / name / "train/good").rename(tmp_path / "more" / name / "good")
            (tmp_path / "more" / name / "train").rmdir()
        options += ["--validation", str(tmp_path / "more")]
    found = run(data, tmp_path / "run", *options)
    images = found["settings"]["images"]["a"]
    expected = (9, 3) if apart == "share" else (12, 3)
    assert (images["train"], images["calibration"]) == expected
    calibration = load_calibration(tmp_path / "run" / "model.safetensors")[1]
    assert {name: len(scores) for name, scores in calibration.good_scores.items()} == {
        "a": 3,
        "b": 3,
    }


def test_training_goes_on_with_its_variants(data, tmp_path, capsys):
    options = ["--preset", "grad-tiny", "--augment", "shift"]
    whole = run(data, tmp_path / "whole", *options, "--epochs", "3")
    run(data, tmp_path / "run", *options)
    again = ["--resume", str(tmp_path / "run"), "--epochs", "3"]
    assert train([*again, "--augment", "flip"]) == 2
    assert "--augment flip (was shift)" in error_of(capsys)
    assert train(again) == 0
    ended = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert load_calibration(tmp_path / "run" / "model.safetensors")[0].augment == ("shift",)
    assert ended["settings"]["augment"] == ["shift"]
    assert len(whole["classes"]) == len(ended["classes"]) == 2


def test_thresholds_that_were_lost_are_made_with_the_same_variants(data, tmp_path):
    run(data, tmp_path / "run", "--preset", "grad-plus", "--augment", "light,flip")
    file = tmp_path / "run" / "model.safetensors"
    before = load_calibration(file)[1]
    metadata, tensors = checkpoint._read(file)
    checkpoint._write(file, tensors, metadata | {"calibration": "null"})
    where = ["--data", str(data), "--cache", str(data.parent / "cache"), "--device", "cpu"]
    again = [str(tmp_path / "run"), *where, "--save", "--out", str(tmp_path / "out")]
    assert evaluate(again) == 0
    after = load_calibration(file)[1]
    for name in "ab":
        assert after.good_scores[name] == pytest.approx(before.good_scores[name], rel=1e-3)


def test_tiles_of_variants(data, tmp_path):
    options = ["--tile", "64", "--image-size", "32", "--few-shot", "4", "--preset", "grad-plus"]
    found = run(data, tmp_path / "run", *options, "--augment", "light,shift,rotate90,flip")
    assert found["settings"]["images"]["a"]["train"] == 4


@pytest.mark.parametrize("given", ["flip, light,flip", "light,flip,", " light , flip"])
def test_names_are_put_in_order(given):
    assert TrainOptions(augment=given).augmentations() == ("light", "flip")
    assert TrainOptions().augmentations() == ()


@pytest.mark.parametrize(
    ("given", "what"), [("blur", "names blur"), ("light,Flip", "names Flip"), (",", "nothing")]
)
def test_unknown_names_are_a_sentence(data, given, what, capsys):
    assert train(["--data", str(data), "--augment", given]) == 2
    said = error_of(capsys)
    assert what in said and "choose among light, shift, rotate90, flip" in said
