"""How a call reaches the compiled operators, or plain PyTorch where GRAD_REFERENCE=1.

Each operator is a module: its call, its autograd Function, and its fake kernels, which tell
torch.compile and torch.export the shapes and dtypes of results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grad.ops import library

USE_REFERENCE = library.is_reference_forced()
if not USE_REFERENCE:
    library.load()

compiled = torch.ops.grad_anomaly


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
    """
    if torch.is_grad_enabled() and any(
        isinstance(argument, Tensor) and argument.requires_grad for argument in arguments
    ):
        return function.apply(*arguments)
    return function.forward(*arguments)


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
