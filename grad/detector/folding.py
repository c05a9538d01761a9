"""Batch norms folded into the convolutions before them, for inference.

Which convolution feeds which batch norm is not guessed from names but seen in a run on an example,
so that any timm model can be folded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

_Module = TypeVar("_Module", bound=nn.Module)

# Subclasses may do something else with their weights, such as standardise them in each run.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold_batch_norms(module: _Module, example: Tensor) -> _Module:
    """A copy in which each batch norm that follows a convolution is part of it.

    In exact arithmetic the result computes the same in evaluation mode. A convolution whose output
    is read by anything else than its batch norm keeps it, and so does one that runs twice.

    Args:
        module: in evaluation mode; parameters and buffers in float32 or float64.
        example: what it takes, such as one image.
    """
    module = copy.deepcopy(module).requires_grad_(False)
    names = {child: name for name, child in module.named_modules()}
    for conv, norm in followers(module, example, _NORMS):
        assert isinstance(norm, nn.BatchNorm2d)
        if norm.running_mean is None or norm.running_var is None:  # the batch's own statistics
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        rest = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
        module.set_submodule(names[norm], rest)
    return module.requires_grad_(False)


def followers(
    module: nn.Module, example: Tensor, kinds: Sequence[type[nn.Module]]
) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Convolutions, each with the module that alone reads its output, in the order they run.

    Both run once, and are of the types given (``kinds`` for the reader), not of a subclass.
    """
    with _Watch(module.modules(), kinds) as watch, torch.no_grad():
        watch.read(module(example))
    return [
        (conv, readers[0])
        for conv, readers in watch.readers.items()
        if watch.runs[conv] == 1
        and len(readers) == 1
        and watch.runs[readers[0]] == 1
        and watch.reads[conv] == 1
    ]


class _Watch(TorchFunctionMode):
    """Sees in a run which modules and how many functions read the output of each convolution."""

    def __init__(self, modules: Iterable[nn.Module], kinds: Sequence[type[nn.Module]]) -> None:
        super().__init__()
        self.readers: dict[nn.Conv2d, list[nn.Module]] = {}
        self.reads: dict[nn.Module, int] = {}
        self.runs: dict[nn.Module, int] = {}
        self._made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor lives, so its id is its
        self._handles: list[RemovableHandle] = []
        for module in modules:
            if type(module) in _CONVOLUTIONS:
                assert isinstance(module, nn.Conv2d)
                self.readers[module], self.reads[module], self.runs[module] = [], 0, 0
                self._handles.append(module.register_forward_hook(self._made_by))
            elif type(module) in kinds:
                self.runs[module] = 0
                self._handles.append(module.register_forward_pre_hook(self._read_by))

    def read(self, values: Any) -> None:
        """Count the convolutions' outputs among the tensors in some nested values."""
        for value in tree_leaves(values):
            made = self._made.get(id(value))
            if made is not None:
                self.reads[made[0]] += 1

    def _made_by(self, conv: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        self.runs[conv] += 1
        self._made[id(output)] = conv, output

    def _read_by(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.runs[module] += 1
        made = self._made.get(id(inputs[0]))
        if made is not None:
            self.readers[made[0]].append(module)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        results = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        if results:  # not of an attribute such as ndim
            self.read((args, kwargs))
        for value in results:  # in place: from here on it is no convolution's output any more
            self._made.pop(id(value), None)
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
