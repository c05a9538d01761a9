"""The simplest memory of normal features: some of them, kept as they are.

A pixel's score is the distance to its nearest neighbour in the bank. Features are averaged over
3 x 3 pixels before they are kept or compared, as in PatchCore (arXiv 2106.08265), whose greedy
choice of entries a random one replaces.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grad.features.features import Features

_CHUNK = 4096  # rows compared at once


class MemoryBank(nn.Module):
    """Normal features (K, C) of any classes together, and the distance to them."""

    def __init__(self, entries: Tensor) -> None:
        super().__init__()
        self.entries = nn.Parameter(entries, requires_grad=False)

    @classmethod
    def from_features(cls, features: Features, entries: int, seed: int = 0) -> MemoryBank:
        """Up to ``entries`` pixels of each class, drawn evenly from all its images."""
        generator = torch.Generator().manual_seed(seed)
        names = [sample.class_name for sample in features.samples]
        chosen = []
        for name in sorted(set(names)):
            images = [i for i, own in enumerate(names) if own == name]
            # A few spare pixels an image, so that the last draw has enough to choose from.
            share = -(-entries // len(images))
            rows = [_some(neighbourhoods(features.batch([i])), share, generator) for i in images]
            chosen.append(_some(torch.cat(rows), entries, generator))
        return cls(torch.cat(chosen))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> distances (B, H, W)."""
        batch, _, height, width = features.shape
        lengths = self.entries.square().sum(dim=1)
        found = []
        for rows in neighbourhoods(features).split(_CHUNK):
            squares = torch.addmm(lengths, rows, self.entries.T, alpha=-2).amin(dim=1)
            found.append(squares + rows.square().sum(dim=1))
        return torch.cat(found).clamp_min(0).sqrt().view(batch, height, width)

    def loss_and_score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing to train: loss 0; score (B, H, W)."""
        return features.new_zeros(()), self(features)


def neighbourhoods(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C) float32: means over 3 x 3 pixels, of those inside the map."""
    means = F.avg_pool2d(features.float(), 3, stride=1, padding=1, count_include_pad=False)
    return means.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def _some(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)[:count]]
