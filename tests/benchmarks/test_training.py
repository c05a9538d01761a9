"""The benchmarks of training run, and measure what they say."""

import json

import pytest
import torch
from common.generated import generate_images
from helpers.features import make_features
from product import metrics as bench_metrics
from product import scaling as bench_scaling
from product import training as bench_training


def test_a_step_is_the_sum_of_its_parts():
    options = bench_training._options(
        ["--batch-size", "3", "--steps", "2", "--precision", "float32"]
    )
    parts = bench_training.measure_step(make_features(9, shape=(6, 5, 5)), options)
    assert [part.name for part in parts] == list(bench_training.PARTS)
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert all(part.ms > 0 and part.megabytes > 0 for part in parts)
    work = {part.name: part.gflop for part in parts}
    assert work["fusion, backward"] == pytest.approx(2 * work["fusion, forward"])
    macs = 25 * 3 * (12 * 64 * 9 + 7 * 64 * 64 * 9 + 12 * 64 + 64 * 6)  # shortcut, last layer
    assert work["fusion, forward"] == pytest.approx(2 * macs / 1e9)


def test_marks_are_the_times_between():
    marks = bench_training.Marks(torch.device("cpu"))
    marks._marks = [("start", 0.0), ("a", 0.5), ("b", 1.0), ("b", 3.0)]
    assert marks.between() == {"a": 500.0, "b": 2500.0}
    assert marks.between() == {}


def test_with_and_without_the_cache(capsys, tmp_path):
    arguments = ["--images", "8", "--steps", "1", "--epochs", "1", "--batch-size", "4"]
    assert bench_training.main([*arguments, "--json", str(tmp_path / "step.json")]) == 0
    text = capsys.readouterr().out
    assert "s from the cache" in text and "whole step" in text
    epoch = json.loads((tmp_path / "step.json").read_text())[-1]
    assert epoch["part"] == "epoch" and epoch["uncached"] > 0 < epoch["cached"][0]


def test_generated_images_are_the_same_each_time(tmp_path):
    samples = generate_images(tmp_path / "a", 5, size=16, classes=("x", "y"))
    assert [sample.class_name for sample in samples] == ["x", "x", "x", "y", "y"]
    again = generate_images(tmp_path / "b", 5, size=16, classes=("x", "y"))
    contents = [[sample.path.read_bytes() for sample in found] for found in (samples, again)]
    assert contents[0] == contents[1] and len(set(contents[0])) == 5


def test_growth_is_measured_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_scaling, "SIZES", (32, 64))
    monkeypatch.setattr(bench_scaling, "GRIDS", ({"local_dims": 1}, {"global_resolution": 2}))
    file, picture = tmp_path / "records.json", tmp_path / "curves.png"
    options = ["--json", str(file), "--counts", "20,70", "--batch-size", "4"]
    assert bench_scaling.main(["images", "size", "grid", *options]) == 0
    records = json.loads(file.read_text())
    assert [r["what"] for r in records] == ["images"] * 2 + ["size"] * 2 + ["grid"] * 2
    assert records[0]["images"] == 20 and records[0]["seconds"] > 0
    assert records[3]["backbone_ms"] > 0 < records[3]["step_ms"]
    assert bench_scaling.main(["plot", *options, "--png", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_metrics_of_generated_maps(capsys):
    assert bench_metrics.main(["--images", "100", "--size", "64"]) == 0
    text = capsys.readouterr().out
    assert "100 maps of 64 x 64" in text and "pixel_auroc" in text
    assert bench_metrics.main(["--images", "100", "--size", "64", "--exact"]) == 0
    assert "aupro_5" in capsys.readouterr().out
