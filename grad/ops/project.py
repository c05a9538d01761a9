"""The local head from its hidden layer to grid values (paper, equations 2 and 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grad.ops import reference
from grad.ops.dispatch import (
    USE_REFERENCE,
    accumulation_dtype,
    call,
    compiled,
    differentiable_once,
    gradient_like,
    is_border,
    keep_needed,
    register_fake,
)
from grad.ops.jitter import Jitter
from grad.ops.jitter_noise import noise_arguments
from grad.ops.reference import Padding


def project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Tensor,
    *,
    jitter: Jitter | None = None,
    jitter_state: Tensor | None = None,
    align_corners: bool = False,
    padding: Padding = "zeros",
) -> Tensor:
    """The local head from its hidden layer to grid values, in one pass (paper, equations 2 and 3).

    ``interpolate(tanh(hidden @ weight.T + bias) + noise, grid)``

    Args:
        hidden: (N, Ch); float16, bfloat16, float32 or float64.
        weight: (D, Ch).
        bias: (D,).
        grid: (R_D, ..., R_1, C), dtype of ``hidden``, or float32 under 16-bit ``hidden``.
        jitter: noise on the coordinates, or None.
        jitter_state: as in :func:`jitter_noise`; None draws one from torch's generator.
        align_corners, padding: as in :func:`interpolate`.

    Returns:
        (N, C), dtype of ``hidden``.

    Raises:
        ValueError: if a shape, a device or an option does not fit.
        TypeError: if the dtypes are not a supported pair.
    """
    border = is_border(padding)
    if USE_REFERENCE:
        return reference.project(
            hidden,
            weight,
            bias,
            grid,
            jitter=jitter,
            jitter_state=jitter_state,
            align_corners=align_corners,
            padding=padding,
        )
    noise = noise_arguments(jitter, jitter_state, hidden)
    values, _ = call(_Project, hidden, weight, bias, grid, *noise, align_corners, border)
    return values  # type: ignore[no-any-return]


class _Project(torch.autograd.Function):
    operator = "project"

    @staticmethod
    def forward(
        hidden: Tensor, weight: Tensor, bias: Tensor, grid: Tensor, *options: Any
    ) -> tuple[Tensor, Tensor]:
        return compiled.project(hidden, weight, bias, grid, *options)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        hidden, weight, bias, grid, state, *ctx.options = inputs
        activations = output[1]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(activations)
        ctx.save_for_backward(hidden, weight, bias, grid, activations, state)
        ctx.deterministic = torch.are_deterministic_algorithms_enabled()

    @staticmethod
    @differentiable_once("project")
    def backward(ctx: Any, grad_out: Tensor | None, _: None) -> tuple[Any, ...]:
        if grad_out is None:
            return (None,) * 10
        need = ctx.needs_input_grad[:4]
        gradients = compiled.project_backward(
            grad_out, *ctx.saved_tensors, *ctx.options, *need, ctx.deterministic
        )
        return *keep_needed(need, gradients), *[None] * 6


@register_fake("project")
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
    return hidden.new_empty(hidden.shape[0], grid.shape[-1]), empty_activations(hidden, weight)


@register_fake("project_backward")
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
        gradient_like(need_hidden, hidden),
        gradient_like(need_weight, weight),
        gradient_like(need_bias, bias),
        gradient_like(need_grid, grid),
    )


def empty_activations(hidden: Tensor, weight: Tensor) -> Tensor:
    """Of the local head, (N, D): what its backward pass goes on from."""
    return hidden.new_empty(hidden.shape[0], weight.shape[0], dtype=accumulation_dtype(hidden))
