"""Test images judged by thresholds: what is found, what is called anomalous wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from grad.score.records import ImageRecord
from grad.score.thresholds import Calibration, Threshold

RATES = (0.01, 0.05, 0.1)  # of false alarms, that the first table of a run shows


def judge_all(
    calibrations: Mapping[str, Calibration], records: Sequence[ImageRecord]
) -> dict[str, Any]:
    """The sections of metrics.json that depend on thresholds; arguments as of :func:`judge`.

    Returns:
        ``thresholds``; and ``rates``, what the thresholds for each of :data:`RATES` would do: a
        list of ``asked_rate``, ``classes`` and ``all``, with counts as in ``thresholds``.
    """
    models = {id(calibration): calibration for calibration in calibrations.values()}
    rates = []
    for rate in RATES:
        at_rate = {model: calibration.at_rate(rate) for model, calibration in models.items()}
        found = judge({name: at_rate[id(c)] for name, c in calibrations.items()}, records)
        counts = {name: row["counts"] for name, row in found["classes"].items()}
        rates.append({"asked_rate": rate, "classes": counts, "all": found["all"]["counts"]})
    return {"thresholds": judge(calibrations, records), "rates": rates}


def judge(
    calibrations: Mapping[str, Calibration], records: Sequence[ImageRecord]
) -> dict[str, Any]:
    """The section ``thresholds`` of metrics.json.

    Args:
        calibrations: of each class that is reported on, the calibration of its model.
        records: test images.

    Returns:
        ``method`` and ``asked_rate`` (false-alarm rate asked for, a number or "auto"; None where
        none was); ``classes``: the threshold of each class with ``source`` (where its good images
        came from; None for a class that was not trained on), ``recall``, ``false_alarm_rate`` (None
        for each where there are no such images) and ``counts``; ``all``: the same over all
        classes; ``unknown``: the threshold for a class not stated and what it does to all of
        them, None with several models or a single class.
    """
    first = next(iter(calibrations.values()))
    judged = {name: [r for r in records if r.class_name == name] for name in calibrations}
    thresholds = {name: c.threshold(name) for name, c in calibrations.items()}
    everything = [(r, thresholds[name]) for name, members in judged.items() for r in members]
    one_model = all(c is first for c in calibrations.values())
    unknown = first.unknown if one_model and len(first.classes) > 1 else None
    return {
        "method": first.method,
        "asked_rate": first.false_alarm_rate if first.method == "good" else None,
        "classes": {
            name: asdict(thresholds[name])
            | {"source": calibrations[name].sources.get(name)}
            | _outcome([(r, thresholds[name]) for r in members])
            for name, members in judged.items()
        },
        "all": _outcome(everything),
        "unknown": unknown
        and asdict(unknown) | _outcome([(record, unknown) for record, _ in everything]),
    }


def _outcome(judged: Sequence[tuple[ImageRecord, Threshold]]) -> dict[str, Any]:
    """Rates and counts of images, each with the threshold that it is judged by."""
    alarms = [(r.anomalous, limit.is_anomalous(r.score, r.map_maximum)) for r, limit in judged]
    counts = {
        "true_positives": alarms.count((True, True)),
        "false_negatives": alarms.count((True, False)),
        "false_positives": alarms.count((False, True)),
        "true_negatives": alarms.count((False, False)),
    }
    defects = counts["true_positives"] + counts["false_negatives"]
    good = counts["false_positives"] + counts["true_negatives"]
    return {
        "recall": counts["true_positives"] / defects if defects else None,
        "false_alarm_rate": counts["false_positives"] / good if good else None,
        "counts": counts,
    }
