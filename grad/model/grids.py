"""The two grids, each with the head that says where it is asked (paper, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from grad import ops
from grad.model.rows import to_rows
from grad.ops import Jitter


class Grid(nn.Module):
    """Learned values on a regular grid, looked up by interpolation (paper, equation 3).

    The parameter ``values`` is (R, ..., R, C): ``dims`` axes of ``resolution`` cells of C values.
    """

    def __init__(self, dims: int, resolution: int, channels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(*[resolution] * dims, channels))
        cells = resolution**dims
        # Xavier normal, with the fans that the grid has as a (1, C, R, ..., R) tensor.
        nn.init.normal_(self.values, std=math.sqrt(2.0 / (channels * cells + cells)))


class LocalPart(nn.Module):
    """Local head and grid: each pixel asks for its normal value (paper, section 3.2).

    The head is C -> C tanh -> D tanh; its last layer is evaluated together with the lookup, so
    ``hidden`` is the layer before, and ``coords`` holds the last layer's weight and bias.
    """

    def __init__(self, channels: int, dims: int, resolution: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(channels, channels), nn.Tanh())
        self.coords = nn.Linear(channels, dims)
        self.grid = Grid(dims, resolution, channels)

    def forward(
        self, features: Tensor, jitter: Jitter | None = None, jitter_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the normal values of all pixels (B*H*W, C), and no loss (0)."""
        values = ops.project(
            self.hidden(to_rows(features)),
            self.coords.weight,
            self.coords.bias,
            self.grid.values,
            jitter=jitter,
            jitter_state=jitter_state,
        )
        return values, values.new_zeros((), dtype=torch.float32)


class GlobalPart(nn.Module):
    """Global head and grid: each image asks for its whole normal map at once (paper, section 3.2).

    A cell of the grid holds H*W*C values, pixel after pixel: the rows of one feature map.
    """

    def __init__(self, channels: int, pixels: int, dims: int, resolution: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, dims), nn.Tanh()
        )
        self.grid = Grid(dims, resolution, pixels * channels)

    def coords(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), in the parameters' precision even under autocast."""
        mean = features.mean(dim=(2, 3), dtype=self.grid.values.dtype)
        with torch.autocast(features.device.type, enabled=False):
            coords: Tensor = self.head(mean)
        return coords

    def forward(
        self, features: Tensor, jitter: Jitter | None = None, jitter_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the normal values of all pixels (B*H*W, C), and no loss (0)."""
        values = ops.interpolate(self.coords(features), self.grid.values)
        return values.view(-1, features.shape[1]), values.new_zeros((), dtype=torch.float32)
