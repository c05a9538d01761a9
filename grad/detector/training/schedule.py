"""How a model is trained: epochs, batches, learning rates (paper, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grad.model.presets import Decay


@dataclass(frozen=True)
class Schedule:
    """How a model is trained; the defaults are the paper's.

    Args:
        epochs: how often each image is seen.
        batch_size: images in a step.
        decay: how both learning rates fall: in ``steps`` to a tenth (the paper), or along half a
            period of a ``cosine`` from their full value in the first epoch towards none.
        drops: epochs after which they fall in steps; None for 40 % and 80 % of all epochs, rounded
            down.
        learning_rate: of the networks.
        grid_learning_rate: of the grids.
        weight_decay: of all parameters.
        clip: largest norm of the gradient of all parameters together.
        balance: whether an epoch draws its images so that all classes are equally likely, not each
            image once.
    """

    epochs: int = 100
    batch_size: int = 64
    decay: Decay = "steps"
    drops: tuple[int, ...] | None = None
    learning_rate: float = 1e-3
    grid_learning_rate: float = 1e-1
    weight_decay: float = 1e-2
    clip: float = 0.1
    balance: bool = False

    @property
    def milestones(self) -> list[int]:
        """The epochs after which the learning rates drop."""
        drops = (self.epochs * 2 // 5, self.epochs * 4 // 5) if self.drops is None else self.drops
        return sorted(epoch for epoch in drops if epoch > 0)

    def learning_rates(self, epoch: int) -> tuple[float, float]:
        """Of the networks and of the grids, in an epoch counted from 0."""
        if self.decay == "cosine":
            share = (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        else:
            share = 0.1 ** sum(milestone <= epoch for milestone in self.milestones)
        return self.learning_rate * share, self.grid_learning_rate * share
