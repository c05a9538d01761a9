"""Test images judged by thresholds: what is found, what is called anomalous wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from grad.score.records import ImageRecord
from grad.score.thresholds import Calibration, Threshold, f1_limit

_SOURCES = {"held out": "held out", "validation": "validation", "training": "trained on"}


def judge(
    calibrations: Mapping[str, Calibration], records: Sequence[ImageRecord]
) -> dict[str, Any]:
    """The section ``thresholds`` of metrics.json.

    Args:
        calibrations: of each class that is reported on, the calibration of its model.
        records: test images.

    Returns:
        ``method`` and ``asked_rate`` (false-alarm rate asked for, None for F1); ``classes``: the
        threshold of each class with ``source`` (where its good images came from; None for a class
        that was not trained on), ``recall``, ``false_alarm_rate``, ``marked_rate`` (share of good
        images with a marked pixel; None for each where there are no such images) and ``counts``;
        ``all``: the same over all classes; ``unknown``: the threshold for images of unknown class
        and what it does to all of them, None with several models or a single class.
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


def choose_thresholds(
    calibration: Calibration,
    records: Sequence[ImageRecord],
    threshold: Literal["good", "f1"] | float | None,
    false_alarm_rate: float | None = None,
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


def verdict_table(section: Mapping[str, Any]) -> Table:
    """A row a class: threshold, defects found, good images called anomalous."""
    title = {
        "good": "Thresholds for a false-alarm rate of {:.2%}",
        "f1": "Thresholds where F1 of the test images is largest",
        "fixed": "Thresholds as given",
    }[section["method"]]
    table = Table(
        title=title.format(section["asked_rate"]),
        title_justify="left",
        show_footer=len(section["classes"]) > 1,
    )
    every = section["all"]["counts"]
    table.add_column("class", footer="all")
    table.add_column("threshold", justify="right")
    table.add_column("defects found", footer=_found(every), justify="right")
    table.add_column("false alarms", footer=_alarms(every), justify="right")
    table.add_column("good images", justify="right")
    for name, row in section["classes"].items():
        table.add_row(name, *_cells(row))
    if section["unknown"]:
        table.add_section()
        table.add_row("class not stated", *_cells(section["unknown"]))
    return table


def show_thresholds(section: Mapping[str, Any], console: Console) -> None:
    """The table, and what is to be said about how far the thresholds can be trusted."""
    console.print(verdict_table(section))
    for text in _cautions(section):
        console.print(text, style="yellow", markup=False, highlight=False)


def _cautions(section: Mapping[str, Any]) -> Iterator[str]:
    rate, rows = section["asked_rate"], section["classes"]
    new = [name for name, row in rows.items() if row["source"] is None]
    if new:
        yield f"Not trained on, so judged by the threshold for unknown classes: {', '.join(new)}."
    if section["method"] == "f1":
        yield "The test images made these thresholds: they are no test of them any more."
    if section["method"] != "good":
        return
    trained = [name for name, row in rows.items() if row["source"] == "training"]
    few = [
        f"{name} {1 / (row['images'] + 1):.2%}"
        for name, row in rows.items()
        if row["source"] in ("held out", "validation") and row["images"] + 1 < 1 / rate
    ]
    if few:
        yield (
            f"Too few good images for {rate:.2%} by rank alone, which they support from here on: "
            f"{', '.join(few)}. Their thresholds are fitted to the scores of the images trained "
            "on, corrected by the others; metrics.json says from how many. More good images find "
            "more defects; so does a higher rate: grad evaluate MODEL --false-alarm-rate 0.1."
        )
    if trained:
        yield (
            f"No image of {', '.join(trained)} was kept out of training: new ones may score "
            f"higher, so that there are more false alarms than {rate:.2%}."
        )


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


def _outcome(judged: Sequence[tuple[ImageRecord, Threshold]]) -> dict[str, Any]:
    """Rates and counts of images, each with the threshold that it is judged by."""
    alarms = [(record.anomalous, record.score > limit.image) for record, limit in judged]
    marked = sum(r.map_maximum > limit.pixel for r, limit in judged if not r.anomalous)
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
        "marked_rate": marked / good if good else None,
        "counts": counts,
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    counts = row["counts"]
    made = " ".join([str(row["images"]), _SOURCES.get(row.get("source", ""), "images")])
    return f"{row['image']:.4g}", _found(counts), _alarms(counts), made


def _found(counts: Mapping[str, int]) -> str:
    found, missed = counts["true_positives"], counts["false_negatives"]
    every = found + missed
    return f"{found} of {every}, {found / every:.0%}" if every else "-"


def _alarms(counts: Mapping[str, int]) -> str:
    alarms, quiet = counts["false_positives"], counts["true_negatives"]
    every = alarms + quiet
    return f"{alarms} of {every}, {alarms / every:.1%}" if every else "-"
