"""What a server needs of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from grad.detector.checkpoint import ModelInfo, Origin
from grad.score.thresholds import Calibration


class Scorer(Protocol):
    """The part of :class:`grad.detector.detector.Detector` that is served."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What the model was trained on."""
        ...

    @property
    def image_size(self) -> int:
        """S, the side of the square that images are resized to, in pixels."""
        ...

    @property
    def info(self) -> ModelInfo:
        """What belongs to the model."""
        ...

    @property
    def origin(self) -> Origin | None:
        """Which file it was read from."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """Its thresholds."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def with_calibration(self, calibration: Calibration, origin: Origin | None = None) -> Scorer:
        """The same model with other thresholds, and where it lies then."""
        ...

    def score_batch(
        self, images: Tensor, class_names: Sequence[str | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) to anomaly maps (B, S, S) and scores (B,), both on the CPU.

        Images are floats in [0, 1] or uint8, of classes that have regions of interest, perhaps.
        """
        ...
