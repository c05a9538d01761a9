"""Feature maps as the operators take them: (B, C, H, W) in channels_last memory is (B*H*W, C)."""

from __future__ import annotations

from torch import Tensor


def to_rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C), a view of channels_last memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def to_maps(rows: Tensor, like: Tensor) -> Tensor:
    """(B*H*W, C) -> (B, C, H, W) in channels_last memory, with B, H and W of ``like``."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)
