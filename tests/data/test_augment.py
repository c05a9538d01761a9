"""Variants of images: fixed, of their image's size and kind, and what their name says."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from helpers.images import FakeBackbone, make_images
from PIL import Image
from rich.console import Console

from grad.data.augment import make_variant, with_variants
from grad.data.layouts import find_dataset
from grad.data.picture import Picture
from grad.data.roi import GREY, inside, read_roi
from grad.data.samples import Augmentation, Sample
from grad.data.tiling import Tiling
from grad.features.compute import compute_features

NAMES = get_args(Augmentation)
SAMPLE = Sample(Path("a.png"), "a", "train")
VARIANTS = [sample.variant for sample in with_variants([SAMPLE], NAMES)[1:]]
COUNTS = {"light": 5, "shift": 4, "rotate90": 3, "flip": 2}


def variants_of(name):
    return [sample.variant for sample in with_variants([SAMPLE], [name])[1:]]


def picture(height, width, kind="u1"):
    pixels = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    if kind == "u1":
        return Picture.from_array(pixels)
    if kind == "u2":
        return Picture.from_array(pixels[:, :, 0].astype(np.uint16) * 20, 4095)
    return Picture.from_array(pixels.astype(np.float32) / 255)


def values(one):
    return one.tensor().permute(1, 2, 0).numpy()


def test_images_come_first_then_each_variant_of_all():
    other = replace(SAMPLE, path=Path("b.png"))
    for name in NAMES:
        found = with_variants([SAMPLE, other], [name])
        assert found[:2] == (SAMPLE, other) and len(found) == 2 * (1 + COUNTS[name])
        for first, second in zip(found[::2], found[1::2], strict=True):
            assert first.variant == second.variant
            assert replace(first, variant=None) == SAMPLE
            assert replace(second, variant=None) == other
        assert None not in {sample.variant for sample in found[2:]}
    assert len(set(VARIANTS)) == sum(COUNTS.values())
    assert with_variants([SAMPLE], []) == (SAMPLE,) and with_variants([], NAMES) == ()


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("size", [(60, 60), (40, 90), (90, 40), (1, 1), (1, 7)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_the_size_and_kind_of_its_image(variant, size, kind):
    before = picture(*size, kind)
    after = make_variant(before, variant)
    assert after.size == before.size and after.clipped == before.clipped
    assert [band.mode for band in after.bands] == [band.mode for band in before.bands]
    assert after.tensor().dtype == before.tensor().dtype
    assert torch.equal(make_variant(before, variant).tensor(), after.tensor())
    if size == (60, 60):
        assert not torch.equal(after.tensor(), before.tensor())


def test_without_a_variant_an_image_is_as_it_comes():
    before = picture(4, 5)
    assert make_variant(before, None) is before


def test_light_changes_values_as_it_says():
    pixels = np.array([[[0, 100, 200], [250, 40, 10]]], np.uint8)
    x, mean = pixels / 255, 100 / 255
    expected = {
        "brightness 0.75": 0.75 * x,
        "brightness 1.25": 1.25 * x,
        "contrast 0.75": mean + 0.75 * (x - mean),
        "gamma 0.75": x**0.75,
        "gamma 1.3": x**1.3,
    }
    assert variants_of("light") == list(expected)
    for variant, of_it in expected.items():
        wanted = of_it.clip(0, 1)
        found = values(make_variant(Picture.from_array(pixels), variant))
        assert np.abs(found / 255 - wanted).max() <= 0.5 / 255 + 1e-6, variant
        floats = make_variant(Picture.from_array(x.astype(np.float32)), variant)
        assert values(floats) == pytest.approx(wanted, abs=1e-5), variant


@pytest.mark.parametrize("size", [(30, 30), (20, 50), (51, 20)])
def test_a_quarter_turn_is_one_within_the_frame(size):
    before = picture(*size)
    height, width = size
    for quarters in (1, 2, 3):
        found = values(make_variant(before, f"turn {90 * quarters}"))
        turned = np.rot90(values(before), quarters)
        h, w = min(height, turned.shape[0]), min(width, turned.shape[1])
        parts = []
        for image in (found, turned):
            top, left = ((a - b) // 2 for a, b in zip(image.shape, (h, w), strict=False))
            parts.append(image[top : top + h, left : left + w])
        if (height - width) % 2 == 0:
            assert np.array_equal(*parts)
        else:
            assert found.shape[:2] == size
    both = make_variant(make_variant(picture(30, 30), "turn 90"), "turn 270")
    assert torch.equal(both.tensor(), picture(30, 30).tensor())


def test_what_a_quarter_turn_leaves_empty_is_the_mirrored_border():
    found = values(make_variant(picture(20, 40), "turn 90"))
    assert np.array_equal(found[:, 5:10], found[:, 10:15][:, ::-1])
    assert np.array_equal(found[:, 30:35], found[:, 25:30][:, ::-1])


def test_shifts_move_by_a_fiftieth_of_the_sides_and_mirror_the_border():
    before, after = picture(100, 50), {}
    for variant in variants_of("shift"):
        after[variant] = values(make_variant(before, variant))
    plain = values(before)
    left, right, up, down = after.values()
    assert np.array_equal(right[:, 1:], plain[:, :-1]) and np.array_equal(right[:, 0], plain[:, 0])
    assert np.array_equal(left[:, :-1], plain[:, 1:]) and np.array_equal(left[:, -1], plain[:, -1])
    assert np.array_equal(down[2:], plain[:-2]) and np.array_equal(down[:2], plain[1::-1])
    assert np.array_equal(up[:-2], plain[2:]) and np.array_equal(up[-2:], plain[:-3:-1])


def test_flips_mirror():
    before = picture(7, 9)
    plain = values(before)
    assert np.array_equal(values(make_variant(before, "flip left right")), plain[:, ::-1])
    assert np.array_equal(values(make_variant(before, "flip top bottom")), plain[::-1])


def test_features_of_variants_are_kept_apart(tmp_path):
    make_images(tmp_path / "data", classes=("a", "b"), train=3, test=1, size=32)
    train = find_dataset(tmp_path / "data").train
    cache = tmp_path / "cache"
    plain = compute_features(train, FakeBackbone(), 32, cache=cache)
    backbone = FakeBackbone()
    found = compute_features(with_variants(train, ["flip"]), backbone, 32, cache=cache)
    assert backbone.images == 2 * len(train)  # the images themselves were there
    assert torch.equal(found.as_they_come().batch(range(6)), plain.batch(range(6)))
    assert found.as_they_come().samples == train
    left_right, top_bottom = found.batch(range(6, 12)), found.batch(range(12, 18))
    assert torch.equal(left_right, plain.batch(range(6)).flip(3))
    assert torch.equal(top_bottom, plain.batch(range(6)).flip(2))


def test_what_is_outside_of_a_region_is_painted_after_a_variant_was_made(tmp_path):
    pixels = np.full((32, 32, 3), 200, np.uint8)
    pixels[:, 16:] = 20
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(np.repeat([[255] * 16 + [0] * 16], 32, 0).astype(np.uint8)).save(
        tmp_path / "roi.png"
    )
    roi = read_roi(tmp_path / "roi.png")
    sample = Sample(tmp_path / "image.png", "a", "train", roi=roi, variant="flip left right")
    for tiling in (None, Tiling(32, 0)):
        features = compute_features(
            [sample], FakeBackbone(), 32, cache=tmp_path / "cache", tiling=tiling
        )
        [red] = next(features.tiles_of(0))[:, 0].float() * 255
        looked_at = inside(roi, (32, 32))[::8, ::8]
        assert (red[looked_at] - 20).abs().max() < 1 and (red[~looked_at] - GREY).abs().max() < 1


def test_an_unreadable_image_is_named_once_whatever_its_variants(tmp_path):
    make_images(tmp_path / "data", classes=("a",), train=3, test=1, size=32)
    train = find_dataset(tmp_path / "data").train
    train[1].path.write_bytes(b"no image")
    console = Console(record=True, width=1000, file=(tmp_path / "out").open("w"))
    found = compute_features(
        with_variants(train, ["flip"]), FakeBackbone(), 32, cache=tmp_path / "c", console=console
    )
    said = console.export_text()
    assert said.count(train[1].path.name) == 1 and said.count("left out") == 1
    assert set(found.skipped) == {train[1].path} and len(found) == 6
