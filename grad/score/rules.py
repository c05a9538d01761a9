"""Which rule makes a model's thresholds: good images, F1 of test images, or a given number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from grad.score.rates import Rate
from grad.score.records import ImageRecord
from grad.score.thresholds import Calibration, Threshold, fixed_pair


def choose_thresholds(
    calibration: Calibration,
    records: Sequence[ImageRecord],
    threshold: Literal["good", "f1"] | float | None,
    false_alarm_rate: Rate | None = None,
) -> Calibration:
    """Thresholds as they are asked for.

    Args:
        calibration: of a model.
        records: test images; only for ``"f1"``.
        threshold: ``"good"`` from good images; ``"f1"`` where F1 of the test images is largest, in
            each class that has defects; a number for that image score; None as they are.
        false_alarm_rate: for thresholds from good images; None as it is.
    """
    if threshold == "f1":
        return _f1_calibration(calibration, records)
    if isinstance(threshold, float):
        return calibration.fixed(threshold)
    if false_alarm_rate is not None:
        return calibration.at_rate(false_alarm_rate)
    if threshold == "good" and calibration.method != "good":
        return calibration.at_rate(calibration.false_alarm_rate)
    return calibration


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
    true = len(bad) - np.searchsorted(np.sort(bad), values)  # from this value on anomalous
    false = len(good) - np.searchsorted(np.sort(good), values)
    f1 = 2 * true / (true + false + len(bad))
    best = values.size - 1 - int(np.argmax(f1[::-1]))
    high = float(values[best])
    low = float(values[best - 1]) if best else 0.5 * high
    middle = float(np.float32(0.5 * (low + high)))
    return fixed_pair(middle if middle < high else low, float(np.median(good)))


def _f1_calibration(calibration: Calibration, records: Sequence[ImageRecord]) -> Calibration:
    classes = {
        name: _f1_threshold(limit, [r for r in records if r.class_name == name])
        for name, limit in calibration.classes.items()
    }
    unknown = _f1_threshold(calibration.unknown, records)
    return replace(calibration, method="f1", classes=classes, unknown=unknown)


def _f1_threshold(limit: Threshold, records: Sequence[ImageRecord]) -> Threshold:
    good = [record for record in records if not record.anomalous]
    defects = [record for record in records if record.anomalous]
    if not good or not defects:
        return replace(limit, note=f"no F1, as good or defective test images lack; {limit.note}")
    image, image_typical = f1_limit([r.score for r in good], [r.score for r in defects])
    pixel, pixel_typical = f1_limit([r.map_maximum for r in good], [r.map_maximum for r in defects])
    return Threshold(
        image,
        pixel,
        image_typical,
        pixel_typical,
        len(good),
        f"largest F1 on {len(good)} good and {len(defects)} defective test images, which are then "
        "no test of it any more",
    )
