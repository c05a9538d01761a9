"""Axes that may be empty, and views off alignment: results as the formulas have them."""

import itertools

import pytest
import torch
from helpers.operators import TOLERANCE, assert_near, gradients, normal

from grad.ops import interpolate, lookup, project, reference, refine, refined_map

SIZES = {1: (5,), 2: (4, 3), 3: (3, 4, 2), 4: (2, 3, 2, 3)}
DIMS = pytest.mark.parametrize("dims", [1, 2, 3, 4])


def assert_as_reference(kernel, formula, *inputs):
    """Outputs and gradients, in shape and value."""
    ours, expected = gradients(kernel, inputs), gradients(formula, inputs)
    for a, e in zip(ours[0] + ours[1], expected[0] + expected[1], strict=True):
        assert a.shape == e.shape
    assert_near(ours[0] + ours[1], expected[0] + expected[1], TOLERANCE[torch.float64])


@DIMS
@pytest.mark.parametrize(("rows", "columns"), list(itertools.product([0, 3], [0, 5])))
def test_interpolate(device, dims, rows, columns):
    coords = normal(rows, dims, device=device)
    grid = normal(*SIZES[dims], columns, device=device)
    assert_as_reference(interpolate, reference.interpolate, coords, grid)


@DIMS
@pytest.mark.parametrize(
    ("rows", "hidden_columns", "columns"), list(itertools.product([0, 3], [0, 4], [0, 5]))
)
def test_project(device, dims, rows, hidden_columns, columns):
    hidden = normal(rows, hidden_columns, device=device)
    weight, bias = normal(dims, hidden_columns, device=device), normal(dims, device=device)
    grid = normal(*SIZES[dims], columns, device=device)
    assert_as_reference(project, reference.project, hidden, weight, bias, grid)


@pytest.mark.parametrize(
    ("images", "pixels", "hidden_columns", "columns"),
    list(itertools.product([0, 2], [0, 3], [0, 4], [0, 5])),
)
def test_lookup(device, images, pixels, hidden_columns, columns):
    assert_as_reference(
        lookup,
        reference.lookup,
        normal(images, 2, device=device),
        normal(4, 3, pixels * columns, device=device),
        normal(images * pixels, hidden_columns, device=device),
        normal(2, hidden_columns, device=device),
        normal(2, device=device),
        normal(3, 4, columns, device=device),
    )


@pytest.mark.parametrize(("rows", "columns"), list(itertools.product([0, 3], [0, 5])))
def test_refine(device, rows, columns):
    features, prediction = normal(rows, columns, device=device), normal(rows, columns, seed=1)
    assert_as_reference(refine, reference.refine, features, prediction.to(device))
    refined = refined_map(features, prediction.to(device))
    expected = reference.refined_map(features, prediction.to(device))
    assert_near(refined, expected, TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_refine_from_any_address(device, dtype):
    """refine's gradient reads the sums that its forward pass kept, wherever they lie."""
    features = normal(7, 24, device=device, dtype=dtype)
    prediction = normal(7, 24, seed=1, device=device, dtype=dtype)
    operators = torch.ops.grad_anomaly
    _, _, sums = operators.refine(features, prediction, 0.3, 0.7, 10.0)
    shifted = torch.empty(sums.numel() + 1, dtype=dtype, device=device)[1:].view(7, 4).copy_(sums)
    results = [
        operators.refine_backward(
            torch.ones((), dtype=dtype, device=device),
            None,
            features,
            prediction,
            kept,
            0.3,
            0.7,
            10.0,
            True,
            True,
        )
        for kept in (sums, shifted)
    ]
    for aligned, moved in zip(*results, strict=True):
        assert torch.equal(aligned, moved)


def test_a_grid_has_fewer_cells_than_an_index_counts(device):
    """Without memory for them: an expanded grid of one value."""
    coords = normal(3, 1, device=device, dtype=torch.float32)
    grid = torch.ones(1, 1, device=device).expand(2**31 - 2, 1)
    with pytest.raises(ValueError, match=r"grid must have at most 2147483645 cells, got \("):
        interpolate(coords, grid)
