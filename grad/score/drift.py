"""Whether images go on being like those that a model's thresholds were made from.

Were they, each new image would be as likely to have any rank among the good images and those
before it: its p-values are independent and uniform on [0, 1]. :class:`DriftWatch` bets against
that, by a factor 1 + k (1/2 - p) with k = -1, 0 or 1, and moves a part of its capital between the
three at each image (the simple jumper; Vovk et al., Retrain or not retrain, COPA 2021). As long as
nothing changes the capital is a martingale, and ever reaches :data:`STAKES` with a probability of
at most 1 / STAKES (Ville's inequality), however long it goes on.

A defect's p-value is near 0, and its factor 1.5 at most; images of which up to a tenth are
defective don't let the capital grow.
"""

from __future__ import annotations

import bisect
import math
import random
import threading

from grad.score.false_alarms import GoodScores
from grad.score.thresholds import Calibration

STAKES = 100.0  # times its first capital, at which drift is said: at most one in a hundred watches
DRIFT = (
    "by now scores are others than those of the good images that the thresholds were made from: "
    "more than a tenth of the images are defective, or light, camera or parts have changed; look "
    "at the latest, `grad update` learns from those that are good."
)
_BETS = (-1.0, 0.0, 1.0)
_JUMPING = 0.01  # share of the capital that is dealt out anew at each image
_REMEMBERED = 10_000  # images that new ones are ranked among, besides the good ones


class DriftWatch:
    """Watches the scores of one class's images as they come.

    Args:
        good: the images that its threshold was made from.
        seed: of what decides between equal ranks.
    """

    def __init__(self, good: GoodScores, seed: int = 0) -> None:
        self._good = good
        self._ranked = good.excesses.tolist()
        self._most = len(self._ranked) + _REMEMBERED
        self._random = random.Random(seed)
        self._shares = dict.fromkeys(_BETS, 1 / len(_BETS))
        self._log_capital = 0.0
        self.images = 0
        self.drifted = False

    def add(self, score: float, maximum: float) -> bool:
        """Take an image up; whether it is the one at which drift shows, once.

        Args:
            score: its image score.
            maximum: the largest value of its anomaly map.
        """
        p = self._rank(self._good.excess(score, maximum))
        self.images += 1
        dealt = _JUMPING / len(_BETS)
        staked = {
            bet: ((1 - _JUMPING) * share + dealt) * (1 + bet * (0.5 - p))
            for bet, share in self._shares.items()
        }
        grown = sum(staked.values())
        self._shares = {bet: share / grown for bet, share in staked.items()}
        self._log_capital += math.log(grown)
        if self.drifted or self._log_capital < math.log(STAKES):
            return False
        self.drifted = True
        return True

    def _rank(self, excess: float) -> float:
        """The p-value: the share of images as odd at least, ties by chance; it is one from now."""
        count = len(self._ranked)
        first = bisect.bisect_left(self._ranked, excess)
        last = bisect.bisect_right(self._ranked, excess)
        p = (count - last + self._random.random() * (last - first + 1)) / (count + 1)
        if count < self._most:
            self._ranked.insert(last, excess)
        return p


class DriftWatches:
    """A watch for each class of a model, and one for images of no stated class; for any thread.

    Args:
        calibration: the model's thresholds.
    """

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._watches: dict[str | None, DriftWatch] = {}
        self._lock = threading.Lock()

    def add(self, class_name: str | None, score: float, maximum: float) -> bool:
        """Take an image up; whether its class has drifted, now or before."""
        with self._lock:
            if class_name not in self._watches:
                self._watches[class_name] = DriftWatch(self._calibration.good(class_name))
            watch = self._watches[class_name]
            watch.add(score, maximum)
            return watch.drifted
