"""Same inputs, same bits: from call to call, for any number of threads, at any grid size."""

import functools

import pytest
import torch
from helpers.operators import gradients, normal, points

from grad.ops import Jitter, interpolate, lookup, project, refine

STATE = torch.tensor([2402, 18293])


def head(device, rows, hidden, sizes, channels):
    dims = len(sizes)
    return [
        t.to(device, torch.float32)
        for t in (
            normal(rows, hidden),
            normal(dims, hidden, seed=1) / hidden**0.5,
            normal(dims, seed=2),
            normal(*sizes, channels, seed=3),
        )
    ]


def noisy(function, device):
    return functools.partial(function, jitter=Jitter(), jitter_state=STATE.to(device))


def cases(device):
    """Every operator at the sizes of every path that is deterministic by design."""
    for name, rows, sizes, channels in [
        ("interpolate, by rows", 20_000, (8, 8), 48),
        ("interpolate, by columns", 9, (4, 4), 9000),
        ("interpolate, 1-D", 20_000, (2,), 5),
    ]:
        coords = points(rows, sizes, False).to(device, torch.float32)
        grid = normal(*sizes, channels, dtype=torch.float32, device=device)
        yield name, interpolate, (coords, grid)
    yield "project", noisy(project, device), head(device, 9000, 64, (8, 8), 72)
    cells = normal(4, 4, 784 * 24, seed=7, dtype=torch.float32, device=device)
    coords = normal(4, 2, seed=6, dtype=torch.float32, device=device).tanh()
    local = head(device, 4 * 784, 24, (8, 8), 24)
    yield "lookup", noisy(lookup, device), (coords, cells, *local)
    features = normal(9000, 72, dtype=torch.float32, device=device)
    yield "refine", refine, (features, features + 4 * normal(9000, 72, seed=1).to(features))


def large_cases(device):
    """Grids that fit no block's shared memory: atomics, unless torch asks for determinism."""
    sizes, channels = (9, 9, 9, 9), 40
    coords = (0.3 * normal(20_000, 4)).to(device, torch.float32)  # thousands of rows a cell
    grid = normal(*sizes, channels, dtype=torch.float32, device=device)
    yield "interpolate, large grid", interpolate, (coords, grid)
    yield "project, large grid", noisy(project, device), head(device, 9000, 16, sizes, channels)


def bits(call, inputs):
    outputs, results = gradients(call, inputs)
    return [*outputs, *results]


def assert_same_bits(first, second, name):
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(a, b), f"{name}: result {index} differs"


def test_every_call_gives_the_same_bits(device):
    for name, call, inputs in cases(device):
        first = bits(call, inputs)
        for _ in range(3):
            assert_same_bits(first, bits(call, inputs), name)


@pytest.fixture
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_large_grids_give_the_same_bits_where_torch_asks_for_it(device, deterministic_algorithms):
    for name, call, inputs in large_cases(device):
        first = bits(call, inputs)
        for _ in range(3):
            assert_same_bits(first, bits(call, inputs), name)


def test_deterministic_path_gives_the_same_numbers(device):
    for name, call, inputs in large_cases(device):
        usual = bits(call, inputs)
        torch.use_deterministic_algorithms(True)
        try:
            asked = bits(call, inputs)
        finally:
            torch.use_deterministic_algorithms(False)
        for a, b in zip(usual, asked, strict=True):
            assert float((a - b).norm()) <= 1e-5 * float(a.norm()), name


def test_what_forward_was_told_holds_in_backward(device):
    """The flag is read in forward; a backward pass later on follows it, whatever it is by then."""
    seen = []
    original = torch.ops.grad_anomaly.interpolate_backward

    coords = torch.zeros(4, 4, device=device)
    grid = torch.ones(2, 2, 2, 2, 3, device=device, requires_grad=True)
    for asked in (False, True):
        torch.use_deterministic_algorithms(asked)
        try:
            out = interpolate(coords, grid)
        finally:
            torch.use_deterministic_algorithms(False)

        class Record(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if func is original.default:
                    seen.append(args[-1])
                return func(*args, **(kwargs or {}))

        with Record():
            out.sum().backward()
    assert seen == [False, True]


def test_number_of_threads_changes_nothing(device):
    if device.type != "cpu":
        pytest.skip("about threads of the CPU")
    threads = torch.get_num_threads()
    for name, call, inputs in [*cases(device), *large_cases(device)]:
        results = []
        try:
            for count in (1, 2, 3, 7):
                torch.set_num_threads(count)
                results.append(bits(call, inputs))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert_same_bits(results[0], other, name)


def test_rows_do_not_depend_on_their_batch(device):
    """A row has the same values alone and among others: predictions ignore the batch size."""
    inputs = head(device, 1000, 64, (8, 8), 72)
    out = project(*inputs)
    assert torch.equal(project(inputs[0][123:130], *inputs[1:]), out[123:130])
    features, prediction = normal(500, 72), normal(500, 72, seed=1)
    score = refine(features.to(out), prediction.to(out))[1]
    assert torch.equal(refine(features[9:12].to(out), prediction[9:12].to(out))[1], score[9:12])
