"""The noise on local coordinates (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from grad.ops import reference
from grad.ops.dispatch import (
    USE_REFERENCE,
    compiled,
    register_fake,
)
from grad.ops.jitter import Jitter, draw_state


def jitter_noise(state: Tensor, rows: int, dims: int, jitter: Jitter) -> Tensor:
    """The noise that :func:`project` adds to the coordinates for a state.

    Args:
        state: (2,) or (3,) int64: seed, offset, and what the first of these rows is counted as,
            where they are a part of more; 0 otherwise.
        rows: N.
        dims: D, 1..4.
        jitter: probability and standard deviation.

    Returns:
        (N, D) float32, on the device of ``state``.
    """
    if USE_REFERENCE:
        return reference.jitter_noise(state, rows, dims, jitter)
    return compiled.jitter_noise(  # type: ignore[no-any-return]
        state, rows, dims, jitter.probability, jitter.std, jitter.per == "batch"
    )


def noise_arguments(
    jitter: Jitter | None, state: Tensor | None, hidden: Tensor
) -> tuple[Tensor | None, float, float, bool]:
    """Jitter as the operators take it."""
    if jitter is None:
        return None, 0.0, 0.0, False
    if state is None:
        state = draw_state(hidden.device)
    return state, jitter.probability, jitter.std, jitter.per == "batch"


@register_fake("jitter_noise")
def _(
    state: Tensor, rows: int, dims: int, probability: float, std: float, per_batch: bool
) -> Tensor:
    return state.new_empty(rows, dims, dtype=torch.float32)
