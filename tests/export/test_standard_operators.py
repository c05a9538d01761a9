"""The formulas that replace GRAD's operators, against the operators."""

import pytest
import torch
from helpers.operators import assert_near, normal, points

from grad import ops
from grad.export import standard_operators as operators

NO_NOISE = (None, 0.0, 0.0, False)


@pytest.mark.parametrize("largest", [operators.LARGEST_PRODUCT, 0], ids=["product", "corners"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [(8,), (5, 4), (3, 4, 5), (2, 3, 4, 3), (1, 6)], ids=str)
def test_interpolate(monkeypatch, sizes, align_corners, padding, largest):
    monkeypatch.setattr(operators, "LARGEST_PRODUCT", largest)
    coords, grid = points(50, sizes, align_corners).float(), normal(*sizes, 7).float()
    expected = ops.interpolate(coords, grid, align_corners=align_corners, padding=padding)
    actual = operators.interpolate(coords, grid, align_corners, padding == "border")
    assert_near(actual, expected, 1e-5)


def test_large_grids_take_the_corners(monkeypatch):
    """As a product with 4,096 cells for each point would be slow."""
    called = []
    monkeypatch.setattr(
        operators.reference, "interpolate", lambda *_, **__: called.append(1) or torch.zeros(1)
    )
    operators.interpolate(torch.zeros(2, 4), torch.zeros(8, 8, 8, 8, 2), False, False)
    operators.interpolate(torch.zeros(2, 3), torch.zeros(8, 8, 8, 2), False, False)
    assert called == [1]


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_project_and_lookup(dims):
    images, pixels, channels = 3, 6, 5
    hidden = normal(images * pixels, channels).float()
    head = (0.5 * normal(dims, channels, seed=1).float(), normal(dims, seed=2).float())
    grid = normal(*[4] * dims, channels, seed=3).float()
    expected = ops.project(hidden, *head, grid)
    values, activations = operators.project(hidden, *head, grid, *NO_NOISE, False, False)
    assert_near(values, expected, 1e-5)
    compiled = torch.ops.grad_anomaly.project(hidden, *head, grid, *NO_NOISE, False, False)
    assert_near([values, activations], list(compiled), 1e-5)
    whole = (normal(images, 2, seed=4).tanh().float(), normal(4, 4, pixels * channels).float())
    assert_near(
        operators.lookup(*whole, hidden, *head, grid, *NO_NOISE, False, False)[0],
        ops.lookup(*whole, hidden, *head, grid),
        1e-5,
    )


@pytest.mark.parametrize("mode", ["combined", "mse", "cosine", "none"])
def test_refine(mode):
    features, prediction = normal(40, 9).float(), 3 * normal(40, 9, seed=1).float()
    weights = {"combined": (0.3, 0.7), "mse": (1.0, 0.0), "cosine": (0.0, 1.0), "none": (0.0, 0.0)}
    loss, score, _ = operators.refine(features, prediction, *weights[mode], 10.0)
    assert_near([loss, score], ops.refine(features, prediction, mode=mode), 1e-5)
