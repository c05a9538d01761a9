"""torch.compile without graph breaks, torch.export, torch.func: the same numbers as eager."""

import functools

import pytest
import torch
from helpers.operators import assert_near, gradients, normal

from grad.ops import Jitter, interpolate, lookup, project, refine, refined_map

STATE = torch.tensor([2402, 18293])


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs_of(device, rows=24):
    shapes = [(rows // 6, 2), (4, 4, 6 * 8), (rows, 10), (2, 10), (2,), (5, 5, 8), (rows, 16)]
    tensors = [normal(*s, seed=i, dtype=torch.float32) for i, s in enumerate(shapes)]
    tensors[0], tensors[3] = tensors[0].tanh(), tensors[3] / 3
    return [t.to(device) for t in tensors]


def everything(coords, cells, hidden, weight, bias, grid, features, state=None):
    """All operators, and torch's own work before, between and after them."""
    hidden = torch.tanh(hidden)
    jitter = Jitter(0.5, 0.1)
    both = lookup(coords, cells, hidden, weight, bias, grid, jitter=jitter, jitter_state=state)
    both = both + project(hidden, weight, bias, grid, padding="border").repeat(1, 2)
    both = both + interpolate(features[:, :2].tanh(), grid, align_corners=True).repeat(1, 2)
    loss, score = refine(features, both)
    return loss, score * 2, refined_map(features, both)[:, 0].sum() + loss


@pytest.mark.parametrize("dynamic", [False, True])
def test_whole_graph_forward_and_backward(device, dynamic):
    call = functools.partial(everything, state=STATE.to(device))
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (24, 36):
        inputs = inputs_of(device, rows)
        ours, expected = gradients(compiled, inputs), gradients(call, inputs)
        assert_near(ours[0], expected[0], 1e-6)
        assert_near(ours[1], expected[1], 1e-5)


@pytest.mark.slow
def test_inductor(device):
    call = functools.partial(everything, state=STATE.to(device))
    compiled = torch.compile(call, fullgraph=True, backend="inductor")
    inputs = inputs_of(device)
    ours, expected = gradients(compiled, inputs), gradients(call, inputs)
    assert_near(ours[0], expected[0], 1e-5)
    assert_near(ours[1], expected[1], 1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_jitter_is_drawn_anew_in_each_call(device, backend):
    """And backward sees what forward drew: project is linear in its grid."""

    def head(hidden, weight, bias, grid):
        return project(hidden, weight, bias, grid, jitter=Jitter(1.0, 0.3))

    compiled = torch.compile(head, fullgraph=True, backend=backend)
    hidden, weight, bias, grid = inputs_of(device)[2:6]
    torch.manual_seed(0)
    outputs = []
    for _ in range(3):
        (out,), results = gradients(compiled, (hidden, weight, bias, grid))
        weights = normal(*out.shape, seed=1).to(out)
        by_grid = float((results[3] * grid).double().sum())
        assert by_grid == pytest.approx(float((out * weights).double().sum()), rel=1e-3, abs=1e-3)
        outputs.append(out)
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])
    torch.manual_seed(0)
    assert torch.equal(compiled(hidden, weight, bias, grid), outputs[0])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_strided_inputs_keep_their_meaning(device, backend):
    """A compiler may hand on other strides than eager; results must not change."""

    def call(maps, weight, bias, grid):
        rows = (maps * 2).permute(0, 2, 3, 1).flatten(0, 2)
        out = project(rows, weight, bias, grid)
        return out.unflatten(0, (2, 3, 4)).permute(0, 3, 1, 2).sin()

    inputs = [normal(2, 10, 3, 4, dtype=torch.float32, device=device), *inputs_of(device)[3:6]]
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    ours, expected = gradients(compiled, inputs), gradients(call, inputs)
    assert_near(ours[0] + ours[1], expected[0] + expected[1], 1e-5)
    assert ours[0][0].stride() == expected[0][0].stride()


def test_compiled_under_autocast(device):
    def call(rows, layer_weight, weight, bias, grid):
        hidden = torch.nn.functional.linear(rows, layer_weight).tanh()
        return project(hidden, weight, bias, grid).float()

    _, _, hidden, weight, bias, grid, rows = inputs_of(device)
    inputs = (rows, hidden[:10].mT.repeat(1, 2)[:, :16].contiguous(), weight, bias, grid)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    with torch.autocast(device.type, dtype=torch.bfloat16):
        ours, expected = gradients(compiled, inputs), gradients(call, inputs)
    assert_near(ours[0] + ours[1], expected[0] + expected[1], 1e-6)


def test_export(device):
    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            _, _, _, *parameters, _ = inputs_of(device)
            self.weight, self.bias, self.grid = (torch.nn.Parameter(p) for p in parameters)

        def forward(self, hidden):
            out = project(hidden, self.weight, self.bias, self.grid)
            return refine(out, 2 * out)[1]

    head, hidden = Head().eval(), inputs_of(device)[2]
    rows = torch.export.Dim("rows", min=2, max=1000)
    program = torch.export.export(head, (hidden,), dynamic_shapes={"hidden": {0: rows}})
    assert any("grad_anomaly" in str(node.target) for node in program.graph.nodes)
    for other in (hidden, torch.cat([hidden, hidden])):
        assert_near(program.module()(other), head(other), 1e-6)


def test_torch_func_gradients(device):
    features, both = inputs_of(device)[6], inputs_of(device, 24)[6].flip(0)
    actual = torch.func.grad(lambda p: refine(features, p)[0])(both)
    _, (_, expected) = gradients(lambda f, p: refine(f, p)[0], (features, both))
    weight = normal(seed=1).to(actual)
    assert_near(actual * weight, expected, 1e-6)
