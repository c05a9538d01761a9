"""The specification: every operator in plain PyTorch, one formula a line (paper, section 3).

All tensors are matrices of rows and channels: a row is a pixel (or, for the global grid, an image).
The operators of :mod:`grad.ops` have the same signatures, document them, and are tested against
these functions.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor

from grad.ops.jitter import Jitter, draw_state

Padding = Literal["zeros", "border"]
RefineMode = Literal["combined", "mse", "cosine", "none"]

COSINE_EPS = 1e-8  # as in torch.nn.functional.cosine_similarity


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Coordinates, weights and sums are float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def interpolate(
    coords: Tensor, grid: Tensor, *, align_corners: bool = False, padding: Padding = "zeros"
) -> Tensor:
    """Multilinear lookup of coordinates in a grid (paper, equation 3).

    Arguments and result as in :func:`grad.ops.interpolate`.
    """
    dtype = _accumulation_dtype(grid.dtype)
    dims, channels = grid.dim() - 1, grid.shape[-1]
    given = coords.to(dtype)
    coords = given.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    nan_row = coords.isnan().any(dim=1)

    sizes = grid.shape[:-1][::-1]  # R_1, ..., R_D
    lower, fraction = [], []
    for axis, size in enumerate(sizes):
        x = coords[:, axis]
        # Position in cells: centres of the outer cells are 0 and size - 1.
        x = (x + 1) / 2 * (size - 1) if align_corners else ((x + 1) * size - 1) / 2
        if padding == "border":
            x = torch.where((x > 0) & (x < size - 1), x, x.detach().clamp(0, size - 1))
        x = torch.where((x >= -1) & (x < size), x, -2)  # neither cell beside it is in the grid
        floor = x.detach().floor()
        lower.append(floor.long())
        fraction.append(x - floor)

    flat = grid.flatten(0, -2).to(dtype)
    out = flat.new_zeros(coords.shape[0], channels)
    for corner in itertools.product((0, 1), repeat=dims):
        weight = torch.ones_like(coords[:, 0])
        index = torch.zeros_like(nan_row, dtype=torch.long)
        valid = ~nan_row
        for axis in reversed(range(dims)):
            cell = lower[axis] + corner[axis]
            valid = valid & (cell >= 0) & (cell < sizes[axis])
            index = index * sizes[axis] + cell.clamp(0, sizes[axis] - 1)
            weight = weight * (fraction[axis] if corner[axis] else 1 - fraction[axis])
        # Of cells outside not even infinities and NaN count.
        out = out + weight[:, None] * torch.where(valid[:, None], flat[index], 0)

    # NaN rows are NaN, and so is their gradient; other rows get an exact zero.
    nan = torch.where(nan_row[:, None], given, 0).sum(dim=1, keepdim=True).square()
    return (out + nan).to(grid.dtype)


def project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Tensor,
    *,
    jitter: Jitter | None = None,
    jitter_state: Tensor | None = None,
    align_corners: bool = False,
    padding: Padding = "zeros",
) -> Tensor:
    """The local head from its hidden layer to grid values (paper, equations 2 and 3).

    ``interpolate(tanh(hidden @ weight.T + bias) + noise, grid)``

    Arguments and result as in :func:`grad.ops.project`.
    """
    dtype = _accumulation_dtype(hidden.dtype)
    coords = torch.tanh(hidden.to(dtype) @ weight.to(dtype).T + bias.to(dtype))
    if jitter is not None:
        state = draw_state(hidden.device) if jitter_state is None else jitter_state
        coords = coords + jitter_noise(state, coords.shape[0], coords.shape[1], jitter).to(dtype)
    out = interpolate(coords, grid.to(dtype), align_corners=align_corners, padding=padding)
    return out.to(hidden.dtype)


def lookup(
    global_coords: Tensor,
    global_grid: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    local_grid: Tensor,
    *,
    jitter: Jitter | None = None,
    jitter_state: Tensor | None = None,
    align_corners: bool = False,
    padding: Padding = "zeros",
) -> Tensor:
    """Both lookups side by side, as the fusion network reads them: [global, local].

    Arguments and result as in :func:`grad.ops.lookup`.
    """
    whole = interpolate(global_coords, global_grid, align_corners=align_corners, padding=padding)
    local = project(
        hidden,
        weight,
        bias,
        local_grid,
        jitter=jitter,
        jitter_state=jitter_state,
        align_corners=align_corners,
        padding=padding,
    )
    return torch.cat([whole.to(local.dtype).reshape(local.shape), local], dim=1)


def refine(
    features: Tensor,
    prediction: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    tau: float = 10.0,
    mode: RefineMode = "combined",
) -> tuple[Tensor, Tensor]:
    """Training loss and anomaly score of the refined prediction (paper, equations 5 to 8).

    The refined map is F~ = s F + (1 - s) F^, with the similarity s of each pixel; so
    F~ - F = (1 - s)(F^ - F), and the loss and the score follow from sums over channels.

    Arguments and results as in :func:`grad.ops.refine`.
    """
    dtype = _accumulation_dtype(prediction.dtype)
    f, p = features.to(dtype), prediction.to(dtype)
    m = (p - f).square().mean(dim=1)
    s = _similarity(f, p, m, alpha, beta, tau, mode)
    loss = ((1 - s).square() * m).mean()
    score = (1 - s).abs() * torch.linalg.vector_norm(p - f, dim=1)
    return loss, score


def refined_map(
    features: Tensor,
    prediction: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    tau: float = 10.0,
    mode: RefineMode = "combined",
) -> Tensor:
    """The refined prediction F~ = s F + (1 - s) F^ itself (paper, equation 6).

    Arguments and result as in :func:`grad.ops.refined_map`.
    """
    dtype = _accumulation_dtype(prediction.dtype)
    f, p = features.to(dtype), prediction.to(dtype)
    s = _similarity(f, p, (p - f).square().mean(dim=1), alpha, beta, tau, mode)[:, None]
    return (s * f + (1 - s) * p).to(prediction.dtype)


def _similarity(
    f: Tensor, p: Tensor, m: Tensor, alpha: float, beta: float, tau: float, mode: RefineMode
) -> Tensor:
    """s of each pixel, (N,) (paper, equation 5); the step [m <= tau] has no gradient."""
    close = (m <= tau).to(m.dtype)
    if mode == "mse":
        return close
    if mode == "none":
        return torch.zeros_like(m)
    cosine = _cosine(f, p)
    return cosine if mode == "cosine" else alpha * close + beta * cosine


def _cosine(f: Tensor, p: Tensor) -> Tensor:
    """Cosine similarity with torch's eps; where a norm is at most eps its gradient is 0."""
    dot = (f * p).sum(dim=1)
    f_norm, p_norm = torch.linalg.vector_norm(f, dim=1), torch.linalg.vector_norm(p, dim=1)
    defined = ~((f_norm <= COSINE_EPS) | (p_norm <= COSINE_EPS))  # true for NaN, which must stay
    f_norm, p_norm = f_norm.clamp_min(COSINE_EPS), p_norm.clamp_min(COSINE_EPS)
    return torch.where(defined, dot / (f_norm * p_norm), (dot / (f_norm * p_norm)).detach())


def jitter_noise(state: Tensor, rows: int, dims: int, jitter: Jitter) -> Tensor:
    """The noise that jitter adds to the coordinates: a pure function of state and row.

    Philox4x32-10 keyed by the seed, counting (offset, row). Of the first four words of a row, word
    0 tosses its coin, words 2 and 3 make the normals of axes 0 and 1; the first two words at
    offset + 1 make those of axes 2 and 3. ``per="batch"`` takes the coin of row 2^64 - 1.

    Arguments and result as in :func:`grad.ops.jitter_noise`.
    """
    row = torch.arange(rows, device=state.device) + state[2:].sum()
    first = philox(state[0], state[1], row)
    coin_row = torch.full_like(row, -1) if jitter.per == "batch" else row
    chosen = _uniform(philox(state[0], state[1], coin_row)[0]) < jitter.probability
    normals = _box_muller(first[2], first[3])
    if dims > 2:
        second = philox(state[0], state[1] + 1, row)
        normals = normals + _box_muller(second[0], second[1])
    noise = torch.stack(normals[:dims], dim=1) * torch.tensor(jitter.std, dtype=torch.float32)
    return torch.where(chosen[:, None], noise, 0.0)


def philox(seed: Tensor, offset: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al., SC 2011): four random 32-bit words for each row.

    Args:
        seed, offset: int64 scalars, taken as unsigned 64-bit numbers.
        row: (N,) int64, likewise.

    Returns:
        Four (N,) int64 tensors of values in [0, 2^32).
    """
    mask = 0xFFFFFFFF
    key_low, key_high = seed & mask, (seed >> 32) & mask
    c0, c1 = (offset & mask).expand_as(row), ((offset >> 32) & mask).expand_as(row)
    c2, c3 = row & mask, (row >> 32) & mask
    for _ in range(10):
        # int64 products wrap modulo 2^64, which keeps all 64 bits of the unsigned product.
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((product1 >> 32) & mask) ^ c1 ^ key_low,
            product1 & mask,
            ((product0 >> 32) & mask) ^ c3 ^ key_high,
            product0 & mask,
        )
        key_low, key_high = (key_low + 0x9E3779B9) & mask, (key_high + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def _uniform(word: Tensor) -> Tensor:
    """A 32-bit word as float32 in [0, 1): its upper 24 bits."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def _box_muller(first: Tensor, second: Tensor) -> list[Tensor]:
    """Two independent standard normals from two words (Box and Muller, 1958)."""
    radius = torch.sqrt(-2.0 * torch.log(_uniform(first) + 2.0**-24))
    angle = 2.0 * math.pi * _uniform(second)
    return [radius * torch.cos(angle), radius * torch.sin(angle)]
