"""CUDA graphs, streams and devices: capture and replay of every operator, forward and backward."""

import functools

import pytest
import torch
from helpers.operators import gradients, normal

from grad.ops import (
    Jitter,
    draw_state,
    interpolate,
    jitter_noise,
    lookup,
    project,
    refine,
    refined_map,
)

STATE = torch.tensor([2402, 18293])
NOISE = Jitter(1.0, 0.3)


@pytest.fixture(autouse=True)
def only_on_a_gpu(device):
    if device.type != "cuda":
        pytest.skip("about CUDA graphs and streams")


def tensors(device, *shapes, seed=0):
    return [
        normal(*s, seed=seed + i, dtype=torch.float32, device=device) for i, s in enumerate(shapes)
    ]


HEAD = [(900, 24), (2, 24), (2,), (8, 8, 36)]


def cases(device):
    """Name, function, inputs. Large grids included, with and without atomics."""
    noisy = {"jitter": Jitter(), "jitter_state": STATE.to(device)}
    yield "interpolate", interpolate, tensors(device, (900, 2), (8, 8, 36))
    yield "interpolate, wide", interpolate, tensors(device, (8, 2), (4, 4, 5000))
    yield "interpolate, large", interpolate, tensors(device, (900, 4), (9, 9, 9, 9, 40))
    yield "project", functools.partial(project, **noisy), tensors(device, *HEAD)
    large = [(900, 24), (4, 24), (4,), (9, 9, 9, 9, 40)]
    yield "project, large", functools.partial(project, **noisy), tensors(device, *large)
    both = [(9, 2), (4, 4, 100 * 36), *HEAD]
    yield "lookup", functools.partial(lookup, **noisy), tensors(device, *both)
    yield "refine", refine, tensors(device, (900, 40), (900, 40))


def capture(function, warm_ups=3):
    """A graph of the function's work, and the tensors that its replays write."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


def forward_and_backward(call, inputs):
    leaves = [t.detach().requires_grad_() for t in inputs]
    outputs = call(*leaves)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    sums = sum((output * output).sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(sums, leaves)]


def test_replays_follow_their_inputs(device):
    for name, call, inputs in cases(device):
        graph, results = capture(functools.partial(forward_and_backward, call, inputs))
        for seed in (20, 40):
            for i, tensor in enumerate(inputs):
                tensor.copy_(0.5 * normal(*tensor.shape, seed=seed + i))
            graph.replay()
            torch.cuda.synchronize()
            expected = forward_and_backward(call, inputs)
            for actual, true in zip(results, expected, strict=True):
                error = float((actual - true).detach().norm())
                assert error <= 1e-5 * float(true.detach().norm()), name


def test_replays_write_noise_and_maps(device):
    features, prediction = tensors(device, (90, 40), (90, 40))
    state = STATE.to(device)
    graph, (noise, refined) = capture(
        lambda: (jitter_noise(state, 90, 4, NOISE), refined_map(features, prediction))
    )
    state.add_(5)
    prediction.mul_(2)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(noise, jitter_noise(state, 90, 4, NOISE))
    assert torch.equal(refined, refined_map(features, prediction))


def test_replays_draw_new_jitter_and_backward_sees_it(device):
    """project is linear in its grid, so <gradient of the grid, grid> gives back the forward sum."""
    hidden, weight, bias, grid = tensors(device, *HEAD)
    grid.requires_grad_()
    weights = normal(900, 36, seed=9).to(hidden)

    def step():
        out = project(hidden, weight, bias, grid, jitter=NOISE)
        return out, torch.autograd.grad(out, grid, weights)[0]

    torch.manual_seed(0)
    graph, (out, gradient) = capture(step)
    outputs = []
    for _ in range(3):
        graph.replay()
        torch.cuda.synchronize()
        outputs.append(out.detach().clone())
        by_grid = float((gradient.double() * grid.detach().double()).sum())
        assert by_grid == pytest.approx(float((out.detach() * weights).double().sum()), rel=1e-3)
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


def test_replays_draw_new_states(device):
    graph, state = capture(lambda: draw_state(device))
    states = []
    for _ in range(3):
        graph.replay()
        torch.cuda.synchronize()
        states.append(tuple(state.tolist()))
    assert len(set(states)) == 3


def test_work_goes_to_the_current_stream(device):
    """Behind a wait on a side stream, results must not appear before their inputs do."""
    for name, call, inputs in cases(device):
        expected, _ = gradients(call, inputs)
        late = [torch.zeros_like(t) for t in inputs]
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            for to, of in zip(late, inputs, strict=True):
                to.copy_(of)
            outputs, _ = gradients(call, late)
        stream.synchronize()
        for actual, true in zip(outputs, expected, strict=True):
            assert float((actual - true).norm()) <= 1e-5 * float(true.norm()), name


def test_nothing_waits_for_the_gpu(device):
    """torch raises on its own synchronisations; forward and backward must not cause any."""
    work = [functools.partial(forward_and_backward, call, i) for _, call, i in cases(device)]
    hidden, weight, bias, grid = tensors(device, *HEAD)
    work.append(lambda: project(hidden, weight, bias, grid, jitter=NOISE))
    for step in work:
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in work:
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_extra_memory_is_small(device):
    """Peak beyond the outputs stays within a tenth of them and a small workspace."""
    rows, channels = 64 * 784, 216
    shapes = [(rows, channels), (2, channels), (2,), (8, 8, channels)]
    head = [t.requires_grad_() for t in tensors(device, *shapes)]
    grad_out = normal(rows, channels, seed=8).to(head[0])
    out = project(*head)
    torch.autograd.grad(out, head, grad_out)
    del out
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = project(*head)
    results = torch.autograd.grad(out, head, grad_out)
    made = sum(t.numel() * t.element_size() for t in (out, *results))
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 1.1 * made


def test_large_grids_need_no_copies_of_themselves(device):
    """The head's half of a large grid's backward pass must not set aside room for the grid."""
    shapes = [(50_000, 24), (4, 24), (4,), (12, 12, 12, 12, 64)]
    head = [t.requires_grad_() for t in tensors(device, *shapes)]
    out = project(*head)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = torch.autograd.grad(out.sum(), head)
    made = sum(t.numel() * t.element_size() for t in results)
    grid = head[3].numel() * 4
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 1.1 * made + grid + out.numel() * 4 + 2**24  # a float32 sum, and grad_out


def test_a_second_device(device):
    if torch.cuda.device_count() < 2:
        pytest.skip("only one GPU on this machine")
    for name, call, inputs in cases(torch.device("cuda", 1)):
        outputs, results = gradients(call, inputs)
        assert all(t.device.index == 1 for t in (*outputs, *results)), name
        assert torch.cuda.current_device() == 0
        if "large" in name:
            continue
        moved = [t.to("cuda:0") for t in inputs]
        if isinstance(call, functools.partial):
            state = call.keywords["jitter_state"].to("cuda:0")
            call = functools.partial(call.func, jitter=Jitter(), jitter_state=state)
        for a, b in zip(outputs, gradients(call, moved)[0], strict=True):
            assert torch.equal(a.cpu(), b.cpu()), name
