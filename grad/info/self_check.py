"""Every operator against the reference, forward and backward, in a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import grad.ops
from grad.ops import Jitter, library, reference
from grad.system.errors import first_line

TOLERANCE = 1e-5  # of the largest magnitude of each result, for float32


@dataclass(frozen=True)
class Case:
    """One call of one operator, ``call(module, *inputs)`` with the operators of ``module``."""

    name: str
    call: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    has_gradient: bool = True


@dataclass(frozen=True)
class Outcome:
    """How far an operator is from the reference on one device.

    Errors are relative to the largest magnitude of each output or gradient; ``backward`` is None
    where there is nothing to differentiate, ``problem`` what was raised.
    """

    name: str
    device: str
    forward: float
    backward: float | None
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether both errors are within tolerance; NaN is not."""
        return self.forward <= TOLERANCE and (self.backward is None or self.backward <= TOLERANCE)


def devices() -> list[torch.device]:
    """The CPU, and every visible CUDA device if the operators run there."""
    has_cuda = library.is_reference_forced() or library.load().build_info()["cuda"]
    count = torch.cuda.device_count() if has_cuda else 0
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(count))]


def self_check(device: torch.device) -> Iterator[Outcome]:
    """Compare every operator in float32 on ``device`` with the reference in float64 on the CPU."""
    for case in _cases():
        exact = [t.double() if t.is_floating_point() else t for t in case.inputs]
        true_outputs, true_gradients = _run(case, reference, exact)
        try:
            outputs, gradients = _run(case, grad.ops, [t.to(device) for t in case.inputs])
        except RuntimeError as error:  # such as a device that nothing was compiled for
            yield Outcome(case.name, str(device), math.nan, None, first_line(error))
            continue
        yield Outcome(
            case.name,
            str(device),
            _error(outputs, true_outputs),
            _error(gradients, true_gradients) if gradients else None,
        )


def _cases() -> list[Case]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows, channels, images = 64, 24, 4
    state = torch.tensor([2402, 18293])
    features, prediction = normal(rows, channels), 3 * normal(rows, channels)
    head = (normal(rows, channels), 0.2 * normal(2, channels), normal(2), normal(8, 8, channels))
    coords = normal(images, 2).tanh()
    cells = normal(4, 4, rows // images * channels)

    cases = []
    for dims in (1, 2, 3, 4):
        points, grid = 0.7 * normal(rows, dims), normal(*[4] * dims, channels)
        cases += [
            Case(f"interpolate, {dims}-D", _interpolate, (points, grid)),
            Case(f"interpolate, {dims}-D, border", _interpolate_border, (points, grid)),
        ]
    cases += [
        Case("project", _project, head),
        Case("project, jitter", _project_jitter, (*head, state)),
        Case("lookup", _lookup, (coords, cells, *head)),
        Case("refined_map", _refined_map, (features, prediction), has_gradient=False),
        Case("jitter_noise", _jitter_noise, (state,), has_gradient=False),
    ]
    for mode in ("combined", "mse", "cosine", "none"):
        cases.append(Case(f"refine, {mode}", _refine(mode), (features, prediction)))
    return cases


def _interpolate(ops: ModuleType, coords: Tensor, grid: Tensor) -> Any:
    return ops.interpolate(coords, grid)


def _interpolate_border(ops: ModuleType, coords: Tensor, grid: Tensor) -> Any:
    return ops.interpolate(coords, grid, align_corners=True, padding="border")


def _project_jitter(ops: ModuleType, *inputs: Tensor) -> Any:
    *head, state = inputs
    return ops.project(*head, jitter=Jitter(), jitter_state=state)


def _project(ops: ModuleType, *inputs: Tensor) -> Any:
    return ops.project(*inputs)


def _lookup(ops: ModuleType, *inputs: Tensor) -> Any:
    return ops.lookup(*inputs)


def _refined_map(ops: ModuleType, features: Tensor, prediction: Tensor) -> Any:
    return ops.refined_map(features, prediction)


def _jitter_noise(ops: ModuleType, state: Tensor) -> Any:
    return ops.jitter_noise(state, 64, 4, Jitter())


def _refine(mode: str) -> Callable[..., Any]:
    return lambda ops, features, prediction: ops.refine(features, prediction, mode=mode)


def _run(case: Case, ops: ModuleType, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of one weighted sum of them."""
    differentiable = [case.has_gradient and tensor.is_floating_point() for tensor in inputs]
    inputs = [t.detach().requires_grad_(d) for t, d in zip(inputs, differentiable, strict=True)]
    result = case.call(ops, *inputs)
    outputs = list(result) if isinstance(result, tuple) else [result]
    if not case.has_gradient:
        return outputs, []
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(output.shape, generator=generator).to(output) for output in outputs]
    return outputs, list(torch.autograd.grad(outputs, wanted, weights))


def _error(actual: list[Tensor], expected: list[Tensor]) -> float:
    errors = [
        (a.detach().cpu().double() - e.detach().double()).abs().max() / e.detach().abs().max()
        for a, e in zip(actual, expected, strict=True)
    ]
    return max(float(error) for error in errors)
