"""The public operators: compiled forward and backward, joined as autograd Functions.

Signatures, shapes and formulas are those of :mod:`grad.ops.reference`, which replaces the compiled
operators where the environment says ``GRAD_REFERENCE=1``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grad.ops import library, reference
from grad.ops.jitter import Jitter, draw_state
from grad.ops.reference import Padding, RefineMode

_USE_REFERENCE = library.is_reference_forced()
if not _USE_REFERENCE:
    library.load()
    from grad.ops import fake  # noqa: F401  (registers the fake kernels)

_ops = torch.ops.grad_anomaly


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
        (N, C), dtype of ``grid``. A row with a NaN coordinate is NaN.

    Raises:
        ValueError: if a shape, a device or an option does not fit.
        TypeError: if a dtype is not supported.

    The gradient is deterministic, but for large 3-D and 4-D grids on CUDA, where
    ``torch.use_deterministic_algorithms(True)`` selects a slower path that is.
    """
    border = _is_border(padding)
    if _USE_REFERENCE:
        return reference.interpolate(coords, grid, align_corners=align_corners, padding=padding)
    return _run(_Interpolate, coords, grid, align_corners, border)  # type: ignore[no-any-return]


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
    border = _is_border(padding)
    if _USE_REFERENCE:
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
    noise = _noise_arguments(jitter, jitter_state, hidden)
    values, _ = _run(_Project, hidden, weight, bias, grid, *noise, align_corners, border)
    return values  # type: ignore[no-any-return]


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
    border = _is_border(padding)
    if _USE_REFERENCE:
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
    noise = _noise_arguments(jitter, jitter_state, hidden)
    values, _ = _run(
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


def refine(
    features: Tensor,
    prediction: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    tau: float = 10.0,
    mode: RefineMode = "combined",
) -> tuple[Tensor, Tensor]:
    """Training loss and anomaly score of the refined prediction (paper, equations 5 to 8).

    The refined map F~ = s F + (1 - s) F^ itself is not needed for either; :func:`refined_map`
    gives it.

    Args:
        features: F, (N, C), dtype of ``prediction``, or float32 under a 16-bit ``prediction``.
        prediction: F^, (N, C); float16, bfloat16, float32 or float64.
        alpha: weight of the threshold on the mean squared error (mode ``combined``).
        beta: weight of the cosine similarity (mode ``combined``).
        tau: mean squared error up to which a pixel counts as similar.
        mode: s is ``combined``: alpha [m <= tau] + beta cos, ``mse``: [m <= tau], ``cosine``: cos,
            ``none``: 0.

    Returns:
        loss, scalar: the mean over pixels of |F~ - F|^2 / C. Score, (N,): |F~ - F|. Both float32
        (float64 for float64 input).

    Raises:
        ValueError: if shapes or devices differ, or the mode is unknown.
        TypeError: if the dtypes are not a supported pair.
    """
    weights = _similarity_weights(mode, alpha, beta)
    if _USE_REFERENCE:
        return reference.refine(features, prediction, alpha=alpha, beta=beta, tau=tau, mode=mode)
    loss, score, _ = _run(_Refine, features, prediction, *weights, tau)
    return loss, score


def refined_map(
    features: Tensor,
    prediction: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    tau: float = 10.0,
    mode: RefineMode = "combined",
) -> Tensor:
    """The refined prediction F~ = s F + (1 - s) F^ itself (paper, equation 6), for looking at.

    Arguments as in :func:`refine`. Returns (N, C), dtype of ``prediction``, without a gradient.
    """
    weights = _similarity_weights(mode, alpha, beta)
    features, prediction = features.detach(), prediction.detach()
    if _USE_REFERENCE:
        return reference.refined_map(
            features, prediction, alpha=alpha, beta=beta, tau=tau, mode=mode
        )
    return _ops.refined_map(features, prediction, *weights, tau)  # type: ignore[no-any-return]


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
    if _USE_REFERENCE:
        return reference.jitter_noise(state, rows, dims, jitter)
    return _ops.jitter_noise(  # type: ignore[no-any-return]
        state, rows, dims, jitter.probability, jitter.std, jitter.per == "batch"
    )


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(coords: Tensor, grid: Tensor, align_corners: bool, border: bool) -> Tensor:
        return _ops.interpolate(coords, grid, align_corners, border)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        coords, grid, *ctx.options = inputs
        ctx.save_for_backward(coords, grid)
        ctx.deterministic = torch.are_deterministic_algorithms_enabled()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        coords, grid = ctx.saved_tensors
        need = ctx.needs_input_grad[:2]
        gradients = _ops.interpolate_backward(
            grad_out, coords, grid, *ctx.options, *need, ctx.deterministic
        )
        return *_needed(need, gradients), None, None


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        hidden: Tensor, weight: Tensor, bias: Tensor, grid: Tensor, *options: Any
    ) -> tuple[Tensor, Tensor]:
        return _ops.project(hidden, weight, bias, grid, *options)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        hidden, weight, bias, grid, state, *ctx.options = inputs
        activations = output[1]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(activations)
        ctx.save_for_backward(hidden, weight, bias, grid, activations, state)
        ctx.deterministic = torch.are_deterministic_algorithms_enabled()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, _: None) -> tuple[Any, ...]:
        if grad_out is None:
            return (None,) * 10
        need = ctx.needs_input_grad[:4]
        gradients = _ops.project_backward(
            grad_out, *ctx.saved_tensors, *ctx.options, *need, ctx.deterministic
        )
        return *_needed(need, gradients), *[None] * 6


class _Lookup(torch.autograd.Function):
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
        return _ops.lookup(  # type: ignore[no-any-return]
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
    @once_differentiable
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
            global_gradients = _ops.interpolate_backward(
                whole,
                global_coords,
                global_grid,
                ctx.align_corners,
                ctx.border,
                *need_global,
                ctx.deterministic,
            )
        if any(need_local):
            local_gradients = _ops.project_backward(
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
            *_needed(need_global, global_gradients),
            *_needed(need_local, local_gradients),
            *[None] * 6,
        )


class _Refine(torch.autograd.Function):
    @staticmethod
    def forward(
        features: Tensor, prediction: Tensor, alpha: float, beta: float, tau: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _ops.refine(features, prediction, alpha, beta, tau)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        features, prediction, *ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(features, prediction, output[2])

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_score: Tensor | None, _: None
    ) -> tuple[Any, ...]:
        features, prediction, sums = ctx.saved_tensors
        need = ctx.needs_input_grad[:2]
        if grad_loss is None:
            grad_loss = sums.new_zeros(())
        gradients = _ops.refine_backward(
            grad_loss, grad_score, features, prediction, sums, *ctx.options, *need
        )
        return *_needed(need, gradients), None, None, None


def _run(function: Any, *arguments: Any) -> Any:
    """A Function's result; its forward alone where there is nothing to differentiate.

    Compilers and exporters then see the operator itself (torch 2.14's dynamo fails on a Function
    with ``setup_context`` and without gradients).
    """
    if torch.is_grad_enabled() and any(
        isinstance(argument, Tensor) and argument.requires_grad for argument in arguments
    ):
        return function.apply(*arguments)
    return function.forward(*arguments)


def _needed(need: tuple[bool, ...], gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """The gradients that were asked for; the operators return empty tensors for the others."""
    return [gradient if wanted else None for wanted, gradient in zip(need, gradients, strict=True)]


def _is_border(padding: str) -> bool:
    if padding not in ("zeros", "border"):
        raise ValueError(f"padding must be 'zeros' or 'border', got {padding!r}")
    return padding == "border"


def _noise_arguments(
    jitter: Jitter | None, state: Tensor | None, hidden: Tensor
) -> tuple[Tensor | None, float, float, bool]:
    """Jitter as the operators take it."""
    if jitter is None:
        return None, 0.0, 0.0, False
    if state is None:
        state = draw_state(hidden.device)
    return state, jitter.probability, jitter.std, jitter.per == "batch"


def _similarity_weights(mode: str, alpha: float, beta: float) -> tuple[float, float]:
    """The weights of [m <= tau] and of the cosine that make up each mode's similarity."""
    weights = {
        "combined": (alpha, beta),
        "mse": (1.0, 0.0),
        "cosine": (0.0, 1.0),
        "none": (0.0, 0.0),
    }
    if mode not in weights:
        raise ValueError(f"mode must be one of {', '.join(map(repr, weights))}, got {mode!r}")
    return weights[mode]
