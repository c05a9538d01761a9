"""What is exported: decoded images to verdicts in one graph, and what it says about itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from grad.data.roi import GREY, inside
from grad.data.samples import Roi
from grad.detector.checkpoint import ModelInfo
from grad.detector.folding import fold_batch_norms
from grad.export.resize import resize
from grad.features.backbone import Backbone
from grad.model.grad import GRAD
from grad.score import anomaly_map as scoring
from grad.score.thresholds import Calibration, Threshold, calibrated
from grad.system.errors import GradError

Resize = Literal["graph", "none"]

INPUT = "images"
AXES = {0: "batch", 1: "height", 2: "width"}  # of the input, where they are dynamic
OUTPUTS = ("anomaly_map", "score", "value", "is_anomalous")
UNKNOWN = "unknown"  # the column for images of no known class


@dataclass(frozen=True)
class Column:
    """A class whose threshold is in the graph; one column of its verdicts."""

    name: str
    threshold: Threshold


def columns(
    calibration: Calibration, class_name: str | None, min_area: int = 1
) -> tuple[Column, ...]:
    """Those of a graph: one for ``class_name``; without it all classes, then unknown ones.

    A model of one class has one column. A graph knows no regions: where a smallest one counts, its
    verdict is that of the image score alone.

    Raises:
        GradError: the model was not trained on that class.
    """
    found = list(calibration.classes.items())
    if class_name is not None:
        found = [(name, limit) for name, limit in found if name == class_name]
        if not found:
            known = ", ".join(calibration.classes)
            raise GradError(
                f"--class-name {class_name} is none of the model's: it was trained on {known}."
            )
    elif len(found) > 1:
        found.append((UNKNOWN, calibration.unknown))
    if min_area > 1:
        found = [(name, replace(limit, joint=False)) for name, limit in found]
    return tuple(Column(name, limit) for name, limit in found)


class ExportGraph(nn.Module):
    """Images to anomaly maps, scores and verdicts; see :meth:`forward`.

    Args:
        backbone, model: as in :class:`grad.detector.checkpoint.LoadedModel`, on the CPU; they
            are copied.
        image_size: side of the square that the backbone takes, in pixels.
        columns: thresholds, one for each column of the verdicts.
        resize: ``"graph"``: the graph takes decoded images of any size; ``"none"``: it takes what
            :func:`grad.data.images.load_image` returns.
        roi: the region of interest; None: all of an image.
    """

    looked_at: Tensor | None
    box: Tensor | None
    rows_up: Tensor
    columns_up: Tensor
    windows: Tensor
    typical: Tensor
    threshold: Tensor
    pixel_typical: Tensor
    pixel: Tensor
    joint: Tensor

    def __init__(
        self,
        backbone: Backbone,
        model: GRAD,
        image_size: int,
        columns: Sequence[Column],
        resize: Resize = "graph",
        roi: Roi | None = None,
    ) -> None:
        super().__init__()
        height, width = model.settings.height, model.settings.width
        with torch.no_grad():
            image = torch.zeros(1, 3, image_size, image_size)
            self.backbone = fold_batch_norms(backbone, image)
            features = self.backbone(image)
            self.model = fold_batch_norms(model.eval(), features)
            if self.model.branches is not None:
                networks = self.model.branches.networks
                self.model.branches.networks = nn.ModuleList(
                    fold_batch_norms(network, features) for network in networks
                )
        self.image_size, self.resize = image_size, resize
        looked_at = None if roi is None else inside(roi, (image_size, image_size)).float()
        steps = _smoothed_upsampling if looked_at is None else _upsampling
        self.paints = roi is not None and roi.painted
        self.register_buffer("looked_at", looked_at)
        self.register_buffer("box", None if looked_at is None else _box(image_size))
        self.register_buffer("rows_up", steps(height, image_size))
        self.register_buffer("columns_up", steps(width, image_size))
        self.register_buffer("windows", _windows(image_size))
        thresholds = [column.threshold for column in columns]
        self.register_buffer("typical", torch.tensor([t.image_typical for t in thresholds]))
        self.register_buffer("threshold", torch.tensor([t.image for t in thresholds]))
        self.register_buffer("pixel", torch.tensor([t.pixel for t in thresholds]))
        self.register_buffer("pixel_typical", torch.tensor([t.pixel_typical for t in thresholds]))
        self.register_buffer("joint", torch.tensor([float(t.joint) for t in thresholds]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Verdicts on a batch of images, all of one size.

        Args:
            images: (B, h, w, 3) uint8 RGB of any height and width; where ``resize`` is ``"none"``
                (B, 3, S, S) float32 in [0, 1].

        Returns:
            anomaly_map, (B, S, S) float32: the raw map; score, (B,) float32: the raw image score;
            value, (B, T) float32: the score on the scale of each of the T thresholds, 0.5 there;
            is_anomalous, (B, T) bool: whether the score, or any value of the map, is above its
            threshold.
        """
        if self.resize == "graph":
            images = resize(images, self.image_size) / 255.0
        if self.looked_at is not None and self.paints:
            images = images * self.looked_at + GREY / 255 * (1 - self.looked_at)
        _, distances = self.model.loss_and_score(self.backbone(images))  # (B, H, W)
        anomaly_map = F.linear(self.rows_up @ distances, self.columns_up)
        if self.looked_at is not None and self.box is not None:
            anomaly_map = F.linear(self.box @ (anomaly_map * self.looked_at), self.box)
            anomaly_map = anomaly_map * self.looked_at
        score = F.linear(self.windows @ anomaly_map, self.windows).amax(dim=(1, 2))
        of_score = calibrated(score[:, None], self.typical, self.threshold)  # type: ignore[arg-type]
        maximum = anomaly_map.amax(dim=(1, 2))[:, None]
        of_map = calibrated(maximum, self.pixel_typical, self.pixel)  # type: ignore[arg-type]
        value = torch.maximum(of_score, self.joint * of_map)
        is_anomalous = (score[:, None] > self.threshold) | (self.joint * maximum > self.pixel)
        return anomaly_map, score, value, is_anomalous


def trace(graph: ExportGraph, batch: int | None = None) -> ExportedProgram:
    """The graph as a program, with GRAD's own operators in it.

    Args:
        graph: what to trace.
        batch: images in a batch; None: any number.
    """
    count = batch or 2  # a batch of one would be taken as fixed
    sizes: dict[int, Dim] = {} if batch else {0: Dim("batch")}
    if graph.resize == "graph":
        images = torch.zeros(count, 96, 160, 3, dtype=torch.uint8)
        sizes |= {1: Dim("height"), 2: Dim("width")}
    else:
        images = torch.zeros(count, 3, graph.image_size, graph.image_size)
    with torch.no_grad():
        program = torch.export.export(graph.eval(), (images,), dynamic_shapes=(sizes,))
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # names the folders of this machine
    return program


def facts(info: ModelInfo, columns: Sequence[Column], resize: Resize) -> dict[str, str]:
    """What a file says about itself; lists and objects as JSON."""
    return {
        "grad_version": info.grad_version,
        "backbone": info.backbone,
        "classes": json.dumps(info.classes),
        "columns": json.dumps([column.name for column in columns]),
        "thresholds": json.dumps([asdict(column.threshold) for column in columns]),
        "image_size": str(info.image_size),
        "white_level": str(info.white_level),
        "min_area": str(info.min_area),
        "resize": resize,
    }


def _smoothed_upsampling(inputs: int, outputs: int) -> Tensor:
    """M, (outputs, inputs), with M_h S M_w^T the anomaly map of a score map S.

    Read off :func:`grad.score.anomaly_map.anomaly_map`, which does the same along both axes, with
    unit vectors as maps of one column: of the box only one column is then filled.
    """
    units = torch.eye(inputs)[:, :, None]
    return (scoring.anomaly_map(units, (outputs, 1))[:, :, 0] * scoring.SMOOTHING).T.contiguous()


def _upsampling(inputs: int, outputs: int) -> Tensor:
    """M, (outputs, inputs), with M_h S M_w^T a score map S at the size of the image."""
    units = torch.eye(inputs)[:, :, None]
    return scoring.upsample(units, (outputs, 1))[:, :, 0].T.contiguous()


def _box(size: int) -> Tensor:
    """M, (size, size), with M U M^T the means of a map U over the boxes that smooth it."""
    units = torch.eye(size)[:, :, None]
    return (scoring.smooth(units)[:, :, 0] * scoring.SMOOTHING).T.contiguous()


def _windows(size: int) -> Tensor:
    """M, (windows, size), with M A M^T the means of which the image score is the largest."""
    side = min(scoring.POOLING, size)
    return torch.eye(size).unfold(0, side, 1).mean(dim=-1)
