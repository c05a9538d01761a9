"""Thresholds of a model at a stated false-alarm rate, from the scores of good images alone.

A false alarm is a good image that is called anomalous; the false-alarm rate is the share of good
images that are. :mod:`grad.score.false_alarms` holds the statistics; here are the thresholds of all
classes of a model, what they were made from, and the scale on which 0.5 is the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from grad.features.split import Source
from grad.score.false_alarms import GoodScores
from grad.score.rates import DEFAULT_RATE, Rate, check_rate, supported_rate
from grad.system.errors import GradError

Method = Literal["good", "f1", "fixed"]
ByClass = Mapping[str, Sequence[float]]

_SOURCES: dict[Source, str] = {
    "folds": "scored by a model that did not know them",
    "held out": "held out of training",
    "validation": "given by --validation",
    "training": "trained on",
}
_CLOSEST = 1e-3  # how far a threshold is above the median at least, as a share of it
_BELOW = 1 - 1e-5  # of a map's largest value: all that reaches it is above, resized too
_SMALLEST = float(np.finfo(np.float32).tiny)
_Number = TypeVar("_Number", float, Tensor)
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Threshold:
    """Where normal ends, for one class or for images of a class not stated.

    Where ``joint`` is true an image is anomalous if its score or any pixel is above its threshold;
    otherwise its score decides alone. Pixels are marked in anomalous images only, and some in each.

    Attributes:
        image: image scores above are anomalous.
        pixel: anomaly map values above are marked.
        image_typical: median of the good images' scores; below ``image``.
        pixel_typical: median of the largest map value of each good image; below ``pixel``.
        images: good images that it was made from.
        note: how it was made, and whether the images were too few for the rate.
        joint: whether both thresholds together keep the false-alarm rate.
        rate: the false-alarm rate that it was made for; None where there is no such.
        interval: within which the rate on further good images lies in nine cases of ten; None where
            it was not made by rank.
        moved: when it was moved by hand, in UTC, ISO 8601; None: never.
        raised: spreads of the good images by which known defects raised it above the limit for the
            rate (:meth:`grad.score.false_alarms.GoodScores.gap`).
    """

    image: float
    pixel: float
    image_typical: float
    pixel_typical: float
    images: int
    note: str
    joint: bool = False
    rate: float | None = None
    interval: tuple[float, float] | None = None
    moved: str | None = None
    raised: float = 0.0

    def __post_init__(self) -> None:
        for typical, threshold in (
            (self.image_typical, self.image),
            (self.pixel_typical, self.pixel),
        ):
            if not (math.isfinite(typical) and math.isfinite(threshold) and typical < threshold):
                raise ValueError(f"threshold {threshold} is not above the typical {typical}")

    def moved_to(self, image: float, time: str) -> Threshold:
        """The threshold moved by hand; that of pixels moves along.

        Args:
            image: the image threshold then.
            time: for ``moved``.

        Raises:
            GradError: it is not above the median of good images' scores.
        """
        factor = (image - self.image_typical) / (self.image - self.image_typical)
        pixel = self.pixel_typical + factor * (self.pixel - self.pixel_typical)
        made = self.note.rpartition("; before: ")[2]
        try:
            return replace(
                self,
                image=float(np.float32(image)),
                pixel=float(np.float32(pixel)),
                note=f"moved by hand at {time} from {self.image:.4g}; before: {made}",
                rate=None,
                interval=None,
                moved=time,
            )
        except ValueError:
            raise GradError(
                f"The threshold {image:g} must be a number above {self.image_typical:.4g}, the "
                "score of a typical good image."
            ) from None

    def is_anomalous(self, score: float, maximum: float) -> bool:
        """The verdict on an image.

        Args:
            score: its image score.
            maximum: the largest value of its anomaly map.
        """
        return score > self.image or (self.joint and maximum > self.pixel)

    def value(self, score: float, maximum: float) -> float:
        """The calibrated value, which is above 0.5 in anomalous images; arguments as above."""
        of_score = calibrated(score, self.image_typical, self.image)
        if not self.joint:
            return of_score
        return max(of_score, calibrated(maximum, self.pixel_typical, self.pixel))

    def pixel_level(self, score: float, maximum: float) -> float:
        """Above which map values of an image are marked; arguments as above.

        None is in an image that is good. In an anomalous one it is the pixel threshold or, where no
        pixel reaches that, the image threshold: a score is a mean of map values, so that some lie
        above it. Where peaks were cut below it (:func:`grad.score.regions.cut_small_peaks`), it is
        just below the cut.
        """
        if not self.is_anomalous(score, maximum):
            return math.inf
        return self.pixel if maximum > self.pixel else min(self.image, _BELOW * maximum)


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
    """

    method: Method
    false_alarm_rate: Rate
    classes: dict[str, Threshold]
    unknown: Threshold
    good_scores: dict[str, tuple[float, ...]]
    good_maxima: dict[str, tuple[float, ...]]
    sources: dict[str, Source]

    def threshold(self, class_name: str | None) -> Threshold:
        """The threshold for images of a class; ``unknown`` for None and other names.

        With a single class, images of a class not stated are taken to be of that one.
        """
        if class_name is None and len(self.classes) == 1:
            return next(iter(self.classes.values()))
        return self.classes.get(class_name or "", self.unknown)

    def p_value(self, score: float, maximum: float, class_name: str | None) -> tuple[float, float]:
        """How seldom a good image is as odd as one image.

        Args:
            score: its image score.
            maximum: the largest value of its anomaly map.
            class_name: as for :meth:`threshold`.

        Returns:
            (1 + good images at least as odd) / (n + 1), of n good images of the class, or of all
            classes; and its resolution, 1 / (n + 1), which is the smallest that it can be.
        """
        good = self.good(class_name)
        return good.p_value(score, maximum), 1 / (good.images + 1)

    def good(self, class_name: str | None) -> GoodScores:
        """The good images of a class, or of all together; the name as for :meth:`threshold`."""
        if class_name is None and len(self.classes) == 1:
            class_name = next(iter(self.classes))
        return self._known.get(class_name or "", self._known_together)

    def at_rate(self, false_alarm_rate: Rate) -> Calibration:
        """Thresholds from the same good images at another false-alarm rate.

        At the same rate, what defects raised stays raised.

        Raises:
            GradError: the rate is not between 0 and 1.
        """
        check_rate(false_alarm_rate)
        raised: dict[str, float] = {}
        if false_alarm_rate == self.false_alarm_rate:
            raised = {name: limit.raised for name, limit in self.classes.items()}
        classes = {
            name: self._threshold([name], good, false_alarm_rate, raised.get(name, 0.0))
            for name, good in self._known.items()
        }
        return replace(
            self,
            method="good",
            false_alarm_rate=false_alarm_rate,
            classes=classes,
            unknown=self._threshold(list(classes), self._known_together, false_alarm_rate),
        )

    def without(self, class_name: str) -> Calibration:
        """The same before :meth:`knowing` any good image of a class."""

        def others(values: Mapping[str, _Value]) -> dict[str, _Value]:
            return {name: value for name, value in values.items() if name != class_name}

        return replace(
            self,
            classes=others(self.classes),
            good_scores=others(self.good_scores),
            good_maxima=others(self.good_maxima),
            sources=others(self.sources),
        )

    def knowing(
        self, class_name: str, scores: Sequence[float], maxima: Sequence[float]
    ) -> Calibration:
        """Thresholds at the same rate from further good images of a class, or of one more class.

        Those that were moved by hand stay, but for that of the class.

        Args:
            class_name: theirs.
            scores: image scores by a model that did not know the images.
            maxima: the largest anomaly map values of the same images.

        Raises:
            GradError: a score is not finite; a class that comes new has no images.
        """
        known = (self.good_scores, self.good_maxima)
        of_images, of_maxima = (
            {**before, class_name: (*before.get(class_name, ()), *map(float, values))}
            for before, values in zip(known, (scores, maxima), strict=True)
        )
        _check(of_images)
        _check(of_maxima)
        others = {name: limit for name, limit in self.classes.items() if name != class_name}
        made = replace(
            self,
            classes=others,
            good_scores=of_images,
            good_maxima=of_maxima,
            sources={class_name: "folds" if len(scores) > 1 else "training", **self.sources},
        ).at_rate(self.false_alarm_rate)
        for name, limit in (*self.classes.items(), (None, self.unknown)):
            if limit.moved and name != class_name and (name or len(made.classes) > 1):
                made = made.with_threshold(name, limit)
        return made

    def with_threshold(self, class_name: str | None, limit: Threshold) -> Calibration:
        """The same with another threshold of a class; the name as for :meth:`threshold`."""
        if class_name is None and len(self.classes) == 1:
            class_name = next(iter(self.classes))
        if class_name is None:
            return replace(self, unknown=limit)
        return replace(self, classes={**self.classes, class_name: limit})

    def with_defects(self, class_name: str, defects: Sequence[tuple[float, float]]) -> Calibration:
        """The threshold of a class raised into the gap between good images and defects, if any.

        It only rises, so that there are no more false alarms than were asked for, and all defects
        that it finds are found as before.

        Args:
            class_name: one that the model was trained on, whose threshold is from good images.
            defects: image score and largest anomaly map value of each.
        """
        before, good = self.classes[class_name], self._known[class_name]
        assert before.rate is not None
        raised = good.gap(before.rate, defects)
        after = self._threshold([class_name], good, before.rate, raised)
        return replace(self, classes={**self.classes, class_name: after})

    def fixed(self, image: float) -> Calibration:
        """The same image threshold for all classes, which decides alone; those of pixels stay."""

        def given(limit: Threshold) -> Threshold:
            threshold, typical = fixed_pair(image, limit.image_typical)
            note = f"image threshold given as {image:g}; pixels: {limit.note}"
            return replace(
                limit,
                image=threshold,
                image_typical=typical,
                note=note,
                joint=False,
                rate=None,
                interval=None,
            )

        classes = {name: given(limit) for name, limit in self.classes.items()}
        return replace(self, method="fixed", classes=classes, unknown=given(self.unknown))

    def to_json(self) -> dict[str, Any]:
        """Everything as what JSON knows."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """The opposite of :meth:`to_json`.

        Of a calibration that an earlier version wrote, what this one does not use is left out; its
        thresholds stay as they were.

        Raises:
            KeyError, TypeError, ValueError: something is missing or of the wrong kind.
        """
        known = {field.name: values[field.name] for field in fields(cls)}
        known["classes"] = {name: _threshold_of(t) for name, t in known["classes"].items()}
        known["unknown"] = _threshold_of(known["unknown"])
        for key in ("good_scores", "good_maxima"):
            known[key] = {name: tuple(map(float, v)) for name, v in known[key].items()}
        return cls(**known)

    @cached_property
    def _known(self) -> dict[str, GoodScores]:
        names = sorted(self.good_scores)
        return {name: GoodScores(self.good_scores[name], self.good_maxima[name]) for name in names}

    @cached_property
    def _known_together(self) -> GoodScores:
        names = sorted(self.good_scores)
        return GoodScores(
            [score for name in names for score in self.good_scores[name]],
            [maximum for name in names for maximum in self.good_maxima[name]],
        )

    def _threshold(
        self, names: Sequence[str], good: GoodScores, asked: Rate, raised: float = 0.0
    ) -> Threshold:
        rate = supported_rate(good.images) if asked == "auto" else asked
        at_rate = good.limit(rate)
        limit = good.raised(at_rate, raised) if raised else at_rate
        image, image_typical = _pair(limit.image, _median(self.good_scores, names))
        pixel, pixel_typical = _pair(limit.pixel, _median(self.good_maxima, names))
        return Threshold(
            image,
            pixel,
            image_typical,
            pixel_typical,
            images=good.images,
            note=self._note(names, good.images, rate, at_rate.interval)
            + ("; raised to the middle between these and known defects" if raised else ""),
            joint=True,
            rate=rate,
            interval=limit.interval,
            raised=raised,
        )

    def _note(
        self,
        names: Sequence[str],
        images: int,
        rate: float,
        interval: tuple[float, float] | None,
    ) -> str:
        where = " or ".join(sorted({_SOURCES[self.sources[name]] for name in names}))
        made = f"{_count(images, 'good image')} {where}"
        note = f"fitted to {made}, which tell rates from {1 / (images + 1):.2%} on by rank"
        if interval is not None:
            low, high = interval
            note = f"rank among {made}: {low:.2%} to {high:.2%} false alarms, nine times of ten"
        if any(self.sources[name] == "training" for name in names):
            note += f"; new images may score higher, so that there are more than {rate:.2%}"
        return note


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
    false_alarm_rate: Rate = DEFAULT_RATE,
) -> Calibration:
    """Thresholds from good images.

    Args:
        scores: image scores of the good images of each class, at least one of each, by a model
            that did not know them.
        maxima: the largest anomaly map value of the same images.
        sources: where the images of each class came from.
        false_alarm_rate: share of good images that may be called anomalous.

    Raises:
        GradError: the rate is not between 0 and 1; a class has no images, or scores that are not
            finite.
    """
    for values in (scores, maxima):
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
    ).at_rate(false_alarm_rate)


def no_thresholds(
    who: str, advice: str = "`grad train --resume RUN` goes on; scores and maps work without."
) -> str:
    """The sentence for a model, or an image that it judged, without a calibration."""
    return f"{who} has no thresholds, as training was interrupted before they were made: {advice}"


def _threshold_of(values: Mapping[str, Any]) -> Threshold:
    interval = values.get("interval")
    return Threshold(**{**values, "interval": None if interval is None else tuple(interval)})


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
