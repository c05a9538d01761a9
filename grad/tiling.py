"""Large images in overlapping square tiles, their score maps blended without seams.

The image is first resized so that a tile of it is as large as the network's input, then cut; so all
that follows (maps, smoothing, windows of the image score) has the scale that the network has for a
whole image. Memory is that of the decoded image, its map, and one batch of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from grad.data.picture import Picture
from grad.errors import GradError
from grad.scoring import POOLING, SMOOTHING, image_score, smooth, upsample

SMALLEST = 16  # pixels, side of a tile
_BATCH = 8  # tiles scored at once
_BAND = 512  # rows of a large map that are smoothed at once


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Args:
        size: side of a tile, in pixels of the image.
        overlap: pixels that neighbouring tiles share at least; None: a quarter of ``size``.

    Raises:
        GradError: a tile too small, an overlap that leaves no step from tile to tile.
    """

    size: int
    overlap: int | None = None

    def __post_init__(self) -> None:
        if self.size < SMALLEST:
            raise GradError(f"--tile {self.size} is too small: give {SMALLEST} pixels or more.")
        if not 0 <= self.shared < self.size:
            raise GradError(
                f"--overlap {self.overlap} must be from 0 to below --tile {self.size}, in pixels."
            )

    @property
    def shared(self) -> int:
        """The overlap in pixels."""
        return self.size // 4 if self.overlap is None else self.overlap

    def mosaic(self, size: tuple[int, int], image_size: int) -> Mosaic:
        """The tiles of an image of (H, W) pixels for a network that takes ``image_size`` ones."""
        factor = image_size / self.size
        height, width = (max(image_size, round(factor * length)) for length in size)
        shared = min(round(factor * self.shared), image_size - 1)
        return Mosaic((height, width), image_size, shared)


def tiling_of(tile: int | None, overlap: int | None) -> Tiling | None:
    """The tiling of ``--tile`` and ``--overlap``; None without a tile.

    Raises:
        GradError: as :class:`Tiling`; an overlap without a tile.
    """
    if tile is None:
        if overlap is not None:
            raise GradError("--overlap needs --tile: it says how much of it tiles share.")
        return None
    return Tiling(tile, overlap)


class Mosaic:
    """Square tiles that cover a rectangle, and the weights by which what they show is blended.

    Where tiles overlap, each counts by how far inside it the pixel lies (a squared sine along both
    axes); the weights of all tiles sum to one at every pixel and fall to zero towards a tile's
    border, but for those at the rectangle's.

    Args:
        size: (H, W) of the rectangle, at least one tile.
        side: of a tile.
        overlap: pixels that neighbours share at least.
    """

    def __init__(self, size: tuple[int, int], side: int, overlap: int) -> None:
        self.size, self.side = size, side
        self._rows, self._columns = (_starts(length, side, overlap) for length in size)
        self._row_weights = _weights(self._rows, size[0], side)
        self._column_weights = _weights(self._columns, size[1], side)

    def __len__(self) -> int:
        return len(self._rows) * len(self._columns)

    def corners(self) -> Iterator[tuple[int, int]]:
        """(top, left) of each tile, row by row."""
        return ((top, left) for top in self._rows for left in self._columns)

    def cut(self, picture: Picture) -> Iterator[Tensor]:
        """The tiles of an image of any size, (3, side, side), in the order of :meth:`corners`."""
        picture = picture.resize(self.size)
        return (
            picture.crop(top, left, self.side, self.side).tensor() for top, left in self.corners()
        )

    def blend(self, tiles: Iterator[Tensor]) -> Tensor:
        """One map (H, W) float32 from those of all tiles (side, side), in the same order."""
        blended = torch.zeros(self.size)
        for index, tile in enumerate(tiles):
            row, column = divmod(index, len(self._columns))
            top, left = self._rows[row], self._columns[column]
            weights = self._row_weights[row][:, None] * self._column_weights[column]
            blended[top : top + self.side, left : left + self.side].addcmul_(weights, tile)
        return blended


def score_tiles(
    score_map: Callable[[Tensor], Tensor], picture: Picture, image_size: int, tiling: Tiling
) -> tuple[Tensor, float]:
    """Anomaly map and image score of one image, tile by tile.

    An image of a single tile gets the same as without tiles.

    Args:
        score_map: (B, 3, S, S) uint8 or floats in [0, 1] to score maps (B, H, W).
        picture: the image, (h, w).
        image_size: S.
        tiling: how it is cut.

    Returns:
        map, (h, w) float32 on the CPU; score.
    """
    mosaic = tiling.mosaic(picture.size, image_size)
    side = (image_size, image_size)

    def maps() -> Iterator[Tensor]:
        tiles = mosaic.cut(picture)
        while batch := list(islice(tiles, _BATCH)):
            yield from upsample(score_map(torch.stack(batch)), side).cpu()

    return finish(mosaic.blend(maps()), picture.size)


def finish(blended: Tensor, size: tuple[int, int]) -> tuple[Tensor, float]:
    """Anomaly map and image score from the blended map of an image.

    Args:
        blended: (H, W), not smoothed.
        size: (h, w) of the image.

    Returns:
        map, (h, w); score.
    """
    with torch.inference_mode():
        smoothed = torch.empty_like(blended)
        scores = []
        height, margin = len(blended), SMOOTHING // 2
        for top in range(0, height, _BAND):
            bottom = min(top + _BAND, height)
            first = max(top - margin, 0)
            band = smooth(blended[None, first : bottom + margin])[0]
            smoothed[top:bottom] = band[top - first : bottom - first]
            # Windows that end in this band; those that end further down come with the next.
            scores.append(image_score(smoothed[None, max(top - POOLING + 1, 0) : bottom]))
        score = float(torch.cat(scores).max())
        if size != smoothed.shape:
            smoothed = F.interpolate(smoothed[None, None], size=size, mode="bilinear")[0, 0]
    return smoothed, score


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles begin along an axis: as few as cover it, spread evenly."""
    count = 1 + math.ceil((length - side) / (side - overlap))
    return [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]


def _weights(starts: list[int], length: int, side: int) -> Tensor:
    """(tiles, side): the weight of each pixel of each tile along an axis; they sum to one."""
    window = torch.sin(torch.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side) ** 2
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + side] += window
    return torch.stack([window / total[start : start + side] for start in starts]).float()
