"""The network that makes one normal map of what the lookups answer (paper, section 3.3)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """3x3 convolution, BN, ReLU, 3x3 convolution, BN, added to the shortcut, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def fusion_network(inputs: int, channels: int, blocks: int, width: int) -> nn.Sequential:
    """Residual blocks, then a 1x1 convolution: (B, inputs, H, W) -> (B, channels, H, W)."""
    widths = [inputs] + [width] * blocks
    trunk = [ResidualBlock(i, o) for i, o in itertools.pairwise(widths)]
    return nn.Sequential(*trunk, nn.Conv2d(width, channels, 1, bias=False))
