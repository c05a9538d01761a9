"""UniAD, from its paper "A Unified Model for Multi-class Anomaly Detection" (NeurIPS 2022).

A transformer rebuilds feature tokens. Three things keep it from copying them: attention that sees
no token's neighbourhood, a learned query in every layer of the decoder, and noise on the tokens in
training. Sizes are the paper's: 14 x 14 tokens for images of 224 pixels, 256 wide, 8 heads, four
layers of encoder and four of decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 256
HEADS = 8
HIDDEN = 1024  # of the feed-forward networks
LAYERS = 4
DROPOUT = 0.1
NEIGHBOURHOOD = 7  # tokens, side of the square that attention does not see
JITTER = 20.0  # noise of a token, relative to its norm divided by its number of channels


class MaskedAttention(nn.Module):
    """Multi-head attention in which a token sees none of its own neighbourhood.

    Args:
        seen: (N, N) bool, which token sees which.
    """

    seen: Tensor

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.queries, self.keys, self.values, self.output = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Three times (B, N, WIDTH) -> (B, N, WIDTH)."""
        projected = self.queries(queries), self.keys(keys), self.values(values)
        heads = [x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in projected]
        dropout = DROPOUT if self.training else 0.0
        found = F.scaled_dot_product_attention(*heads, attn_mask=self.seen, dropout_p=dropout)
        mixed: Tensor = self.output(found.transpose(1, 2).flatten(2))
        return mixed


class Residual(nn.Module):
    """Adds what a step of a layer found to what it was given, then normalises."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, given: Tensor, found: Tensor) -> Tensor:
        """Twice (B, N, WIDTH) -> (B, N, WIDTH)."""
        normal: Tensor = self.norm(given + self.dropout(found))
        return normal


def feed_forward() -> nn.Sequential:
    """The network that each layer applies to every token by itself."""
    return nn.Sequential(
        nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, WIDTH)
    )


class EncoderLayer(nn.Module):
    """Neighbour-masked self-attention, then feed-forward."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.attention = MaskedAttention(seen)
        self.network = feed_forward()
        self.after_attention, self.after_network = Residual(), Residual()

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens (B, N, WIDTH) and their embedded places (N, WIDTH) -> (B, N, WIDTH)."""
        placed = tokens + places
        tokens = self.after_attention(tokens, self.attention(placed, placed, tokens))
        return self.after_network(tokens, self.network(tokens))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Its own learned query asks the encoder's tokens, and then the layer before."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(len(seen), WIDTH))
        self.from_encoder, self.from_before = MaskedAttention(seen), MaskedAttention(seen)
        self.network = feed_forward()
        self.after_encoder, self.after_before, self.after_network = (Residual() for _ in range(3))

    def forward(self, before: Tensor, encoded: Tensor, places: Tensor) -> Tensor:
        """The layer before and the encoder's output (B, N, WIDTH) -> (B, N, WIDTH)."""
        query = self.query.expand_as(encoded)
        found = self.from_encoder(query + places, encoded + places, encoded)
        tokens = self.after_encoder(query, found)
        found = self.from_before(tokens + places, before + places, before)
        tokens = self.after_before(tokens, found)
        return self.after_network(tokens, self.network(tokens))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class UniADSettings:
    """C, H and W of the feature maps."""

    channels: int
    height: int
    width: int


class UniAD(nn.Module):
    """Feature maps and their normal version at half their resolution.

    Args:
        channels, height, width: C, H and W of the feature maps.
    """

    # What the training loop asks of a model, and this one has not.
    jitter = statistics = None

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.settings = UniADSettings(channels, height, width)
        self.size = (max(1, height // 2), max(1, width // 2))
        seen = ~neighbours(*self.size, NEIGHBOURHOOD)
        seen |= ~seen.any(dim=1, keepdim=True)  # a map inside one neighbourhood sees everything
        self.enter = nn.Linear(channels, WIDTH)
        self.rows = nn.Parameter(torch.empty(self.size[0], WIDTH // 2))
        self.columns = nn.Parameter(torch.empty(self.size[1], WIDTH // 2))
        self.encoder = nn.ModuleList(EncoderLayer(seen) for _ in range(LAYERS))
        self.decoder = nn.ModuleList(DecoderLayer(seen) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.leave = nn.Linear(WIDTH, channels)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.uniform_(self.rows)
        nn.init.uniform_(self.columns)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> their normal version (B, N, C)."""
        height, width = self.size
        rows = self.rows[:, None].expand(-1, width, -1)
        columns = self.columns[None].expand(height, -1, -1)
        places = torch.cat([columns, rows], dim=2).flatten(0, 1)
        encoded = self.enter(self._jittered(tokens) if self.training else tokens)
        for layer in self.encoder:
            encoded = layer(encoded, places)
        decoded = encoded
        for layer in self.decoder:
            decoded = layer(decoded, encoded, places)
        normal: Tensor = self.leave(self.norm(decoded))
        return normal

    def loss_and_score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> mean squared error, and its root over the channels (B, H/2, W/2)."""
        tokens = F.adaptive_avg_pool2d(features.float(), self.size).flatten(2).transpose(1, 2)
        difference = self(tokens).float() - tokens
        score = difference.norm(dim=2).unflatten(1, self.size)
        return difference.square().mean(), score

    @staticmethod
    def _jittered(tokens: Tensor) -> Tensor:
        scale = JITTER * tokens.norm(dim=2, keepdim=True) / tokens.shape[2]
        return tokens + scale * torch.randn_like(tokens)


def neighbours(height: int, width: int, side: int) -> Tensor:
    """(H*W, H*W) bool: whether one token lies in the square of ``side`` around another."""
    y = torch.arange(height).repeat_interleave(width)
    x = torch.arange(width).repeat(height)
    near_y = (y[:, None] - y[None]).abs() <= side // 2
    near_x = (x[:, None] - x[None]).abs() <= side // 2
    return near_y & near_x
