"""From the scores of good images to the limits that few further good images exceed.

An image has two scores: the image score and the largest value of its anomaly map. Both are
measured in units of their class: how many spreads their logarithm lies above the median of the
good images. The larger of the two is the image's *excess*, and one limit of the excess, made for
one rate, gives both thresholds: few good images exceed the one or the other.

There are two ways to that limit:

- *Rank.* Of n good images that the model did not know, the k-th smallest excess with
  k = ceil((n + 1)(1 - rate)) is exceeded by the next good image with a probability of at most the
  rate, whatever the distribution (split conformal prediction; Vovk et al., Algorithmic Learning in
  a Random World, 2005). From n = 1/rate - 1 on there is such a k. The share of all further good
  images that exceed it is distributed as Beta(n + 1 - k, k).
- *Fit.* With fewer, the upper end of a prediction interval for one more image (Student's t), as if
  excesses above their median were normal; but no lower than the largest of the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = math.log(float(np.finfo(np.float32).max)) - 1.0  # of a logarithm
# A class of few images has a spread near 10 %, the middle of what real classes have (2 % to 45 %),
# as far as two images would say so.
_USUAL_SPREAD, _USUAL_IMAGES = 0.1, 2
_LESS = 10.0  # false alarms at most that defects may move a limit to, as a divisor of the rate
_COVERED = 0.9  # probability that the realised rate lies in its interval


@dataclass(frozen=True)
class Scale:
    """Where the scores of good images lie.

    Attributes:
        centre: median of their logarithms.
        spread: root of the mean square of what those above the median are above it, drawn towards
            a usual one where there are few.
    """

    centre: float
    spread: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Scale:
        """The scale of some scores, at least one."""
        logs = _logs(scores)
        centre = float(np.median(logs))
        return cls(centre, _spread_above(logs, centre, _USUAL_SPREAD))

    def units(self, scores: Sequence[float] | Floats) -> Floats:
        """How many spreads scores lie above the median, (N,)."""
        return (_logs(scores) - self.centre) / self.spread

    def score(self, units: float) -> float:
        """The score that lies so many spreads above the median."""
        return math.exp(min(self.centre + self.spread * units, _LARGEST))


@dataclass(frozen=True)
class Limit:
    """What few good images exceed, by the one score or the other.

    Attributes:
        image: of image scores.
        pixel: of the largest values of anomaly maps.
        interval: within which the share of further good images that exceed it lies in nine cases
            of ten; None for one that was fitted.
    """

    image: float
    pixel: float
    interval: tuple[float, float] | None


class GoodScores:
    """The scores of good images that the model did not know, of a class or of several together.

    Args:
        scores: image scores, (N,), N at least 1.
        maxima: the largest anomaly map values of the same images, (N,).
    """

    def __init__(self, scores: Sequence[float], maxima: Sequence[float]) -> None:
        self._image, self._pixel = Scale.of(scores), Scale.of(maxima)
        self._excesses = np.sort(np.maximum(self._image.units(scores), self._pixel.units(maxima)))

    @property
    def images(self) -> int:
        """How many there are."""
        return self._excesses.size

    def limit(self, rate: float) -> Limit:
        """The limit that further good images exceed at a rate in (0, 1); never rises with it."""
        images = self._excesses.size
        rank = math.ceil((images + 1) * (1 - rate) - 1e-9)
        if rank <= images:
            excess = float(self._excesses[max(rank, 1) - 1])
            return self._limit(excess, realised_interval(images, max(rank, 1)))
        return self._limit(max(self._fitted(rate), float(self._excesses[-1])), None)

    def raised(self, limit: Limit, spreads: float) -> Limit:
        """A limit that lies so many spreads higher, which fewer good images exceed."""
        image, pixel = (
            scale.score(float(scale.units([value])[0]) + spreads)
            for scale, value in ((self._image, limit.image), (self._pixel, limit.pixel))
        )
        return Limit(image, pixel, None)

    def gap(self, rate: float, defects: Sequence[tuple[float, float]]) -> float:
        """How many spreads the limit for a rate can rise and still find what it finds.

        To the middle between the good images and those defects above the limit, but no higher than
        the limit for a tenth of the rate: a few defects don't tell how faint others are.

        Args:
            rate: as of :meth:`limit`.
            defects: image score and largest map value of each.
        """
        limit = self.limit(rate)
        lowest = self.excess(limit.image, limit.pixel)
        found = [e for e in (self.excess(*scores) for scores in defects) if e > lowest]
        if not found:
            return 0.0
        below = self._excesses[self._excesses < min(found)]
        highest = max(lowest, float(below[-1]) if below.size else lowest)
        most = self.limit(rate / _LESS)
        middle = (highest + min(found)) / 2
        return max(0.0, min(middle, self.excess(most.image, most.pixel)) - lowest)

    def p_value(self, score: float, maximum: float) -> float:
        """(1 + good images whose excess is as large at least) / (N + 1), of one image."""
        excess = self.excess(score, maximum)
        below = int(np.searchsorted(self._excesses, excess, side="left"))
        images = self._excesses.size
        return (1 + images - below) / (images + 1)

    def excess(self, score: float, maximum: float) -> float:
        """How many spreads an image lies above the median, by the larger of its two scores."""
        return float(max(self._image.units([score])[0], self._pixel.units([maximum])[0]))

    @property
    def excesses(self) -> Floats:
        """Those of the good images, ascending, (N,)."""
        return self._excesses

    def _limit(self, excess: float, interval: tuple[float, float] | None) -> Limit:
        return Limit(self._image.score(excess), self._pixel.score(excess), interval)

    def _fitted(self, rate: float) -> float:
        centre = float(np.median(self._excesses))
        images = self._excesses.size
        spread = _spread_above(self._excesses, centre, 1.0)
        freedom = max(1, images // 2)  # half of them lie above the median
        unsure = math.sqrt(1 + math.pi / 2 / images)  # of the median
        return centre + spread * unsure * float(special.stdtrit(freedom, 1 - rate))


def realised_interval(images: int, rank: int) -> tuple[float, float]:
    """Where the false-alarm rate of a threshold at a rank of so many images lies, 9 of 10 times."""
    above, tail = images + 1 - rank, (1 - _COVERED) / 2
    low, high = special.betaincinv(above, rank, [tail, 1 - tail])
    return float(low), float(high)


def _spread_above(values: Floats, centre: float, usual: float) -> float:
    """Root mean square of what values above a centre are above it; drawn to a usual spread."""
    above = values[values > centre] - centre
    found = math.sqrt(float((above**2).mean())) if above.size else usual
    share = _USUAL_IMAGES / (_USUAL_IMAGES + above.size)
    return float(usual**share * found ** (1 - share))


def _logs(scores: Sequence[float] | Floats) -> Floats:
    logs: Floats = np.log(np.maximum(np.asarray(scores, float), _SMALLEST))
    return logs
