"""Both lookups in one buffer: what the two give side by side, forward and backward."""

import functools

import hypothesis.strategies as st
import pytest
import torch
from helpers.operators import (
    TOLERANCE,
    assert_as_exact_as_reference,
    assert_near,
    distance_to_border,
    double,
    gradients,
    normal,
    strided,
)
from hypothesis import given, settings

from grad.ops import Jitter, interpolate, lookup, project, reference

STATE = torch.tensor([2402, 18293])
JITTER = Jitter(probability=0.5, std=0.2)


def inputs_of(images, pixels, hidden, channels, global_sizes, local_sizes, *, dtype, device="cpu"):
    dims = len(local_sizes)
    tensors = (
        torch.tanh(normal(images, len(global_sizes), seed=1)),
        normal(*global_sizes, pixels * channels, seed=2),
        normal(images * pixels, hidden, seed=3),
        normal(dims, hidden, seed=4) / hidden**0.5,
        0.3 * normal(dims, seed=5),
        normal(*local_sizes, channels, seed=6),
    )
    return [t.to(device, dtype) for t in tensors]


def side_by_side(global_coords, global_grid, *local, **options):
    """What lookup fuses, with the same compiled operators."""
    lattice = {k: v for k, v in options.items() if not k.startswith("jitter")}
    values = project(*local, **options)
    whole = interpolate(global_coords, global_grid, **lattice).to(values.dtype)
    return torch.cat([whole.reshape(values.shape), values], dim=1)


SHAPES = {
    "small": (3, 5, 6, 7, (4, 4), (8, 8)),
    "the paper's channels": (2, 784, 216, 216, (4, 4), (8, 8)),
    "other dimensions": (2, 30, 9, 33, (3, 2, 2), (5,)),
    "two halves": (2, 50, 16, 72, (3,), (8, 8, 8, 8)),
    "many images": (2000, 1, 5, 12, (2, 2), (3, 3)),
    "one image": (1, 64, 8, 16, (4,), (4, 4)),
    "written past the caches": (13, 784, 24, 216, (4, 4), (8, 8)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_equals_the_concatenation(device, shape, align_corners, padding):
    inputs = inputs_of(*SHAPES[shape], dtype=torch.float32, device=device)
    options = {
        "jitter": JITTER,
        "jitter_state": STATE.to(device),
        "align_corners": align_corners,
        "padding": padding,
    }
    ours = gradients(functools.partial(lookup, **options), inputs)
    parts = gradients(functools.partial(side_by_side, **options), inputs)
    assert torch.equal(ours[0][0], parts[0][0])
    assert ours[0][0].is_contiguous()
    assert_near(ours[1], parts[1], 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_the_reference(device, shape, dtype):
    inputs = inputs_of(*SHAPES[shape], dtype=dtype, device=device)
    ours = gradients(lookup, inputs)
    true = gradients(reference.lookup, double(inputs))
    assert_near(ours[0] + ours[1], true[0] + true[1], TOLERANCE[dtype])


@pytest.mark.parametrize("global_dims", [1, 2, 3, 4])
@pytest.mark.parametrize("local_dims", [1, 2, 3, 4])
def test_gradient_is_the_numerical_one(device, global_dims, local_dims):
    sizes = {dims: (3, 2, 2, 3)[:dims] for dims in (1, 2, 3, 4)}
    shape = (2, 2, 3, 2, sizes[global_dims], sizes[local_dims])
    inputs = inputs_of(*shape, dtype=torch.float64)
    coords = torch.tanh(inputs[2] @ inputs[3].T + inputs[4])
    assert distance_to_border(coords, sizes[local_dims], False) > 1e-4
    assert distance_to_border(inputs[0], sizes[global_dims], False) > 1e-4
    inputs = [t.to(device).requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lookup, inputs, nondet_tol=0.0)


@settings(max_examples=30, derandomize=True)
@given(
    images=st.integers(1, 5),
    pixels=st.integers(0, 9),
    hidden=st.integers(1, 20),
    channels=st.integers(0, 20),
    global_sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    local_sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    layout=st.sampled_from(["contiguous", "transposed", "sliced columns", "every other row"]),
)
def test_any_shape_and_layout_of_the_gradient(
    device, images, pixels, hidden, channels, global_sizes, local_sizes, layout
):
    shape = (images, pixels, hidden, channels, global_sizes, local_sizes)
    inputs = [t.requires_grad_() for t in inputs_of(*shape, dtype=torch.float64, device=device)]
    out, expected = lookup(*inputs), reference.lookup(*inputs)
    weights = strided(normal(*out.shape, seed=8, device=device), layout)
    actual = torch.autograd.grad(out, inputs, weights)
    assert_near(out, expected, 1e-12)
    assert_near(actual, torch.autograd.grad(expected, inputs, weights), 1e-12)


def test_gradient_that_is_one_number_for_all(device):
    inputs = inputs_of(*SHAPES["small"], dtype=torch.float64, device=device)
    inputs = [t.requires_grad_() for t in inputs]
    actual = torch.autograd.grad(lookup(*inputs).sum(), inputs)
    assert_near(actual, torch.autograd.grad(reference.lookup(*inputs).sum(), inputs), 1e-12)


@pytest.mark.parametrize("images", [0, 2])
def test_no_pixels(device, images):
    """An empty batch, and images without pixels."""
    pixels = 0 if images else 4
    inputs = inputs_of(images, pixels, 5, 3, (2, 2), (4, 4), dtype=torch.float32, device=device)
    (out,), results = gradients(lookup, inputs)
    assert out.shape == (0, 6)
    assert [r.shape for r in results] == [t.shape for t in inputs]
    assert not any(r.any() for r in results)


@pytest.mark.parametrize("needed", range(64))
def test_gradients_only_where_asked(device, needed):
    inputs = inputs_of(*SHAPES["small"], dtype=torch.float32, device=device)
    _, every = gradients(lookup, inputs)
    asked = [t.detach().requires_grad_(bool(needed >> i & 1)) for i, t in enumerate(inputs)]
    out = lookup(*asked)
    if needed:
        out.backward(normal(*out.shape, seed=1).to(out))
    for i, tensor in enumerate(asked):
        assert (tensor.grad is not None) == bool(needed >> i & 1)
        if tensor.grad is not None:
            assert_near(tensor.grad, every[i], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
def test_half_types_are_as_exact_as_pytorch(device, dtype, mixed):
    inputs = inputs_of(2, 100, 24, 32, (4, 4), (8, 8), dtype=torch.float32, device=device)
    inputs[2] = inputs[2].to(dtype)
    if not mixed:
        inputs = [t if i == 0 else t.to(dtype) for i, t in enumerate(inputs)]
    if mixed:  # the reference looks up in float32 and rounds once, as the kernel does
        assert lookup(*inputs).dtype == dtype
    assert_as_exact_as_reference(lookup, reference.lookup, inputs)
