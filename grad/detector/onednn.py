"""Convolutions for CPUs: oneDNN runs each together with its activation, on weights laid out for it.

torch's own compiler uses the same operators (``torch.ops.mkldnn``); used directly they need no C++
compiler and no minutes of compilation. What is computed stays the same up to
rounding.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn

from grad.detector.folding import followers
from grad.model.fusion import ResidualBlock

_Module = TypeVar("_Module", bound=nn.Module)

# oneDNN's name and arguments of each activation that it can run with a convolution.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
_NOTHING: tuple[str, list[float]] = ("none", [])


def is_available() -> bool:
    """Whether this torch has oneDNN, and its operators for a convolution with an activation."""
    joined = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    return torch.backends.mkldnn.is_available() and joined is not None


def fuse_convolutions(module: _Module, example: Tensor) -> _Module:
    """A copy whose convolutions are oneDNN's, joined with the activations that alone read them.

    Args:
        module: on the CPU, batch norms folded, float32 or bfloat16.
        example: what it takes; batches of other lengths are fine, other sizes are not.
    """
    module = copy.deepcopy(module)
    shapes = _input_shapes(module, example)
    activations = dict(followers(module, example, tuple(_ACTIVATIONS)))
    names = {child: name for name, child in module.named_modules()}
    for block in [child for child in names if isinstance(child, ResidualBlock)]:
        if isinstance(block.bn1, nn.Identity) and isinstance(block.bn2, nn.Identity):
            module.set_submodule(names[block], _FusedResidualBlock(block, shapes))
            for part in (block.conv1, block.conv2, block.shortcut):
                if isinstance(part, nn.Conv2d):
                    del shapes[part]
    for conv, shape in shapes.items():
        activation = activations.get(conv)
        kind = _NOTHING if activation is None else _ACTIVATIONS[type(activation)]
        module.set_submodule(names[conv], FusedConv2d(conv, shape, *kind))
        if activation is not None:
            module.set_submodule(names[activation], nn.Identity())
    return module


class FusedConv2d(nn.Module):
    """A convolution and an activation in one oneDNN primitive.

    Padding as TensorFlow does it, more on the right and below, becomes the symmetric one that
    oneDNN knows: the kernel gets zeros on its left and top. That saves a copy of the image.

    Args:
        conv: on the CPU.
        shape: (B, C, H, W) of its input.
        name, arguments: oneDNN's of the activation.
    """

    def __init__(
        self, conv: nn.Conv2d, shape: torch.Size, name: str = "none", arguments: Any = ()
    ) -> None:
        super().__init__()
        padding, kernel = _symmetric(conv, shape)
        self.options = (padding, list(conv.stride), list(conv.dilation), conv.groups)
        # torch.ops.mkldnn's: an opaque layout, so no buffer that could be moved or saved.
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            kernel.contiguous(), *self.options, list(shape)
        )
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.activation = (name, list(arguments))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        joined: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.options, *self.activation, ""
        )
        return joined

    def add(self, x: Tensor, summand: Tensor) -> Tensor:
        """relu(conv(x) + summand)."""
        joined: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, summand, self.weight, self.bias, *self.options, "add", 1.0, "relu", [], ""
        )
        return joined


class _FusedResidualBlock(nn.Module):
    """:class:`grad.model.fusion.ResidualBlock` in two primitives, or three with a shortcut."""

    def __init__(self, block: ResidualBlock, shapes: dict[nn.Conv2d, torch.Size]) -> None:
        super().__init__()
        self.conv1 = FusedConv2d(block.conv1, shapes[block.conv1], "relu")
        self.conv2 = FusedConv2d(block.conv2, shapes[block.conv2])
        self.shortcut: nn.Module = block.shortcut
        if isinstance(block.shortcut, nn.Conv2d):
            self.shortcut = FusedConv2d(block.shortcut, shapes[block.shortcut])

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        return self.conv2.add(self.conv1(x), self.shortcut(x))


def _input_shapes(module: nn.Module, example: Tensor) -> dict[nn.Conv2d, torch.Size]:
    """The shape of what each convolution reads, seen in a run."""
    shapes: dict[nn.Conv2d, torch.Size] = {}

    def note(conv: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(conv, nn.Conv2d)
        shapes[conv] = inputs[0].shape

    handles = [
        child.register_forward_pre_hook(note) for child in module.modules() if _can_join(child)
    ]
    with torch.no_grad():
        module(example)
    for handle in handles:
        handle.remove()
    return shapes


def _can_join(module: nn.Module) -> bool:
    """Whether it is a convolution, not a subclass that does more, with a padding that is known."""
    if type(module) is Conv2dSame:
        return module.dilation == (1, 1)
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _symmetric(conv: nn.Conv2d, shape: torch.Size) -> tuple[list[int], Tensor]:
    """Padding equal on both sides, and the kernel that computes the same with it."""
    kernel = conv.weight.detach()
    if not isinstance(conv, Conv2dSame):
        assert not isinstance(conv.padding, str)
        return list(conv.padding), kernel
    after, more = [], []
    for size, length, stride in zip(shape[2:], conv.kernel_size, conv.stride, strict=True):
        total = get_same_padding(size, length, stride, 1)
        after.append(total - total // 2)
        more.append(total - 2 * (total // 2))
    return after, F.pad(kernel, (more[1], 0, more[0], 0))
