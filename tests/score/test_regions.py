"""Regions of what is marked, against masks that are drawn by hand and a search pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from grad.score.regions import cut_small_peaks, find_regions, label_regions, map_pixels


def test_a_region_is_what_one_would_measure_by_hand():
    values = torch.zeros(6, 10)
    values[1:3, 4:8] = 2.0
    values[2, 5] = 5.0
    values[5, 0] = 3.0
    first, second = find_regions(values, 1.0)
    assert first.box == (4, 1, 8, 3) and first.area == 8 and first.share == 8 / 60
    assert first.centre == (6.0, 2.0) and first.peak_at == (5, 2) and first.peak == 5.0
    assert first.mean == (7 * 2 + 5) / 8
    assert second.box == (0, 5, 1, 6) and second.centre == (0.5, 5.5) and second.peak == 3.0


def test_nothing_marked_is_no_region():
    assert find_regions(torch.ones(4, 4), 1.0) == []


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_regions_share_the_marked_pixels_among_them(marked):
    values = marked + np.random.default_rng(0).random(marked.shape).astype(np.float32) / 2
    values = values.astype(np.float32)
    regions, parts = find_regions(torch.from_numpy(values), 0.75), flood(marked)
    assert len(regions) == len(parts)
    assert sum(region.area for region in regions) == marked.sum()
    assert [r.peak for r in regions] == sorted((r.peak for r in regions), reverse=True)
    by_peak = {max(part, key=lambda at: values[at]): part for part in parts}
    for region in regions:
        part = by_peak[region.peak_at[::-1]]
        rows, columns = zip(*part, strict=True)
        assert region.box == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        assert region.area == len(part)
        assert region.mean == pytest.approx(np.mean([values[at] for at in part]), rel=1e-6)
        assert region.centre == pytest.approx((np.mean(columns) + 0.5, np.mean(rows) + 0.5))


def flood(marked):
    """Sets of (row, column) that touch, by a plain search."""
    left = {tuple(map(int, at)) for at in np.argwhere(marked)}
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


def highest_counting(values, pixels):
    """The highest level whose pixels hold a region of so many, by trying all levels."""
    for level in sorted(set(values.ravel().tolist()), reverse=True):
        if max(map(len, flood(values >= level))) >= pixels:
            return level
    raise AssertionError


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 8), st.integers(1, 8)),
        elements=st.integers(0, 12).map(float),
    ),
    st.integers(1, 40),
)
def test_peaks_that_no_region_of_the_size_reaches_are_cut(values, pixels):
    cut = cut_small_peaks(torch.from_numpy(values), pixels)
    level = highest_counting(values, min(pixels, values.size))
    assert torch.equal(cut, torch.from_numpy(values).clamp(max=level))


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 12))
def test_small_regions_are_none_but_the_largest_stays(marked, pixels):
    values = torch.from_numpy(marked.astype(np.float32))
    sizes = sorted((len(part) for part in flood(marked)), reverse=True)
    kept = [size for size in sizes if size >= pixels] or [s for s in sizes if s == sizes[0]]
    areas = sorted((r.area for r in find_regions(values, 0.5, pixels)), reverse=True)
    assert areas == kept
    assert int((label_regions(values, 0.5, pixels) > 0).sum()) == sum(kept)


@pytest.mark.parametrize(
    ("area", "image", "size", "pixels"),
    [
        (1, (100, 100), (10, 10), 1),
        (100, (100, 100), (10, 10), 1),
        (101, (100, 100), (10, 10), 2),
        (4, (10, 10), (20, 20), 16),
    ],
)
def test_an_area_of_the_image_is_one_of_the_map(area, image, size, pixels):
    assert map_pixels(area, image, size) == pixels
