"""What is exported: decoded images to verdicts in one graph, and what it says about itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

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


def columns(calibration: Calibration, class_name: str | None) -> tuple[Column, ...]:
    """Those of a graph: one for ``class_name``; without it all classes, then unknown ones.

    A model of one class has one column.

    Raises:
        GradError: the model was not trained on that class.
    """
    if class_name is not None:
        if class_name not in calibration.classes:
            known = ", ".join(calibration.classes)
            raise GradError(
                f"--class-name {class_name} is none of the model's: it was trained on {known}."
            )
        return (Column(class_name, calibration.classes[class_name]),)
    known_classes = tuple(Column(name, t) for name, t in calibration.classes.items())
    if len(known_classes) == 1:
        return known_classes
    return (*known_classes, Column(UNKNOWN, calibration.unknown))


class ExportGraph(nn.Module):
    """Images to anomaly maps, scores and verdicts; see :meth:`forward`.

    Args:
        backbone, model: as in :class:`grad.detector.checkpoint.LoadedModel`, on the CPU; they
            are copied.
        image_size: side of the square that the backbone takes, in pixels.
        columns: thresholds, one for each column of the verdicts.
        resize: ``"graph"``: the graph takes decoded images of any size; ``"none"``: it takes what
            :func:`grad.data.images.load_image` returns.
    """

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
        self.register_buffer("rows_up", _smoothed_upsampling(height, image_size))
        self.register_buffer("columns_up", _smoothed_upsampling(width, image_size))
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
        _, distances = self.model.loss_and_score(self.backbone(images))  # (B, H, W)
        anomaly_map = F.linear(self.rows_up @ distances, self.columns_up)
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
        "resize": resize,
    }


def _smoothed_upsampling(inputs: int, outputs: int) -> Tensor:
    """M, (outputs, inputs), with M_h S M_w^T the anomaly map of a score map S.

    Read off :func:`grad.score.anomaly_map.anomaly_map`, which does the same along both axes, with
    unit vectors as maps of one column: of the box only one column is then filled.
    """
    units = torch.eye(inputs)[:, :, None]
    return (scoring.anomaly_map(units, (outputs, 1))[:, :, 0] * scoring.SMOOTHING).T.contiguous()


def _windows(size: int) -> Tensor:
    """M, (windows, size), with M A M^T the means of which the image score is the largest."""
    side = min(scoring.POOLING, size)
    return torch.eye(size).unfold(0, side, 1).mean(dim=-1)
