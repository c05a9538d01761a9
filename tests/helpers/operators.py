"""Inputs for operators, in every layout, and how results are compared."""

import torch
from torch import Tensor

# Error against float64, relative to the size of the whole result.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def normal(*shape: int, seed: int = 0, dtype=torch.float64, device="cpu") -> Tensor:
    """Standard normals that depend on shape and seed only, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def positions_to_coords(positions: Tensor, sizes: tuple[int, ...], align_corners: bool) -> Tensor:
    """Coordinates of positions counted in cells; sizes as in grid.shape, R_D first."""
    size = torch.tensor(sizes[::-1], dtype=torch.float64)
    if align_corners:
        return 2 * positions / (size - 1).clamp_min(1) - 1
    return (2 * positions + 1) / size - 1


def points(
    rows: int, sizes: tuple[int, ...], align_corners: bool, *, seed: int = 0, reach: int = 2
) -> Tensor:
    """Coordinates inside the grid and up to `reach` cells outside, none near a border of a cell."""
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for size in sizes[::-1]:
        cell = torch.randint(-reach, size - 1 + reach, (rows,), generator=generator)
        fraction = torch.rand(rows, generator=generator, dtype=torch.float64)
        columns.append(cell + 0.1 + 0.8 * fraction)
    return positions_to_coords(torch.stack(columns, dim=1), sizes, align_corners)


def distance_to_border(coords: Tensor, sizes: tuple[int, ...], align_corners: bool) -> float:
    """How far, in cells, the closest coordinate is from a place where the gradient jumps."""
    size = torch.tensor(sizes[::-1], dtype=coords.dtype, device=coords.device)
    x = (coords + 1) / 2 * (size - 1) if align_corners else ((coords + 1) * size - 1) / 2
    return float((x - x.round()).abs().min())


def gradients(function, inputs, *, seed: int = 1):
    """Outputs of a function, and the gradients of one random weighted sum of them.

    Gradients are those of the floating-point inputs, in order.
    """
    inputs = [
        t.detach().requires_grad_(t.is_floating_point()) if isinstance(t, Tensor) else t
        for t in inputs
    ]
    result = function(*inputs)
    outputs = list(result) if isinstance(result, tuple) else [result]
    weights = [normal(*output.shape, seed=seed + i).to(output) for i, output in enumerate(outputs)]
    wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    results = torch.autograd.grad(outputs, wanted, weights)
    return [output.detach() for output in outputs], list(results)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected|, both as whole vectors (0 where they are equal)."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    assert torch.equal(actual.isnan(), expected.isnan()), "NaN in different places"
    actual, expected = actual.nan_to_num(0.0), expected.nan_to_num(0.0)
    error = (actual - expected).norm()
    return 0.0 if error == 0 else float(error / expected.norm().clamp_min(1e-300))


def assert_near(actual, expected, tolerance: float) -> None:
    """Tensors, or sequences of them, agree as whole vectors to a relative tolerance."""
    if isinstance(actual, Tensor):
        actual, expected = [actual], [expected]
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        error = relative_error(a, e)
        assert error <= tolerance, f"tensor {index}: relative error {error:.2e} > {tolerance:.0e}"


def double(inputs):
    """The same inputs in float64 on the CPU, where exact results are computed."""
    return [
        t.detach().cpu().double()
        if isinstance(t, Tensor) and t.is_floating_point()
        else t.cpu()
        if isinstance(t, Tensor)
        else t
        for t in inputs
    ]


def assert_as_exact_as_reference(kernel, reference, inputs) -> None:
    """16-bit results and gradients are at most twice as wrong as the formula's in PyTorch.

    Both are measured against float64 of the same numbers; an error below the rounding of the
    result itself (a unit in the last place of its largest value) always passes.
    """
    exact = gradients(reference, double(inputs))
    formula, ours = gradients(reference, inputs), gradients(kernel, inputs)
    for true, slow, fast in zip(
        exact[0] + exact[1], formula[0] + formula[1], ours[0] + ours[1], strict=True
    ):
        assert fast.dtype == slow.dtype and fast.device == slow.device
        true, errors = true.detach(), []
        for result in (slow, fast):
            errors.append(float((result.detach().cpu().double() - true).abs().max()))
        floor = torch.finfo(fast.dtype).eps * float(true.abs().max())
        assert errors[1] <= max(2 * errors[0], floor)


def strided(values: Tensor, layout: str) -> Tensor:
    """The same matrix in another memory layout."""
    if layout == "transposed":
        return values.t().contiguous().t()
    if layout == "sliced columns":  # part of a wider matrix
        wide = values.new_zeros(values.shape[0], values.shape[1] + 5)
        wide[:, 2:-3] = values
        return wide[:, 2:-3]
    if layout == "every other column":
        wide = values.new_zeros(values.shape[0], 2 * values.shape[1])
        wide[:, ::2] = values
        return wide[:, ::2]
    if layout == "every other row":
        tall = values.new_zeros(2 * values.shape[0], values.shape[1])
        tall[::2] = values
        return tall[::2]
    assert layout == "contiguous"
    return values


LAYOUTS = [
    "contiguous",
    "transposed",
    "sliced columns",
    "every other column",
    "every other row",
]
