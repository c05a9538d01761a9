"""Shapes and dtypes of every operator's results, for torch.compile and torch.export."""

from __future__ import annotations

import torch
from torch import Tensor


def _accumulation_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _gradient(needed: bool, of: Tensor) -> Tensor:
    """A contiguous gradient, or an empty tensor where it is not needed."""
    return of.new_empty(of.shape if needed else (0,))


def _activations(hidden: Tensor, weight: Tensor) -> Tensor:
    """Of the local head, (N, D): what its backward pass goes on from."""
    return hidden.new_empty(hidden.shape[0], weight.shape[0], dtype=_accumulation_dtype(hidden))


@torch.library.register_fake("grad_anomaly::interpolate")
def _(coords: Tensor, grid: Tensor, align_corners: bool, border: bool) -> Tensor:
    return grid.new_empty(coords.shape[0], grid.shape[-1])


@torch.library.register_fake("grad_anomaly::interpolate_backward")
def _(
    grad_out: Tensor,
    coords: Tensor,
    grid: Tensor,
    align_corners: bool,
    border: bool,
    need_coords: bool,
    need_grid: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    rows = coords.shape[0] if need_coords else 0
    return coords.new_empty(rows, coords.shape[1]), _gradient(need_grid, grid)


@torch.library.register_fake("grad_anomaly::project")
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Tensor,
    jitter_state: Tensor | None,
    jitter_probability: float,
    jitter_std: float,
    jitter_per_batch: bool,
    align_corners: bool,
    border: bool,
) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape[0], grid.shape[-1]), _activations(hidden, weight)


@torch.library.register_fake("grad_anomaly::project_backward")
def _(
    grad_out: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Tensor,
    activations: Tensor,
    jitter_state: Tensor | None,
    jitter_probability: float,
    jitter_std: float,
    jitter_per_batch: bool,
    align_corners: bool,
    border: bool,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
    need_grid: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        _gradient(need_hidden, hidden),
        _gradient(need_weight, weight),
        _gradient(need_bias, bias),
        _gradient(need_grid, grid),
    )


@torch.library.register_fake("grad_anomaly::lookup")
def _(
    global_coords: Tensor,
    global_grid: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Tensor,
    jitter_state: Tensor | None,
    jitter_probability: float,
    jitter_std: float,
    jitter_per_batch: bool,
    align_corners: bool,
    border: bool,
) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape[0], 2 * grid.shape[-1]), _activations(hidden, weight)


@torch.library.register_fake("grad_anomaly::refine")
def _(
    features: Tensor, prediction: Tensor, alpha: float, beta: float, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows, dtype = prediction.shape[0], _accumulation_dtype(prediction)
    return (
        prediction.new_empty((), dtype=dtype),
        prediction.new_empty(rows, dtype=dtype),
        prediction.new_empty(rows, 4, dtype=dtype),
    )


@torch.library.register_fake("grad_anomaly::refine_backward")
def _(
    grad_loss: Tensor,
    grad_score: Tensor | None,
    features: Tensor,
    prediction: Tensor,
    sums: Tensor,
    alpha: float,
    beta: float,
    tau: float,
    need_features: bool,
    need_prediction: bool,
) -> tuple[Tensor, Tensor]:
    return _gradient(need_features, features), _gradient(need_prediction, prediction)


@torch.library.register_fake("grad_anomaly::refined_map")
def _(features: Tensor, prediction: Tensor, alpha: float, beta: float, tau: float) -> Tensor:
    return prediction.new_empty(prediction.shape)


@torch.library.register_fake("grad_anomaly::jitter_noise")
def _(
    state: Tensor, rows: int, dims: int, probability: float, std: float, per_batch: bool
) -> Tensor:
    return state.new_empty(rows, dims, dtype=torch.float32)
