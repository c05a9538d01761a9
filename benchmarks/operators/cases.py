"""One operator at one size: eager PyTorch and our kernels, on the same values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PASSES = ("forward", "backward", "both")

Convert = Callable[[Tensor], Tensor]
Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Shape:
    """Sizes of one case; the grid's are None where there is none."""

    batch: int
    channels: int
    height: int
    width: int
    dims: int | None = None
    resolution: int | None = None

    def __str__(self) -> str:
        grid = f" {self.dims}-D R{self.resolution}" if self.dims else ""
        return f"B{self.batch} C{self.channels}{grid}"


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Args:
        op: name of the operator.
        arguments: makes eager's arguments from a generator, on the generator's device.
        wanted: which arguments get a gradient.
        eager, ours: from their arguments to their outputs, of which the first is differentiated.
        to_ours: what makes our argument from eager's, for each argument.
        output_to_ours: the same for each output.
        forward_bytes, backward_bytes: what must move through memory, each input read once, each
            output written once.
        paper: whether it is one of the paper's sizes.
        compiled: whether eager under torch.compile takes part.
        exact: the same as ``eager`` and ``ours`` without noise, to compare them; None: themselves.
    """

    op: str
    shape: Shape
    dtype: torch.dtype
    layout: str
    arguments: Callable[[torch.Generator], tuple[Tensor, ...]]
    wanted: tuple[bool, ...]
    eager: Function
    ours: Function
    to_ours: tuple[Convert, ...]
    output_to_ours: tuple[Convert, ...]
    forward_bytes: int
    backward_bytes: int
    paper: bool = True
    compiled: bool = True
    exact: tuple[Function, Function] | None = None

    @property
    def title(self) -> str:
        """Operator, sizes, dtype and layout in a line."""
        return f"{self.op} {self.shape} {str(self.dtype)[6:]} {self.layout}"

    def bytes_of(self, name: str) -> int:
        """Bytes that a pass must move."""
        parts = {"forward": self.forward_bytes, "backward": self.backward_bytes}
        return parts[name] if name in parts else sum(parts.values())


class Arguments:
    """A few sets of one contestant's arguments, and the gradients of its output."""

    def __init__(
        self,
        function: Function,
        sets: Sequence[tuple[Tensor, ...]],
        wanted: Sequence[bool],
        output_gradient: Callable[[int], Tensor | None],
    ) -> None:
        self.function = function
        self.sets = [
            tuple(t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True))
            for tensors in sets
        ]
        self.leaves = [[t for t in tensors if t.requires_grad] for tensors in self.sets]
        self.gradients = [output_gradient(index) for index in range(len(sets))]

    def call(self, name: str) -> Callable[[int], object]:
        """The work of a pass, as a function of the number of the call."""
        count = len(self.sets)
        if name == "forward":
            return lambda i: self.function(*self.sets[i % count])
        if name == "both":
            return lambda i: self._backward(i % count, self.function(*self.sets[i % count])[0])
        outputs = [self.function(*tensors)[0] for tensors in self.sets]
        return lambda i: self._backward(i % count, outputs[i % count], retain_graph=True)

    def run(self, index: int = 0) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs and gradients of one set."""
        outputs = self.function(*self.sets[index])
        return outputs, self._backward(index, outputs[0])

    def _backward(
        self, index: int, output: Tensor, *, retain_graph: bool = False
    ) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            output, self.leaves[index], self.gradients[index], retain_graph=retain_graph
        )


def contestants(
    case: Case, device: torch.device, sets: int, *, exact: bool = False
) -> tuple[Arguments, Arguments]:
    """Ours and eager's, with the same values in the arguments and in the output's gradient.

    ``exact`` makes both float32 (float64 stays) and takes the noise away.
    """
    generator = torch.Generator(device).manual_seed(0)
    ours, eager = case.ours, case.eager
    if exact and case.exact is not None:
        ours, eager = case.exact
    eager_sets = [case.arguments(generator) for _ in range(sets)]
    if exact:
        eager_sets = [tuple(_at_least_float32(t) for t in tensors) for tensors in eager_sets]
    our_sets = [_convert(case.to_ours, tensors) for tensors in eager_sets]

    with torch.no_grad():
        like = eager(*eager_sets[0])[0]
    # In the memory layout of the feature maps, as the layer behind would give it; a loss has none.
    form = memory_format_of(case.layout)
    gradients: list[Tensor | None] = [
        torch.empty_like(like, memory_format=form).normal_(generator=generator)
        if like.dim()
        else None
        for _ in eager_sets
    ]
    our_gradients = [
        None if g is None else _convert(case.output_to_ours[:1], (g,))[0] for g in gradients
    ]
    return (
        Arguments(ours, our_sets, case.wanted, our_gradients.__getitem__),
        Arguments(eager, eager_sets, case.wanted, gradients.__getitem__),
    )


def difference(case: Case, device: torch.device) -> float:
    """Largest |ours - eager| / |eager| of all outputs and gradients; NaN if there is any NaN."""
    with _full_precision():
        ours, eager = contestants(case, device, 1, exact=True)
        our_outputs, our_gradients = ours.run()
        outputs, gradients = eager.run()
    wanted = [convert for convert, w in zip(case.to_ours, case.wanted, strict=True) if w]
    expected = [*_convert(case.output_to_ours, outputs), *_convert(wanted, gradients)]
    errors = []
    for result, true in zip([*our_outputs, *our_gradients], expected, strict=True):
        error = (result.detach().reshape(true.shape) - true).double()
        errors.append(float(error.norm() / true.double().norm()))
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _convert(functions: Sequence[Convert], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(
        function(tensor).detach().contiguous() if function is not same else tensor.detach()
        for function, tensor in zip(functions, tensors, strict=True)
    )


def same(tensor: Tensor) -> Tensor:
    """An argument that both take in the same form."""
    return tensor


def rows_of(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C), a view of channels_last memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def memory_format_of(layout: str) -> torch.memory_format:
    """torch's name of a layout in the table."""
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class _full_precision:
    """Without TF32, for comparing values."""

    def __enter__(self) -> None:
        self._before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self._before
