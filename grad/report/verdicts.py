"""Thresholds of a report's classes, and what they make of its test images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grad.calibration import Threshold
from grad.records import ImageRecord
from grad.report.contents import ModelPart

_NO_CALIBRATION = "from these test images themselves, as the model has no calibration"


@dataclass(frozen=True)
class Confusion:
    """Numbers of images by truth and verdict."""

    true_positives: int = 0
    false_negatives: int = 0
    false_positives: int = 0
    true_negatives: int = 0


def thresholds(
    models: Iterable[ModelPart], records: Sequence[ImageRecord]
) -> tuple[dict[str, Threshold], bool]:
    """The threshold of each class, and whether all are calibrated.

    A class of a model without calibration gets the threshold with the best F1 on its test images,
    so that there is something to move; without test images it gets none.
    """
    found: dict[str, Threshold] = {}
    calibrated = True
    for model in models:
        for name in model.classes:
            if model.calibration is not None:
                found[name] = model.calibration.threshold(name)
                continue
            calibrated = False
            mine = [record for record in records if record.class_name == name]
            if mine:
                found[name] = _from_test(mine)
    return found, calibrated


def confusion(records: Iterable[ImageRecord], limits: Mapping[str, Threshold]) -> Confusion:
    """Verdicts on test images, each at the threshold of its class."""
    counts = {(truth, verdict): 0 for truth in (False, True) for verdict in (False, True)}
    for record in records:
        counts[record.anomalous, record.score > limits[record.class_name].image] += 1
    return Confusion(
        true_positives=counts[True, True],
        false_negatives=counts[True, False],
        false_positives=counts[False, True],
        true_negatives=counts[False, False],
    )


def _from_test(records: Sequence[ImageRecord]) -> Threshold:
    image, image_typical = _best_f1(
        [record.score for record in records if not record.anomalous],
        [record.score for record in records if record.anomalous],
    )
    pixel, pixel_typical = _best_f1(
        [record.map_maximum for record in records if not record.anomalous],
        [record.map_maximum for record in records if record.anomalous],
    )
    note = f"{len(records)} test images; {_NO_CALIBRATION}: for a look only."
    return Threshold(image, pixel, image_typical, pixel_typical, len(records), note)


def _best_f1(good: Sequence[float], bad: Sequence[float]) -> tuple[float, float]:
    """The threshold with the highest F1, halfway to the next score, and a typical value below it.

    Without defects: just above all good images; without good images: just below all defects.
    """
    scores = np.unique([*good, *bad])
    middles = np.concatenate(
        [[np.nextafter(scores[0], -np.inf)], (scores[1:] + scores[:-1]) / 2, [scores[-1]]]
    )
    if not good or not bad:
        best = middles[0] if not good else middles[-1]
    else:
        above_good, above_bad = (
            len(values) - np.searchsorted(np.sort(values), middles, side="right")
            for values in (good, bad)
        )
        best = middles[np.argmax(2 * above_bad / (above_bad + above_good + len(bad)))]
    typical = float(np.median(good)) if good else float(best)
    return float(best), min(typical, float(np.nextafter(best, -np.inf)))
