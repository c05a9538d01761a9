"""The loss of an epoch, gathered on the device and looked at now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from grad.features.features import Features
from grad.system.errors import GradError

_SECONDS = 1.0  # between two looks, each of which waits for the device


class LossWatch:
    """Sums the loss of an epoch's steps and finds the first that is no number.

    Args:
        device: where losses are.
        features: to name the files of a batch by their index.
        epoch: from 0.
        epochs: of the whole training.
    """

    def __init__(self, device: torch.device, features: Features, epoch: int, epochs: int) -> None:
        self._features, self._epoch, self._epochs = features, epoch, epochs
        self._sum = torch.zeros((), device=device, dtype=torch.float64)
        self._first_bad = torch.full((), math.inf, device=device)
        self._batches: list[Sequence[int]] = []
        self._images = 0
        self._looked = time.perf_counter()

    def add(self, loss: Tensor, batch: Sequence[int]) -> str | None:
        """Take in a step's mean loss over a batch; a text for the progress bar when looked at.

        Raises:
            GradError: as :meth:`check`, now and then.
        """
        bad = torch.where(loss.isfinite(), math.inf, float(len(self._batches)))
        self._first_bad = torch.minimum(self._first_bad, bad)
        self._sum += loss * len(batch)
        self._batches.append(batch)
        self._images += len(batch)
        if time.perf_counter() - self._looked < _SECONDS:
            return None
        self._looked = time.perf_counter()
        return self.note()

    def note(self) -> str:
        """How far training is, for the progress."""
        return f"epoch {self._epoch + 1}/{self._epochs}, loss {self.mean():.4g}"

    def mean(self) -> float:
        """Mean loss so far, an image's weight being one; checked."""
        self.check()
        return float(self._sum.item() / self._images)

    def check(self) -> None:
        """Look for a loss that is no number.

        Raises:
            GradError: there is one; the files of its batch are named.
        """
        first_bad = self._first_bad.item()
        if math.isfinite(first_bad):
            step = int(first_bad)
            files = ", ".join(str(self._features.samples[i].path) for i in self._batches[step])
            raise GradError(
                f"The loss became NaN or infinite in epoch {self._epoch + 1}, step {step + 1}, "
                f"with the images {files}: look for a broken one among them, or train with a "
                "lower --learning-rate or --precision float32."
            )
