"""How large images are cut into square tiles, in numbers; :mod:`grad.data.mosaic` cuts them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from grad.system.errors import GradError

SMALLEST = 16  # pixels, side of a tile


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
        given: dict[str, Any] = {"tile": self.size, "overlap": self.overlap or 0}
        for name, value in given.items():
            if not isinstance(value, Integral):
                raise GradError(f"--{name} {value!r} must be a whole number of pixels.")
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
