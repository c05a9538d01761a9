"""Batch normalisation over the images of all processes, on any device.

On CUDA torch has one (``nn.SyncBatchNorm``); the one here serves CPUs and is what the other is
tested against.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from grad.system import distributed

_OVER = (0, 2, 3)  # a channel's values


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics in training are those of all processes' images together.

    A process may have no image at all. All is computed in the dtype of the weight, float32 where
    the input has 16 bits too.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape and dtype."""
        if not self.training or distributed.size() == 1:
            return super().forward(input)
        output, mean, variance, count = _Normalize.apply(input, self.weight, self.bias, self.eps)
        self._follow(mean, variance * (count / (count - 1)))
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics; the variance is the unbiased one."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias; also returns mean, variance and count."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(weight.dtype)
        mean, variance, count = _joint_statistics(wide)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        factor = weight * scale
        output = torch.addcmul(_per_channel(bias - mean * factor), wide, _per_channel(factor))
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad = grad_output.to(weight.dtype)
        normal = (x.to(weight.dtype) - _per_channel(mean)) * _per_channel(scale)
        grad_bias = grad.sum(_OVER)
        grad_weight = (grad * normal).sum(_OVER)
        # Of weight and bias each process keeps its own share, which is averaged with all others.
        sums = distributed.sum_(torch.stack([grad_bias, grad_weight])) / count
        grad_x = (grad - _per_channel(sums[0]) - normal * _per_channel(sums[1])) * _per_channel(
            weight * scale
        )
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _joint_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance (C,) each and count (1,) over all processes' images.

    From each process's own mean and squared deviations, which unlike sums of squares lose no digits
    (Chan, Golub and LeVeque, 1983).
    """
    count = x.numel() // x.shape[1]
    variance, mean = torch.var_mean(x, _OVER, correction=0)
    mine = torch.cat([mean * count, variance * count, x.new_tensor([count])])
    if count == 0:
        mine = torch.zeros_like(mine)
    parts = [torch.empty_like(mine) for _ in range(distributed.size())]
    dist.all_gather(parts, mine)
    sums, deviations, counts = torch.stack(parts).double().split([x.shape[1], x.shape[1], 1], dim=1)
    total = counts.sum()
    mean = sums.sum(0) / total
    between = counts * (sums / counts.clamp_min(1) - mean) ** 2
    variance = (deviations + between).sum(0) / total
    return mean.to(x.dtype), variance.to(x.dtype), total.to(x.dtype)


def _per_channel(values: Tensor) -> Tensor:
    """(C,) as a factor of (B, C, H, W)."""
    return values[:, None, None]


def synchronized(model: nn.Module) -> nn.Module:
    """Replace every ``nn.BatchNorm2d`` inside a model by one over all processes, in place.

    Parameters, buffers and their names stay.
    """
    on_cuda = next(model.parameters()).is_cuda
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                if on_cuda:
                    other = nn.SyncBatchNorm.convert_sync_batchnorm(child)
                else:
                    other = _as_synchronized(child)
                setattr(module, name, other)
    return model


def _as_synchronized(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
    other = SyncBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    other.weight, other.bias = norm.weight, norm.bias
    other.running_mean, other.running_var = norm.running_mean, norm.running_var
    other.num_batches_tracked = norm.num_batches_tracked
    return other.train(norm.training)
