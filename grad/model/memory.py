"""The grids' discrete rivals: K learned entries in a grid's place (paper, Table 1).

The framework stays as it is, only the lookup is exchanged: a head as wide as the grid's asks with C
numbers instead of coordinates, and an entry answers with as many values as a cell of the grid has.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grad.model.presets import Lookup
from grad.model.rows import to_rows
from grad.ops import Jitter

COMMITMENT = 0.25  # weight of what pulls queries to their entry (VQ-VAE, arXiv 1711.00937)


class Memory(nn.Module):
    """``entries`` learned entries that answer queries of ``channels`` numbers with ``width``.

    The parameters ``keys`` (K, C) and ``values`` (K, W) are what queries are compared with and what
    is answered. The optimiser treats them as it treats the grids.
    """

    def __init__(self, entries: int, channels: int, width: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(entries, channels))
        self.values: nn.Parameter | None = nn.Parameter(torch.empty(entries, width))
        for table in (self.keys, self.values):
            # Xavier normal, with the fans that a grid of as many cells has.
            nn.init.normal_(table, std=math.sqrt(2.0 / (entries * (table.shape[1] + 1))))

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) -> answers (N, W), and what the lookup adds to the training loss."""
        raise NotImplementedError


class VectorQuantisation(Memory):
    """The nearest entry answers, trained as in VQ-VAE (arXiv 1711.00937, equation 3).

    The straight-through estimator hands the gradient of an answer to its query as if the query had
    been the answer; where an answer is a whole map, its pixels' gradients are summed. Entries of
    the queries' width are their own keys, so that the codebook loss alone moves them; wider ones
    learn their values by the model's loss and have keys beside them.
    """

    def __init__(self, entries: int, channels: int, width: int) -> None:
        super().__init__(entries, channels, width)
        self.repeats = width // channels
        if width == channels:
            self.values = None

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) -> answers (N, W), codebook and commitment loss."""
        nearest = self.nearest(queries)
        keys = F.embedding(nearest, self.keys)
        loss = F.mse_loss(keys, queries.detach()) + COMMITMENT * F.mse_loss(queries, keys.detach())
        answers = keys.detach() if self.values is None else F.embedding(nearest, self.values)
        straight = queries - queries.detach()  # zero, but for its gradient
        return answers + straight.repeat(1, self.repeats), loss

    def nearest(self, queries: Tensor) -> Tensor:
        """(N, C) -> (N,): for each query the index of the entry at the least distance."""
        queries, keys = queries.detach(), self.keys.detach()
        distances = keys.square().sum(dim=1) - 2 * queries @ keys.T  # less |q|^2, the same for all
        return distances.argmin(dim=1)


class Attention(Memory):
    """All entries answer, weighted by a softmax over the scaled products of query and keys."""

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) -> answers (N, W), and zero."""
        assert self.values is not None
        products = queries @ self.keys.T / math.sqrt(self.keys.shape[1])
        return products.softmax(dim=1) @ self.values, queries.new_zeros(())


class MemoryPart(nn.Module):
    """A head (C -> C tanh -> C) and the memory that it asks: for each pixel, or for each image.

    Both compute in the parameters' precision even under autocast.

    Args:
        kind: ``"vq"`` or ``"attention"``.
        entries: K.
        channels: C.
        pixels: how many one answer is for: None for one, which asks for itself; all H*W of an
            image, whose mean asks.
    """

    def __init__(
        self, kind: Lookup, entries: int, channels: int, pixels: int | None = None
    ) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, channels)
        )
        self.asks_for_images = pixels is not None
        memory = VectorQuantisation if kind == "vq" else Attention
        self.memory: Memory = memory(entries, channels, channels * (pixels or 1))

    def forward(
        self, features: Tensor, jitter: Jitter | None = None, jitter_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the normal values of all pixels (B*H*W, C), and the loss; no jitter."""
        with torch.autocast(features.device.type, enabled=False):
            answers, loss = self.memory(self.head(self._queries(features)))
        return answers.view(-1, features.shape[1]), loss

    def _queries(self, features: Tensor) -> Tensor:
        """Means of images (B, C), or pixels (B*H*W, C)."""
        dtype = self.memory.keys.dtype
        if self.asks_for_images:
            return features.mean(dim=(2, 3), dtype=torch.float32).to(dtype)
        return to_rows(features).to(dtype)
