"""Every operator, forward and backward, at small odd sizes: to run under a memory checker.

    compute-sanitizer --tool memcheck python benchmarks/sanitize.py

Each result is also compared with the specification (grad.ops.reference) in float64 on the CPU.
Prints one line a combination of operator, dimensions and dtype; exit code 1 where one is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Noise is float32 whatever the features are, so float64 agrees to its rounding only.
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
CHANNELS = (19, 24)  # one at a time, and 16 bytes at a time
IMAGES, PIXELS = 3, 37

Run = Callable[..., Any]  # (operators, *inputs) -> outputs


@dataclass(frozen=True)
class Work:
    """One call: an operator of a module (ours or the reference) on inputs made for it."""

    title: str
    dtype: torch.dtype
    run: Run
    inputs: tuple[Tensor, ...]
    compare: bool = True
    has_gradient: bool = True
    deterministic: bool = False


def all_work() -> Iterator[Work]:
    """Each operator once a dtype, number of axes and way to read channels; then special cases."""
    for dtype, dims, channels in product(DTYPES, (1, 2, 3, 4), CHANNELS):
        yield from _lookups(dtype, dims, channels, resolution=3)
    for dtype, channels in product(DTYPES, CHANNELS):
        yield from _refinements(dtype, channels)
    # Grids that a block holds in slices of columns, and those that no block holds.
    for dims, resolution, deterministic in ((3, 8, False), (4, 8, False), (4, 8, True)):
        yield from _lookups(torch.float32, dims, 20, resolution, deterministic=deterministic)
    yield from _lookups(torch.float16, 2, 216, 8, grid_dtype=torch.float32)
    yield from _odd_points()


def _lookups(
    dtype: torch.dtype,
    dims: int,
    channels: int,
    resolution: int,
    *,
    grid_dtype: torch.dtype | None = None,
    deterministic: bool = False,
) -> Iterator[Work]:
    rows = IMAGES * PIXELS
    grid_dtype = grid_dtype or dtype
    grid = _normal(*[resolution] * dims, channels, dtype=grid_dtype)
    whole = _normal(*[3] * dims, PIXELS * channels, dtype=grid_dtype)
    hidden = _normal(rows, channels, dtype=dtype)
    weight = 0.3 * _normal(dims, channels, dtype=dtype)
    head = (hidden, weight, _normal(dims, dtype=dtype), grid)
    points = 0.8 * _normal(rows, dims, dtype=_coords_dtype(dtype))
    images = 0.8 * _normal(IMAGES, dims, dtype=_coords_dtype(dtype))
    state = torch.tensor([2402, 18293])
    sizes = f"{dims}-D R{resolution} C{channels}" + (" deterministic" if deterministic else "")
    make = partial(Work, dtype=dtype, deterministic=deterministic)
    if grid_dtype == dtype:
        for border in (False, True):
            options = {"align_corners": border, "padding": "border" if border else "zeros"}
            run = partial(_interpolate, options)
            yield make(f"interpolate {sizes} {options['padding']}", run=run, inputs=(points, grid))
    yield make(f"project {sizes}", run=_project, inputs=(*head, state))
    yield make(f"lookup {sizes}", run=_lookup, inputs=(images, whole, *head, state))


def _refinements(dtype: torch.dtype, channels: int) -> Iterator[Work]:
    features = _normal(IMAGES * PIXELS, channels, dtype=dtype)
    prediction = features + 3 * _normal(IMAGES * PIXELS, channels, dtype=dtype, seed=1)
    inputs = (features, prediction)
    for mode in ("combined", "mse", "cosine", "none"):
        yield Work(f"refine C{channels} {mode}", dtype, partial(_refine, mode), inputs)
    yield Work(f"refined_map C{channels}", dtype, _refined_map, inputs, has_gradient=False)


def _odd_points() -> Iterator[Work]:
    """Coordinates that must not be followed, no rows at all, and the noise itself."""
    for dims in (1, 2, 3, 4):
        grid = _normal(*[5] * dims, 24)
        wild = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -1.0, 1.0])
        points = wild[:, None].expand(-1, dims).contiguous()
        run = partial(_interpolate, {})
        yield Work(f"interpolate {dims}-D wild", torch.float32, run, (points, grid), compare=False)
        none = torch.empty(0, dims)
        yield Work(f"interpolate {dims}-D no rows", torch.float32, run, (none, grid))
        state = torch.tensor([2402, 18293])
        noise = partial(_noise, dims)
        yield Work(f"jitter_noise {dims}-D", torch.float32, noise, (state,), has_gradient=False)


def _interpolate(options: dict[str, Any], ops: ModuleType, coords: Tensor, grid: Tensor) -> Any:
    return ops.interpolate(coords, grid, **options)


def _project(ops: ModuleType, *inputs: Tensor) -> Any:
    from grad.ops import Jitter

    *head, state = inputs
    return ops.project(*head, jitter=Jitter(), jitter_state=state)


def _lookup(ops: ModuleType, *inputs: Tensor) -> Any:
    from grad.ops import Jitter

    *tensors, state = inputs
    return ops.lookup(*tensors, jitter=Jitter(per="batch"), jitter_state=state)


def _refine(mode: str, ops: ModuleType, *inputs: Tensor) -> Any:
    return ops.refine(*inputs, mode=mode)


def _refined_map(ops: ModuleType, *inputs: Tensor) -> Any:
    return ops.refined_map(*inputs)


def _noise(dims: int, ops: ModuleType, state: Tensor) -> Any:
    from grad.ops import Jitter

    return ops.jitter_noise(state, IMAGES * PIXELS, dims, Jitter())


def error_of(work: Work, device: torch.device) -> float:
    """Run the operator on the device; its largest relative error against the reference."""
    from grad import ops
    from grad.ops import reference

    torch.use_deterministic_algorithms(work.deterministic)
    try:
        results = _results(work, ops, [tensor.to(device) for tensor in work.inputs])
    finally:
        torch.use_deterministic_algorithms(False)
    results = [result.cpu() for result in results]
    if not work.compare:
        return 0.0
    exact = [t.double() if t.is_floating_point() else t for t in work.inputs]
    errors = [0.0]
    for result, true in zip(results, _results(work, reference, exact), strict=True):
        difference = (result.double() - true.double()).norm()
        errors.append(float(difference / true.double().norm().clamp_min(1e-30)))
    return max(errors, key=lambda error: float("inf") if error != error else error)


def _results(work: Work, ops: ModuleType, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of one weighted sum of them."""
    if work.has_gradient:
        inputs = [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    result = work.run(ops, *inputs)
    outputs = list(result) if isinstance(result, tuple) else [result]
    if not work.has_gradient:
        return outputs
    weights = [_normal(*o.shape, dtype=torch.float64, seed=2).to(o) for o in outputs]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    gradients = torch.autograd.grad(outputs, wanted, weights)
    return [output.detach() for output in outputs] + list(gradients)


def _normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normals made on the CPU, so that a checker sees our kernels and few others."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _coords_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def main() -> int:
    """Run everything; 1 where a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    device = torch.device(parser.parse_args().device)
    wrong = total = 0
    for work in all_work():
        error = error_of(work, device)
        bad = not error <= TOLERANCE[work.dtype]
        wrong, total = wrong + bad, total + 1
        name = f"{work.title} {str(work.dtype)[6:]}"
        print(f"{'WRONG' if bad else 'ok':6}{error:8.1e}  {name}", flush=True)
    print(f"{total - wrong} of {total} right on {device}")
    return 1 if wrong else 0
