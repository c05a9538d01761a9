import numpy as np
import pytest
import torch
from helpers.tiny_model import pixels

from grad.data.mosaic import Mosaic
from grad.data.picture import Picture
from grad.data.tiling import Tiling
from grad.score.anomaly_map import anomaly_map, finish_blended, image_score, score_tiles
from grad.system.errors import GradError

SIDE = 64


def brightness(images):
    """A score map of 8 x 8 features from images: what each cell's mean is."""
    return torch.nn.functional.avg_pool2d(images.float().mean(dim=1, keepdim=True), SIDE // 8)[:, 0]


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (100, 333), (64, 1000)])
@pytest.mark.parametrize("overlap", [0, 1, 16, 50, 63])
def test_tiles_cover_everything_and_their_weights_sum_to_one(size, overlap):
    mosaic = Mosaic(size, SIDE, overlap)
    corners = list(mosaic.corners())
    assert len(corners) == len(mosaic) == len(set(corners))
    covered = torch.zeros(size)
    for top, left in corners:
        assert 0 <= top <= size[0] - SIDE and 0 <= left <= size[1] - SIDE
        covered[top : top + SIDE, left : left + SIDE] += 1
    assert covered.min() >= 1
    for starts in ({top for top, _ in corners}, {left for _, left in corners}):
        steps = np.diff(sorted(starts))
        assert (steps <= SIDE - overlap).all()
    ones = mosaic.blend(torch.ones(SIDE, SIDE) for _ in corners)
    torch.testing.assert_close(ones, torch.ones(size), atol=1e-5, rtol=0)


def test_overlaps_go_over_from_one_tile_to_the_next_without_a_step():
    mosaic = Mosaic((SIDE, 2 * SIDE - 32), SIDE, 32)
    blended = mosaic.blend(iter([torch.zeros(SIDE, SIDE), torch.ones(SIDE, SIDE)]))
    line = blended[0]
    assert (line[: SIDE - 32] == 0).all() and (line[SIDE:] == 1).all()
    steps = line.diff()
    assert (steps >= -1e-6).all() and steps.max() < 0.06
    assert line[SIDE - 32] < 0.01 and line[SIDE - 1] > 0.99  # continuous at the tiles' borders
    assert torch.equal(blended, line.expand_as(blended))


@pytest.mark.parametrize("tiling", [Tiling(64, 16), Tiling(64, 0), Tiling(100, 30), Tiling(40)])
def test_a_constant_score_has_no_seams(tiling):
    picture = Picture.from_array(pixels(size=(211, 333)))
    found, score = score_tiles(lambda t: torch.full((len(t), 8, 8), 3.0), picture, SIDE, tiling)
    assert found.shape == (211, 333)
    inside = found[40:-40, 40:-40]  # further out the smoothing's zeros count
    torch.testing.assert_close(inside, torch.full_like(inside, 3.0), atol=2e-6, rtol=0)
    assert score == pytest.approx(3.0, abs=2e-6)


def test_one_tile_is_the_same_as_none():
    picture = Picture.from_array(pixels(size=(SIDE, SIDE)))
    found, score = score_tiles(brightness, picture, SIDE, Tiling(SIDE))
    expected = anomaly_map(brightness(picture.tensor()[None]), (SIDE, SIDE))
    assert torch.equal(found, expected[0])
    assert score == float(image_score(expected)[0])


def test_a_smooth_score_comes_out_as_if_there_were_no_tiles():
    """Features see their own cell only here, so cutting changes nothing but the upsampling."""
    ramp = np.linspace(0, 255, 400).round().astype(np.uint8)
    picture = Picture.from_array(np.broadcast_to(ramp, (200, 400)))
    found, _ = score_tiles(brightness, picture, SIDE, Tiling(SIDE, 24))
    inside = found[20:-20, 40:-40]
    expected = torch.from_numpy(ramp.astype(np.float32))[40:-40].expand_as(inside)
    assert (inside - expected).abs().max() < 5
    assert (inside.diff(dim=1) > -0.05).all()  # no step back at any seam


def test_an_image_smaller_than_a_tile_is_stretched_to_one():
    picture = Picture.from_array(pixels(size=(30, 500)))
    found, _ = score_tiles(brightness, picture, SIDE, Tiling(100, 0))
    assert found.shape == (30, 500)
    assert len(Mosaic.of_image(Tiling(100, 0), (30, 500), SIDE)) == 5


def test_large_maps_are_smoothed_in_bands_as_a_whole(monkeypatch):
    blended = torch.rand(300, 90, generator=torch.Generator().manual_seed(0))
    found, score = finish_blended(blended, (300, 90))
    monkeypatch.setattr("grad.score.anomaly_map._BAND", 37)
    banded, band_score = finish_blended(blended, (300, 90))
    torch.testing.assert_close(banded, found, atol=1e-6, rtol=0)
    assert band_score == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize(
    ("tile", "overlap", "words"),
    [(15, None, "--tile 15 is too small"), (64, 64, "--overlap 64 must be"), (64, -1, "--overlap")],
)
def test_impossible_tilings_are_refused(tile, overlap, words):
    with pytest.raises(GradError, match=words):
        Tiling(tile, overlap)
