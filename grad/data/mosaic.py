"""Large images in overlapping square tiles, and their score maps blended without seams.

An image is first resized so that a tile of it is as large as the network's input, then cut; so all
that follows (maps, smoothing, windows of the image score) has the scale that the network has for a
whole image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from grad.data.picture import Picture
from grad.data.roi import inside, paint_outside
from grad.data.samples import Roi
from grad.data.tiling import Tiling
from grad.system.errors import GradError

_MOST_WIDENED = 2**25  # pixels of a narrow image that is made as wide as a tile


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

    @classmethod
    def of_image(cls, tiling: Tiling, size: tuple[int, int], image_size: int) -> Mosaic:
        """The tiles of an image of (H, W) pixels for a network that takes ``image_size`` ones.

        The image is resized so that a tile of it is as large as the network's input, and then cut.

        Raises:
            GradError: the image is so narrow that it would become many times as large.
        """
        factor = image_size / tiling.size
        height, width = (max(image_size, round(factor * length)) for length in size)
        pixels = factor**2 * size[0] * size[1]
        if height * width > max(_MOST_WIDENED, 4 * pixels):
            raise GradError(
                f"An image of {size[1]} x {size[0]} pixels is too narrow for --tile {tiling.size}: "
                "it would be widened to many times its size; use smaller tiles, or none."
            )
        shared = min(round(factor * tiling.shared), image_size - 1)
        return cls((height, width), image_size, shared)

    def __len__(self) -> int:
        return len(self._rows) * len(self._columns)

    def corners(self) -> Iterator[tuple[int, int]]:
        """(top, left) of each tile, row by row."""
        return ((top, left) for top in self._rows for left in self._columns)

    def cut(self, picture: Picture, roi: Roi | None = None) -> Iterator[Tensor]:
        """The tiles of an image of any size, (3, side, side), in the order of :meth:`corners`.

        What is outside of a region of interest is painted over.
        """
        picture, side = picture.resize(self.size), self.side
        looked_at = None if roi is None else inside(roi, self.size)
        for top, left in self.corners():
            part = None if looked_at is None else looked_at[top : top + side, left : left + side]
            yield paint_outside(picture.crop(top, left, side, side).tensor(), roi, part)

    def blend(self, tiles: Iterator[Tensor]) -> Tensor:
        """One map (H, W) float32 from those of all tiles (side, side), in the same order."""
        blended = torch.zeros(self.size, dtype=torch.float32)
        for index, tile in enumerate(tiles):
            row, column = divmod(index, len(self._columns))
            top, left = self._rows[row], self._columns[column]
            weights = self._row_weights[row][:, None] * self._column_weights[column]
            blended[top : top + self.side, left : left + self.side].addcmul_(weights, tile)
        return blended


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
