"""benchmarks/bench_thresholds.py: rates asked for and found, from what runs have stored."""

import pytest
from product import thresholds as bench_thresholds

from grad.detector.checkpoint import ModelInfo
from grad.score.records import ImageRecord, write_records
from grad.score.thresholds import calibrate

GOOD = {name: [1.0 + i / 100 for i in range(10)] for name in "ab"}


def record(name, score, anomalous=False):
    return ImageRecord("x.png", name, anomalous, "cut", None, score, 1.0)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs of one model, told by a stand-in."""
    calibration = calibrate(GOOD, GOOD, dict.fromkeys(GOOD, "held out"))
    info = ModelInfo("net", (0,), "", 32, (0.5,), (0.5,), ("a", "b"), 1)
    monkeypatch.setattr(bench_thresholds, "model_files", lambda run: [run])
    monkeypatch.setattr(bench_thresholds, "load_calibration", lambda file: (info, calibration))
    records = [record("a", 1.0), record("a", 9.0), record("a", 1.05), record("b", 9.0, True)]
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "records.jsonl", records)
    return [tmp_path / "x", tmp_path / "y"]


def test_runs_are_counted_together(runs):
    tallies = bench_thresholds.tally(runs, 0.05)
    a, b = tallies["a"], tallies["b"]
    assert (a.good, a.false_alarms, a.marked, a.defects) == (6, 2, 0, 0)
    assert (b.good, b.defects, b.found, b.calibration_images) == (0, 2, 2, 10)
    assert tallies["all"].false_alarms == tallies["class not stated"].false_alarms == 2


def test_the_table(runs, capsys, tmp_path):
    out = tmp_path / "table.md"
    arguments = [*map(str, runs), "--rates", "0.02,0.5", "--out", str(out)]
    assert bench_thresholds.main(arguments) == 0
    text = capsys.readouterr().out
    assert out.read_text() == text
    assert "asked 2.00%" in text and "asked 50.00%" in text
    assert "| a | 10 | 6 | 0 | 33.3% | 0.0% | - |" in text
    assert "| b | 10 | 0 | 2 | - | - | 100% |" in text


@pytest.mark.parametrize("rates", ["0.01,x", "0", "2"])
def test_wrong_rates(runs, rates, capsys):
    assert bench_thresholds.main([str(runs[0]), "--rates", rates]) == 2
    assert capsys.readouterr().err.count("\n") == 1
