"""Images in a wrong class's folder are found, and none where all are in their own."""

import pytest
from helpers.images import FakeBackbone, make_images

from grad.data.layouts import find_dataset
from grad.data.tiling import Tiling
from grad.features.compute import compute_features
from grad.features.strays import find_strays


@pytest.mark.parametrize("tiling", [None, Tiling(16)], ids=["whole", "tiles"])
@pytest.mark.parametrize("moved", [0, 1, 3])
def test_images_of_another_class_are_found(tmp_path, moved, tiling):
    make_images(tmp_path / "data", train=12)
    wrong = [tmp_path / f"data/b/train/good/x{i}.png" for i in range(moved)]
    for i, path in enumerate(wrong):
        (tmp_path / f"data/c/train/good/c{i}.png").rename(path)
    train = find_dataset(tmp_path / "data").train
    features = compute_features(train, FakeBackbone(), 24, cache=tmp_path / "cache", tiling=tiling)
    assert [(s.path, like) for s, like in find_strays(features)] == [(p, "c") for p in wrong]


def test_a_single_class_has_no_strays(tmp_path):
    make_images(tmp_path / "data", classes=("a",), train=4)
    train = find_dataset(tmp_path / "data").train
    assert find_strays(compute_features(train, FakeBackbone(), 24, cache=tmp_path / "cache")) == []
