"""What coordinate jitter is asked for, and where its randomness comes from (paper, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Jitter:
    """Gaussian noise on a share of the local coordinates, in training only.

    Args:
        probability: share of rows that are moved, in [0, 1].
        std: standard deviation of the noise, in units of the coordinates (the grid spans 2).
        per: ``"pixel"`` tosses a coin for each row (the paper's wording), ``"batch"`` one coin for
            all rows together (what the released code does).

    Raises:
        ValueError: if a value is out of range.
    """

    probability: float = 0.5
    std: float = 0.05
    per: Literal["pixel", "batch"] = "pixel"

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"jitter probability must be in [0, 1], got {self.probability}")
        if not (self.std >= 0.0 and math.isfinite(self.std)):
            raise ValueError(f"jitter std must be finite and not negative, got {self.std}")
        if self.per not in ("pixel", "batch"):
            raise ValueError(f"jitter per must be 'pixel' or 'batch', got {self.per!r}")


def draw_state(device: torch.device | str) -> Tensor:
    """Draw a fresh random state from torch's generator of ``device``.

    The state is the pair (seed, offset) that keys the Philox noise of every row. It is an ordinary
    torch draw on the device: ``torch.manual_seed`` governs it, the replays of a CUDA graph draw new
    ones, nothing waits for the host.

    Returns:
        Tensor (2,), int64.
    """
    return torch.randint(0, 2**63 - 1, (2,), dtype=torch.int64, device=device)
