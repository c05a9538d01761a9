"""Thresholds of a model at a stated false-alarm rate, from the scores of good images alone.

A false alarm is a good image that is called anomalous; the false-alarm rate is the share of good
images that are. :mod:`grad.score.false_alarms` holds the statistics; here are the thresholds of all
classes of a model, what they were made from, and the scale on which 0.5 is the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from grad.features.split import Source
from grad.score.false_alarms import GoodScores, Scale
from grad.score.rates import DEFAULT_RATE, check_rate
from grad.system.errors import GradError

Method = Literal["good", "f1", "fixed"]
ByClass = Mapping[str, Sequence[float]]

_SOURCES: dict[Source, str] = {
    "held out": "held out of training",
    "validation": "given by --validation",
    "training": "trained on",
}
_CLOSEST = 1e-3  # how far a threshold is above the median at least, as a share of it
_SMALLEST = float(np.finfo(np.float32).tiny)
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
    """The thresholds of a model, and what they were made from.

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
        image_scales: of the image scores of the images that were trained on, by class.
        pixel_scales: of their largest map values.
    """

    method: Method
    false_alarm_rate: float
    classes: dict[str, Threshold]
    unknown: Threshold
    good_scores: dict[str, tuple[float, ...]]
    good_maxima: dict[str, tuple[float, ...]]
    sources: dict[str, Source]
    image_scales: dict[str, Scale]
    pixel_scales: dict[str, Scale]

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
        check_rate(false_alarm_rate)
        unseen = [name for name, source in self.sources.items() if source != "training"]
        image = GoodScores(self.image_scales, {name: self.good_scores[name] for name in unseen})
        pixel = GoodScores(self.pixel_scales, {name: self.good_maxima[name] for name in unseen})

        def threshold(names: Sequence[str]) -> Threshold:
            image_limit, by_rank = image.limit(names, false_alarm_rate)
            pixel_limit, _ = pixel.limit(names, false_alarm_rate)
            image_limit, image_typical = _pair(image_limit, _median(self.good_scores, names))
            pixel_limit, pixel_typical = _pair(pixel_limit, _median(self.good_maxima, names))
            count = sum(len(self.good_scores[name]) for name in names)
            note = self._note(names, false_alarm_rate, by_rank)
            return Threshold(image_limit, pixel_limit, image_typical, pixel_typical, count, note)

        return replace(
            self,
            method="good",
            false_alarm_rate=false_alarm_rate,
            classes={name: threshold([name]) for name in sorted(self.good_scores)},
            unknown=threshold(sorted(self.good_scores)),
        )

    def fixed(self, image: float) -> Calibration:
        """The same image threshold for all classes; thresholds of pixels stay."""

        def given(limit: Threshold) -> Threshold:
            threshold, typical = fixed_pair(image, limit.image_typical)
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
        for key in ("image_scales", "pixel_scales"):
            fields[key] = {name: Scale(**scale) for name, scale in fields[key].items()}
        return cls(**fields)

    def _note(self, names: Sequence[str], rate: float, by_rank: bool) -> str:
        unseen = [name for name in names if self.sources[name] != "training"]
        count = sum(len(self.good_scores[name]) for name in unseen)
        trained = _count(sum(self.image_scales[name].images for name in names), "image")
        if not count:
            return (
                f"fitted to the {trained} trained on, as none was kept out of training; new ones "
                f"may score higher, so that there are more false alarms than {rate:.2%}"
            )
        where = " or ".join(sorted({_SOURCES[self.sources[name]] for name in unseen}))
        made = f"{_count(count, 'good image')} {where}"
        if by_rank:
            return f"rank among {made}, whatever the distribution"
        lowest = 1 / (count + 1)
        lack = f", too few for {rate:.2%} by rank (from {lowest:.2%} on)" if lowest > rate else ""
        others = sum(len(v) for name, v in self.good_scores.items() if self._is_unseen(name))
        how = "these" if others == count else f"these and {others - count} of other classes"
        return f"{made}{lack}: fitted to the {trained} trained on, corrected by {how}"

    def _is_unseen(self, name: str) -> bool:
        return self.sources[name] != "training"


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
    scores: ByClass,
    maxima: ByClass,
    sources: Mapping[str, Source],
    false_alarm_rate: float = DEFAULT_RATE,
    training: tuple[ByClass, ByClass] | None = None,
) -> Calibration:
    """Thresholds from good images.

    Args:
        scores: image scores of the good images of each class, at least one of each.
        maxima: the largest anomaly map value of the same images.
        sources: where the images of each class came from.
        false_alarm_rate: share of good images that may be called anomalous.
        training: scores and maxima of the images that the model was trained on, of all classes;
            None where those above have to serve for them.

    Raises:
        GradError: the rate is not between 0 and 1; a class has no images, or scores that are not
            finite.
    """
    trained = training or (scores, maxima)
    for values in (scores, maxima, *trained):
        _check(values)
    nothing = Threshold(1.0, 1.0, 0.0, 0.0, 0, "")
    return Calibration(
        method="good",
        false_alarm_rate=false_alarm_rate,
        classes={},
        unknown=nothing,
        good_scores={name: tuple(map(float, values)) for name, values in scores.items()},
        good_maxima={name: tuple(map(float, values)) for name, values in maxima.items()},
        sources=dict(sources),
        image_scales={name: Scale.of(trained[0][name]) for name in scores},
        pixel_scales={name: Scale.of(trained[1][name]) for name in scores},
    ).at_rate(false_alarm_rate)


def _check(scores: ByClass) -> None:
    for name, values in scores.items():
        if not len(values):
            raise GradError(f"Class {name} has no good image to make a threshold from: add some.")
        if not np.isfinite(values).all():
            raise GradError(
                f"A good image of class {name} has a score that is not finite: the model is not "
                "usable; train it again with a lower learning rate or in float32."
            )


def _median(scores: ByClass, names: Sequence[str]) -> float:
    return float(np.median(np.concatenate([scores[name] for name in names])))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _pair(threshold: float, median: float) -> tuple[float, float]:
    """Both as float32 numbers, the threshold above zero and above the median."""
    above = np.float32(max(threshold, median * (1.0 + _CLOSEST), _SMALLEST))
    return float(above), float(np.float32(median))


def fixed_pair(threshold: float, median: float) -> tuple[float, float]:
    """Both as float32 numbers; half the threshold for a median that is not below it."""
    limit = np.float32(max(threshold, 2 * _SMALLEST))
    typical = np.float32(median)
    return float(limit), float(typical if typical < limit else 0.5 * limit)
