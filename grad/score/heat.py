"""Heat maps: anomaly maps as colours over an image."""

from __future__ import annotations

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

COLORMAP = "turbo"
HOTTEST = 0.93  # where on the colour map; beyond, turbo darkens
OPACITY = 0.7  # of the hottest colour; the coldest is transparent


def overlay(image: Tensor, anomaly_map: Tensor, low: float, high: float) -> Image.Image:
    """The image under its heat map.

    Args:
        image: (3, H, W) floats in [0, 1].
        anomaly_map: (h, w); resized to the image where sizes differ.
        low: score, at and below which the image shows unchanged.
        high: score, at and above which the colour is the hottest.

    Returns:
        RGB, W x H.
    """
    heat = F.interpolate(
        anomaly_map[None, None].float().cpu(), size=image.shape[1:], mode="bilinear"
    )[0, 0]
    heat = ((heat - low) / max(high - low, 1e-12)).clamp(0, 1)
    colours = torch.from_numpy(matplotlib.colormaps[COLORMAP](HOTTEST * heat.numpy())).float()
    opacity = OPACITY * heat.sqrt()[..., None]
    return to_picture(image.cpu().permute(1, 2, 0) * (1 - opacity) + colours[..., :3] * opacity)


def to_picture(pixels: Tensor) -> Image.Image:
    """(H, W, 3) floats in [0, 1] as an RGB picture."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
