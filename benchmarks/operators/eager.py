"""The baseline: GRAD's operators in eager PyTorch, as one writes them without kernels of one's own.

It follows what the released GRAD code does: feature maps (B, C, H, W), a copy of the local grid for
every image, ``grid_sample`` with its defaults, one ``grid_sample`` of (1, B) points for all images
in the global grid, rounding and clamping for the refinement's threshold. Where torch has no such
function (lookups with four axes) it is the shortest fast way in plain PyTorch.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def local_lookup(coords: Tensor, grid: Tensor) -> Tensor:
    """(B, D, H, W) coordinates in a (1, C, R_D, ..., R_1) grid -> (B, C, H, W)."""
    batch, dims, height, width = coords.shape
    if dims == 4:
        points = coords.permute(0, 2, 3, 1).reshape(-1, dims)
        values = _four_axes(points, grid)
        return values.view(batch, height, width, -1).permute(0, 3, 1, 2)
    copies = grid.repeat(batch, *[1] * (dims + 1))
    if dims == 2:
        return F.grid_sample(copies, coords.permute(0, 2, 3, 1), align_corners=False)
    points = coords.permute(0, 2, 3, 1)[:, None]  # (B, 1, H, W, 3)
    return F.grid_sample(copies, points, align_corners=False)[:, :, 0]


def local_head(
    hidden: Tensor, weight: Tensor, bias: Tensor, grid: Tensor, jitter_std: float
) -> Tensor:
    """The local head from its hidden layer on: (B, Ch, H, W) -> (B, C, H, W).

    ``weight`` is (D, Ch, 1, 1). Noise is added to all pixels, unless ``jitter_std`` is 0; the coin
    that the released code tosses for it on the host is left to the caller.
    """
    coords = torch.tanh(F.conv2d(hidden, weight, bias))
    if jitter_std > 0:
        coords = coords + torch.randn_like(coords) * jitter_std
    return local_lookup(coords, grid)


def global_lookup(coords: Tensor, grid: Tensor, channels: int, height: int, width: int) -> Tensor:
    """(B, D) coordinates in a (1, C*H*W, R_D, ..., R_1) grid -> (B, C, H, W)."""
    batch, dims = coords.shape
    if dims == 4:
        values = _four_axes(coords, grid)
    else:
        points = coords.view(1, *[1] * (dims - 1), batch, dims)
        values = F.grid_sample(grid, points, align_corners=False).view(-1, batch).T
    return values.reshape(batch, channels, height, width)


def lookup(
    global_coords: Tensor,
    global_grid: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    local_grid: Tensor,
    jitter_std: float,
) -> Tensor:
    """Both lookups, concatenated for the fusion network: (B, 2C, H, W)."""
    local = local_head(hidden, weight, bias, local_grid, jitter_std)
    whole = global_lookup(global_coords, global_grid, *local.shape[1:])
    return torch.cat([whole, local], dim=1)


def refine(features: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (scalar) and score (B, 1, H, W) of the refined prediction, from (B, C, H, W) maps."""
    error = torch.mean((prediction - features) ** 2, dim=1, keepdim=True)
    close = 1 - torch.round(torch.clamp(error * 0.05, 0, 1))
    cosine = F.cosine_similarity(prediction, features, dim=1).unsqueeze(1)
    similarity = 0.3 * close + 0.7 * cosine
    refined = similarity * features + (1 - similarity) * prediction
    loss = F.mse_loss(refined, features)
    score = torch.sqrt(torch.sum((refined - features) ** 2, dim=1, keepdim=True))
    return loss, score


def _four_axes(points: Tensor, grid: Tensor) -> Tensor:
    """(N, D) points in a (1, C, R_D, ..., R_1) grid -> (N, C), as a weighted bag of 2^D cells."""
    sizes = grid.shape[:1:-1]  # R_1, ..., R_D
    sides = []  # of each axis: (cell, weight) at the lower and the upper neighbour
    stride = 1
    for axis, size in enumerate(sizes):
        position = ((points[:, axis] + 1) * size - 1) / 2
        lower = position.floor()
        fraction = position - lower
        side = []
        for index, weight in ((lower, 1 - fraction), (lower + 1, fraction)):
            inside = (index >= 0) & (index < size)
            cell = index.clamp(0, size - 1).long() * stride
            side.append((cell, torch.where(inside, weight, 0)))
        sides.append(side)
        stride *= size
    corners = list(itertools.product(*sides))
    cells = torch.stack([sum(cell for cell, _ in corner) for corner in corners], dim=1)
    weights = torch.stack([math.prod(weight for _, weight in corner) for corner in corners], dim=1)
    table = grid.flatten(2)[0].T.contiguous()  # (cells, C)
    return F.embedding_bag(cells, table, per_sample_weights=weights, mode="sum")
