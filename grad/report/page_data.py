"""The numbers and pictures of a report as JSON for its script, which uses the names given here."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from grad.report.contents import ModelPart
from grad.report.coordinates import Points
from grad.report.gallery import Thumbnail
from grad.score.heat import colours
from grad.score.records import ImageRecord
from grad.score.rules import f1_limit

_STEPS = 1000  # coordinates are sent as integers
_FEW = 10  # images, from which on a drift is looked for
_CHANCE = 0.01  # of a rank correlation, below which it is called a drift


def page_data(
    metrics: Mapping[str, Any],
    records: Sequence[ImageRecord],
    models: Sequence[ModelPart],
    pictures: Sequence[Thumbnail],
) -> dict[str, Any]:
    """Everything that the script draws; a class is its index in ``classes``.

    Args:
        metrics: the contents of metrics.json.
        records: all test images; in a run without any, good images that thresholds were made from.
        models: of the run.
        pictures: of the test images that are shown.
    """
    index = {name: number for number, name in enumerate(metrics["classes"])}
    known = {record.path: record for record in records}
    counts = metrics["settings"]["images"].values()
    tested = any(of_class["test_good"] + of_class["test_defects"] for of_class in counts)
    data = {
        "of": "test" if tested else "good",
        "classes": [_class(name, records) for name in index],
        "images": [_image(picture, index, known) for picture in pictures],
        "colours": base64.b64encode(colours().tobytes()).decode(),
        "models": [_model(model, index) for model in models],
    }
    set_thresholds(data, metrics)
    return data


def set_thresholds(data: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Give each class of :func:`page_data` its threshold, of the section ``thresholds``.

    Without that section it is the threshold of the largest F1, for a look; None where that is
    undefined too.
    """
    for of_class in data["classes"]:
        known = metrics.get("thresholds", {}).get("classes", {}).get(of_class["name"])
        of_class["threshold"] = _threshold(known) if known else _look(of_class)


def _class(name: str, records: Sequence[ImageRecord]) -> dict[str, Any]:
    mine = sorted((r for r in records if r.class_name == name), key=lambda record: record.score)
    good = [record for record in mine if not record.anomalous]
    ordered = sorted(good, key=lambda record: _natural(record.path))
    bad = [record for record in mine if record.anomalous]
    return {
        "name": name,
        "good": [record.score for record in good],
        "bad": [record.score for record in bad],
        "goodMaxima": [record.map_maximum for record in good],
        "badMaxima": [record.map_maximum for record in bad],
        "ordered": [[record.score, record.map_maximum] for record in ordered],
        "drift": _drift([record.score for record in ordered]),
    }


def _natural(path: str) -> list[tuple[int, str]]:
    """By which paths are in the order of the numbers in them: 2 before 10."""
    parts = re.split(r"(\d+)", path)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _drift(scores: Sequence[float]) -> str:
    """Whether scores rise or fall in the order of their files, in words."""
    if len(scores) < _FEW or len(set(scores)) == 1:
        return ""
    found = stats.spearmanr(range(len(scores)), scores)
    if found.pvalue > _CHANCE:
        return f"no drift (rank correlation {found.statistic:+.2f}, as chance gives it)"
    side = "higher" if found.statistic > 0 else "lower"
    return f"later images score {side} (rank correlation {found.statistic:+.2f}, no chance)"


_SHOWN = ("image", "image_typical", "pixel", "pixel_typical", "images", "joint")


def _threshold(known: Mapping[str, Any]) -> dict[str, Any]:
    return {key: known[key] for key in _SHOWN if key in known}


def _look(of_class: Mapping[str, Any]) -> dict[str, Any] | None:
    """A threshold from the test images; where all are of one kind, all are called that."""
    good, bad = of_class["good"], of_class["bad"]
    if not good and not bad:
        return None
    image, image_typical = _limit(good, bad)
    pixel, pixel_typical = _limit(of_class["goodMaxima"], of_class["badMaxima"])
    return {
        "image": image,
        "image_typical": image_typical,
        "pixel": pixel,
        "pixel_typical": pixel_typical,
        "images": len(good) + len(bad),
    }


def _limit(good: Sequence[float], bad: Sequence[float]) -> tuple[float, float]:
    if good and bad:
        return f1_limit(good, bad)
    limit = max(good) if good else 0.9 * min(bad)
    return limit, 0.5 * limit


def _image(
    picture: Thumbnail, index: Mapping[str, int], known: Mapping[str, ImageRecord]
) -> dict[str, Any]:
    shown = picture.shown
    record = known[str(shown.sample.path.absolute())]
    raised = record.map_maximum / max(
        shown.maximum, 1e-30
    )  # of good images; see grad.detector.training.folds
    return {
        "class": index[shown.sample.class_name],
        "file": f"{shown.sample.path.parent.name}/{shown.sample.path.name}",
        "defect": shown.sample.defect,
        "anomalous": shown.sample.anomalous,
        "score": record.score,
        "maximum": record.map_maximum,
        "thumbnail": picture.thumbnail,
        "heat": picture.heat,
        "low": _short(shown.heat.low * raised),
        "high": _short(shown.heat.high * raised),
        "mask": picture.mask,
        "least": _short(picture.least),
    }


def _model(model: ModelPart, index: Mapping[str, int]) -> dict[str, Any]:
    grids = model.coordinates
    return {
        "name": model.name,
        "classes": [index[name] for name in model.classes],
        "loss": [_short(value) for value in model.history.get("loss", ())],
        "rate": [_short(value) for value in model.history.get("learning_rate", ())],
        "local": None if grids is None or grids.local is None else _points(grids.local, index),
        "global": None if grids is None or grids.global_ is None else _points(grids.global_, index),
    }


def _points(points: Points, index: Mapping[str, int]) -> dict[str, Any]:
    planar, note = _plane(points.coords)
    steps = np.rint(planar * _STEPS).astype(int)
    return {
        "x": steps[:, 0].tolist(),
        "y": steps[:, 1].tolist() if steps.shape[1] > 1 else None,
        "steps": _STEPS,
        "class": [index[name] for name in points.classes],
        "abnormal": points.abnormal.astype(int).tolist(),
        "cells": points.resolution if points.coords.shape[1] <= 2 else None,
        "note": note,
    }


def _plane(coords: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
    """(N, D) -> (N, 1 or 2) coordinates to draw, and what they are."""
    dims = coords.shape[1]
    if dims == 1:
        return coords, "The grid has one axis; a line for each class."
    if dims == 2:
        return coords, "The grid's two axes."
    centred = coords - coords.mean(axis=0)
    _, strengths, axes = np.linalg.svd(centred, full_matrices=False)
    variances = strengths**2
    share = variances[:2].sum() / max(variances.sum(), 1e-30)
    note = f"The first two principal axes of the {dims} of the grid, {share:.0%} of the variance."
    return centred @ axes[:2].T, note


def _short(value: float) -> float:
    """Six significant digits, for what is only drawn."""
    return float(f"{value:.6g}")
