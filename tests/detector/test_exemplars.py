"""The few images that a model keeps."""

import pytest
import torch
from helpers.features import make_features

from grad.detector import exemplars as module
from grad.detector.exemplars import (
    choose_exemplars,
    describe_exemplars,
    features_of,
    with_further,
)


def test_they_are_evenly_spaced_and_bounded(monkeypatch):
    features = make_features(40).joined(make_features(3, seed=1, class_name="b"))
    found = choose_exemplars(features)
    assert {name: len(maps) for name, maps in found.items()} == {"a": 16, "b": 3}
    rows = features.batch([0, 2, 5]).permute(0, 2, 3, 1)
    assert torch.equal(found["a"][:3], rows) and found["a"].dtype == torch.float16
    monkeypatch.setattr(module, "_BYTES", 2 * 2 * 5 * 6 * 3 * 3)
    assert {name: len(maps) for name, maps in choose_exemplars(features).items()} == {
        "a": 5,
        "b": 3,
    }
    monkeypatch.setattr(module, "_BYTES", 0)
    assert len(choose_exemplars(features)["a"]) == 1


def test_as_features():
    features = features_of(
        choose_exemplars(make_features(2).joined(make_features(1, 1, class_name="b"))), {}
    )
    assert [sample.class_name for sample in features.samples] == ["a", "a", "b"]
    assert len({sample.path for sample in features.samples}) == 3
    assert torch.equal(features.batch([2]), make_features(1, 1).batch([0]))


@pytest.mark.parametrize(
    ("held", "known", "further", "expected"),
    [
        (0, 0, 1, (0, 1)),
        (0, 0, 50, (0, 16)),
        (16, 200, 1, (15, 1)),
        (16, 100, 100, (8, 8)),
        (16, 10, 1000, (0, 16)),
        (3, 3, 5, (3, 5)),
    ],
)
def test_further_images_count_by_their_share(held, known, further, expected):
    old, new = make_features(max(held, 1), 0), make_features(further, 1)
    before = choose_exemplars(old) if held else {}
    maps = with_further({**before, "z": torch.zeros(1, 3, 3, 6).half()}, new, known)["a"]
    of_old = {
        tuple(row.flatten().tolist()) for row in old.batch(range(len(old))).permute(0, 2, 3, 1)
    }
    kept = sum(tuple(row.flatten().tolist()) in of_old for row in maps) if held else 0
    assert (kept, len(maps) - kept) == expected


def test_what_is_said():
    assert describe_exemplars({"a": (16, 8, 8, 64)}) == "features of 16 images a class, 0.1 MiB"
    text = describe_exemplars({"a": (16, 8, 8, 64), "b": (2, 8, 8, 64)})
    assert text == "features of 2 to 16 images a class, 0.1 MiB"
