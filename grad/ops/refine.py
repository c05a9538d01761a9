"""Loss and score of the refined prediction, and the refined map (paper, equations 5 to 8)."""

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
    keep_needed,
    refuse_forward_mode,
    register_fake,
)
from grad.ops.reference import RefineMode


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
        (float64 for float64 input). Lengths are roots of sums of squares: in float32 one below
        1e-19 is 0 and one above 1.8e19 infinite.

    Raises:
        ValueError: if shapes or devices differ, or the mode is unknown.
        TypeError: if the dtypes are not a supported pair.
    """
    weights = _similarity_weights(mode, alpha, beta)
    if USE_REFERENCE:
        return reference.refine(features, prediction, alpha=alpha, beta=beta, tau=tau, mode=mode)
    loss, score, _ = call(_Refine, features, prediction, *weights, tau)
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
    refuse_forward_mode("refined_map", (features, prediction))
    features, prediction = features.detach(), prediction.detach()
    if USE_REFERENCE:
        return reference.refined_map(
            features, prediction, alpha=alpha, beta=beta, tau=tau, mode=mode
        )
    return compiled.refined_map(features, prediction, *weights, tau)  # type: ignore[no-any-return]


class _Refine(torch.autograd.Function):
    operator = "refine"

    @staticmethod
    def forward(
        features: Tensor, prediction: Tensor, alpha: float, beta: float, tau: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return compiled.refine(features, prediction, alpha, beta, tau)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        features, prediction, *ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(features, prediction, output[2])

    @staticmethod
    @differentiable_once("refine")
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_score: Tensor | None, _: None
    ) -> tuple[Any, ...]:
        features, prediction, sums = ctx.saved_tensors
        need = ctx.needs_input_grad[:2]
        if grad_loss is None:
            grad_loss = sums.new_zeros(())
        gradients = compiled.refine_backward(
            grad_loss, grad_score, features, prediction, sums, *ctx.options, *need
        )
        return *keep_needed(need, gradients), None, None, None


@register_fake("refine")
def _(
    features: Tensor, prediction: Tensor, alpha: float, beta: float, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows, dtype = prediction.shape[0], accumulation_dtype(prediction)
    return (
        prediction.new_empty((), dtype=dtype),
        prediction.new_empty(rows, dtype=dtype),
        prediction.new_empty(rows, 4, dtype=dtype),
    )


@register_fake("refine_backward")
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
    return gradient_like(need_features, features), gradient_like(need_prediction, prediction)


@register_fake("refined_map")
def _(features: Tensor, prediction: Tensor, alpha: float, beta: float, tau: float) -> Tensor:
    return prediction.new_empty(prediction.shape)


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
