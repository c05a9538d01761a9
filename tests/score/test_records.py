from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grad.data.samples import Sample
from grad.score.records import ImageRecord, Recorder, read_records, write_records
from grad.system.errors import GradError

SAMPLES = [
    Sample(Path("data/Schraube ä/test/good/0.png"), "Schraube ä", "test"),
    Sample(Path("data/b/test/cut/1.png"), "b", "test", True, "cut", Path("data/b/1_mask.png")),
]


@pytest.fixture
def records():
    recorder = Recorder()
    maps = torch.tensor([[[0.5, 2.0], [1.0, 0.0]], [[7.0, 0.1], [0.2, 0.3]]])
    recorder.add(SAMPLES, torch.tensor([1.5, 0.1]), maps)
    return recorder.records


def test_a_recorder_keeps_scores_and_the_largest_values(records):
    assert [(r.score, r.map_maximum) for r in records] == [(1.5, 2.0), (pytest.approx(0.1), 7.0)]
    assert records[0].path == str(Path("data/Schraube ä/test/good/0.png").absolute())
    assert (records[0].mask, records[0].anomalous, records[0].defect) == (None, False, "good")
    assert records[1].mask == str(Path("data/b/1_mask.png").absolute())


def test_recorders_of_several_processes_are_joined(records):
    other = Recorder()
    other.add(SAMPLES[:1], torch.tensor([9.0]), torch.zeros(1, 2, 2))
    mine = Recorder()
    mine.records = list(records)
    mine.merge(other)
    assert mine.records == [*records, *other.records]


def test_records_come_back_exactly(records, tmp_path):
    write_records(tmp_path / "records.jsonl", records)
    assert read_records(tmp_path / "records.jsonl") == records
    assert "Schraube ä" in (tmp_path / "records.jsonl").read_text(encoding="utf-8")


def test_a_run_without_records(tmp_path):
    with pytest.raises(GradError, match=r"records.jsonl does not exist: .* give --data DIR"):
        read_records(tmp_path / "records.jsonl")


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"path": "a"}', '"text"', "null", '{"unknown": 1}']
)
def test_a_line_that_is_no_record(records, tmp_path, line):
    path = tmp_path / "records.jsonl"
    write_records(path, records)
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(GradError, match=r"records.jsonl, line 3 is no record of an image"):
        read_records(path)


@pytest.mark.parametrize("score", ['"high"', "NaN", "true", "1e999", "null", "[1]"])
def test_a_score_that_is_no_number(records, tmp_path, score):
    path = tmp_path / "records.jsonl"
    write_records(path, records)
    path.write_text(path.read_text(encoding="utf-8").replace("1.5", score), encoding="utf-8")
    with pytest.raises(GradError, match="line 1"):
        read_records(path)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "records.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GradError, match="can't be read"):
        read_records(tmp_path / "records.jsonl")


def test_records_are_plain_data(records):
    assert ImageRecord(**vars(records[1])) == records[1]


@pytest.mark.parametrize("letter", ["\u2028", "\x85", "\x1c", "\r"])
def test_names_with_other_line_breaks_come_back(records, tmp_path, letter):
    odd = [replace(record, path=f"data/a{letter}b.png") for record in records]
    write_records(tmp_path / "records.jsonl", odd)
    assert read_records(tmp_path / "records.jsonl") == odd


@pytest.mark.parametrize("score", ["1" * 400, "true", "1e999", "NaN", '"1"', "[" * 9999])
def test_a_score_that_is_none_is_a_sentence(records, tmp_path, score):
    write_records(tmp_path / "records.jsonl", records)
    text = (tmp_path / "records.jsonl").read_text(encoding="utf-8")
    (tmp_path / "records.jsonl").write_text(text.replace("1.5", score), encoding="utf-8")
    with pytest.raises(GradError, match="line 1 is no record of an image"):
        read_records(tmp_path / "records.jsonl")
