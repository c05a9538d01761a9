"""Which derivatives there are, and how those that are not there are refused."""

import functools

import pytest
import torch
from helpers.operators import normal

from grad import ops
from grad.ops import reference

HEAD = (normal(6, 5), normal(2, 5), normal(2), normal(3, 4, 7))
WHOLE = (normal(2, 2).tanh(), normal(2, 2, 21))
FEATURES = normal(6, 5, seed=1)

# Each operator as a function of one tensor, and that tensor.
CASES = {
    "interpolate, coords": ("interpolate", lambda o, x: o.interpolate(x, HEAD[3]), normal(6, 2)),
    "interpolate, grid": ("interpolate", lambda o, x: o.interpolate(WHOLE[0], x), HEAD[3]),
    "project, hidden": ("project", lambda o, x: o.project(x, *HEAD[1:]), HEAD[0]),
    "project, bias": ("project", lambda o, x: o.project(*HEAD[:2], x, HEAD[3]), HEAD[2]),
    "lookup, coords": ("lookup", lambda o, x: o.lookup(x, WHOLE[1], *HEAD), WHOLE[0]),
    "refine, loss": ("refine", lambda o, x: o.refine(FEATURES, x)[0], normal(6, 5)),
    "refine, score": ("refine", lambda o, x: o.refine(FEATURES, x)[1], normal(6, 5)),
}
EACH = pytest.mark.parametrize(("operator", "function", "x"), CASES.values(), ids=CASES)


@EACH
def test_reverse_mode_is_that_of_the_reference(operator, function, x):
    found = torch.func.vjp(functools.partial(function, ops), x)
    expected = torch.func.vjp(functools.partial(function, reference), x)
    torch.testing.assert_close(found[0], expected[0])
    weights = torch.ones_like(found[0])
    torch.testing.assert_close(found[1](weights), expected[1](weights))


@EACH
@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode_is_refused_by_name(operator, function, x, requires_grad):
    call = functools.partial(function, ops)
    x = x.clone().requires_grad_(requires_grad)
    for derive in (
        lambda: torch.func.jvp(call, (x,), (torch.ones_like(x),)),
        lambda: torch.func.jacfwd(call)(x),
    ):
        with pytest.raises(NotImplementedError, match=rf"grad\.ops\.{operator} .* forward mode"):
            derive()


def test_the_refined_map_is_no_constant_in_forward_mode():
    with pytest.raises(NotImplementedError, match=r"grad\.ops\.refined_map"):
        torch.func.jvp(lambda x: ops.refined_map(FEATURES, x), (FEATURES,), (FEATURES,))


@EACH
def test_second_derivatives_are_refused_by_name(operator, function, x):
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(ops, x).sum(), x, create_graph=True)
    (plain,) = torch.autograd.grad(function(ops, x).sum(), x)
    assert torch.equal(first, plain) and first.requires_grad and not plain.requires_grad
    with pytest.raises(NotImplementedError, match=rf"grad\.ops\.{operator} .* once, not twice"):
        first.sum().backward()


@EACH
def test_meta_beside_data_is_refused(operator, function, x):
    with pytest.raises(ValueError, match=rf"grad\.ops\.{operator} .* meta device"):
        function(ops, x.to("meta"))


def test_the_gradient_of_a_nan_coordinate_is_nan(device):
    for module in (ops, reference):
        coords = normal(4, 2, device=device)
        coords[1, 0] = torch.nan
        coords.requires_grad_()
        (found,) = torch.autograd.grad(module.interpolate(coords, HEAD[3].to(device)).sum(), coords)
        assert found.isnan().tolist() == [[False] * 2, [True] * 2, [False] * 2, [False] * 2]
