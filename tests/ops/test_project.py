"""The fused local head: projection, tanh, jitter and lookup in one, against the formula."""

import functools
import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from helpers.operators import (
    LAYOUTS,
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

from grad.ops import Jitter, interpolate, jitter_noise, project, reference

SIZES = {1: (5,), 2: (4, 3), 3: (3, 4, 2), 4: (2, 3, 4, 3)}
STATE = torch.tensor([2402, 18293])
JITTER = Jitter(probability=0.5, std=0.3)


def head(rows, hidden, sizes, channels, *, dtype=torch.float64, device="cpu", seed=0):
    """Inputs of project whose coordinates spread over the grid and a little beyond under jitter."""
    dims = len(sizes)
    return [
        t.to(device, dtype)
        for t in (
            normal(rows, hidden, seed=seed),
            normal(dims, hidden, seed=seed + 1) / math.sqrt(hidden or 1),
            0.3 * normal(dims, seed=seed + 2),
            normal(*sizes, channels, seed=seed + 3),
        )
    ]


def with_noise(function, device):
    return functools.partial(function, jitter=JITTER, jitter_state=STATE.to(device))


def formula(hidden, weight, bias, grid, *, noise, **lattice):
    """project in PyTorch, with the noise given."""
    coords = torch.tanh(hidden @ weight.T + bias) + noise.to(hidden)
    return reference.interpolate(coords, grid, **lattice)


def test_a_row_does_not_depend_on_its_neighbours(device):
    """Rows that share a cell are looked up together; the result is the same bit for bit."""
    inputs = head(600, 24, (3, 4), 37, dtype=torch.float32, device=device)
    alone = torch.cat([project(row[None], *inputs[1:]) for row in inputs[0]])
    assert torch.equal(project(*inputs), alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [216, 217, 2049])
def test_large_results_are_those_of_their_parts(dtype, columns):
    """Above 8 MiB the CPU writes them past its caches; they are the same bit for bit."""
    rows = (9 << 20) // (columns * dtype.itemsize)
    hidden, *rest = head(rows, columns, (3, 4), columns, dtype=dtype)
    grad_out = normal(rows, columns, seed=5, dtype=dtype)

    def both_passes(part):
        rows = hidden[part].requires_grad_()
        values = project(rows, *rest)
        return [values.detach(), *torch.autograd.grad(values, rows, grad_out[part])]

    whole = both_passes(slice(None))
    parts = [both_passes(slice(i, i + 1000)) for i in range(0, rows, 1000)]
    for large, small in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(large, torch.cat(small))


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("jitter", [None, Jitter(std=0.3), Jitter(0.9, 0.3, per="batch")])
def test_gradient_is_the_numerical_one(device, dims, align_corners, padding, jitter):
    inputs = head(4, 3, SIZES[dims], 3, seed=3)
    hidden, weight, bias, _ = inputs
    coords = torch.tanh(hidden @ weight.T + bias)
    if jitter is not None:
        coords = coords + reference.jitter_noise(STATE, 4, dims, jitter)
    assert distance_to_border(coords, SIZES[dims], align_corners) > 1e-4
    call = functools.partial(
        project,
        jitter=jitter,
        jitter_state=None if jitter is None else STATE.to(device),
        align_corners=align_corners,
        padding=padding,
    )
    inputs = [t.to(device).requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(call, inputs, nondet_tol=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_pytorch_as_the_model_is_usually_written(device, dtype):
    """1x1 convolution, tanh, grid_sample on a (B, C, H, W) map."""
    batch, height, width, channels = 2, 5, 6, 8
    inputs = head(batch * height * width, 7, (8, 8), channels, dtype=dtype, device=device)

    def usual(hidden, weight, bias, grid):
        maps = hidden.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        coords = torch.tanh(F.conv2d(maps, weight[:, :, None, None], bias)).permute(0, 2, 3, 1)
        image = grid.permute(2, 0, 1)[None].expand(batch, -1, -1, -1)
        out = F.grid_sample(image, coords, align_corners=False)
        return out.permute(0, 2, 3, 1).reshape(-1, channels)

    ours, usuals = gradients(project, inputs), gradients(usual, inputs)
    assert_near(ours[0] + ours[1], usuals[0] + usuals[1], TOLERANCE[dtype])


# Small and large grids: fused, or lookup and head one after the other (on the CPU from 2^18 values
# on; on CUDA where a block's shared memory is too small); rows wider than a block of the GPU.
PATHS = {
    "one part": (40, 9, (8, 8), 24),
    "many parts": (3000, 33, (4, 4), 37),
    "the paper's": (1568, 216, (8, 8), 216),
    "shared memory just beyond 48 KiB with the rest": (600, 216, (7, 7), 216),
    "two halves": (700, 20, (8, 8, 8, 8), 72),
    "two halves, a few rows": (3, 20, (8, 8, 8, 8), 72),
    "two halves, wide": (300, 16, (16, 16), 1100),
    "wide hidden layer": (600, 1200, (3, 3), 8),
    "one column": (600, 1, (6,), 1),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_path_agrees_with_the_reference(device, path, dtype):
    rows, hidden, sizes, channels = PATHS[path]
    inputs = head(rows, hidden, sizes, channels, dtype=dtype, device=device)
    ours = gradients(with_noise(project, device), inputs)
    noise = jitter_noise(STATE.to(device), rows, len(sizes), JITTER).cpu()
    true = gradients(functools.partial(formula, noise=noise), double(inputs))
    assert_near(ours[0] + ours[1], true[0] + true[1], TOLERANCE[dtype])


@settings(max_examples=50, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    rows=st.integers(0, 70),
    hidden=st.integers(0, 40),
    channels=st.integers(1, 40),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 4),
    align_corners=st.booleans(),
    padding=st.sampled_from(["zeros", "border"]),
    jitter=st.sampled_from([None, JITTER, Jitter(1.0, 0.1), Jitter(0.5, 0.2, per="batch")]),
)
def test_any_shape_and_layout(
    device, sizes, rows, hidden, channels, dtype, layouts, align_corners, padding, jitter
):
    inputs = head(rows, hidden, sizes, channels, dtype=dtype, device=device)
    weights = normal(rows, channels, seed=9, dtype=dtype, device=device)
    lattice = {"align_corners": align_corners, "padding": padding}
    state = STATE.to(device)
    noise = jitter_noise(state, rows, len(sizes), jitter or Jitter(0.0))
    exact = [t.double().requires_grad_() for t in inputs]
    expected = formula(*exact, noise=noise, **lattice)
    expected_gradients = torch.autograd.grad(expected, exact, weights.double())

    h, w, b, grid = inputs
    placed = [
        strided(h, layouts[0]),
        strided(w, layouts[1]),
        strided(b[:, None], layouts[1])[:, 0],
        strided(grid.reshape(-1, channels), layouts[2]).unflatten(0, sizes),
    ]
    placed = [t.requires_grad_() for t in placed]
    actual = project(*placed, jitter=jitter, jitter_state=state, **lattice)
    actual_gradients = torch.autograd.grad(actual, placed, strided(weights, layouts[3]))
    # In float32 the rounding of a coordinate moves the result by its slope.
    tolerance = 10 * TOLERANCE[dtype]
    assert_near(actual, expected, tolerance)
    assert_near(actual_gradients, expected_gradients, tolerance)


def test_jitter_is_that_of_the_noise_operator(device):
    hidden, weight, bias, grid = head(500, 16, (6, 6), 20, dtype=torch.float32, device=device)
    noise = jitter_noise(STATE.to(device), 500, 2, JITTER)
    expected = interpolate(torch.tanh(hidden @ weight.T + bias) + noise, grid)
    out = with_noise(project, device)(hidden, weight, bias, grid)
    assert_near(out, expected, 1e-5)
    assert not torch.allclose(out, project(hidden, weight, bias, grid), atol=1e-2)


def test_backward_draws_the_noise_that_forward_drew(device):
    """With a state from the generator, which nobody but the operator has seen."""
    hidden, weight, bias, grid = head(64, 8, (2, 2), 3, dtype=torch.float64, device=device)
    weights = normal(64, 3, seed=5, device=device)
    grid.requires_grad_()
    torch.manual_seed(7)
    out = project(hidden, weight, bias, grid, jitter=JITTER)
    torch.randn(10, device=device)  # the generator moves on
    out.backward(weights)
    # project is linear in the grid, so its own gradient gives its value back.
    by_grid = float((grid.grad * grid.detach()).sum())
    assert by_grid == pytest.approx(float((out.detach() * weights).sum()), rel=1e-9)


def test_jitter_with_probability_zero_or_std_zero_changes_nothing(device):
    inputs = head(50, 8, (4, 4), 6, dtype=torch.float32, device=device)
    state = STATE.to(device)
    plain = project(*inputs)
    assert torch.equal(plain, project(*inputs, jitter=Jitter(0.0, 1.0), jitter_state=state))
    assert torch.equal(plain, project(*inputs, jitter=Jitter(1.0, 0.0), jitter_state=state))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("path", ["many parts", "the paper's", "two halves"])
def test_half_types_are_as_exact_as_pytorch(device, dtype, mixed, path):
    """All in 16 bits, or 16-bit features with float32 parameters, as under autocast."""
    hidden, *parameters = head(*PATHS[path], device=device)
    parameters = [t.to(torch.float32 if mixed else dtype) for t in parameters]
    assert_as_exact_as_reference(
        with_noise(project, device),
        lambda *inputs: with_noise(reference.project, inputs[0].device)(*inputs),
        (hidden.to(dtype), *parameters),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_are_rounded_as_pytorch_rounds(device, dtype):
    """Ties, subnormals, overflow, NaN: the stored value is the float32 one, rounded once."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (20000,), generator=generator, dtype=torch.int64)
    values = bits.to(torch.int32).view(torch.float32)
    halves = torch.arange(-(2**15), 2**15, 7, dtype=torch.int16).view(dtype).float()
    middle = (halves[1:] + halves[:-1]) / 2
    special = torch.tensor([65504.0, 65519.9, 65520.0, 2.0**-24, 2.0**-25, 2.0**-26, 0.0, -0.0])
    values = torch.cat([values, halves, middle, special, 0.3 * special])
    values = values[values.isfinite()].to(device)
    zeros = torch.zeros(1, 4, dtype=dtype, device=device)
    flat = torch.zeros(1, 4, device=device)
    out = project(zeros, flat, flat[0, :1], values[None])  # in the middle of the only cell
    assert torch.equal(out[0], values.to(dtype))
    assert (
        project(zeros, flat, flat[0, :1], torch.full((1, 9), math.nan, device=device)).isnan().all()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_value_is_read_exactly(device, dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[values.isfinite()].to(device)
    coords = torch.zeros(1, 1, device=device)
    assert torch.equal(interpolate(coords, values[None])[0], values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast(device, dtype):
    """Features come in 16 bits from the layer before; parameters and gradients stay float32."""
    torch.manual_seed(0)
    before = torch.nn.Linear(12, 16).to(device)
    _, weight, bias, grid = head(40, 16, (4, 4), 6, dtype=torch.float32, device=device)
    parameters = [t.requires_grad_() for t in (weight, bias, grid)]
    rows = normal(40, 12, dtype=torch.float32, device=device)
    with torch.autocast(device.type, dtype=dtype):
        out = project(torch.tanh(before(rows)), *parameters)
    assert out.dtype == dtype
    out.float().square().sum().backward()
    expected = reference.project(torch.tanh(before(rows)), *parameters)
    true = torch.autograd.grad(expected.square().sum(), parameters)
    for parameter, gradient in zip(parameters, true, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert_near(parameter.grad, gradient, 0.1)
    assert before.weight.grad.any()


@pytest.mark.parametrize("needed", range(16))
@pytest.mark.parametrize("path", ["many parts", "two halves, a few rows"])
def test_gradients_only_where_asked(device, needed, path):
    inputs = head(*PATHS[path], dtype=torch.float32, device=device)
    call = with_noise(project, device)
    _, every = gradients(call, inputs)
    asked = [t.detach().requires_grad_(bool(needed >> i & 1)) for i, t in enumerate(inputs)]
    out = call(*asked)
    assert out.requires_grad == (needed > 0)
    if needed:
        out.backward(normal(*out.shape, seed=1).to(out))
    for i, tensor in enumerate(asked):
        assert (tensor.grad is not None) == bool(needed >> i & 1)
        if tensor.grad is not None:
            assert_near(tensor.grad, every[i], 1e-5)


def test_operator_with_no_gradient_asked(device):
    """None of the four: nothing is computed, and nothing is written."""
    hidden, weight, bias, grid = head(30, 4, (3, 3), 5, dtype=torch.float32, device=device)
    arguments = (None, 0.0, 0.0, False, False, False)
    _, activations = torch.ops.grad_anomaly.project(hidden, weight, bias, grid, *arguments)
    ones = torch.ones(30, 5, device=device)
    results = torch.ops.grad_anomaly.project_backward(
        ones, hidden, weight, bias, grid, activations, *arguments, *[False] * 5
    )
    assert [r.numel() for r in results] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "shape", [(0, 5, (3, 4), 6), (0, 5, (8, 8, 8, 8), 72), (7, 0, (3, 4), 6), (7, 5, (3, 4), 0)]
)
def test_nothing_to_look_up(device, shape):
    rows, hidden, sizes, channels = shape
    inputs = head(rows, hidden, sizes, channels, dtype=torch.float32, device=device)
    (out,), results = gradients(with_noise(project, device), inputs)
    assert out.shape == (rows, channels)
    (expected,), true = gradients(with_noise(reference.project, device), inputs)
    assert_near([out, *results], [expected, *true], 1e-5)
    if rows == 0 or channels == 0:
        assert not any(t.any() for t in results)


@pytest.mark.parametrize("path", ["one part", "many parts", "two halves"])
def test_nan_stays_in_its_row(device, path):
    inputs = head(*PATHS[path], dtype=torch.float32, device=device)
    clean = with_noise(project, device)(*inputs)
    hidden = inputs[0]
    hidden[3, 1], hidden[17, 0] = math.nan, math.inf
    (out,), (grad_hidden, _, _, grad_grid) = gradients(with_noise(project, device), inputs)
    assert out[3].isnan().all()
    others = torch.arange(len(out), device=device) != 3
    others[17] = False  # an infinite hidden value only saturates tanh
    assert torch.equal(out[others], clean[others])
    assert out[17].isfinite().all()
    assert grad_hidden[others].isfinite().all()
    assert grad_hidden[3].isnan().all()
    assert grad_grid.isfinite().all()


def test_rows_further_apart_than_two_to_the_31(device):
    """Hidden rows and gradient rows at offsets beyond 32 bits; nothing between them is touched."""
    rows, stride, channels = 4, 2**30, 5
    far = torch.empty(3 * stride + channels, dtype=torch.float16, device=device)
    far = far.as_strided((rows, channels), (stride, 1))
    far.copy_(normal(rows, channels))
    _, *parameters = head(rows, channels, (3, 3), channels, dtype=torch.float32, device=device)
    inputs = [t.requires_grad_() for t in (far, *parameters)]
    for matrix in (far, far.contiguous()):
        out = project(far, *parameters)
        results = [out, *torch.autograd.grad(out, inputs, matrix.detach())]
        near = project(far.contiguous(), *parameters)
        expected = [near, *torch.autograd.grad(near, inputs, far.detach().contiguous())]
        assert_near(results, expected, 1e-6)
