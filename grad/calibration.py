"""Thresholds at a stated false-alarm rate, from the scores of good images alone.

A false alarm is a good image that is called anomalous; the false-alarm rate is the share of good
images that are.

Of n good images, the k-th smallest score with k = ceil((n + 1)(1 - rate)) is exceeded by the next
good image with a probability of at most the rate, whatever the distribution (split conformal
prediction; Vovk et al., Algorithmic Learning in a Random World, 2005). That takes
n >= 1/rate - 1 images, 99 for 1 %. Where there are fewer, the logarithms of the scores are taken as
normally distributed with a spread that all classes of the model share, and the threshold is the
upper bound of the prediction interval for one more image (Student's t). Either way the rate holds
on average over calibration sets; ``Threshold.note`` says which way was taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from grad.errors import GradError

Method = Literal["good", "f1", "fixed"]
Source = Literal["held out", "validation", "training"]

DEFAULT_RATE = 0.01

_WHERE: dict[Source, str] = {
    "held out": "held out of training",
    "validation": "given by --validation",
    "training": "used in training, which score lower than new ones: expect more false alarms",
}
_CLOSEST = 1e-3  # how far a threshold is above the median at least, as a share of it
_SMALLEST = float(np.finfo(np.float32).tiny)
_Floats = NDArray[np.float64]
_Number = TypeVar("_Number", float, Tensor)


@dataclass(frozen=True)
class Threshold:
    """Where normal ends, for one class or for images of unknown class.

    Attributes:
        image: image scores above are anomalous.
        pixel: anomaly map values above are marked.
        image_typical: median of the good images' scores; below ``image``.
        pixel_typical: median of the largest map value of each good image; below ``pixel``.
        images: good images that it was made from.
        note: how it was made, and whether the images were too few for the rate.
    """

    image: float
    pixel: float
    image_typical: float
    pixel_typical: float
    images: int
    note: str

    def __post_init__(self) -> None:
        for typical, threshold in (
            (self.image_typical, self.image),
            (self.pixel_typical, self.pixel),
        ):
            if not (math.isfinite(typical) and math.isfinite(threshold) and typical < threshold):
                raise ValueError(f"threshold {threshold} is not above the typical {typical}")


@dataclass(frozen=True)
class Calibration:
    """The thresholds of a model, and the scores of good images that they were made from.

    All thresholds are float32 numbers, so that comparing in float32 gives the same verdicts.

    Attributes:
        method: ``"good"`` from good images at ``false_alarm_rate``; ``"f1"`` from test images, each
            threshold where F1 is largest; ``"fixed"`` image thresholds that were given.
        false_alarm_rate: what was asked for, or was before another method was chosen.
        classes: of each class that the model was trained on.
        unknown: for images of no stated class, or one that the model was not trained on.
        good_scores: image scores of the good images of each class.
        good_maxima: largest anomaly map values of the same images.
        sources: where the good images of each class came from.
    """

    method: Method
    false_alarm_rate: float
    classes: dict[str, Threshold]
    unknown: Threshold
    good_scores: dict[str, tuple[float, ...]]
    good_maxima: dict[str, tuple[float, ...]]
    sources: dict[str, Source]

    def threshold(self, class_name: str | None) -> Threshold:
        """The threshold for images of a class; ``unknown`` for None and other names.

        With a single class, images of unknown class are taken to be of that one.
        """
        if class_name is None and len(self.classes) == 1:
            return next(iter(self.classes.values()))
        return self.classes.get(class_name or "", self.unknown)

    def at_rate(self, false_alarm_rate: float) -> Calibration:
        """Thresholds from the same good images at another false-alarm rate.

        Raises:
            GradError: the rate is not between 0 and 1.
        """
        return calibrate(self.good_scores, self.good_maxima, self.sources, false_alarm_rate)

    def fixed(self, image: float) -> Calibration:
        """The same image threshold for all classes; thresholds of pixels stay."""

        def given(limit: Threshold) -> Threshold:
            threshold, typical = _fixed_pair(image, limit.image_typical)
            note = f"image threshold given as {image:g}; pixels: {limit.note}"
            return replace(limit, image=threshold, image_typical=typical, note=note)

        classes = {name: given(limit) for name, limit in self.classes.items()}
        return replace(self, method="fixed", classes=classes, unknown=given(self.unknown))

    def to_json(self) -> dict[str, Any]:
        """Everything as what JSON knows."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Calibration:
        """The opposite of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: something is missing or of the wrong kind.
        """
        fields = dict(fields)
        fields["classes"] = {name: Threshold(**t) for name, t in fields["classes"].items()}
        fields["unknown"] = Threshold(**fields["unknown"])
        for key in ("good_scores", "good_maxima"):
            fields[key] = {name: tuple(map(float, v)) for name, v in fields[key].items()}
        return cls(**fields)


def calibrated(score: _Number, typical: float, threshold: float) -> _Number:
    """A score on the scale where 0.5 is the threshold; the same for image scores and map values.

    sigmoid(ln 9 (score - threshold) / (threshold - typical)): 0.1 at the typical score of a good
    image, 0.5 at the threshold, 0.9 as far above it.
    """
    position = (score - threshold) * (math.log(9.0) / (threshold - typical))
    if isinstance(position, Tensor):
        return position.sigmoid()
    return 1.0 / (1.0 + math.exp(-position)) if position > -700.0 else 0.0


def calibrate(
    scores: Mapping[str, Sequence[float]],
    maxima: Mapping[str, Sequence[float]],
    sources: Mapping[str, Source],
    false_alarm_rate: float = DEFAULT_RATE,
) -> Calibration:
    """Thresholds from good images.

    Args:
        scores: image scores of the good images of each class, at least one of each.
        maxima: the largest anomaly map value of the same images.
        sources: where the images of each class came from.
        false_alarm_rate: share of good images that may be called anomalous.

    Raises:
        GradError: the rate is not between 0 and 1; a class has no images, or scores that are not
            finite.
    """
    check_rate(false_alarm_rate)
    image, pixel = (_Fit(_checked(values), false_alarm_rate) for values in (scores, maxima))
    classes = {
        name: _threshold(image, pixel, [name], false_alarm_rate, [sources[name]])
        for name in sorted(scores)
    }
    return Calibration(
        "good",
        false_alarm_rate,
        classes,
        _threshold(image, pixel, sorted(scores), false_alarm_rate, list(sources.values())),
        {name: tuple(map(float, values)) for name, values in scores.items()},
        {name: tuple(map(float, values)) for name, values in maxima.items()},
        dict(sources),
    )


def f1_limit(good: Sequence[float], bad: Sequence[float]) -> tuple[float, float]:
    """The threshold with the largest F1 = 2 TP / (TP + FP + P), and the good median below it.

    It lies halfway between the lowest score above it and the next; among equal F1 the highest.

    Args:
        good: scores of good images, at least one.
        bad: scores of anomalous images, at least one.

    Returns:
        threshold and typical score, float32 numbers; where the median of the good images is not
        below the threshold, half the threshold stands for it.
    """
    values = np.unique(np.concatenate([good, bad]))  # ascending
    found = np.searchsorted(np.sort(bad), values)
    true = len(bad) - found  # with everything from this value on called anomalous
    false = len(good) - np.searchsorted(np.sort(good), values)
    f1 = 2 * true / (true + false + len(bad))
    best = values.size - 1 - int(np.argmax(f1[::-1]))
    high = float(values[best])
    low = float(values[best - 1]) if best else 0.5 * high
    middle = float(np.float32(0.5 * (low + high)))
    return _fixed_pair(middle if middle < high else low, float(np.median(good)))


def check_rate(false_alarm_rate: float) -> None:
    """Raise a GradError for a rate that is none."""
    if not 0.0 < false_alarm_rate < 1.0:
        raise GradError(
            f"--false-alarm-rate {false_alarm_rate} must be between 0 and 1: 0.01 means that one "
            "good image in a hundred may be called anomalous."
        )


class _Fit:
    """The good scores of all classes, and what they say about the next good image."""

    def __init__(self, scores: Mapping[str, _Floats], rate: float) -> None:
        self.scores = scores
        self.rate = rate
        logs = {name: np.log(np.maximum(values, _SMALLEST)) for name, values in scores.items()}
        self.means = {name: float(values.mean()) for name, values in logs.items()}
        self.freedom = sum(values.size - 1 for values in logs.values())
        squares = sum(float(((v - self.means[name]) ** 2).sum()) for name, v in logs.items())
        self.spread = math.sqrt(squares / self.freedom) if self.freedom else 0.0

    def limit(self, names: Sequence[str]) -> tuple[float, float]:
        """Threshold and median for an image of one of some classes; both float32 numbers."""
        values = np.sort(np.concatenate([self.scores[name] for name in names]))
        rank = math.ceil((values.size + 1) * (1.0 - self.rate) - 1e-9)
        if rank <= values.size:
            limit = float(values[rank - 1])
        else:
            limit = max(self._predicted(names), float(values[-1]))
        return _pair(limit, float(np.median(values)))

    def _predicted(self, names: Sequence[str]) -> float:
        """The score that the next image exceeds with a probability of the rate.

        It is as likely to be of each class as there are images of it.
        """
        if not self.freedom or not self.spread:
            return max(math.exp(self.means[name]) for name in names)
        counts = np.array([self.scores[name].size for name in names], float)
        means = np.array([self.means[name] for name in names])
        spreads = self.spread * np.sqrt(1.0 + 1.0 / counts)

        def exceeding(log_score: float) -> float:
            tails = stats.t.sf((log_score - means) / spreads, self.freedom)
            return float((tails * counts).sum() / counts.sum() - self.rate)

        bounds = means + spreads * stats.t.isf(self.rate, self.freedom)
        low, high = float(bounds.min()) - 1e-9, float(bounds.max()) + 1e-9
        return math.exp(optimize.brentq(exceeding, low, high, xtol=1e-12))


def _threshold(
    image: _Fit, pixel: _Fit, names: Sequence[str], rate: float, sources: Iterable[Source]
) -> Threshold:
    image_limit, image_typical = image.limit(names)
    pixel_limit, pixel_typical = pixel.limit(names)
    count = sum(image.scores[name].size for name in names)
    return Threshold(
        image_limit,
        pixel_limit,
        image_typical,
        pixel_typical,
        count,
        _note(count, rate, sorted(set(sources))),
    )


def _note(count: int, rate: float, sources: Sequence[Source]) -> str:
    where = "; some ".join(_WHERE[source] for source in sources)
    made = f"{_images(count)} {where}"
    lowest = 1.0 / (count + 1)
    if lowest <= rate:
        return f"{made}; rank of the scores, no assumption on their distribution."
    return (
        f"{made}; too few for {rate:.2%} by rank alone (lowest rate {lowest:.2%}): normal "
        "distribution of log scores, its spread shared by all classes."
    )


def _images(count: int) -> str:
    return "1 good image" if count == 1 else f"{count} good images"


def _checked(scores: Mapping[str, Sequence[float]]) -> dict[str, _Floats]:
    checked = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    for name, values in checked.items():
        if not values.size:
            raise GradError(f"Class {name} has no good image to make a threshold from: add some.")
        if not np.isfinite(values).all():
            raise GradError(f"A good image of class {name} has a score that is not finite.")
    return checked


def _pair(threshold: float, median: float) -> tuple[float, float]:
    """Both as float32 numbers, the threshold above zero and above the median."""
    typical = np.float32(median)
    above = np.float32(max(threshold, median * (1.0 + _CLOSEST), _SMALLEST))
    return float(above), float(typical)


def _fixed_pair(threshold: float, median: float) -> tuple[float, float]:
    """Both as float32 numbers; half the threshold for a median that is not below it."""
    limit = np.float32(max(threshold, 2 * _SMALLEST))
    typical = np.float32(median)
    return float(limit), float(typical if typical < limit else 0.5 * limit)
