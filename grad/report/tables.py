"""The tables and texts of a report that its template writes out."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch

from grad.report.contents import ModelPart
from grad.score.metrics.classes import PIXEL_METRICS
from grad.system.version import __version__

_UNDEFINED = "\N{EN DASH}"

_HEADINGS = {
    "image_auroc": ("AUROC", "Chance that a defective image scores higher than a good one"),
    "image_ap": ("AP", "Average precision of images"),
    "image_f1max": ("F1max", "Highest F1 of images over all thresholds"),
    "part_auroc": (
        "parts",
        "AUROC of parts with several views: chance that the worst view of a defective one scores "
        "higher than that of a good one",
    ),
    "pixel_auroc": ("AUROC", "Chance that a defective pixel scores higher than a good one"),
    "pixel_ap": ("AP", "Average precision of pixels"),
    "pixel_f1max": ("F1max", "Highest F1 of pixels over all thresholds"),
    "aupro_30": ("30 %", "Area under the per-region overlap up to 30 % false-positive pixels"),
    "aupro_5": ("5 %", "Area under the per-region overlap up to 5 % false-positive pixels"),
}


def lead(models: int, images: Mapping[str, Mapping[str, int]]) -> str:
    """One sentence on the whole run.

    Args:
        models: how many.
        images: counts of each class, the section of that name in metrics.json.
    """
    train, good, defects = (sum(counts[key] for counts in images.values()) for key in _COUNTED)
    one = "One model" if models == 1 else f"{models} models"
    made = f"{one} for {_count(len(images), 'class', 'classes')}"
    if train:
        made += f", trained on {_count(train, 'good image')}"
    if not good + defects:
        return f"{made}; there are no test images."
    return f"{made}; judged on {good:,} good and {_count(defects, 'defective image')}."


_COUNTED = ("train", "test_good", "test_defects")


def model_facts(models: Sequence[ModelPart]) -> dict[str, str]:
    """What the models add to the facts of a run."""
    facts = {"model": "; ".join(dict.fromkeys(model.size for model in models if model.size))}
    seconds = sum(sum(model.history.get("seconds", ())) for model in models)
    if seconds:
        minutes, rest = divmod(round(seconds), 60)
        facts["training time"] = f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"
    return facts


def unreadable(metrics: Mapping[str, Any]) -> list[str]:
    """A note on the images that could not be read, if there are any."""
    count = metrics["settings"].get("unreadable_images", 0)
    return [f"{_count(count, 'image')} could not be read and were left out."] if count else []


def counts(images: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The table of images of each class, and their sums."""
    headings = {
        "train": "train",
        "calibration": "calibration",
        "test_good": "test good",
        "test_defects": "test defects",
        "masks": "masks",
    }
    used = [  # an evaluation knows nothing of training
        key
        for key in headings
        if key not in ("train", "calibration")
        or any(of_class.get(key) for of_class in images.values())
    ]
    rows = [(name, [of_class[key] for key in used]) for name, of_class in images.items()]
    return {
        "headings": [headings[key] for key in used],
        "rows": [(name, [f"{count:,}" for count in row]) for name, row in rows],
        "total": [f"{sum(column):,}" for column in zip(*(row for _, row in rows), strict=True)],
    }


def tiles(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The few numbers that matter most."""
    shown = []
    if metrics.get("thresholds"):
        counts = metrics["thresholds"]["all"]["counts"]
        found, missed = counts["true_positives"], counts["false_negatives"]
        alarms, quiet = counts["false_positives"], counts["true_negatives"]
        shown.append(_share_tile("defects found", found, found + missed, "defective images"))
        shown.append(_share_tile("false alarms", alarms, alarms + quiet, "good images"))
    names = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO 30 %"}
    return shown + [_mean_tile(metrics, key, label) for key, label in names.items()]


def _mean_tile(metrics: Mapping[str, Any], key: str, label: str) -> dict[str, str]:
    classes = metrics["mean_over"][key]
    note = (
        f"mean of {classes} classes" if classes > 1 else "" if classes else "undefined, see below"
    )
    return {"label": label, "value": _percent(metrics["mean"][key]), "note": note}


def _share_tile(label: str, part: int, whole: int, what: str) -> dict[str, str]:
    note = f"{part:,} of {whole:,} {what}" if whole else f"no {what}"
    share = part / whole if whole else None
    return {"label": label, "value": _percent(share, unit=" %"), "note": note}


def metrics_table(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Headings, rows and footnotes; a value that is undefined has a mark that leads to its why."""
    reasons = list(
        dict.fromkeys(why for of_class in metrics["reasons"].values() for why in of_class.values())
    )

    def cell(name: str, key: str) -> dict[str, Any]:
        value = metrics["classes"][name].get(key)
        why = metrics["reasons"].get(name, {}).get(key)
        return {
            "text": _percent(value),
            "value": "" if value is None else f"{value:.6f}",
            "reason": why,
            "mark": None if why is None else reasons.index(why) + 1,
        }

    bound = max(metrics["error_bound"].values(), default=0.0)
    keys = list(metrics["mean"])
    return {
        "headings": [{"label": _HEADINGS[key][0], "title": _HEADINGS[key][1]} for key in keys],
        "image_metrics": len(keys) - len(PIXEL_METRICS),
        "rows": [(name, [cell(name, key) for key in keys]) for name in metrics["classes"]],
        "mean": [_percent(mean) for mean in metrics["mean"].values()],
        "reasons": [f"{why[:1].upper()}{why[1:]}." for why in reasons],
        "exactness": "All values are exact."
        if not bound
        else f"Image metrics are exact, pixel metrics to {100 * bound:.2g} points or better.",
    }


def thresholds_text(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """How the thresholds were made, with a line for each distinct way."""
    section = metrics.get("thresholds")
    if not section:
        return {
            "made": "The model has no thresholds: these have the largest F1 on the test images.",
            "reset": "Back to largest F1",
            "column": "largest F1",
            "notes": [],
        }
    notes: dict[str, list[str]] = {}
    for name, of_class in section["classes"].items():
        notes.setdefault(of_class["note"], []).append(name)
    unknown = section["unknown"]
    if unknown:
        text = f"threshold {unknown['image']:.4g}, {unknown['note']}"
        notes.setdefault(text, []).append("a class not stated")
    made = {
        "good": f"Made from good images alone, for {_rate(section['asked_rate'])}.",
        "f1": "Each threshold is where F1 on the test images is largest.",
        "fixed": "The threshold was given as a number.",
    }
    return {
        "made": made[section["method"]],
        "reset": "Back to the model's threshold",
        "column": "the model's",
        "notes": [f"{', '.join(names)}: {note}" for note, names in notes.items()],
    }


def _rate(asked: float | str | None) -> str:
    """A false-alarm rate as it was asked for."""
    if isinstance(asked, float):
        return f"{100 * asked:.3g} % false alarms"
    return "the false-alarm rate that they support"


def gallery_note(shown: int, images: int) -> str:
    """What is left out of the gallery; "" where nothing is."""
    if shown == images:
        return ""
    return (
        f"Shown are {shown:,} of {images:,} images: of each class those nearest to a mistake, and "
        "the clearest."
    )


def versions() -> dict[str, str]:
    """What the run ran on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "GRAD": __version__,
        "PyTorch": str(torch.__version__),
        "timm": timm.__version__,
        "Python": platform.python_version(),
        "System": f"{platform.system()} {platform.machine()}",
        "GPU": gpu,
    }


def _percent(value: float | None, unit: str = "") -> str:
    return _UNDEFINED if value is None else f"{100 * value:.1f}{unit}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
