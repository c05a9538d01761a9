"""GRAD's operators in terms that every runtime has.

For runtimes that don't have the compiled operators, each is replaced by a formula of matrix
products and elementwise operations. They need no ``GridSample``, so grids of any number of axes
are served alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from grad.ops import reference

# Up to here a product with all cells is as fast as picking the corners of each point.
LARGEST_PRODUCT = 512  # cells


def with_standard_operators(program: ExportedProgram) -> ExportedProgram:
    """The same program without GRAD's own operators."""
    ops = torch.ops.grad_anomaly
    formulas: dict[Any, Callable[..., Any]] = {
        ops.interpolate.default: interpolate,
        ops.project.default: project,
        ops.lookup.default: lookup,
        ops.refine.default: refine,
    }
    standard: ExportedProgram = program.run_decompositions(formulas)
    return standard


def interpolate(coords: Tensor, grid: Tensor, align_corners: bool, border: bool) -> Tensor:
    """:func:`grad.ops.interpolate` as a product of corner weights and cells.

    Along each axis the weight of a cell is a hat, 1 at its centre and 0 one cell away, so zeros
    outside the grid need no case of their own. Coordinates must be finite.
    """
    sizes = grid.shape[:-1]  # R_D, ..., R_1
    if sizes.numel() > LARGEST_PRODUCT:
        padding: reference.Padding = "border" if border else "zeros"
        return reference.interpolate(coords, grid, align_corners=align_corners, padding=padding)
    weights = coords.new_ones(1, 1)
    for axis, size in zip(reversed(range(len(sizes))), sizes, strict=True):
        x = coords[:, axis, None]
        x = (x + 1) / 2 * (size - 1) if align_corners else ((x + 1) * size - 1) / 2
        if border:
            x = x.clamp(0, size - 1)
        hats = torch.relu(1 - (x - torch.arange(size, dtype=x.dtype)).abs())  # (N, R)
        weights = (weights[:, :, None] * hats[:, None]).flatten(1)
    return weights @ grid.flatten(0, -2)


def project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Tensor,
    jitter_state: None,
    probability: float,
    std: float,
    per_batch: bool,
    align_corners: bool,
    border: bool,
) -> tuple[Tensor, Tensor]:
    """:func:`grad.ops.project` without jitter, and the coordinates."""
    assert jitter_state is None, "jitter is for training"
    coords = torch.tanh(hidden @ weight.T + bias)
    return interpolate(coords, grid, align_corners, border), coords


def lookup(
    global_coords: Tensor,
    global_grid: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    local_grid: Tensor,
    jitter_state: None,
    probability: float,
    std: float,
    per_batch: bool,
    align_corners: bool,
    border: bool,
) -> tuple[Tensor, Tensor]:
    """:func:`grad.ops.lookup` without jitter, and the local coordinates."""
    noise = (jitter_state, probability, std, per_batch)
    local, coords = project(hidden, weight, bias, local_grid, *noise, align_corners, border)
    whole = interpolate(global_coords, global_grid, align_corners, border)
    return torch.cat([whole.reshape(local.shape), local], dim=1), coords


def refine(
    features: Tensor, prediction: Tensor, alpha: float, beta: float, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`grad.ops.refine` without what only its gradient needs (the third result)."""
    loss, score = reference.refine(features, prediction, alpha=alpha, beta=beta, tau=tau)
    return loss, score, features.new_zeros(features.shape[0], 4)
