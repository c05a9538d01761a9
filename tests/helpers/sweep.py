"""The compiled operators beside the reference on random cases, extreme numbers among them.

    PYTHONPATH=.:tests python tests/helpers/sweep.py [--cases 10500] [--first 0] [--device cpu]

Values, coordinates and weights are normal numbers, in which some are replaced by NaN, infinities,
1e38, denormals and zeros. For results and gradients the rule is:

- Where the reference is finite, in the case's own precision and in float64, so is the operator, as
  near to float64's value as tolerance and the reference's own error allow. Where both are not
  finite, neither is the operator: infinite or NaN.
- Where one is finite and the other is not, an intermediate value has left the range of the
  precision, and either is right.
- Where an input holds NaN, infinities or more than 1e30, gradients of coordinates, and of what they
  come from, may be NaN where the reference's are finite: 0 times infinity is 0 in the one, as
  what lies outside a grid has no gradient, and NaN in the other.
- Rows of refine and refined_map with a value, or a difference, whose square leaves the precision
  (above 1.8e19, below 1e-19) are not compared: the operator's length of such a row is infinite, or
  0.
- What the reference has beyond an eighth of the largest number may be infinite, as sums are made
  in another order.
"""

import argparse
import functools
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import grad.ops
from grad.ops import Jitter, reference
from helpers.operators import double, gradients

TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
SPECIAL = [
    *(float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 3e38, 1e30, 1e20, 65504.0),
    *(1e-40, -1e-40, 1e-45, 1e-38, 0.0, -0.0),
]


@dataclass(frozen=True)
class Case:
    """One call: ``call(module, *inputs)`` with the operators of ``module``."""

    name: str
    call: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    dtype: torch.dtype
    tolerance: float
    differentiable: bool = True

    @property
    def extreme(self) -> bool:
        """Whether an input holds what is not finite, or beyond 1e30."""
        return not all(bool((tensor.abs() < 1e30).all()) for tensor in self.inputs)

    def comparable(self, values: Tensor) -> Tensor:
        """Of a result or gradient of refine the rows whose squares are in range."""
        if self.name not in ("refine", "refined_map") or not values.dim():
            return values
        limits = torch.finfo(torch.float64 if self.dtype is torch.float64 else torch.float32)
        both = torch.cat(self.inputs, dim=1).double().abs()
        large = (both > limits.max**0.5) & both.isfinite()
        apart = (self.inputs[0].double() - self.inputs[1].double()).abs()
        small = (apart > 0) & (apart < limits.tiny**0.5)
        return values[~(large.any(dim=1) | small.any(dim=1))]


def make_case(number: int) -> Case:
    """The case of a number, always the same."""
    rng = random.Random(number)
    generator = torch.Generator().manual_seed(number)
    dtype = rng.choice([torch.float32] * 4 + [torch.float64, torch.float16, torch.bfloat16])
    extreme = rng.random() < 0.7

    def values(*shape: int) -> Tensor:
        found = torch.randn(shape, generator=generator, dtype=torch.float64)
        if extreme and rng.random() < 0.5 and found.numel():
            flat = found.view(-1)
            for _ in range(rng.choice([1, 1, 2, 5])):
                flat[rng.randrange(len(flat))] = rng.choice(SPECIAL)
        return found.to(dtype)

    rows, channels, dims = rng.randint(1, 40), rng.randint(1, 40), rng.randint(1, 4)
    sizes = [rng.randint(1, 5) for _ in range(dims)]
    options: dict[str, Any] = {
        "align_corners": rng.random() < 0.5,
        "padding": rng.choice(["zeros", "border"]),
    }
    name = rng.choice(["interpolate", "project", "lookup", "refine", "refined_map"])
    if name == "interpolate":
        inputs = (0.7 * values(rows, dims), values(*sizes, channels))
    elif name in ("project", "lookup"):
        hidden = rng.randint(1, 24)
        if rng.random() < 0.5:
            state = [rng.randrange(2**40), 4 * rng.randrange(100), rng.randrange(100)]
            options["jitter_state"] = torch.tensor(state)
            options["jitter"] = Jitter(0.5, 0.3, per=rng.choice(["pixel", "batch"]))
        inputs = (values(rows, hidden), 0.3 * values(dims, hidden), values(dims))
        inputs = (*inputs, values(*sizes, channels))
        if name == "lookup":
            images = rng.choice([n for n in range(1, rows + 1) if rows % n == 0])
            whole = (rng.randint(1, 4), rng.randint(1, 4), rows // images * channels)
            inputs = (0.7 * values(images, 2), values(*whole), *inputs)
    else:
        mode = rng.choice(["combined", "mse", "cosine", "none"])
        options = {"mode": mode, "tau": rng.choice([10.0, 1.0, 0.0])}
        inputs = (values(rows, channels), values(rows, channels))
    call = functools.partial(_call, name, options)
    # Noise is made in float32 whatever it is added to.
    tolerance = TOLERANCE[
        torch.float32 if "jitter" in options and dtype is torch.float64 else dtype
    ]
    return Case(name, call, inputs, dtype, tolerance, differentiable=name != "refined_map")


def _call(name: str, options: dict[str, Any], module: Any, *inputs: Tensor) -> Any:
    return getattr(module, name)(*inputs, **options)


def difference(case: Case, device: torch.device | str = "cpu") -> str:
    """Where the operator is not right; nothing where it is."""
    compute = gradients if case.differentiable else _forward
    given = [tensor.to(device) for tensor in case.inputs]
    ours = compute(functools.partial(case.call, grad.ops), given)
    same = compute(functools.partial(case.call, reference), case.inputs)
    exact = compute(functools.partial(case.call, reference), double(case.inputs))
    for kind, parts in enumerate(zip(ours, same, exact, strict=True)):
        for index, three in enumerate(zip(*parts, strict=True)):
            compared = [case.comparable(values.cpu().double()) for values in three]
            problem = _compare(case, *compared, may_be_nan=kind == 1 and case.extreme)
            if problem:
                what = ("result", "gradient")[kind]
                return f"{case.name} {str(case.dtype)[6:]} {what} {index}: {problem}"
    return ""


def _forward(function: Callable[..., Any], inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    return [function(*inputs).detach()], []


def _compare(case: Case, ours: Tensor, same: Tensor, exact: Tensor, *, may_be_nan: bool) -> str:
    finite = [values.isfinite() for values in (ours, same, exact.to(case.dtype))]
    wrong = (finite[1] == finite[2]) & (finite[0] != finite[1])
    wrong &= ~(ours.isinf() & (exact.abs() > torch.finfo(case.dtype).max / 8))
    if may_be_nan:
        wrong &= ~ours.isnan()
    if wrong.any():
        at = int(wrong.flatten().nonzero()[0])
        three = [float(values.flatten()[at]) for values in (ours, same, exact)]
        return "operator {:.3g}, reference {:.3g}, in float64 {:.3g}".format(*three)
    both = finite[0] & finite[1] & finite[2]
    if not both.any():
        return ""
    scale = float(exact[both].abs().max())
    allowed = case.tolerance * scale + 4 * float((same - exact)[both].abs().max())
    allowed += torch.finfo(case.dtype).tiny
    far = float((ours - exact)[both].abs().max())
    return "" if far <= allowed else f"{far:.3g} away where {allowed:.3g} is allowed"


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    cases, wrong = Counter[str](), Counter[str]()
    for number in range(given.first, given.first + given.cases):
        case = make_case(number)
        cases[case.name] += 1
        problem = difference(case, given.device)
        if problem:
            wrong[case.name] += 1
            print(f"case {number}: {problem}", flush=True)
    for name in sorted(cases):
        print(f"{name}: {cases[name]} cases, {wrong[name]} differ")
    print(f"{given.cases} cases, {wrong.total()} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(command())
