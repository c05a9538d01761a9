"""The benchmark of a prediction measures the same work in every way and reports it."""

import json

import pytest
from product import model as bench_model


@pytest.fixture
def rows(monkeypatch, tmp_path, capsys):
    budget = {"seconds": 0.0, "least": 2, "most": 2}
    monkeypatch.setattr(bench_model, "BUDGET", budget)
    size = "--device cpu --image-size 64 --batch-sizes 1,2 --files 6"
    assert bench_model.main([*size.split(), "--json", str(tmp_path / "rows.json")]) == 0
    shown = capsys.readouterr().out
    assert "images/s from files" in shown and "heads and lookups" in shown
    return json.loads((tmp_path / "rows.json").read_text())


def test_every_way_and_every_part_is_measured(rows):
    ways = {(row["name"], row["batch"]): row for row in rows if row["what"] == "way"}
    names = {"as trained"}
    names |= {f"{how} {p}" for how in ("folded", "engine") for p in ("float32", "bfloat16")}
    assert ways.keys() == {(name, batch) for name in names for batch in (1, 2)}
    for (name, _), row in ways.items():
        assert row["ms"] > 0 and row["error"] < (0.1 if "bfloat16" in name else 1e-4)
    parts = [row for row in rows if row["what"] == "part"]
    assert {row["name"] for row in parts} >= {"decode", "backbone", "fusion", "map and score"}
    for row in parts:
        assert row["ms"] > 0 and row["whole_ms"] > 0
        assert (row["flops"] > 0) == (row["name"] in ("backbone", "heads and lookups", "fusion"))
    fusion = {row["batch"]: row["flops"] for row in parts if row["name"] == "fusion"}
    assert fusion[2] == 2 * fusion[1]
    ends = [row for row in rows if row["what"] == "stream"]
    assert len(ends) == 2 and all(row["images_per_s"] > 0 for row in ends)


@pytest.mark.parametrize("arguments", ["--batch-sizes one", "--speed 3", "--model nowhere"])
def test_what_is_wrong_is_one_sentence(arguments, capsys):
    assert bench_model.main(["--device", "cpu", *arguments.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1
