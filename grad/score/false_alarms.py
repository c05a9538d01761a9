"""From the scores of good images to the score that few further good images exceed.

There are two ways:

- *Rank.* Of n good images that were not trained on, the k-th smallest score with
  k = ceil((n + 1)(1 - rate)) is exceeded by the next good image with a probability of at most the
  rate, whatever the distribution (split conformal prediction; Vovk et al., Algorithmic Learning in
  a Random World, 2005). From n = 1/rate - 1 on there is such a k; but as a single image decides
  there, rank is used from n = 10/rate on.
- *Fit.* With fewer, the images that were trained on give the class's own scale: the median of the
  logarithms of their scores, and the spread above it. They are many more, but score lower than new
  ones; how much lower, in units of the spread, is learned from the images that were not trained on,
  those of the class and, as far as these are few, those of the others. The threshold is the upper
  end of a prediction interval for one more image (Student's t). A spread that all classes share
  would not do: on seven classes of real images it went from 0.02 to 0.45.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

RANK_IMAGES = 10  # how many images exceed the threshold, at least, where it is made by rank

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = math.log(float(np.finfo(np.float32).max)) - 1.0  # of a logarithm
# A class of few images has a spread near 10 %, the middle of what real classes have (2 % to 45 %),
# as far as two images would say so.
_USUAL_SPREAD, _USUAL_IMAGES = 0.1, 2
# Tails that are looked at, as shares of the images, where they hold at least three.
_TAILS, _TAIL_IMAGES = (0.05, 0.02, 0.01), 3
# For one class what new images of the others say counts as no more than so many of its own.
_OTHERS_IMAGES = 16


@dataclass(frozen=True)
class Scale:
    """Logarithms of the scores of the images of one class that a model was trained on.

    Attributes:
        centre: their median.
        spread: root of the mean square of what those above the median are above it; or more, so
            that no tail begins further out than that of a normal distribution with this deviation.
        images: how many there are.
    """

    centre: float
    spread: float
    images: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Scale:
        """The scale of some scores, at least one."""
        logs = _logs(scores)
        centre = float(np.median(logs))
        above = logs[logs > centre] - centre
        spread = math.sqrt(float((above**2).mean())) if above.size else _USUAL_SPREAD
        for share in _TAILS:
            if share * logs.size >= _TAIL_IMAGES:
                distance = float(np.quantile(logs, 1 - share)) - centre
                spread = max(spread, distance / float(special.ndtri(1 - share)))
        usual = _USUAL_IMAGES / (_USUAL_IMAGES + above.size)
        return cls(centre, _USUAL_SPREAD**usual * spread ** (1 - usual), logs.size)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of ``spread``."""
        return self.images // 2 + _USUAL_IMAGES


@dataclass(frozen=True)
class Correction:
    """How new images score beside those that a model was trained on, in units of their spread.

    Attributes:
        shift: how much higher their median is; not below 0, as a model knows what it has learned.
        stretch: how much wider they spread above it; not below 1, for the same reason.
        images: new images that tell the shift.
        freedom: degrees of freedom of the stretch.
    """

    shift: float = 0.0
    stretch: float = 1.0
    images: float = 1.0
    freedom: float = 8.0

    def updated(self, units: Floats) -> Correction:
        """With further new images: (scores' logarithms - centre) / spread, (N,)."""
        images = self.images + units.size
        median = float(np.median(units)) if units.size else 0.0
        shift = max(0.0, (self.images * self.shift + units.size * median) / images)
        above = units[units > shift] - shift
        freedom = self.freedom + above.size
        variance = (self.freedom * self.stretch**2 + float((above**2).sum())) / freedom
        return Correction(shift, max(1.0, math.sqrt(variance)), images, freedom)

    def at_most(self, images: float) -> Correction:
        """The same, but telling no more than so many images would."""
        return replace(self, images=min(self.images, images), freedom=min(self.freedom, images))


class GoodScores:
    """What is known of good images' scores: thresholds for any class and any rate.

    Args:
        scales: of the images of each class that the model was trained on.
        unseen: scores of good images by class; classes may be missing.
    """

    def __init__(self, scales: Mapping[str, Scale], unseen: Mapping[str, Sequence[float]]) -> None:
        self._scales = dict(scales)
        self._unseen = {name: np.sort(np.asarray(unseen.get(name, ()), float)) for name in scales}
        units = {
            name: (_logs(self._unseen[name]) - scale.centre) / scale.spread
            for name, scale in scales.items()
        }
        self._of_all = Correction().updated(np.concatenate(list(units.values())))
        self._corrections = {}
        for name in scales:
            others = [values for other, values in units.items() if other != name]
            of_others = Correction().updated(np.concatenate([np.zeros(0), *others]))
            self._corrections[name] = of_others.at_most(_OTHERS_IMAGES).updated(units[name])

    def limit(self, names: Sequence[str], rate: float) -> tuple[float, bool]:
        """The score that further good images of some classes exceed at a rate.

        Args:
            names: an image is as likely to be of each class as there are images of it.
            rate: in (0, 1).

        Returns:
            the score, which does not rise with the rate; whether it was made by rank alone.
        """
        scores = np.sort(np.concatenate([self._unseen[name] for name in names]))
        lowest = RANK_IMAGES / scores.size if scores.size else math.inf
        if rate >= lowest:
            return _at_rank(scores, rate), True
        fitted = self._fitted(names, rate)
        return (max(fitted, _at_rank(scores, lowest)) if lowest < 1 else fitted), False

    def _fitted(self, names: Sequence[str], rate: float) -> float:
        weights = np.array([self._scales[name].images for name in names], float)
        weights /= weights.sum()
        centres, spreads, freedoms = np.array([self._interval(name) for name in names]).T
        ends = centres + spreads * special.stdtrit(freedoms, 1 - rate)
        if len(names) == 1:
            return math.exp(min(ends[0], _LARGEST))

        from scipy import optimize  # slow to import, and only needed here

        def excess(log_score: float) -> float:
            tails = special.stdtr(freedoms, (centres - log_score) / spreads)
            return float((weights * tails).sum()) - rate

        low, high = float(ends.min()) - 1e-6, float(ends.max()) + 1e-6
        return math.exp(min(optimize.brentq(excess, low, high, xtol=1e-12), _LARGEST))

    def _interval(self, name: str) -> tuple[float, float, float]:
        """Centre, spread and degrees of freedom of the logarithm of a new image's score.

        The spread is that of a prediction: it includes how uncertain both centres are.
        """
        scale, correction = self._scales[name], self._corrections[name]
        unsure = 1 / self._of_all.images + math.pi / 2 / scale.images
        return (
            scale.centre + scale.spread * correction.shift,
            scale.spread * correction.stretch * math.sqrt(1 + unsure),
            1 / (1 / self._of_all.freedom + 1 / scale.freedom),
        )


def _at_rank(ascending: Floats, rate: float) -> float:
    rank = math.ceil((ascending.size + 1) * (1 - rate) - 1e-9)
    return float(ascending[min(rank, ascending.size) - 1])


def _logs(scores: Sequence[float] | Floats) -> Floats:
    logs: Floats = np.log(np.maximum(np.asarray(scores, float), _SMALLEST))
    return logs
