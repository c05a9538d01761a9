"""Heat maps: what is odd in an image, as colours over it, and a line around what is marked.

``heat.js`` beside this file draws the same in browsers.
"""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

from grad.score.regions import label_regions
from grad.score.thresholds import Threshold, calibrated

SCRIPT = Path(__file__).with_name("heat.js")
COLORMAP = "plasma"  # its steps are told apart with any of the usual colour blindnesses
OPACITY = 0.7  # from the threshold on
MARKED = "#ffffff"  # the line around what is marked
VERDICTS = {True: "#b3261e", False: "#1b7f3b", None: "#555555"}  # behind the verdict's words


@functools.cache
def colours() -> NDArray[np.uint8]:
    """(256, 4): red, green, blue and opacity of the calibrated values 0 to 1.

    Clear up to 0.1, where the highest value of a typical good image lies; violet below the
    threshold, red at it, yellow far above.
    """
    values = np.linspace(0.0, 1.0, 256)
    table = matplotlib.colormaps[COLORMAP](0.2 + 0.75 * values)
    table += (1 - table) * 0.25 * (1 - values[:, None])  # violet is seen on dark parts as well
    clear = values[26]  # the step of 0.1
    table[:, 3] = OPACITY * ((values - clear) / (0.5 - clear)).clip(0.0, 1.0) ** 0.4
    return np.round(255 * table).astype(np.uint8)


def overlay(
    image: Image.Image,
    anomaly_map: Tensor,
    limit: Threshold | None,
    score: float,
    pixels: int = 1,
) -> Image.Image:
    """The image under its heat map, what is marked within a line; below it verdict and score.

    Args:
        image: RGB, W x H.
        anomaly_map: (h, w); resized to the image where sizes differ.
        limit: the threshold of its class; None: colours go from the map's lowest value to its
            highest, and there is no verdict.
        score: of the image.
        pixels: of the picture, in the smallest region that is marked.

    Returns:
        RGB, W wide and higher than H by the text.
    """
    raw = anomaly_map.float().cpu()
    values = F.interpolate(raw[None, None], size=image.size[::-1], mode="bilinear")[0, 0]
    maximum = float(raw.max())
    if limit is None:
        low = float(raw.min())
        shown = (values - low) / max(maximum - low, 1e-12)
    else:
        shown = calibrated(values, limit.pixel_typical, limit.pixel)
    steps = (255 * shown).round().to(torch.uint8).numpy()
    heat = Image.fromarray(colours()[steps])
    picture = image.copy()
    picture.paste(heat, mask=heat)
    if limit is None:
        return _captioned(picture, [f"score {score:.4g}"], None)
    marked = label_regions(values, limit.pixel_level(score, maximum), pixels) > 0
    outline(picture, marked, MARKED)
    anomalous = limit.is_anomalous(score, maximum)
    verdict = f"{'anomalous' if anomalous else 'good'} {limit.value(score, maximum):.2f}"
    return _captioned(picture, [verdict, f"score {score:.4g}"], anomalous)


def outline(picture: Image.Image, inside: NDArray[np.bool_], colour: str) -> None:
    """Draw a line around every region of (H, W), and a dark one around that; regions stay free."""
    wide = max(1, round(max(picture.size) / 300))
    for reach, ink in ((wide + max(1, wide // 2), "#000000"), (wide, colour)):
        around = ndimage.maximum_filter(inside, 2 * reach + 1) & ~inside
        picture.paste(ink, mask=Image.fromarray(around))


def _captioned(picture: Image.Image, words: list[str], verdict: bool | None) -> Image.Image:
    """The picture above a strip with words, in lines where it is narrow."""
    width, height = picture.size
    size = min(max(12, min(width, height) // 24), 72)
    text = "  ·  ".join(words)
    if font(size).getlength(text) + size > width:
        text = "\n".join(words)
        longest = max(font(size).getlength(word) for word in words) + size
        size = max(6, min(size, int(size * width / longest)))
    strip = round(1.35 * size * (text.count("\n") + 1) + 0.3 * size)
    page = Image.new("RGB", (width, height + strip), VERDICTS[verdict])
    page.paste(picture, (0, 0))
    at = (size / 2, height + strip / 2)
    ImageDraw.Draw(page).text(at, text, "#ffffff", font(size), anchor="lm", spacing=0.3 * size)
    return page


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings and which knows most alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
