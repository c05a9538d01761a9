"""The numbers and pictures of a report as JSON for its script; what each is named is used there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from grad.calibration import Threshold
from grad.records import ImageRecord
from grad.report.contents import ModelPart
from grad.report.coordinates import Points
from grad.report.gallery import Picture
from grad.visualize import COLORMAP, HOTTEST, OPACITY

_STEPS = 1000  # coordinates are sent as integers


def page_data(
    classes: Sequence[str],
    records: Sequence[ImageRecord],
    limits: Mapping[str, Threshold],
    models: Sequence[ModelPart],
    pictures: Sequence[Picture],
) -> dict[str, Any]:
    """Everything that the script draws.

    Args:
        classes: names; everywhere else a class is its index among them.
        records: all test images.
        limits: the threshold of each class that has one.
        models: of the run.
        pictures: of the test images that are shown.
    """
    index = {name: number for number, name in enumerate(classes)}
    return {
        "classes": [_class(name, records, limits.get(name)) for name in classes],
        "images": [_image(picture, index) for picture in pictures],
        "heat": {"colours": _colours(), "opacity": OPACITY},
        "models": [_model(model, index) for model in models],
    }


def _class(
    name: str, records: Sequence[ImageRecord], threshold: Threshold | None
) -> dict[str, Any]:
    mine = [record for record in records if record.class_name == name]
    return {
        "name": name,
        "good": sorted(record.score for record in mine if not record.anomalous),
        "bad": sorted(record.score for record in mine if record.anomalous),
        "threshold": None
        if threshold is None
        else {
            "image": threshold.image,
            "imageTypical": threshold.image_typical,
            "pixel": threshold.pixel,
            "pixelTypical": threshold.pixel_typical,
            "images": threshold.images,
        },
    }


def _image(picture: Picture, index: Mapping[str, int]) -> dict[str, Any]:
    shown = picture.shown
    return {
        "class": index[shown.sample.class_name],
        "file": f"{shown.sample.path.parent.name}/{shown.sample.path.name}",
        "defect": shown.sample.defect,
        "anomalous": shown.sample.anomalous,
        "score": shown.score,
        "thumbnail": picture.thumbnail,
        "heat": picture.heat,
        "low": _short(shown.heat.low),
        "high": _short(shown.heat.high),
        "mask": picture.mask,
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


def _plane(coords: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[np.ndarray[Any, Any], str]:
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


def _colours() -> str:
    """256 colours of the heat map from cold to hot, RRGGBB each."""
    ramp = matplotlib.colormaps[COLORMAP](HOTTEST * np.linspace(0.0, 1.0, 256))[:, :3]
    return (ramp * 255.0).round().astype(np.uint8).tobytes().hex()


def _short(value: float) -> float:
    """Six significant digits, for what is only drawn."""
    return float(f"{value:.6g}")
