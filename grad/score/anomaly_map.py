"""From the model's score map to the anomaly map and the image score (paper's released evaluation).

Neither depends on the other images of the batch, so an image scores the same alone and in a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from grad.data.mosaic import Mosaic
from grad.data.picture import Picture
from grad.data.roi import inside
from grad.data.samples import Roi
from grad.data.tiling import Tiling

SMOOTHING = 21  # pixels, side of the box that smooths the anomaly map
POOLING = 32  # pixels, side of the window whose mean is the image score

_BATCH = 8  # tiles scored at once
_BAND = 512  # rows of a large map that are smoothed at once


def anomaly_map(score: Tensor, size: tuple[int, int], looked_at: Tensor | None = None) -> Tensor:
    """Score map at the size of the image, smoothed by a 21 x 21 box.

    Upsampling is bilinear with ``align_corners=True``. The box has stride 1 and zeros around the
    map, which count, so the map fades towards its border. The same holds for a region of interest:
    what is outside is zero before it is smoothed, and after.

    Args:
        score: (B, H, W), any floating dtype.
        size: (h, w) of the image, in pixels.
        looked_at: (B, h, w) or (h, w) bool, the region of interest; None: all.

    Returns:
        (B, h, w) float32.
    """
    upsampled = upsample(score, size)
    if looked_at is None:
        return smooth(upsampled)
    return smooth(upsampled * looked_at) * looked_at


def map_and_score(
    score: Tensor, size: tuple[int, int], looked_at: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`anomaly_map` and its :func:`image_score`, by four small matrix products.

    Both are linear along each axis (but for the largest mean), so that one matrix an axis does all
    steps at once. What they give differs from the steps one by one in rounding only. A region of
    interest is not linear along the axes; with one, it is the steps one by one.

    Args:
        score, size, looked_at: as of :func:`anomaly_map`.

    Returns:
        anomaly map, (B, h, w) float32; image score, (B,) float32.
    """
    if looked_at is not None:
        maps = anomaly_map(score, size, looked_at)
        return maps, image_score(maps)
    score = score.float()
    map_rows, mean_rows = _axis(score.shape[1], size[0], score.device)
    map_columns, mean_columns = _axis(score.shape[2], size[1], score.device)
    maps = map_rows @ score @ map_columns.T
    means = mean_rows @ score @ mean_columns.T
    return maps, means.amax(dim=(1, 2))


@functools.lru_cache(maxsize=32)
def _axis(inputs: int, outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """From ``inputs`` scores along an axis to ``outputs`` map values, and to windows' means.

    Read off the steps with unit vectors as score maps of one column; there the box is filled in one
    of its columns, and the window is one column wide.
    """
    with torch.inference_mode(False):
        units = torch.eye(inputs)[:, :, None]
        maps = smooth(upsample(units, (outputs, 1))) * SMOOTHING  # (inputs, outputs, 1)
        means = _window_mean(maps, min(POOLING, outputs), 1)
        to_map, to_means = (values[:, :, 0].T.contiguous() for values in (maps, means))
    return to_map.to(device), to_means.to(device)


def upsample(score: Tensor, size: tuple[int, int]) -> Tensor:
    """Score map at the size of the image: (B, H, W) -> (B, h, w) float32."""
    maps = F.interpolate(score[:, None].float(), size=size, mode="bilinear", align_corners=True)
    return maps[:, 0]


def smooth(upsampled: Tensor) -> Tensor:
    """The mean of the 21 x 21 box around each pixel: (B, h, w) -> (B, h, w)."""
    margin = SMOOTHING // 2
    return _window_mean(F.pad(upsampled, (margin, margin, margin, margin)), SMOOTHING, SMOOTHING)


def image_score(anomaly_map: Tensor) -> Tensor:
    """The largest mean of a 32 x 32 window that lies inside the anomaly map.

    Where the map is smaller than the window, the window shrinks to the map.

    Args:
        anomaly_map: (B, h, w), any floating dtype.

    Returns:
        (B,) float32.
    """
    height, width = anomaly_map.shape[1:]
    means = _window_mean(anomaly_map.float(), min(POOLING, height), min(POOLING, width))
    return means.amax(dim=(1, 2))


def score_tiles(
    score_map: Callable[[Tensor], Tensor],
    picture: Picture,
    image_size: int,
    tiling: Tiling,
    roi: Roi | None = None,
) -> tuple[Tensor, float]:
    """Anomaly map and image score of one image, tile by tile.

    An image of a single tile gets the same as without tiles. Memory is that of the decoded image,
    its map, and one batch of tiles.

    Args:
        score_map: (B, 3, S, S) uint8 or floats in [0, 1] to score maps (B, H, W).
        picture: the image, (h, w).
        image_size: S.
        tiling: how it is cut.
        roi: its region of interest; None: all of it.

    Returns:
        map, (h, w) float32 on the CPU; score.
    """
    mosaic = Mosaic.of_image(tiling, picture.size, image_size)
    side = (image_size, image_size)

    def maps() -> Iterator[Tensor]:
        tiles = mosaic.cut(picture, roi)
        while batch := list(islice(tiles, _BATCH)):
            yield from upsample(score_map(torch.stack(batch)), side).cpu()

    return finish_blended(mosaic.blend(maps()), picture.size, roi)


def finish_blended(
    blended: Tensor, size: tuple[int, int], roi: Roi | None = None
) -> tuple[Tensor, float]:
    """Anomaly map and image score from the blended map of an image.

    Args:
        blended: (H, W), not smoothed.
        size: (h, w) of the image.
        roi: its region of interest; None: all of it.

    Returns:
        map, (h, w); score.
    """
    with torch.inference_mode():
        looked_at = None if roi is None else inside(roi, (len(blended), blended.shape[1]))
        if looked_at is not None:
            blended = blended * looked_at
        smoothed = torch.empty_like(blended)
        scores = []
        height, margin = len(blended), SMOOTHING // 2
        for top in range(0, height, _BAND):
            bottom = min(top + _BAND, height)
            first = max(top - margin, 0)
            band = smooth(blended[None, first : bottom + margin])[0]
            smoothed[top:bottom] = band[top - first : bottom - first]
            if looked_at is not None:
                smoothed[top:bottom] *= looked_at[top:bottom]
            # Windows that end in this band; those that end further down come with the next.
            scores.append(image_score(smoothed[None, max(top - POOLING + 1, 0) : bottom]))
        score = float(torch.cat(scores).max())
        if size != smoothed.shape:
            smoothed = F.interpolate(smoothed[None, None], size=size, mode="bilinear")[0, 0]
            if roi is not None:
                smoothed *= inside(roi, size)
    return smoothed, score


def _window_mean(values: Tensor, height: int, width: int) -> Tensor:
    """Means of all height x width windows: (B, H, W) -> (B, H - height + 1, W - width + 1).

    Rows, then columns: on a CPU at least 20 times as fast as an average pool over the window.
    """
    columns = values.unfold(1, height, 1).sum(dim=-1)
    sums: Tensor = columns.unfold(2, width, 1).sum(dim=-1)
    return sums / (height * width)
