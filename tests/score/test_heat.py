"""Heat maps: colours that mean what they show, a line around what is marked, words below."""

import numpy as np
import pytest
import torch
from PIL import Image

from grad.score.heat import VERDICTS, colours, outline, overlay
from grad.score.thresholds import Threshold, calibrated

LIMIT = Threshold(2.0, 3.0, 1.0, 1.0, 50, "", joint=True)

# How colours look without one kind of cones: Machado, Oliveira, Fernandes 2009, linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(rgb, vision):
    """(N, 3) uint8 sRGB as CIE L*a*b* seen so."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = (linear @ VISION[vision].T).clip(0, 1) @ XYZ.T / [0.95047, 1.0, 1.08883]
    root = np.where(seen > 0.008856, np.cbrt(seen), 7.787 * seen + 16 / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("vision", VISION)
def test_successive_colours_are_told_apart_by_everybody(vision):
    """Eight steps, from the first that is visible; a difference of 2.3 is just noticeable."""
    steps = colours()[np.linspace(27, 255, 8).round().astype(int), :3]
    seen = lab(steps.astype(float), vision)
    assert np.linalg.norm(np.diff(seen, axis=0), axis=1).min() > 10
    assert (np.diff(seen[:, 0]) > 0).all(), "hotter is brighter, in print without colours as well"


def test_no_colour_is_the_green_of_good_images():
    red, green, blue = colours()[:, :3].astype(int).T
    assert not ((green > red) & (green > blue)).any()


def test_what_is_below_the_threshold_is_visible_and_good_images_are_clear():
    opacity = colours()[:, 3] / 255
    value = lambda score: round(255 * calibrated(score, 1.0, 3.0))  # noqa: E731
    assert opacity[value(0.0)] == opacity[value(1.0)] == 0, "up to what is typical"
    assert opacity[value(2.0)] > 0.4, "halfway to the threshold"
    assert opacity[value(3.0)] == opacity[255] == pytest.approx(0.7, abs=0.01)


def pictured(level, *, limit=LIMIT, score=1.0, size=(60, 48), spot=None):
    """The overlay of a grey image whose map is level, but for a square; and that image."""
    values = torch.full((24, 30), float(level))
    if spot is not None:
        values[6:12, 6:12] = spot
    image = Image.new("RGB", size, (128, 128, 128))
    return np.asarray(overlay(image, values, limit, score)), np.asarray(image)


def test_a_colour_depends_on_its_own_score_only():
    calm, plain = pictured(2.0)
    wild, _ = pictured(2.0, spot=9.0)
    assert not (calm[:48] == plain).all()
    assert (calm[30:48, 30:] == wild[30:48, 30:]).all()
    cold, _ = pictured(1.0)
    assert (cold[:48] == plain).all()


def test_what_is_marked_is_within_a_line_in_anomalous_images_only():
    marked, _ = pictured(1.0, spot=9.0)
    line = (marked[:48] == 255).all(axis=2)
    rows, columns = line.nonzero()
    assert line.any() and not line[14:22, 14:22].any(), "the region itself stays free"
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx(
        (11, 24, 11, 24), abs=1
    )
    assert not (pictured(1.0, spot=2.9)[0][:48] == 255).all(axis=2).any()
    by_score = pictured(1.0, spot=2.9, score=2.1)[0]
    assert (by_score[:48] == 255).all(axis=2).any(), "the image threshold where no pixel reaches"


@pytest.mark.parametrize("size", [(24, 20), (60, 400), (400, 60), (1500, 1100)])
def test_the_picture_has_its_own_size_and_the_verdict_below(size):
    for score, anomalous in ((1.0, False), (2.5, True)):
        picture, _ = pictured(1.0, score=score, size=size)
        height, width, _ = picture.shape
        assert width == size[0] and height > size[1]
        strip = picture[size[1] :]
        ground = tuple(int(VERDICTS[anomalous][i : i + 2], 16) for i in (1, 3, 5))
        assert (strip[-1] == ground).all()
        if size[0] > 30:  # else there is no room for words
            assert (strip[:, -1] == ground).mean() > 0.9 and (strip > 200).all(axis=2).any()


def test_without_a_threshold_each_map_has_its_own_scale():
    picture, plain = pictured(1.0, limit=None, spot=5.0)
    assert (picture[40:48, 40:] == plain[40:, 40:]).all()
    assert not (picture[16:20, 16:20] == plain[16:20, 16:20]).any()
    flat, _ = pictured(0.0, limit=None)
    assert (flat[:48] == plain).all()


def test_an_outline_leaves_the_region_itself_and_far_pixels():
    picture = Image.new("RGB", (30, 30), (90, 90, 90))
    inside = np.zeros((30, 30), bool)
    inside[12:16, 12:16] = True
    outline(picture, inside, "#ffffff")
    changed = (np.asarray(picture) != 90).any(axis=2)
    assert not changed[inside].any()
    assert changed[10:18, 10:18][~inside[10:18, 10:18]].all()
    assert not changed[:9].any()


def test_notes_stand_beside_the_score_as_far_as_there_is_room():
    words = [{}, {}, {}]
    for found, notes in zip(words, ([], ["note"], ["note", "n" * 500]), strict=True):
        for width in (100, 800):
            image = Image.new("RGB", (width, 100))
            found[width] = np.asarray(overlay(image, torch.zeros(8, 8), None, 1.0, notes=notes))
    without, one, too_long = words
    assert np.array_equal(without[100][:100], one[100][:100])
    assert not np.array_equal(without[800], one[800])
    assert np.array_equal(one[800], too_long[800])
