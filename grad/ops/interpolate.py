"""Lookup in a grid (paper, equation 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grad.ops import reference
from grad.ops.dispatch import (
    USE_REFERENCE,
    call,
    compiled,
    differentiable_once,
    gradient_like,
    is_border,
    keep_needed,
    register_fake,
)
from grad.ops.reference import Padding


def interpolate(
    coords: Tensor, grid: Tensor, *, align_corners: bool = False, padding: Padding = "zeros"
) -> Tensor:
    """Multilinear lookup of coordinates in a grid (paper, equation 3).

    Args:
        coords: (N, D), D = 1..4, in [-1, 1]. Axis 0 addresses the last spatial axis of the grid, as
            in ``torch.nn.functional.grid_sample``.
        grid: (R_D, ..., R_1, C); float16, bfloat16, float32 or float64.
        align_corners: whether -1 and 1 are the centres of the outer cells, or their outer borders.
        padding: what lies outside: ``"zeros"``, or the ``"border"`` cells repeated.

    Returns:
        (N, C), dtype of ``grid``. A row with a NaN coordinate is NaN; one that reads an infinity
        is infinite or NaN.

    Raises:
        ValueError: if a shape, a device or an option does not fit.
        TypeError: if a dtype is not supported.

    The gradient is deterministic, but for large 3-D and 4-D grids on CUDA, where
    ``torch.use_deterministic_algorithms(True)`` selects a slower path that is.
    """
    border = is_border(padding)
    if USE_REFERENCE:
        return reference.interpolate(coords, grid, align_corners=align_corners, padding=padding)
    return call(_Interpolate, coords, grid, align_corners, border)  # type: ignore[no-any-return]


class _Interpolate(torch.autograd.Function):
    operator = "interpolate"

    @staticmethod
    def forward(coords: Tensor, grid: Tensor, align_corners: bool, border: bool) -> Tensor:
        return compiled.interpolate(coords, grid, align_corners, border)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        coords, grid, *ctx.options = inputs
        ctx.save_for_backward(coords, grid)
        ctx.deterministic = torch.are_deterministic_algorithms_enabled()

    @staticmethod
    @differentiable_once("interpolate")
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        coords, grid = ctx.saved_tensors
        need = ctx.needs_input_grad[:2]
        gradients = compiled.interpolate_backward(
            grad_out, coords, grid, *ctx.options, *need, ctx.deterministic
        )
        return *keep_needed(need, gradients), None, None


@register_fake("interpolate")
def _(coords: Tensor, grid: Tensor, align_corners: bool, border: bool) -> Tensor:
    return grid.new_empty(coords.shape[0], grid.shape[-1])


@register_fake("interpolate_backward")
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
    return coords.new_empty(rows, coords.shape[1]), gradient_like(need_grid, grid)
