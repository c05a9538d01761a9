"""The accumulator of one class's metrics, and the report over classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from grad.score.metrics.curve import Curve, Value, curve_of_scores
from grad.score.metrics.pixels import BINS, EXACT_PIXELS, PixelScores
from grad.system.errors import GradError

IMAGE_METRICS: dict[str, Callable[[Curve], Value]] = {
    "image_auroc": Curve.auroc,
    "image_ap": Curve.average_precision,
    "image_f1max": Curve.f1_max,
}
PART_AUROC = "part_auroc"  # of classes with several views of a part; S-AUROC of Real-IAD
PIXEL_METRICS: dict[str, Callable[[Curve], Value]] = {
    "pixel_auroc": Curve.auroc,
    "pixel_ap": Curve.average_precision,
    "pixel_f1max": Curve.f1_max,
    "aupro_30": lambda curve: curve.aupro(0.30),
    "aupro_5": lambda curve: curve.aupro(0.05),
}
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)


@dataclass(frozen=True)
class ClassReport:
    """Metrics of one class, as fractions in [0, 1]."""

    values: dict[str, float | None]
    """Every key of ``METRICS``, and of parts with several views ``PART_AUROC``; None where it is
    undefined."""
    reasons: dict[str, str]
    """Why a metric is None, or what it leaves out."""
    error_bounds: dict[str, float]
    """For each defined metric how far it may at most be from the exact one; 0 when exact."""


class ClassMetrics:
    """Metrics of one class of test images, gathered batch by batch.

    Image scores are all kept. Pixels are exact up to ``exact_pixels`` of them and go to a histogram
    beyond, in memory that does not grow with the number of images (:class:`PixelScores`).

    Args:
        name: the class, for messages.
        exact_pixels: pixels up to which pixel metrics are exact; None for any number.
        bins: most bins of the histogram.
    """

    def __init__(
        self, name: str, *, exact_pixels: int | None = EXACT_PIXELS, bins: int = BINS
    ) -> None:
        self.name = name
        self._scores: list[float] = []
        self._anomalous: list[bool] = []
        self._parts: list[str | None] = []
        self._pixels = PixelScores(exact_pixels, bins)
        self._without_mask = 0

    def update(
        self,
        anomaly_maps: Tensor,
        masks: Sequence[Tensor | None] | Tensor | None,
        image_scores: Tensor,
        labels: Tensor | Sequence[bool],
        looked_at: Tensor | None = None,
        parts: Sequence[str | None] | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            anomaly_maps: (B, h, w) floats; taken as float32.
            masks: for each image its (h, w) bool defect pixels, or None where it has no mask; None
                alone where no image has one. A good image needs none.
            image_scores: (B,) floats.
            labels: (B,) bools, whether the image is a defect.
            looked_at: (B, h, w) bool, regions of interest; pixels outside count in no metric. None:
                all are looked at.
            parts: of B images the parts that they are views of; None: each is all of its part.

        Raises:
            GradError: a score is NaN or infinite, a mask's size is not the map's, or a good image
                has defect pixels.
        """
        scores = image_scores.detach().to("cpu", torch.float64)
        maps = anomaly_maps.detach().to("cpu", torch.float32)
        extremes = torch.stack(maps.aminmax()) if maps.numel() else maps.new_zeros(0)
        if not (scores.isfinite().all() and extremes.isfinite().all()):
            raise GradError(
                f"The scores of class {self.name!r} hold NaN or infinite values: the model is not "
                "usable; train it again with a lower learning rate or in float32."
            )
        anomalous = [bool(label) for label in labels]
        given = [None] * len(anomalous) if masks is None else list(masks)
        regions = [None] * len(anomalous) if looked_at is None else list(looked_at)
        for anomaly_map, mask, defect, region in zip(maps, given, anomalous, regions, strict=True):
            self._add_pixels(anomaly_map, mask, defect, region)
        self._scores += scores.tolist()
        self._anomalous += anomalous
        self._parts += [None] * len(anomalous) if parts is None else parts

    def merge(self, other: ClassMetrics) -> None:
        """Adds the images of another accumulator of the same class, such as another process's."""
        self._scores += other._scores
        self._anomalous += other._anomalous
        self._parts += other._parts
        self._without_mask += other._without_mask
        self._pixels.merge(other._pixels)

    def compute(self) -> ClassReport:
        """All metrics of the images so far; more images may follow."""
        report = ClassReport({}, {}, {})
        scores, anomalous = np.array(self._scores), np.array(self._anomalous, dtype=bool)
        reason = self._image_reason()
        curve = None if reason else curve_of_scores(scores[~anomalous], scores[anomalous])
        _fill(report, IMAGE_METRICS, curve, reason)
        self._fill_parts(report)
        curve = self._pixels.curve()
        _fill(report, PIXEL_METRICS, curve, self._pixel_reason(curve))
        return report

    def _fill_parts(self, report: ClassReport) -> None:
        """A part scores as its worst view, and is anomalous where one of them is."""
        members: dict[str | int, list[int]] = {}
        for index, part in enumerate(self._parts):
            members.setdefault(index if part is None else part, []).append(index)
        if len(members) == len(self._parts):
            return
        scores = np.array([max(self._scores[i] for i in views) for views in members.values()])
        bad = np.array([any(self._anomalous[i] for i in views) for views in members.values()])
        reason = "" if 0 < bad.sum() < len(bad) else "no good and anomalous parts to test on"
        curve = None if reason else curve_of_scores(scores[~bad], scores[bad])
        _fill(report, {PART_AUROC: Curve.auroc}, curve, reason)

    def _add_pixels(
        self, anomaly_map: Tensor, mask: Tensor | None, defect: bool, looked_at: Tensor | None
    ) -> None:
        if defect and mask is None:
            self._without_mask += 1
            return
        areas: NDArray[np.int32] | None = None
        if mask is not None:
            if mask.shape != anomaly_map.shape:
                raise GradError(
                    f"A mask of class {self.name!r} is {_size(mask)} pixels and its anomaly map "
                    f"{_size(anomaly_map)}: resize the mask to the map."
                )
            if looked_at is not None:
                mask = mask & looked_at
            areas = region_areas(mask.detach().cpu().numpy().astype(bool))
        if not defect and areas is not None and areas.any():
            raise GradError(
                f"A good image of class {self.name!r} has defect pixels in its mask: "
                "move it to a defect's folder, or remove the mask."
            )
        scores = anomaly_map.numpy()
        if looked_at is not None:
            pixels = looked_at.numpy()
            scores, areas = scores[pixels], None if areas is None else areas[pixels]
        self._pixels.add(scores, areas)

    def _image_reason(self) -> str:
        if not self._anomalous:
            return "no test images"
        if not any(self._anomalous):
            return "no defect images to test on"
        return "no good images to test on" if all(self._anomalous) else ""

    def _pixel_reason(self, curve: Curve | None) -> str:
        defects = sum(self._anomalous)
        if curve is not None:
            if not self._without_mask:
                return ""
            return f"without the {self._without_mask} of {defects} defect images that have no mask"
        if defects == 0:
            return "no defect images to test on" if self._anomalous else "no test images"
        if self._without_mask == defects:
            return "no masks"
        if not self._pixels.has_good_pixels():
            return "no good pixels in the test images"
        return "no defect pixels in the masks"


def region_areas(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """For each pixel the area of its 8-connected region, in pixels; 0 outside regions.

    Args:
        mask: (h, w).

    Returns:
        (h, w).
    """
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3), bool))
    areas: NDArray[np.int32] = np.bincount(regions.ravel()).astype(np.int32)
    areas[0] = 0
    of_pixels: NDArray[np.int32] = areas[regions]
    return of_pixels


def summarize(reports: Mapping[str, ClassReport]) -> dict[str, Any]:
    """The contents of metrics.json.

    Args:
        reports: each class's report by its name.

    Returns:
        ``classes``: the values of each class. ``mean``: the plain mean over the classes that have
        the value, None where none has; ``mean_over``: how many have. ``reasons`` by class and
        metric; ``error_bound``: the largest one of each metric over the classes.
    """
    parts = [PART_AUROC] if any(PART_AUROC in report.values for report in reports.values()) else []
    keys = (*IMAGE_METRICS, *parts, *PIXEL_METRICS)
    bounds = {
        key: [report.error_bounds.get(key, 0.0) for report in reports.values()] for key in keys
    }
    defined = {
        key: [v for report in reports.values() if (v := report.values.get(key)) is not None]
        for key in keys
    }
    return {
        "classes": {name: report.values for name, report in reports.items()},
        "mean": {key: sum(found) / len(found) if found else None for key, found in defined.items()},
        "mean_over": {key: len(found) for key, found in defined.items()},
        "reasons": {name: report.reasons for name, report in reports.items() if report.reasons},
        "error_bound": {key: max(found, default=0.0) for key, found in bounds.items()},
    }


def _fill(
    report: ClassReport,
    metrics: Mapping[str, Callable[[Curve], Value]],
    curve: Curve | None,
    reason: str,
) -> None:
    for key, metric in metrics.items():
        report.values[key] = None
        if curve is not None:
            report.values[key], report.error_bounds[key] = metric(curve)
        if reason:
            report.reasons[key] = reason


def _size(image: Tensor) -> str:
    return " x ".join(str(side) for side in image.shape)
