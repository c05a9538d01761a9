"""GRAD, UniAD and the memory bank as peers: from images, nothing computed before."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from accuracy.methods import METHODS
from accuracy.rows import Method
from torch import Tensor, nn

from grad.data.samples import Sample
from grad.features.backbone import load_backbone
from grad.features.compute import compute_features
from grad.model.presets import PRESETS, Preset
from grad.score.anomaly_map import anomaly_map, image_score
from grad.system.devices import find_device
from grad.train.options import TrainOptions
from grad.train.plan import make_plan
from others.base import PeerOptions


def input_side(preset: Preset, given: int) -> int:
    """The side of the images that a preset takes: its own where that is larger."""
    return max(given, PRESETS[preset].image_size)


class OnFeatures:
    """A method on the features of the frozen backbone, which it computes first.

    Args:
        method: which.
        options: what it is given.
        preset: of GRAD, where it is not the options'.
    """

    def __init__(self, method: Method, options: PeerOptions, preset: Preset | None = None) -> None:
        self.method = method
        given = TrainOptions(
            data=Path(),
            backbone=options.backbone,
            weights=options.weights,
            preset=preset or options.preset,
            epochs=options.epochs,
            batch_size=options.batch_size,
            seed=options.seed,
            image_size=input_side(preset or options.preset, options.image_size),
            device=options.device,
        )
        self.device = find_device(options.device)
        self.plan = make_plan(given, self.device)
        self.image_size = self.plan.image_size
        backbone = load_backbone(options.backbone, options.weights, context=self.plan.row.context)
        self.backbone = backbone.to(self.device)
        self.model: nn.Module = nn.Module()

    def fit(self, samples: Sequence[Sample]) -> str:
        """Features, then the method's own training."""
        epochs = self.plan.epochs
        with tempfile.TemporaryDirectory() as folder:
            features = compute_features(
                samples, self.backbone, self.image_size, cache=Path(folder), device=self.device
            )
            train = METHODS[self.method]
            self.model, loss = train(
                self.plan, features, self.backbone.context, epochs, self.device
            )
        self.model.eval()
        return "" if loss is None else f"{epochs} epochs"

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Our scoring: smoothed map, and the largest mean of a window."""
        _, score = self.model.loss_and_score(self.backbone(images))  # type: ignore[operator]
        maps = anomaly_map(score, (images.shape[2], images.shape[3]))
        return maps, image_score(maps)

    def module(self) -> nn.Module:
        """Backbone and model."""
        return nn.ModuleList([self.backbone, self.model])
