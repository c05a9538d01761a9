"""Both lookups, side by side in one matrix (paper, Figure 2)."""

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
    is_border,
    keep_needed,
    register_fake,
)
from grad.ops.jitter import Jitter
from grad.ops.jitter_noise import noise_arguments
from grad.ops.project import empty_activations
from grad.ops.reference import Padding


def lookup(
    global_coords: Tensor,
    global_grid: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    local_grid: Tensor,
    *,
    jitter: Jitter | None = None,
    jitter_state: Tensor | None = None,
    align_corners: bool = False,
    padding: Padding = "zeros",
) -> Tensor:
    """Both lookups, written side by side into the fusion network's input [global, local].

    Args:
        global_coords: (B, Dg), one row an image.
        global_grid: (R_Dg, ..., R_1, P * C), P pixels of C channels in each cell.
        hidden, weight, bias, local_grid, jitter, jitter_state: as in :func:`project`, N = B * P.
        align_corners, padding: as in :func:`interpolate`, for both.

    Returns:
        (N, 2 * C), dtype of ``hidden``: global values in the first C channels, local in the rest.

    Raises:
        ValueError: if a shape, a device or an option does not fit.
        TypeError: if the dtypes are not a supported pair.
    """
    border = is_border(padding)
    if USE_REFERENCE:
        return reference.lookup(
            global_coords,
            global_grid,
            hidden,
            weight,
            bias,
            local_grid,
            jitter=jitter,
            jitter_state=jitter_state,
            align_corners=align_corners,
            padding=padding,
        )
    noise = noise_arguments(jitter, jitter_state, hidden)
    values, _ = call(
        _Lookup,
        global_coords,
        global_grid,
        hidden,
        weight,
        bias,
        local_grid,
        *noise,
        align_corners,
        border,
    )
    return values  # type: ignore[no-any-return]


class _Lookup(torch.autograd.Function):
    operator = "lookup"

    @staticmethod
    def forward(
        global_coords: Tensor,
        global_grid: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        local_grid: Tensor,
        *options: Any,
    ) -> tuple[Tensor, Tensor]:
        return compiled.lookup(  # type: ignore[no-any-return]
            global_coords, global_grid, hidden, weight, bias, local_grid, *options
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.probability, ctx.std, ctx.per_batch, ctx.align_corners, ctx.border = inputs
        *lookups, state = tensors
        activations = output[1]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(activations)
        ctx.save_for_backward(*lookups, activations, state)
        ctx.deterministic = torch.are_deterministic_algorithms_enabled()

    @staticmethod
    @differentiable_once("lookup")
    def backward(ctx: Any, grad_out: Tensor | None, _: None) -> tuple[Any, ...]:
        if grad_out is None:
            return (None,) * 12
        # The two halves of grad_out are read where they lie, each by its own lookup's backward.
        global_coords, global_grid, *local, state = ctx.saved_tensors
        channels = grad_out.shape[1] // 2
        images = global_coords.shape[0]
        whole = grad_out.unflatten(0, (images, len(grad_out) // max(images, 1)))[..., :channels]
        need_global, need_local = ctx.needs_input_grad[:2], ctx.needs_input_grad[2:6]
        global_gradients, local_gradients = (None, None), (None,) * 4
        if any(need_global):
            global_gradients = compiled.interpolate_backward(
                whole,
                global_coords,
                global_grid,
                ctx.align_corners,
                ctx.border,
                *need_global,
                ctx.deterministic,
            )
        if any(need_local):
            local_gradients = compiled.project_backward(
                grad_out[:, channels:],
                *local,
                state,
                ctx.probability,
                ctx.std,
                ctx.per_batch,
                ctx.align_corners,
                ctx.border,
                *need_local,
                ctx.deterministic,
            )
        return (
            *keep_needed(need_global, global_gradients),
            *keep_needed(need_local, local_gradients),
            *[None] * 6,
        )


@register_fake("lookup")
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
    return hidden.new_empty(hidden.shape[0], 2 * grid.shape[-1]), empty_activations(hidden, weight)
