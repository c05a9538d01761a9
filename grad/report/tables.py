"""The tables and texts of a report that its template writes out."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch

from grad import __version__
from grad.calibration import Threshold
from grad.metrics import METRICS
from grad.records import ImageRecord
from grad.report.contents import ModelPart
from grad.report.verdicts import Confusion

_HEADINGS = {
    "image_auroc": ("AUROC", "Chance that a defective image scores higher than a good one"),
    "image_ap": ("AP", "Average precision of images"),
    "image_f1max": ("F1max", "Highest F1 of images over all thresholds"),
    "pixel_auroc": ("AUROC", "Chance that a defective pixel scores higher than a good one"),
    "pixel_ap": ("AP", "Average precision of pixels"),
    "pixel_f1max": ("F1max", "Highest F1 of pixels over all thresholds"),
    "aupro_30": ("30 %", "Area under the per-region overlap up to 30 % false-positive pixels"),
    "aupro_5": ("5 %", "Area under the per-region overlap up to 5 % false-positive pixels"),
}


def lead(models: Sequence[ModelPart], images: Mapping[str, Mapping[str, int]]) -> str:
    """One sentence on the whole run."""
    classes, train, good, defects = (
        sum(values)
        for values in (
            [len(model.classes) for model in models],
            *([counts[key] for counts in images.values()] for key in _COUNTED),
        )
    )
    one = "One model" if len(models) == 1 else f"{len(models)} models"
    many = "one class" if classes == 1 else f"{classes} classes"
    made = f"{one} for {many}, trained on {_count(train, 'good image')}"
    if not good + defects:
        return f"{made}; there are no test images."
    judged = f"{_count(good, 'good')} and {_count(defects, 'defective image')}"
    return f"{made}, judged on {judged}."


_COUNTED = ("train", "test_good", "test_defects")


def counts(images: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The table of images of each class, and their sums."""
    headings = {
        "train": "train",
        "calibration": "calibration",
        "test_good": "test good",
        "test_defects": "test defects",
        "masks": "masks",
    }
    used = [key for key in headings if all(key in of_class for of_class in images.values())]
    rows = [(name, [of_class[key] for key in used]) for name, of_class in images.items()]
    return {
        "headings": [headings[key] for key in used],
        "rows": [(name, [f"{count:,}" for count in row]) for name, row in rows],
        "total": [f"{sum(column):,}" for column in zip(*(row for _, row in rows), strict=True)],
    }


def tiles(
    metrics: Mapping[str, Any], verdicts: Confusion | None, calibrated: bool
) -> list[dict[str, str]]:
    """The few numbers that matter most."""
    mean, over = metrics["mean"], metrics["mean_over"]
    shown = []
    for key, label in (
        ("image_auroc", "image AUROC"),
        ("pixel_auroc", "pixel AUROC"),
        ("aupro_30", "AUPRO 30 %"),
    ):
        classes = _count(over[key], "class", "classes")
        note = f"mean of {classes}" if over[key] > 1 else classes if over[key] else "undefined"
        shown.append({"label": label, "value": _percent(mean[key]), "note": note})
    at = "at the calibrated thresholds" if calibrated else "at the best F1 of the test images"
    if verdicts is not None:
        defects = verdicts.true_positives + verdicts.false_negatives
        good = verdicts.false_positives + verdicts.true_negatives
        for label, part, whole, what in (
            ("defects found", verdicts.true_positives, defects, "defective images"),
            ("false alarms", verdicts.false_positives, good, "good images"),
        ):
            note = f"{part:,} of {whole:,} {what}, {at}" if whole else f"no {what}"
            share = part / whole if whole else None
            shown.append({"label": label, "value": _percent(share, unit=" %"), "note": note})
    return shown


def metrics_table(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Headings, rows and footnotes; a value that is undefined has a mark that leads to its why."""
    reasons = list(
        dict.fromkeys(why for of_class in metrics["reasons"].values() for why in of_class.values())
    )

    def cell(name: str, key: str) -> dict[str, Any]:
        value = metrics["classes"][name][key]
        why = metrics["reasons"].get(name, {}).get(key)
        return {
            "text": _percent(value),
            "value": "" if value is None else f"{value:.6f}",
            "reason": why,
            "mark": None if why is None else reasons.index(why) + 1,
        }

    bound = max(metrics["error_bound"].values(), default=0.0)
    return {
        "headings": [{"label": _HEADINGS[key][0], "title": _HEADINGS[key][1]} for key in METRICS],
        "rows": [(name, [cell(name, key) for key in METRICS]) for name in metrics["classes"]],
        "mean": [_percent(metrics["mean"][key]) for key in METRICS],
        "reasons": [f"{why[:1].upper()}{why[1:]}." for why in reasons],
        "exactness": "All values are exact."
        if not bound
        else f"Image metrics are exact, pixel metrics to {100 * bound:.2g} points or better.",
    }


def thresholds_text(
    models: Sequence[ModelPart], limits: Mapping[str, Threshold], calibrated: bool
) -> dict[str, Any]:
    """How the thresholds were made, with a line for each distinct way."""
    calibrations = [model.calibration for model in models if model.calibration is not None]
    if not calibrated:
        made = "The model has no calibration: the thresholds suit these test images best."
    elif calibrations[0].method == "f1":
        made = "Each threshold is where F1 on test images is largest."
    else:
        rate = calibrations[0].false_alarm_rate
        made = f"Made from good images alone, for {100 * rate:.3g} % false alarms."
    notes: dict[str, list[str]] = {}
    for name, threshold in limits.items():
        notes.setdefault(threshold.note, []).append(name)
    if len(calibrations) == 1 and len(calibrations[0].classes) > 1:
        unknown = calibrations[0].unknown
        text = f"{unknown.note.rstrip('.')}; threshold {unknown.image:.4g}."
        notes.setdefault(text, []).append("images of no stated class")
    return {
        "made": made,
        "reset": "Back to calibrated" if calibrated else "Back to best F1",
        "column": "calibrated" if calibrated else "best F1",
        "notes": [f"{', '.join(names)}: {note}" for note, names in notes.items()],
    }


def gallery_note(shown: int, records: Sequence[ImageRecord]) -> str:
    """What is left out of the gallery; "" where nothing is."""
    if shown == len(records):
        return ""
    return (
        f"Shown are {shown:,} of {len(records):,} test images: of each class those nearest to a "
        "mistake, and the clearest."
    )


def versions() -> list[tuple[str, str]]:
    """What the run ran on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        ("GRAD", __version__),
        ("PyTorch", str(torch.__version__)),
        ("timm", timm.__version__),
        ("Python", platform.python_version()),
        ("System", f"{platform.system()} {platform.machine()}"),
        ("GPU", gpu),
    ]


def options_table(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every option as it was used."""
    return [(name, "none" if value is None else str(value)) for name, value in options.items()]


def _percent(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{100 * value:.1f}{unit}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
