"""benchmarks/bench_thresholds.py: rates asked for and found, from what runs have stored."""

import pytest
from product import thresholds as bench_thresholds

from grad.detector.checkpoint import ModelInfo
from grad.score.records import ImageRecord, write_records
from grad.score.thresholds import Threshold, calibrate

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
    assert (a.good, a.false_alarms, a.defects, a.calibration_images) == (6, 2, 0, 10)
    assert (b.good, b.defects, b.found, b.oracle) == (0, 2, 2, 2)
    assert tallies["all"].false_alarms == tallies["class not stated"].false_alarms == 2


def test_the_table(runs, capsys, tmp_path):
    out = tmp_path / "table.md"
    arguments = [*map(str, runs), "--rates", "0.02,0.5", "--out", str(out)]
    assert bench_thresholds.main(arguments) == 0
    text = capsys.readouterr().out
    assert out.read_text() == text
    assert "asked 2.00%" in text and "asked 50.00%" in text
    assert "| a | 10 | 6 | 0 | 33.3% | - | - |" in text
    assert "| b | 10 | 0 | 2 | - | 100% | 100% |" in text


def test_the_oracle_finds_what_the_best_threshold_with_as_many_false_alarms_does():
    limit = Threshold(5.0, 50.0, 1.0, 1.0, 10, "", joint=True)
    good = [record("a", score) for score in (1.0, 2.0, 3.0, 6.0)]
    defects = [record("a", score, True) for score in (2.5, 3.5, 4.5, 7.0)]
    found = bench_thresholds.Tally()
    found.add([*good, *defects], limit)
    assert (found.false_alarms, found.found, found.oracle) == (1, 1, 3)


def test_simulated_scores(monkeypatch, capsys):
    text = bench_thresholds.simulate([0.1], [9, 40], repetitions=20)
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][1:] == [" 9 images, 10% ", " 40 images, 10% "]
    assert len(rows) == 1 + len(bench_thresholds.SIMULATED)
    for row in rows[1:]:
        for cell in row[1:]:
            alarms, found = cell.split(",")
            assert 0.2 < float(alarms) < 4 and 50 < float(found.strip(" %")) <= 100
    assert bench_thresholds.main([]) == 2
    assert "--simulated" in capsys.readouterr().err


@pytest.mark.parametrize("rates", ["0.01,x", "0", "2"])
def test_wrong_rates(runs, rates, capsys):
    assert bench_thresholds.main([str(runs[0]), "--rates", rates]) == 2
    assert capsys.readouterr().err.count("\n") == 1
