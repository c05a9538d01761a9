"""The scores of one class's pixels, exact up to a number of pixels, in bins beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grad.score.metrics.curve import Curve, curve_of_sorted

EXACT_PIXELS = 2**24  # of a class: 334 images of 224 x 224, 64 MiB
EXACT_PIXELS_OF_ALL = 2**27  # of all classes: 512 MiB
BINS = 2**18  # 6 MiB
FOLDED_PIXELS = 2**22  # enough to outweigh the work on the bins, few enough to need little memory
BLOCK_BITS = 20  # a block of bins covers so many last bits of a key: an eighth of an octave

_CHUNK = 2**20  # pixels counted at once, so that what is between stays in a cache

Keys = NDArray[np.uint32]
Floats = NDArray[np.float64]


def exact_pixels(classes: int) -> int:
    """Pixels up to which each of so many classes is exact, so that all need a bounded memory."""
    return min(EXACT_PIXELS, EXACT_PIXELS_OF_ALL // max(classes, 1))


def ordered_keys(scores: NDArray[np.float32]) -> Keys:
    """The bit patterns of float32 scores, changed so that they order as the scores do."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 becomes +0
    if scores.size and scores.min() >= 0:  # as scores of anomalies are: one pass for four
        bits |= np.uint32(1 << 31)
        return bits
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones, or none
    return bits ^ (negative | np.uint32(1 << 31))


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of equal leading bits of the keys, which are bins of equal relative width.

    Bins lie in blocks, K of W bins each, and only blocks with a pixel in them are kept. The bins'
    width is the smallest for which they number at most ``bins``, so it depends on all scores
    together and not on the order in which they came.
    """

    blocks: Keys
    """(K,) ascending: leading bits of the keys of a block."""
    counts: Floats
    """(3, K, W): good pixels, bad ones, sum of 1 / area of the region over the bad ones."""
    shift: int
    """How many last bits of the keys make no difference."""

    @classmethod
    def empty(cls) -> Histogram:
        """A histogram without pixels, of the finest width."""
        return cls(np.zeros(0, np.uint32), np.zeros((3, 0, 1 << BLOCK_BITS)), 0)

    def with_pixels(self, good: Keys, bad: Keys, areas: NDArray[np.int32], bins: int) -> Histogram:
        """Adds pixels.

        Args:
            good: (N,) keys of good pixels.
            bad: (P,) keys of bad pixels.
            areas: (P,) pixels of the region that each bad pixel belongs to.
            bins: most bins to keep.
        """
        blocks = np.concatenate([self.blocks, self._blocks_of(good), self._blocks_of(bad)])
        wider = self._with_blocks(blocks, bins)
        of_good, of_bad, of_weights = wider.counts.reshape(3, -1)
        for first in range(0, good.size, _CHUNK):
            places = wider._bins(good[first : first + _CHUNK])
            of_good += np.bincount(places, minlength=of_good.size)
        places = wider._bins(bad)
        of_bad += np.bincount(places, minlength=of_bad.size)
        of_weights += np.bincount(places, 1.0 / areas, of_bad.size)
        return wider

    def merged(self, other: Histogram, bins: int) -> Histogram:
        """The histogram of both, with at most ``bins`` bins."""
        shift = max(self.shift, other.shift)
        mine, theirs = self._coarsened(shift), other._coarsened(shift)
        both = mine._with_blocks(np.concatenate([mine.blocks, theirs.blocks]), bins)
        same = theirs._coarsened(both.shift)
        both.counts[:, np.searchsorted(both.blocks, same.blocks)] += same.counts
        return both

    def curve(self) -> Curve:
        """The curve of the bins; its metrics carry bounds on their error."""
        good, bad, weights = self.counts.reshape(3, -1)[:, ::-1]
        above = np.cumsum(good) - good
        held = bad > 0
        return Curve(
            positives=bad[held],
            negatives=good[held],
            negatives_above=above[held],
            weights=weights[held],
            total_negatives=float(good.sum()),
            exact=self.shift == 0,
        )

    @property
    def _block_bits(self) -> int:
        """How many last bits of the keys a block covers."""
        return max(BLOCK_BITS, self.shift)

    def _blocks_of(self, keys: Keys) -> Keys:
        """The blocks that keys lie in; none where all those between are there already."""
        if keys.size == 0:
            return keys
        bits = np.uint32(self._block_bits)
        span = np.arange(keys.min() >> bits, (keys.max() >> bits) + 1, dtype=np.uint32)
        if np.isin(span, self.blocks).all():
            return keys[:0]
        return np.flatnonzero(np.bincount(keys >> bits)).astype(np.uint32)

    def _bins(self, keys: Keys) -> NDArray[np.int64]:
        """The index of each key's bin in the flattened counts; its block is there."""
        found: NDArray[np.int64] = (keys >> np.uint32(self.shift)).astype(np.int64)
        bits = self._block_bits - self.shift
        if self.blocks.size and self.blocks[-1] - self.blocks[0] == self.blocks.size - 1:
            found -= int(self.blocks[0]) << bits
            return found
        row = np.zeros(1 << (32 - self._block_bits), np.int64)
        row[self.blocks] = np.arange(self.blocks.size)
        found = (row[found >> bits] << bits) | (found & ((1 << bits) - 1))
        return found

    def _with_blocks(self, blocks: Keys, bins: int) -> Histogram:
        """A copy that has all of these blocks, so coarse that there are at most ``bins`` bins."""
        bits, shift = self._block_bits, self.shift
        while _united(blocks, bits, shift).size << max(BLOCK_BITS - shift, 0) > max(bins, 1):
            shift += 1
        mine = self._coarsened(shift)
        blocks = _united(blocks, bits, shift)
        counts = np.zeros((3, blocks.size, mine.counts.shape[2]))
        counts[:, np.searchsorted(blocks, mine.blocks)] = mine.counts
        return Histogram(blocks, counts, shift)

    def _coarsened(self, shift: int) -> Histogram:
        """The same with bins that unite all that the last ``shift`` bits tell apart."""
        if shift == self.shift:
            return self
        width = 1 << max(BLOCK_BITS - shift, 0)
        if not self.blocks.size:
            return Histogram(self.blocks, np.zeros((3, 0, width)), shift)
        narrow = self.counts.reshape(3, self.blocks.size, width, -1).sum(axis=3)
        blocks = self.blocks >> np.uint32(max(BLOCK_BITS, shift) - self._block_bits)
        starts = np.flatnonzero(np.diff(blocks, prepend=blocks[0] + np.uint32(1)))
        return Histogram(blocks[starts], np.add.reduceat(narrow, starts, axis=1), shift)


def _united(blocks: Keys, bits: int, shift: int) -> Keys:
    """Ascending: the blocks that remain of those of ``bits`` bits when ``shift`` bits go."""
    return np.unique(blocks >> np.uint32(max(BLOCK_BITS, shift) - bits))


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

    def add(self, scores: NDArray[np.float32], areas: NDArray[np.int32] | None) -> None:
        """Adds pixels.

        Args:
            scores: float32 of any shape, finite.
            areas: the same shape; pixels of the region that a pixel belongs to, 0 for good ones;
                None where all are good.
        """
        keys = ordered_keys(scores.ravel())
        if areas is None:
            self._keep(_Pixels(keys, keys[:0], np.zeros(0, np.int32)))
        else:
            areas = areas.ravel()
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
            defined = histogram.counts[0].any() and histogram.counts[1].any()
            return histogram.curve() if defined else None
        if not kept.good.size or not kept.bad.size:
            return None
        scores, position, counts = np.unique(kept.bad, return_inverse=True, return_counts=True)
        weights = np.bincount(position, weights=1.0 / kept.areas)
        return curve_of_sorted(np.sort(kept.good), scores, counts, weights)

    def has_good_pixels(self) -> bool:
        """Whether any pixel so far is good."""
        folded = self._histogram is not None and bool(self._histogram.counts[0].any())
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
