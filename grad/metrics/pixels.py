"""The scores of one class's pixels, exact up to a number of pixels, in bins beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grad.metrics.curve import Curve, curve_of_sorted

EXACT_PIXELS = 2**24  # 334 images of 224 x 224, 64 MiB
BINS = 2**20
FOLDED_PIXELS = 2**22  # enough to outweigh the work on the bins, few enough to need little memory

Keys = NDArray[np.uint32]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def ordered_keys(scores: NDArray[np.float32]) -> Keys:
    """The bit patterns of float32 scores, changed so that they order as the scores do."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 becomes +0
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones, or none
    return bits ^ (negative | np.uint32(1 << 31))


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of equal leading bits, which are bins of equal relative width; (M,) each.

    Only occupied bins are kept. Their width is the smallest for which they number at most
    ``BINS``, so it depends on all scores together and not on the order in which they came.
    """

    keys: Keys
    """Ascending: ordered keys without their last ``shift`` bits."""
    good: Counts
    bad: Counts
    weights: Floats
    """Sum of 1 / area of the region over the bin's bad pixels."""
    shift: int

    @classmethod
    def empty(cls) -> Histogram:
        """A histogram without pixels, of the finest width."""
        none = np.zeros(0, np.int64)
        return cls(np.zeros(0, np.uint32), none, none, np.zeros(0), 0)

    def with_pixels(self, good: Keys, bad: Keys, areas: NDArray[np.int32], bins: int) -> Histogram:
        """Adds pixels.

        Args:
            good: (N,) keys of good pixels.
            bad: (P,) keys of bad pixels.
            areas: (P,) pixels of the region that each bad pixel belongs to.
            bins: most bins to keep.
        """
        good = np.sort(good)
        shift = _fitting_shift(good, self.shift, bins)
        good_keys, good_counts = np.unique(good >> np.uint32(shift), return_counts=True)
        bad_keys, position, bad_counts = np.unique(
            bad >> np.uint32(shift), return_inverse=True, return_counts=True
        )
        weights = np.bincount(position, weights=1.0 / areas, minlength=bad_keys.size).astype(float)
        of_good = Histogram(
            good_keys, good_counts, np.zeros_like(good_counts), np.zeros(good_keys.size), shift
        )
        of_bad = Histogram(bad_keys, np.zeros_like(bad_counts), bad_counts, weights, shift)
        return self.merged(of_good, bins).merged(of_bad, bins)

    def merged(self, other: Histogram, bins: int) -> Histogram:
        """The histogram of both, with at most ``bins`` bins."""
        shift = max(self.shift, other.shift)
        mine = self.keys >> np.uint32(shift - self.shift)
        theirs = other.keys >> np.uint32(shift - other.shift)
        keys = np.concatenate([mine, theirs])
        order = np.argsort(keys, kind="stable")
        both = Histogram(
            keys[order],
            np.concatenate([self.good, other.good])[order],
            np.concatenate([self.bad, other.bad])[order],
            np.concatenate([self.weights, other.weights])[order],
            shift,
        )
        return both._coarsened(_fitting_shift(both.keys, 0, bins))

    def _coarsened(self, shift: int) -> Histogram:
        """Drops ``shift`` more bits and unites the bins that are then equal."""
        keys = self.keys >> np.uint32(shift)
        if keys.size == 0:
            return self
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return replace(
            self,
            keys=keys[starts],
            good=np.add.reduceat(self.good, starts),
            bad=np.add.reduceat(self.bad, starts),
            weights=np.add.reduceat(self.weights, starts),
            shift=self.shift + shift,
        )

    def curve(self) -> Curve:
        """The curve of the bins; its metrics carry bounds on their error."""
        good, bad = self.good[::-1], self.bad[::-1]
        above = np.cumsum(good) - good
        held = bad > 0
        return Curve(
            positives=bad[held].astype(np.float64),
            negatives=good[held].astype(np.float64),
            negatives_above=above[held].astype(np.float64),
            weights=self.weights[::-1][held],
            total_negatives=float(good.sum()),
            exact=self.shift == 0,
        )


def _fitting_shift(ascending: Keys, shift: int, bins: int) -> int:
    """The fewest bits to drop, at least ``shift``, for at most ``bins`` distinct keys."""
    while ascending.size > bins:
        keys = ascending >> np.uint32(shift)
        if np.count_nonzero(keys[1:] != keys[:-1]) < bins:
            break
        shift += 1
    return shift


class PixelScores:
    """Scores of good and bad pixels, added batch by batch and merged across processes.

    Up to ``exact_pixels`` pixels every score is kept, 4 bytes a good and 8 a bad one, and metrics
    are exact. Beyond, scores go to a histogram of at most ``bins`` bins, so that memory does not
    grow with the number of images.

    Args:
        exact_pixels: pixels up to which metrics are exact; None for any number.
        bins: most bins of the histogram.
    """

    def __init__(self, exact_pixels: int | None = EXACT_PIXELS, bins: int = BINS) -> None:
        self.exact_pixels = exact_pixels
        self.bins = bins
        self._kept: list[_Pixels] = []
        self._kept_size = 0
        self._histogram: Histogram | None = None

    def add(self, scores: NDArray[np.float32], areas: NDArray[np.int32]) -> None:
        """Adds pixels.

        Args:
            scores: float32 of any shape, finite.
            areas: the same shape; pixels of the region that a pixel belongs to, 0 for good ones.
        """
        keys, areas = ordered_keys(scores.ravel()), areas.ravel()
        bad = areas > 0
        self._keep(_Pixels(keys[~bad], keys[bad], areas[bad]))

    def merge(self, other: PixelScores) -> None:
        """Adds the pixels of another: the same state, but for rounding, as adding all to one."""
        if other._histogram is not None:
            mine = self._histogram or Histogram.empty()
            self._histogram = mine.merged(other._histogram, self.bins)
        for pixels in list(other._kept):
            self._keep(pixels)

    def curve(self) -> Curve | None:
        """The curve of all pixels; None where good or bad ones are missing."""
        kept = _Pixels.joined(self._kept)
        if self._histogram is not None:
            histogram = self._histogram.with_pixels(*kept, self.bins)
            defined = histogram.good.any() and histogram.bad.any()
            return histogram.curve() if defined else None
        if not kept.good.size or not kept.bad.size:
            return None
        scores, position, counts = np.unique(kept.bad, return_inverse=True, return_counts=True)
        weights = np.bincount(position, weights=1.0 / kept.areas)
        return curve_of_sorted(np.sort(kept.good), scores, counts, weights)

    def has_good_pixels(self) -> bool:
        """Whether any pixel so far is good."""
        folded = self._histogram is not None and bool(self._histogram.good.any())
        return folded or any(pixels.good.size > 0 for pixels in self._kept)

    def _keep(self, pixels: _Pixels) -> None:
        self._kept.append(pixels)
        self._kept_size += pixels.size
        limit = self.exact_pixels if self._histogram is None else FOLDED_PIXELS
        if limit is not None and self._kept_size > limit:
            self._fold()

    def _fold(self) -> None:
        """Moves the kept scores to the histogram, about ``FOLDED_PIXELS`` at a time."""
        histogram = self._histogram or Histogram.empty()
        while self._kept:
            part = [self._kept.pop()]
            while self._kept and sum(pixels.size for pixels in part) < FOLDED_PIXELS:
                part.append(self._kept.pop())
            histogram = histogram.with_pixels(*_Pixels.joined(part), self.bins)
        self._histogram, self._kept_size = histogram, 0


class _Pixels(NamedTuple):
    """Keys of good and of bad pixels, and the areas of the bad pixels' regions."""

    good: Keys
    bad: Keys
    areas: NDArray[np.int32]

    @property
    def size(self) -> int:
        return self.good.size + self.bad.size

    @classmethod
    def joined(cls, parts: Sequence[_Pixels]) -> _Pixels:
        none = cls(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.int32))
        return cls(*(np.concatenate(columns) for columns in zip(none, *parts, strict=True)))
