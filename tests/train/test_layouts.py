"""From data in several layouts to a judged model."""

import json

import pytest
from helpers.layouts import manifest, mvtec_loco, real_iad

from grad.check.__main__ import main as check
from grad.evaluate.__main__ import main as evaluate
from grad.train.__main__ import main


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(data, *arguments):
        quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 1 --batch-size 4"
        quick += " --image-size 64 --device cpu --precision float32 --cache cache --out run"
        assert main([*quick.split(), "--data", str(data), *arguments]) == 0
        return json.loads((tmp_path / "run/metrics.json").read_text(encoding="utf-8"))

    return call


def test_views_of_parts_are_judged_together(train, tmp_path, capsys):
    real_iad(tmp_path / "data")
    metrics = train(tmp_path / "data")
    assert set(metrics["mean"]) == {*metrics["classes"]["pcb"]} and "part_auroc" in metrics["mean"]
    assert metrics["mean_over"]["part_auroc"] == 2
    assert "part" in capsys.readouterr().out
    records = (tmp_path / "run/records.jsonl").read_text(encoding="utf-8").splitlines()
    bad, good = [], []
    for record in map(json.loads, records):
        if record["class_name"] == "pcb":
            (bad if "/NG/" in record["path"] else good).append(record["score"])
    assert metrics["classes"]["pcb"]["part_auroc"] == float(max(bad) > max(good))
    report = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert 'colspan="4">image' in report and ">parts<" in report
    arguments = ["run", "--data", str(tmp_path / "data"), "--cache", "cache", "--out", "again"]
    assert evaluate(arguments) == 0
    again = json.loads((tmp_path / "again/metrics.json").read_text(encoding="utf-8"))
    assert again["mean"]["part_auroc"] == metrics["mean"]["part_auroc"]
    assert evaluate(["run", "--save", "--threshold", "f1"]) == 0  # writes the report anew


@pytest.mark.parametrize("more", [(), ("--tile", "16"), ("--separate", "--few-shot", "2")])
def test_validation_images_make_the_thresholds(train, tmp_path, capsys, more):
    """Folders of masks count too, whole and in tiles."""
    mvtec_loco(tmp_path / "data")
    assert check([str(tmp_path / "data")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(mvtec loco)" in said and "validation" in said
    assert "4 good images to learn from, 3 for thresholds, 5 to test on" in said
    metrics = train(tmp_path / "data", *more)
    images = metrics["settings"]["images"]["pushpins"]
    assert (images["train"], images["calibration"], images["masks"]) == (
        2 if more[1:2] == ("--few-shot",) else 4,
        3,
        4,
    )
    assert metrics["classes"]["pushpins"]["pixel_auroc"] is not None
    assert not (tmp_path / "run/oddest.txt").exists()


def test_a_manifest_is_trained_and_evaluated(train, tmp_path):
    manifest(tmp_path / "data")
    metrics = train(tmp_path / "data/manifest.csv")
    assert metrics["settings"]["images"]["bolt"]["train"] == 6
    assert metrics["thresholds"]["classes"]["bolt"]["source"] == "folds"
    arguments = ["run", "--data", str(tmp_path / "data/manifest.csv"), "--cache", "cache"]
    assert evaluate(arguments) == 0
