"""Pillow's antialiased bilinear resize as matrix products, equal to it in every pixel.

The ``Resize`` operators of the runtimes differ from Pillow and from each other by several grey
levels, and TensorRT's has no antialiasing; a model that was trained on Pillow's pixels notices. So
the graph does what Pillow does with 8-bit images: weights rounded to 22 bits, exact integer sums,
rows of pixels first, then columns, each rounded to 8 bits.

All numbers are float32 that hold integers below 2^24, so the order of sums does not matter. Weights
are two halves of 11 bits, which keeps that true where matrix products take factors of 11 bits only
(TF32).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = 2.0**11  # weights are two halves of 11 bits
# The 22 bits of a weight as digits of a long division, few enough that no remainder needs more
# than 24 bits for images up to about 23 times as large as the result.
_DIGITS = (10, 6, 6)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize straight to a square, as :meth:`grad.data.picture.Picture.resize` does.

    Args:
        images: (B, h, w, 3) uint8, of any height and width.
        size: side of the result, in pixels.

    Returns:
        (B, 3, size, size) float32, integers from 0 to 255.
    """
    pixels = images.float().permute(0, 3, 1, 2)  # (B, 3, h, w)
    high, low = _weights(pixels.shape[3], size)
    pixels = _rounded(F.linear(pixels, high), F.linear(pixels, low))  # (B, 3, h, size)
    high, low = _weights(pixels.shape[2], size)
    return _rounded(high @ pixels, low @ pixels)


def _weights(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Upper and lower 11 bits of the weights of all inputs for each output, (outputs, inputs).

    The filter is a triangle around the centre of an output, one input wide on either side, or as
    many as go into an output. In units of 1 / (2 inputs outputs) of the image's side all its
    values are integers.
    """
    centres = (2 * torch.arange(outputs) + 1).float()[:, None] * inputs
    positions = (2 * torch.arange(inputs) + 1).float() * outputs
    reach = 2 * torch.sym_max(inputs, outputs)  # not Python's, which would fix the size in traces
    triangle = ((positions - centres).abs() - reach).neg().relu()
    total = triangle.sum(dim=1, keepdim=True)

    weights, remainder = torch.zeros_like(triangle), triangle  # triangle / total, digit by digit
    for bits in _DIGITS:
        remainder = remainder * 2.0**bits
        digit = (remainder / total).floor()
        remainder = remainder - digit * total
        weights = weights * 2.0**bits + digit
    weights = weights + (2 * remainder >= total).float()
    high = (weights / _HALF).floor()
    return high, weights - high * _HALF


def _rounded(high: Tensor, low: Tensor) -> Tensor:
    """``(high * 2^11 + low) / 2^22`` to the nearest integer, halves up."""
    return ((high + (low / _HALF).floor() + _HALF / 2) / _HALF).floor()
