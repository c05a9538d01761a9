"""How a call reaches the compiled operators, or plain PyTorch where GRAD_REFERENCE=1.

Each operator is a module: its call, its autograd Function, and its fake kernels, which tell
torch.compile and torch.export the shapes and dtypes of results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from grad.ops import library

USE_REFERENCE = library.is_reference_forced()
if not USE_REFERENCE:
    library.load()

compiled = torch.ops.grad_anomaly

Backward = Callable[..., tuple[Any, ...]]


def register_fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the fake kernel of a compiled operator, where there is one."""
    if USE_REFERENCE:
        return lambda function: function
    register: Callable[[Callable[..., Any]], Callable[..., Any]]
    register = torch.library.register_fake(f"grad_anomaly::{name}")
    return register


def call(function: Any, *arguments: Any) -> Any:
    """A Function's result; its forward alone where there is nothing to differentiate.

    Compilers and exporters then see the operator itself (torch 2.14's dynamo fails on a Function
    with ``setup_context`` and without gradients).

    Raises:
        ValueError: some tensors are on the meta device, others hold data.
        NotImplementedError: a derivative is asked for in forward mode.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    name = function.operator
    if any(tensor.is_meta for tensor in tensors) and not all(tensor.is_meta for tensor in tensors):
        raise ValueError(f"grad.ops.{name} got tensors on the meta device beside others with data")
    refuse_forward_mode(name, tensors)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return function.apply(*arguments)
    return function.forward(*arguments)


def refuse_forward_mode(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise a NotImplementedError where a tensor has a tangent, which would be lost."""
    if forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            f"grad.ops.{name} has no derivative in forward mode (torch.func.jvp, jacfwd): use "
            "reverse mode (torch.autograd.grad, torch.func.jacrev), or grad.ops.reference"
        )


def differentiable_once(operator: str) -> Callable[[Backward], Backward]:
    """Make a backward pass refuse, by the operator's name, that it is differentiated itself.

    torch's ``once_differentiable`` does so only where the incoming gradient has a history; with
    ``create_graph=True`` it would give gradients that look like constants otherwise.
    """

    def decorate(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def once(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            with torch.no_grad():
                found = backward(ctx, *grads)
            sources = [
                tensor
                for tensor in (*ctx.saved_tensors, *grads)
                if tensor is not None and tensor.requires_grad
            ]
            if not torch.is_grad_enabled() or not sources:
                return found
            return tuple(
                None if gradient is None else _Once.apply(operator, gradient, sources[0])
                for gradient in found
            )

        return once

    return decorate


class _Once(torch.autograd.Function):
    """A gradient as it is, which refuses to be differentiated with respect to its source."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: str, gradient: Tensor, source: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.operator = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            f"grad.ops.{ctx.operator} can be differentiated once, not twice: use grad.ops.reference"
        )


def keep_needed(
    need: tuple[bool, ...], gradients: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """The gradients that were asked for; the operators return empty tensors for the others."""
    return [gradient if wanted else None for wanted, gradient in zip(need, gradients, strict=True)]


def is_border(padding: str) -> bool:
    """Padding as the operators take it; raises a ValueError for an unknown one."""
    if padding not in ("zeros", "border"):
        raise ValueError(f"padding must be 'zeros' or 'border', got {padding!r}")
    return padding == "border"


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Of sums: float32, and float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def gradient_like(needed: bool, of: Tensor) -> Tensor:
    """A contiguous gradient, or an empty tensor where it is not needed."""
    return of.new_empty(of.shape if needed else (0,))
