"""Ranking metrics of scored positives and negatives, each with the bound on its error.

Scores enter as groups: all that share a score, or a bin of scores where an exact order is not kept.
Within a group nothing is ordered, so every metric is a function of a few counts a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Value(NamedTuple):
    """A metric and how far it may at most be from the one of the exact order (0 when exact)."""

    value: float
    error_bound: float


@dataclass(frozen=True)
class Curve:
    """Groups that hold a positive, from the highest score to the lowest; all arrays (G,) float64.

    Groups without a positive change none of the metrics except through ``negatives_above``.
    """

    positives: Floats
    """Positives in the group."""
    negatives: Floats
    """Negatives in the group."""
    negatives_above: Floats
    """Negatives with a higher score than the group's."""
    weights: Floats
    """Sum of 1 / area of the region over the group's positives; for AUPRO."""
    total_negatives: float
    exact: bool
    """Whether groups are ties. Otherwise they are bins, within which any order is possible."""

    def auroc(self) -> Value:
        """Probability that a positive scores higher than a negative; ties count one half."""
        pairs = self.positives.sum() * self.total_negatives
        shared = float((self.positives * self.negatives).sum() / pairs)
        above = float((self.positives * (self.negatives_above + self.negatives)).sum() / pairs)
        return Value(1.0 - above + shared / 2, self._bound(shared / 2))

    def average_precision(self) -> Value:
        """Mean over positives of the precision at their score (the step rule, no interpolation)."""
        below = np.cumsum(self.positives)  # true positives once the group is in
        above = below - self.positives
        every = self.negatives_above + self.negatives
        precision = below / (below + every)
        # The last positive of a bin may come before its negatives, the first one after them.
        highest = below / (below + self.negatives_above)
        lowest = (above + 1) / (above + 1 + every)
        off = np.maximum(highest - precision, precision - lowest)
        share = self.positives / below[-1]
        return Value(float((share * precision).sum()), self._bound(float((share * off).sum())))

    def f1_max(self) -> Value:
        """The largest F1 = 2 TP / (TP + FP + P) over all thresholds."""
        true = np.cumsum(self.positives)
        total = true[-1]
        best = (2 * true / (true + self.negatives_above + self.negatives + total)).max()
        possible = (2 * true / (true + self.negatives_above + total)).max()
        return Value(float(best), self._bound(float(possible - best)))

    def aupro(self, limit: float) -> Value:
        """Area under the per-region overlap against the false-positive rate, divided by the limit.

        The overlap is the mean over regions of the share found (Bergmann et al., IJCV 2021,
        section 5.2). The curve is cut at the limit exactly, by linear interpolation.

        Args:
            limit: false-positive rate up to which the area counts, in (0, 1].
        """
        overlap = np.cumsum(self.weights)
        overlap /= overlap[-1]
        before = np.concatenate([[0.0], overlap[:-1]])
        start = self.negatives_above / self.total_negatives
        end = (self.negatives_above + self.negatives) / self.total_negatives

        rates = np.concatenate([[0.0], np.stack([start, end], axis=1).ravel(), [1.0]])
        overlaps = np.concatenate([[0.0], np.stack([before, overlap], axis=1).ravel(), [1.0]])
        area = _area(rates, overlaps, limit) / limit

        # The curve passes each bin's box somewhere: from its lower left to its upper right corner.
        boxes = (overlap - before) * (np.minimum(end, limit) - start).clip(0)
        cut = (start < limit) & (end > limit)
        bound = float((boxes * np.where(cut, 1.0, 0.5)).sum() / limit)
        return Value(min(area, 1.0), self._bound(bound))

    def _bound(self, bound: float) -> float:
        return 0.0 if self.exact else bound


def _area(x: Floats, y: Floats, limit: float) -> float:
    """Trapezoids under the curve (x ascending, from x = 0) up to x = limit."""
    width = np.diff(x)
    inside = (np.minimum(x[1:], limit) - x[:-1]).clip(0)
    slope = np.divide(np.diff(y), width, out=np.zeros_like(width), where=width > 0)
    return float((inside * (y[:-1] + slope * inside / 2)).sum())


def curve_of_scores(good: Floats, bad: Floats) -> Curve:
    """The exact curve of scores, (N,) of the negatives and (P,) of the positives."""
    scores, counts = np.unique(bad, return_counts=True)
    return curve_of_sorted(np.sort(good), scores, counts, counts)


def curve_of_sorted(
    good: NDArray[np.generic],
    bad: NDArray[np.generic],
    counts: NDArray[np.generic],
    weights: NDArray[np.generic],
) -> Curve:
    """The exact curve of sorted scores.

    Args:
        good: (N,) ascending, one entry a negative.
        bad: (G,) ascending, distinct, the scores of the positives.
        counts: (G,) positives of each score.
        weights: (G,) their weights.
    """
    right = np.searchsorted(good, bad, side="right")
    left = np.searchsorted(good, bad, side="left")
    return Curve(
        positives=counts[::-1].astype(np.float64),
        negatives=(right - left)[::-1].astype(np.float64),
        negatives_above=(good.size - right)[::-1].astype(np.float64),
        weights=weights[::-1].astype(np.float64),
        total_negatives=float(good.size),
        exact=True,
    )
