"""How large a model is, and how much it computes."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from grad.model.grad import GRAD


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values, grids included."""
    return sum(p.numel() for p in model.parameters())


def describe(model: GRAD) -> str:
    """A model's size in words."""
    return (
        f"{model.settings.preset}: {count_parameters(model) / 1e6:.1f} M parameters, "
        f"{count_flops(model) / 1e9:.1f} GFLOP an image without the backbone"
    )


def count_flops(model: GRAD) -> int:
    """FLOPs of convolutions and linear layers for one image (two for each multiply-add)."""
    s, device = model.settings, next(model.parameters()).device
    training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, s.channels, s.height, s.width, device=device))
    model.train(training)
    return int(counter.get_total_flops())
