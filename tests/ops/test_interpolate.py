"""The N-D grid lookup: against PyTorch, SciPy and the reference, at its edges and on every path."""

import functools
import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.operators import (
    LAYOUTS,
    TOLERANCE,
    assert_as_exact_as_reference,
    assert_near,
    gradients,
    normal,
    points,
    positions_to_coords,
    strided,
)
from hypothesis import given, settings
from scipy.ndimage import map_coordinates

from grad.ops import interpolate, reference

SIZES = {1: (5,), 2: (4, 3), 3: (3, 4, 2), 4: (2, 3, 4, 3)}
CORNERS = pytest.mark.parametrize("align_corners", [False, True])
PADDINGS = pytest.mark.parametrize("padding", ["zeros", "border"])
DIMS = pytest.mark.parametrize("dims", [1, 2, 3, 4])


def grid_sample(coords, grid, *, align_corners, padding):
    """interpolate by torch's own operator, for 1 to 3 axes."""
    dims, rows = coords.shape[1], coords.shape[0]
    if dims == 1:  # a grid of one row, asked for in its middle
        coords, grid = torch.stack([coords[:, 0], torch.zeros_like(coords[:, 0])], 1), grid[None]
        dims = 2
    image = grid.movedim(-1, 0)[None]
    places = coords.reshape(1, *[1] * (dims - 1), rows, dims)
    out = F.grid_sample(
        image, places, mode="bilinear", align_corners=align_corners, padding_mode=padding
    )
    return out.reshape(grid.shape[-1], rows).T


@DIMS
@CORNERS
@PADDINGS
def test_gradient_is_the_numerical_one(device, dims, align_corners, padding):
    sizes = SIZES[dims]
    coords = points(5, sizes, align_corners, seed=dims).to(device).requires_grad_()
    grid = normal(*sizes, 3, device=device).requires_grad_()
    call = functools.partial(interpolate, align_corners=align_corners, padding=padding)
    assert torch.autograd.gradcheck(call, (coords, grid), nondet_tol=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dims", [1, 2, 3])
@CORNERS
@PADDINGS
def test_agrees_with_grid_sample(device, dtype, dims, align_corners, padding):
    coords = points(200, SIZES[dims], align_corners).to(device, dtype)
    grid = normal(*SIZES[dims], 24, dtype=dtype, device=device)
    options = {"align_corners": align_corners, "padding": padding}
    ours = gradients(functools.partial(interpolate, **options), (coords, grid))
    torchs = gradients(functools.partial(grid_sample, **options), (coords, grid))
    assert_near(ours[0], torchs[0], TOLERANCE[dtype])
    assert_near(ours[1], torchs[1], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@CORNERS
@PADDINGS
def test_four_axes_agree_with_scipy(device, dtype, align_corners, padding):
    sizes, channels = (3, 4, 5, 2), 4
    coords = points(100, sizes, align_corners, seed=3)
    grid = normal(*sizes, channels)
    out = interpolate(
        coords.to(device, dtype),
        grid.to(device, dtype),
        align_corners=align_corners,
        padding=padding,
    )
    size = np.array(sizes[::-1])
    x = coords.numpy()
    cells = (x + 1) / 2 * (size - 1) if align_corners else ((x + 1) * size - 1) / 2
    mode = {"zeros": "grid-constant", "border": "nearest"}[padding]
    expected = [
        map_coordinates(grid[..., c].numpy(), cells[:, ::-1].T, order=1, mode=mode, cval=0.0)
        for c in range(channels)
    ]
    assert_near(out, torch.from_numpy(np.stack(expected, axis=1)), TOLERANCE[dtype])


# Sizes for each way of the backward pass: parts of the rows (CPU) or of the columns, one part or
# several; a grid that fits no block's shared memory (CUDA).
PATHS = {
    "one row part": (600, (3, 3), 20),
    "many row parts": (5000, (4, 3), 37),
    "wide rows, by rows": (1100, (2,), 2048),
    "wider rows, by columns": (1100, (2,), 2049),
    "few rows, many columns": (7, (4, 4), 5003),
    "rows in blocks, many columns": (40, (4, 4), 5003),
    "written past the caches": (9800, (3, 4), 217),
    "few rows, past the caches": (7, (4, 4), 300_001),
    "many cells": (300, (9, 8, 9, 8), 40),
    "many cells, one column": (3000, (30, 31, 29), 1),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_path_agrees_with_the_reference(device, path, dtype):
    rows, sizes, channels = PATHS[path]
    coords = points(rows, sizes, False).to(device, dtype)
    grid = normal(*sizes, channels, dtype=dtype, device=device)
    ours = gradients(interpolate, (coords, grid))
    true = gradients(reference.interpolate, (coords.cpu().double(), grid.cpu().double()))
    assert_near(ours[0], true[0], TOLERANCE[dtype])
    assert_near(ours[1], true[1], TOLERANCE[dtype])


@settings(max_examples=60, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    rows=st.integers(0, 70),
    channels=st.integers(1, 70),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    align_corners=st.booleans(),
    padding=st.sampled_from(["zeros", "border"]),
)
def test_any_shape_and_layout(
    device, sizes, rows, channels, dtype, layouts, align_corners, padding
):
    coords = points(rows, sizes, align_corners).to(device, dtype)
    grid = normal(*sizes, channels, dtype=dtype, device=device)
    weights = normal(rows, channels, seed=2, dtype=dtype, device=device)
    options = {"align_corners": align_corners, "padding": padding}

    a, b = coords.double().requires_grad_(), grid.double().requires_grad_()
    expected = reference.interpolate(a, b, **options)
    expected_gradients = torch.autograd.grad(expected, (a, b), weights.double())

    a = strided(coords, layouts[0]).requires_grad_()
    b = strided(grid.reshape(-1, channels), layouts[1]).unflatten(0, sizes).requires_grad_()
    actual = interpolate(a, b, **options)
    assert actual.is_contiguous()
    actual_gradients = torch.autograd.grad(actual, (a, b), strided(weights, layouts[2]))
    assert_near(actual, expected, TOLERANCE[dtype])
    assert_near(actual_gradients, expected_gradients, TOLERANCE[dtype])


def test_expanded_inputs_are_read_in_place(device):
    coords = torch.tensor([[0.3, -0.2]], device=device).expand(50, 2)
    grid = normal(4, 5, 1, dtype=torch.float32, device=device).expand(4, 5, 6)
    out = interpolate(coords, grid)
    assert_near(out, reference.interpolate(coords, grid), 1e-6)
    assert (out == out[0]).all()


def test_gradient_that_is_one_number_for_all(device):
    """What `sum().backward()` sends is expanded, with strides of 0."""
    coords = points(40, (3, 4), False).float().to(device)
    grid = normal(3, 4, 10, dtype=torch.float32, device=device).requires_grad_()
    interpolate(coords, grid).sum().backward()
    (expected,) = torch.autograd.grad(reference.interpolate(coords, grid).sum(), grid)
    assert_near(grid.grad, expected, 1e-5)


@CORNERS
@PADDINGS
def test_borders_of_cells_and_places_outside(device, align_corners, padding):
    """Positions on every cell centre, between, at the edge and far off, all representable."""
    sizes = (5, 5) if align_corners else (4, 4)  # so that positions are exact
    steps = torch.arange(-3, sizes[0] + 3, 0.5, dtype=torch.float64)
    positions = torch.tensor(list(itertools.product(steps.tolist(), repeat=2)), dtype=torch.float64)
    coords = positions_to_coords(positions, sizes, align_corners).float()
    far = [[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [1e30, 0.25], [-3e38, 3e38]]
    coords = torch.cat([coords, torch.tensor(far)]).to(device)
    grid = normal(*sizes, 7, dtype=torch.float32, device=device)
    options = {"align_corners": align_corners, "padding": padding}
    ours = gradients(functools.partial(interpolate, **options), (coords, grid))
    formula = gradients(functools.partial(reference.interpolate, **options), (coords, grid))
    assert_near(ours[0], formula[0], 1e-6)
    assert_near(ours[1], formula[1], 1e-6)
    # grid_sample converts the position to an integer, which must be representable.
    near = coords[:-2]
    ours = gradients(functools.partial(interpolate, **options), (near, grid))
    torchs = gradients(functools.partial(grid_sample, **options), (near, grid))
    assert_near(ours[0], torchs[0], 1e-6)
    assert_near(ours[1], torchs[1], 1e-6)


@pytest.mark.parametrize("sizes", [(3, 4), (1, 1), (1, 3)])
@CORNERS
@PADDINGS
def test_infinite_coordinates(device, sizes, align_corners, padding):
    infinity = math.inf
    coords = torch.tensor(
        [[infinity, 0.0], [-infinity, 0.0], [0.1, infinity], [infinity, -infinity], [0.1, 0.2]],
        device=device,
    )
    grid = normal(*sizes, 6, dtype=torch.float32, device=device)
    options = {"align_corners": align_corners, "padding": padding}
    ours = gradients(functools.partial(interpolate, **options), (coords, grid))
    formula = gradients(functools.partial(reference.interpolate, **options), (coords, grid))
    assert_near(ours[0], formula[0], 1e-6)
    assert all(gradient.isfinite().all() for gradient in ours[1])
    assert_near(ours[1], formula[1], 1e-6)


@pytest.mark.parametrize(
    "path",
    ["one row part", "many row parts", "few rows, many columns", "rows in blocks, many columns"],
)
@PADDINGS
def test_nan_stays_in_its_row(device, path, padding):
    rows, sizes, channels = PATHS[path]
    coords = points(rows, sizes, False).float().to(device)
    grid = normal(*sizes, channels, dtype=torch.float32, device=device)
    clean = coords.clone()
    coords[1, 0], coords[4] = math.nan, math.nan
    coords[5] = torch.tensor([math.nan, math.inf][: len(sizes)], device=device)
    bad = coords.isnan().any(dim=1)

    def masked(coords, grid):
        return torch.where(bad[:, None], 0.0, interpolate(coords, grid, padding=padding))

    out = interpolate(coords, grid, padding=padding)
    assert out[bad].isnan().all()
    call = functools.partial(interpolate, padding=padding)
    (values,), (grad_coords, grad_grid) = gradients(call, (coords, grid))
    (expected,), (expected_coords, expected_grid) = gradients(masked, (clean, grid))
    assert_near(values[~bad], expected[~bad], 0.0)
    assert_near(grad_coords[~bad], expected_coords[~bad], 0.0)
    assert grad_coords[bad].isnan().all()
    assert grad_grid.isfinite().all()
    assert_near(grad_grid, expected_grid, 1e-6)


def test_corner_values_that_are_not_finite_stay_in_their_cells(device):
    """A NaN in the grid reaches the rows next to it and no others."""
    grid = normal(8, 4, dtype=torch.float32, device=device)
    grid[0] = math.nan
    coords = positions_to_coords(torch.tensor([[0.5], [1.5], [6.5]]), (8,), False)
    out = interpolate(coords.float().to(device), grid)
    assert out[0].isnan().all()
    assert out[1:].isfinite().all()


@pytest.mark.parametrize("shape", [(0, (3, 4), 5), (6, (3, 4), 0), (0, (2, 2, 2, 2), 1)])
def test_nothing_to_look_up(device, shape):
    rows, sizes, channels = shape
    coords = torch.zeros(rows, len(sizes), device=device)
    grid = torch.ones(*sizes, channels, device=device)
    (out,), (grad_coords, grad_grid) = gradients(interpolate, (coords, grid))
    assert out.shape == (rows, channels)
    assert grad_coords.shape == coords.shape and not grad_coords.any()
    assert grad_grid.shape == grid.shape and not grad_grid.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("path", ["one row part", "many row parts", "few rows, many columns"])
def test_half_types_are_as_exact_as_pytorch(device, dtype, path):
    rows, sizes, channels = PATHS[path]
    coords = points(rows, sizes, False).float().to(device)
    grid = normal(*sizes, channels, device=device, dtype=dtype)
    assert_as_exact_as_reference(interpolate, reference.interpolate, (coords, grid))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_gradients_of_many_rows_are_summed_in_float(device, dtype):
    """4,000 times 1 into one cell: a 16-bit sum would stop at 2,048 or 256."""
    coords = torch.zeros(4000, 1, device=device)
    grid = torch.zeros(1, 8, dtype=dtype, device=device, requires_grad=True)
    interpolate(coords, grid).sum().backward()
    assert (grid.grad == 4000).all()


@pytest.mark.parametrize("path", ["many row parts", "few rows, many columns", "many cells"])
def test_gradients_only_where_asked(device, path):
    rows, sizes, channels = PATHS[path]
    coords = points(rows, sizes, False).float().to(device)
    grid = normal(*sizes, channels, dtype=torch.float32, device=device)
    _, both = gradients(interpolate, (coords, grid))
    weights = normal(rows, channels, seed=1).to(grid)

    coords.requires_grad_()
    interpolate(coords, grid).backward(weights)
    assert grid.grad is None
    assert_near(coords.grad, both[0], 1e-6)

    coords, grid = coords.detach(), grid.requires_grad_()
    interpolate(coords, grid).backward(weights)
    assert coords.grad is None
    assert_near(grid.grad, both[1], 1e-6)


def test_operator_with_no_gradient_asked(device):
    coords, grid = torch.zeros(3, 2, device=device), torch.ones(2, 2, 4, device=device)
    results = torch.ops.grad_anomaly.interpolate_backward(
        torch.ones(3, 4, device=device), coords, grid, False, False, False, False, False
    )
    assert [r.numel() for r in results] == [0, 0]


def test_coordinates_keep_their_precision_under_half_grids(device):
    """Of 2,000 cells, coordinates in float16 would hit the wrong ones."""
    grid = torch.arange(2000.0, device=device)[:, None].to(torch.bfloat16)
    coords = positions_to_coords(torch.arange(2000)[:, None].double(), (2000,), False)
    out = interpolate(coords.float().to(device), grid)
    assert (out.float() - grid.float()).abs().max() <= 4


def test_vmap_is_refused_in_words(device):
    coords, grid = torch.zeros(2, 3, 1, device=device), torch.ones(2, 4, device=device)
    grid.requires_grad_()
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(interpolate, in_dims=(0, None))(coords, grid)


def test_gradient_rows_further_apart_than_two_to_the_31(device):
    """Rows at offsets beyond 32 bits; the memory between them is never touched."""
    rows, stride, channels = 4, 2**30, 5
    weights = torch.empty(3 * stride + channels, dtype=torch.float16, device=device)
    weights = weights.as_strided((rows, channels), (stride, 1))
    weights.copy_(normal(rows, channels))
    coords = points(rows, (3,), False).float().to(device).requires_grad_()
    grid = normal(3, channels, dtype=torch.float16, device=device).requires_grad_()
    far = torch.autograd.grad(interpolate(coords, grid), (coords, grid), weights)
    near = torch.autograd.grad(interpolate(coords, grid), (coords, grid), weights.contiguous())
    assert all(torch.equal(f, n) for f, n in zip(far, near, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2**16 + 3, 2**15 + 8), (130, 65535 * 256)])
def test_more_than_two_to_the_31_values(device, shape):
    """An output of 4 GiB in float16, tall and wide, from a grid of one cell."""
    rows, channels = shape
    grid = torch.ones(1, channels, dtype=torch.float16, device=device)
    grid[0, -1] = 3.0
    coords = torch.zeros(rows, 1, device=device)
    coords[-1] = 0.5  # a quarter of the way out of the only cell
    out = interpolate(coords, grid)
    assert out.numel() > 2**31
    assert out[0, 0] == 1.0 and out[-2, -1] == 3.0
    assert out[-1, 0] == 0.75 and out[-1, -1] == 2.25
    assert float(out[rows // 2 :, channels // 2].float().mean()) > 0.7
