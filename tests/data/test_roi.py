"""Regions of interest: read, kept small, and nothing outside them ever counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.images import FakeBackbone, make_images
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from grad.data.layouts import find_dataset
from grad.data.mosaic import Mosaic
from grad.data.picture import Picture
from grad.data.roi import GREY, find_rois, grey_outside, inside, paint_outside, read_roi, with_rois
from grad.data.tiling import Tiling
from grad.features.compute import compute_features
from grad.system.errors import GradError


def draw(path, size=(24, 24), box=(0, 0, 12, 24), white=255):
    """A picture (h, w) that is black but for a box (left, top, right, bottom)."""
    mask = np.zeros(size, np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = white
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def test_a_region_is_where_the_picture_is_bright(tmp_path):
    roi = read_roi(draw(tmp_path / "roi.png", white=1))
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[:, :12] = True
    assert torch.equal(inside(roi, (24, 24)), expected)


def test_the_whole_image_is_no_region_and_nothing_is_an_error(tmp_path):
    assert read_roi(draw(tmp_path / "all.png", box=(0, 0, 24, 24))) is None
    with pytest.raises(GradError, match="black everywhere"):
        read_roi(draw(tmp_path / "none.png", box=(0, 0, 0, 0)))
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(GradError, match="can't be read"):
        read_roi(tmp_path / "text.png")
    with pytest.raises(GradError, match="no such file"):
        read_roi(tmp_path / "absent.png")


def test_a_large_region_is_kept_small(tmp_path):
    roi = read_roi(draw(tmp_path / "roi.png", (3000, 5000), (0, 0, 2500, 3000)))
    assert len(roi.mask) < 10_000
    share = inside(roi, (300, 500)).float().mean()
    assert 0.49 < share <= 0.5


@example(size=(36, 44), side=36, seed=3, kind="f4")  # weights below a millionth
@given(
    size=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    side=st.integers(4, 50),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["u1", "f4"]),
)
def test_nothing_outside_reaches_the_network(size, side, seed, kind, tmp_path_factory):
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < 0.6
    mask.flat[rng.integers(mask.size)] = True
    path = tmp_path_factory.mktemp("roi") / "roi.png"
    Image.fromarray(mask).save(path)
    roi = read_roi(path)
    if roi is None:
        return
    values = rng.random((*size, 3))
    other = np.where(mask[:, :, None], values, rng.random((*size, 3)))
    pixels = [
        (v * 255).astype(np.uint8) if kind == "u1" else v.astype(np.float32)
        for v in (values, other)
    ]
    looked_at = inside(roi, (side, side))
    first, second = (
        paint_outside(Picture.from_array(p).resize((side, side)).tensor(), roi, looked_at)
        for p in pixels
    )
    assert torch.equal(first, second)
    grey = GREY if kind == "u1" else np.float32(GREY / 255)
    assert (first.movedim(0, -1)[~looked_at] == grey).all()


def test_a_region_that_came_later_paints_nothing(tmp_path):
    roi = read_roi(draw(tmp_path / "roi.png"), painted=False)
    pixels = torch.rand(3, 24, 24)
    assert paint_outside(pixels, roi, inside(roi, (24, 24))) is pixels


def test_tiles_are_painted_as_the_image_is(tmp_path):
    roi = read_roi(draw(tmp_path / "roi.png", (48, 60), (7, 9, 41, 40)))
    picture = Picture.from_array(np.random.default_rng(0).random((48, 60, 3)).astype(np.float32))
    mosaic = Mosaic.of_image(Tiling(16), picture.size, 16)
    whole = paint_outside(picture.resize(mosaic.size).tensor(), roi, inside(roi, mosaic.size))
    for (top, left), tile in zip(mosaic.corners(), mosaic.cut(picture, roi), strict=True):
        assert torch.equal(tile, whole[:, top : top + 16, left : left + 16])


def test_features_know_nothing_outside_and_have_a_cache_of_their_own(tmp_path):
    make_images(tmp_path / "data", classes=("a",), train=3)
    dataset = find_dataset(tmp_path / "data")
    draw(tmp_path / "data/a/roi.png")

    def features(painted=True):
        rois = {n: replace(r, painted=painted) for n, r in find_rois(dataset, None).items()}
        train = with_rois(dataset, rois)[0].train
        found = compute_features(train, FakeBackbone(), 24, cache=tmp_path / "cache")
        return found.batch(range(3))

    plain = compute_features(dataset.train, FakeBackbone(), 24, cache=tmp_path / "cache").batch(
        range(3)
    )
    assert torch.equal(features(painted=False), plain)
    painted = features()
    assert torch.equal(painted[..., :1], plain[..., :1])
    assert (painted[:, :3, :, 2] == torch.tensor(GREY / 255).half()).all()
    for sample in dataset.train:  # a hand in the picture
        pixels = np.array(Image.open(sample.path))
        pixels[:, 12:] = 0
        Image.fromarray(pixels).save(sample.path)
    assert torch.equal(features(), painted)


def test_each_class_has_its_own_or_the_one_for_all(tmp_path):
    make_images(tmp_path / "data", classes=("a", "b"), train=2)
    draw(tmp_path / "data/a/roi.png")
    shared = draw(tmp_path / "shared.png", box=(0, 0, 24, 6))
    dataset = find_dataset(tmp_path / "data", strict=True)
    assert find_rois(dataset, None) == {"a": read_roi(tmp_path / "data/a/roi.png")}
    assert find_rois(dataset, shared) == {
        "a": read_roi(tmp_path / "data/a/roi.png"),
        "b": read_roi(shared),
    }
    of_class = find_dataset(tmp_path / "data/a", strict=True)
    assert find_rois(of_class, None) == {"a": read_roi(tmp_path / "data/a/roi.png")}


def test_a_region_beside_several_classes_is_not_passed_over(tmp_path):
    make_images(tmp_path / "data", classes=("a", "b"), train=2)
    shared = draw(tmp_path / "data/roi.png")
    dataset = find_dataset(tmp_path / "data", strict=True)
    with pytest.raises(GradError, match=r"beside the folders of 2 classes: put it .* --roi"):
        find_rois(dataset, None)
    assert set(find_rois(dataset, shared)) == {"a", "b"}


def test_a_region_among_the_good_images_of_a_plain_folder_is_no_image(tmp_path):
    for number in range(3):
        draw(tmp_path / "parts" / f"{number}.png", box=(0, 0, 20, 20))
    draw(tmp_path / "parts/roi.png")
    dataset = find_dataset(tmp_path / "parts", strict=True)
    assert len(dataset.train) == 3 and set(find_rois(dataset, None)) == {"parts"}


def test_a_region_of_other_proportions_is_one_sentence(tmp_path):
    make_images(tmp_path / "data", classes=("a",), train=2)
    draw(tmp_path / "data/a/roi.png", (24, 40), (0, 0, 20, 20))
    with pytest.raises(GradError, match=r"has 40 x 24 pixels, the image .* 24 x 24"):
        find_rois(find_dataset(tmp_path / "data"), None)
    draw(tmp_path / "data/a/roi.png", (48, 48), (0, 0, 20, 20))
    assert find_rois(find_dataset(tmp_path / "data"), None)


def test_defects_outside_are_left_out_and_said(tmp_path):
    make_images(tmp_path / "data", classes=("a",), train=2)  # defects lie at 6 to 11
    dataset = find_dataset(tmp_path / "data")
    roi = read_roi(draw(tmp_path / "right.png", box=(12, 0, 24, 24)))
    cut, _ = with_rois(dataset, {"a": roi})
    assert [s.anomalous for s in cut.test] == [False] * 4
    assert "a: 50% of each image is looked at, its region of interest." in cut.notes
    assert "4 test images left out, whose defect lies outside of the region of interest." in (
        cut.notes
    )
    kept, _ = with_rois(dataset, {"a": read_roi(draw(tmp_path / "left.png"))})
    assert len(kept.test) == 8


def test_an_image_for_showing_is_dim_outside(tmp_path):
    roi = read_roi(draw(tmp_path / "roi.png"))
    image = Image.new("RGB", (24, 24), "#ff0000")
    shown = np.array(grey_outside(image, roi))
    assert (shown[:, :12] == [255, 0, 0]).all()
    outside = shown[:, 12:].astype(int)
    assert np.ptp(outside, axis=2).max() <= 1 and (outside < 160).all()
    assert grey_outside(image, None) is image
