"""torch.library.opcheck on every operator: schema, fake kernel, tracing with dynamic shapes.

The operators have no autograd formula of their own (each module of grad.ops joins forward and
backward), so they are checked on tensors that need no gradient.
"""

import pytest
import torch
from helpers.operators import normal

import grad.ops  # noqa: F401  (loads the operators)

ops = torch.ops.grad_anomaly
STATE = torch.tensor([2402, 18293])
NEED_ALL, NEED_NONE = (True,) * 4, (False,) * 4


def tensors(device, dtype, *shapes):
    return [normal(*shape, seed=i, dtype=dtype, device=device) for i, shape in enumerate(shapes)]


def interpolate_calls(device, dtype):
    coords, grid, grad_out = tensors(device, dtype, (6, 2), (3, 4, 5), (6, 5))
    yield ops.interpolate, (coords, grid, False, False)
    yield ops.interpolate, (coords.t().contiguous().t(), grid, True, True)
    for need in ((True, True), (True, False), (False, True)):
        yield ops.interpolate_backward, (grad_out, coords, grid, False, False, *need, False)
    runs = normal(6, 2, 5, dtype=dtype, device=device)[:, :, :3]  # (N, P, C / P) runs
    wide = normal(3, 4, 6, dtype=dtype, device=device)
    yield ops.interpolate_backward, (runs, coords, wide, True, True, True, True, True)


def project_calls(device, dtype):
    head = tensors(device, dtype, (6, 7), (2, 7), (2,), (3, 4, 5))
    grad_out = normal(6, 10, dtype=dtype, device=device)[:, 5:]
    noise = (STATE.to(device), 0.5, 0.05, False)
    _, activations = ops.project(*head, *noise, False, False)
    head_and_activations = (*head, activations)
    for noisy in ((None, 0.0, 0.0, False), noise):
        arguments = (grad_out, *head_and_activations, *noisy, False, False, *NEED_ALL, False)
        yield ops.project, (*head, *noisy, False, False)
        yield ops.project_backward, arguments
    only_grid = (False, False, False, True)
    arguments = (grad_out, *head_and_activations, *noise, True, True, *only_grid, True)
    yield ops.project_backward, arguments
    large = [*head[:3], normal(300, 180, 5, dtype=dtype, device=device), activations]  # two halves
    yield ops.project_backward, (grad_out, *large, *noise, False, False, *NEED_ALL, True)


def lookup_calls(device, dtype):
    inputs = tensors(device, dtype, (2, 3), (2, 3, 2, 15), (6, 7), (2, 7), (2,), (3, 4, 5))
    yield ops.lookup, (*inputs, STATE.to(device), 0.5, 0.05, True, False, False)
    yield ops.lookup, (*inputs, None, 0.0, 0.0, False, True, True)


def refine_calls(device, dtype):
    features, prediction = tensors(device, dtype, (6, 5), (6, 5))
    weights = (0.3, 0.7, 10.0)
    yield ops.refine, (features, prediction, *weights)
    yield ops.refined_map, (features, prediction, *weights)
    _, score, sums = ops.refine(features, prediction, *weights)
    one = torch.ones((), dtype=sums.dtype, device=device)
    for grad_score in (None, score):
        for need in ((True, True), (False, True), (False, False)):
            arguments = (one, grad_score, features, prediction, sums, *weights, *need)
            yield ops.refine_backward, arguments


def jitter_calls(device, dtype):
    yield ops.jitter_noise, (STATE.to(device), 9, 3, 0.5, 0.05, False)


CALLS = [interpolate_calls, project_calls, lookup_calls, refine_calls, jitter_calls]


@pytest.mark.parametrize("calls", CALLS)
def test_operator_is_registered_completely(device, calls):
    for operator, arguments in calls(device, torch.float32):
        torch.library.opcheck(operator.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("calls", CALLS)
def test_fake_kernel_knows_dtypes_and_shapes(device, calls, dtype):
    for operator, arguments in calls(device, dtype):
        torch.library.opcheck(
            operator.default, arguments, test_utils=("test_schema", "test_faketensor")
        )


def test_fake_kernel_of_mixed_types(device):
    """16-bit features over float32 parameters."""
    hidden, weight, bias, grid = tensors(device, torch.float32, (6, 7), (2, 7), (2,), (3, 4, 5))
    coords, cells = tensors(device, torch.float32, (2, 1), (4, 15))
    noise, lattice = (STATE.to(device), 0.5, 0.05, False), (False, False)
    head = (hidden.bfloat16(), weight, bias, grid)
    grad_out = normal(6, 5, dtype=torch.bfloat16, device=device)
    _, activations = ops.project(*head, *noise, *lattice)
    features, prediction = hidden, hidden.half()
    checks = [
        (ops.project, (*head, *noise, *lattice)),
        (ops.project_backward, (grad_out, *head, activations, *noise, *lattice, *NEED_ALL, False)),
        (ops.lookup, (coords, cells, *head, *noise, *lattice)),
        (ops.refine, (features, prediction, 0.3, 0.7, 10.0)),
        (ops.refined_map, (features, prediction, 0.3, 0.7, 10.0)),
    ]
    for operator, arguments in checks:
        torch.library.opcheck(
            operator.default, arguments, test_utils=("test_schema", "test_faketensor")
        )


def test_every_operator_is_checked(device):
    checked = {call[0].default.name() for calls in CALLS for call in calls(device, torch.float32)}
    known = {
        name for name in torch._C._dispatch_get_all_op_names() if name.startswith("grad_anomaly::")
    }
    assert checked == known
