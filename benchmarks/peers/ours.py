"""GRAD, UniAD and the memory bank as peers: from images, nothing computed before."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from accuracy.methods import METHODS
from accuracy.rows import Method
from torch import Tensor, nn

from grad.backbone import load_backbone
from grad.config import TrainConfig
from grad.data import Sample
from grad.features import compute_features
from grad.scoring import anomaly_map, image_score
from grad.training import choose_precision
from peers.base import PeerOptions


class OnFeatures:
    """A method on the features of the frozen backbone, which it computes first."""

    def __init__(self, method: Method, options: PeerOptions) -> None:
        self.method = method
        self.options = options
        self.backbone = load_backbone(options.backbone, options.weights).to(options.device)
        self.model: nn.Module = nn.Module()

    def fit(self, samples: Sequence[Sample]) -> str:
        """Features, then the method's own training."""
        o = self.options
        config = TrainConfig(
            preset=o.preset,  # type: ignore[arg-type]
            epochs=o.epochs,
            batch_size=o.batch_size,
            seed=o.seed,
            image_size=o.image_size,
            device=o.device,
        )
        device = config.torch_device()
        precision = choose_precision(device)
        with tempfile.TemporaryDirectory() as folder:
            features = compute_features(
                samples, self.backbone, o.image_size, cache=Path(folder), device=device
            )
            config = TrainConfig(**vars(config) | {"precision": precision})
            self.model, loss = METHODS[self.method](config, features, o.epochs, device)
        self.model.eval()
        return "" if loss is None else f"{o.epochs} epochs"

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Our scoring: smoothed map, and the largest mean of a window."""
        _, score = self.model.loss_and_score(self.backbone(images))  # type: ignore[operator]
        maps = anomaly_map(score, (images.shape[2], images.shape[3]))
        return maps, image_score(maps)

    def module(self) -> nn.Module:
        """Backbone and model."""
        return nn.ModuleList([self.backbone, self.model])
