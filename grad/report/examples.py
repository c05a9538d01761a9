"""Pictures of results: heat maps over images, one sheet an example, and an overview over classes.

Every picture of a run is on one scale, so that a colour means the same score everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from grad.data.images import image_size, load_image, load_mask
from grad.data.samples import Sample
from grad.score.heat import overlay, to_picture
from grad.system.files import replacing
from grad.system.names import printable

PANEL = 288  # pixels, longest side of a panel of a sheet
CELL = 144  # pixels, longest side of a panel of the overview
COLUMNS = 8  # classes side by side in the overview
GAP = 8
PAPER, INK, FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"
RIGHT, WRONG = "#1b7f3b", "#b3261e"
OUTLINE = (0, 255, 170)

Verdict = Literal["best", "worst"]


@dataclass(frozen=True)
class Example:
    """A test image that is worth a look, with its result."""

    sample: Sample
    score: float
    anomaly_map: Tensor
    """(h, w) float32 on the CPU."""
    verdict: Verdict = "best"
    """Among the images of its class that are good or bad as it is, right most clearly or least."""
    rank: int = 1
    """1 for the first of its verdict."""

    @property
    def kind(self) -> str:
        """``"defect"`` or ``"good"``."""
        return "defect" if self.sample.anomalous else "good"

    @property
    def label(self) -> str:
        """The verdict in words."""
        high = self.sample.anomalous == (self.verdict == "best")
        what = "defect" if self.sample.anomalous else "good image"
        number = f", no. {self.rank}" if self.rank > 1 else ""
        return f"{'highest' if high else 'lowest'}-scored {what}{number}"


class ExamplePicker:
    """Keeps the best and the worst images of each class while results come in.

    Only the maps of images that are still candidates are kept.

    Args:
        count: images to keep of each class, kind (good, defect) and verdict.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._kept: dict[tuple[str, bool], list[Example]] = {}

    def add(self, samples: Sequence[Sample], image_scores: Tensor, anomaly_maps: Tensor) -> None:
        """Offers a batch.

        Args:
            samples: B samples.
            image_scores: (B,).
            anomaly_maps: (B, h, w).
        """
        for sample, score, anomaly_map in zip(
            samples, image_scores.tolist(), anomaly_maps, strict=True
        ):
            self._offer(sample, score, anomaly_map)

    def merge(self, other: ExamplePicker) -> None:
        """Offers what another picker kept, such as another process's."""
        for kept in other._kept.values():
            for example in kept:
                self._offer(example.sample, example.score, example.anomaly_map)

    def examples(self) -> list[Example]:
        """The images kept: by class, defects first, the best before the worst, ranked."""
        chosen = []
        for key in sorted(self._kept, key=lambda key: (key[0], not key[1])):
            ascending, anomalous = self._kept[key], key[1]
            right_first = ascending[::-1] if anomalous else ascending
            worst = min(self.count, len(right_first) // 2)
            best = min(self.count, len(right_first) - worst)
            for rank, example in enumerate(right_first[:best], 1):
                chosen.append(replace(example, verdict="best", rank=rank))
            for rank, example in enumerate(right_first[::-1][:worst], 1):
                chosen.append(replace(example, verdict="worst", rank=rank))
        return chosen

    def _offer(self, sample: Sample, score: float, anomaly_map: Tensor) -> None:
        kept = self._kept.setdefault((sample.class_name, sample.anomalous), [])
        kept.append(Example(sample, score, anomaly_map))
        kept.sort(key=lambda example: (example.score, example.sample.path.as_posix()))
        if len(kept) > 2 * self.count:
            dropped = kept.pop(self.count)
            if dropped.anomaly_map is anomaly_map:
                return
        index = next(i for i, example in enumerate(kept) if example.anomaly_map is anomaly_map)
        # A copy, as a view would keep its whole batch alive.
        kept[index] = replace(kept[index], anomaly_map=anomaly_map.detach().float().cpu().clone())


def heat_scale(examples: Iterable[Example]) -> tuple[float, float]:
    """One scale for a run's pictures: (low, high).

    Cold is what 95 % of the pixels of good images stay below. Hot is the upper quartile of the
    defects' peaks, or the highest pixel of a good image where that is higher: where defects do not
    stand out, they do not glow.
    """
    examples = list(examples)
    good = [example.anomaly_map.numpy() for example in examples if not example.sample.anomalous]
    defects = [example.anomaly_map.numpy() for example in examples if example.sample.anomalous]
    if not examples:
        return 0.0, 1.0
    cold = np.concatenate([anomaly_map.ravel() for anomaly_map in good or defects])
    peaks = [float(anomaly_map.max()) for anomaly_map in defects]
    hot = float(np.quantile(peaks, 0.75)) if peaks else 0.0
    return float(np.quantile(cold, 0.95)), max(hot, float(cold.max()))


def outline(image: Tensor, mask: Tensor) -> Image.Image:
    """The image with a line around every defect region.

    Args:
        image: (3, H, W) floats in [0, 1].
        mask: (H, W) bool.

    Returns:
        RGB, W x H.
    """
    inside = mask[None, None].float()
    bright = F.max_pool2d(inside, 5, stride=1, padding=2)[0, 0] > 0
    dark = F.max_pool2d(inside, 7, stride=1, padding=3)[0, 0] > 0
    pixels = image.permute(1, 2, 0).clone()
    pixels[dark & ~mask] = 0.0
    pixels[bright & ~mask] = torch.tensor(OUTLINE) / 255
    return to_picture(pixels)


def sheet(example: Example, low: float, high: float) -> Image.Image:
    """``image | ground truth | heat map`` with the scale beside and a caption below."""
    image, mask = _load(example.sample, PANEL)
    panels = [
        (to_picture(image.permute(1, 2, 0)), "image"),
        _ground_truth(example.sample, image, mask),
        (overlay(image, example.anomaly_map, low, high), "heat map"),
    ]
    height, width = image.shape[1:]
    head, foot, bar = 24, 52, 76
    page = Image.new("RGB", (4 * GAP + 3 * width + bar, head + height + foot), PAPER)
    draw = ImageDraw.Draw(page)
    for column, (panel, title) in enumerate(panels):
        x = GAP + column * (width + GAP)
        draw.text((x, 5), _fit(draw, title, 12, width), INK, _font(12))
        page.paste(panel, (x, head))
    _scale_bar(page, (4 * GAP + 3 * width, head, 14, height), low, high)

    right = page.width - GAP
    file = f"{example.sample.path.parent.name}/{example.sample.path.name}"
    score = f"score {example.score:.4g}"
    draw.text((right, head + height + 8), score, INK, _font(14, bold=True), anchor="ra")
    room = right - GAP - 160
    name = _fit(draw, example.sample.class_name, 14, room, bold=True)
    draw.text((GAP, head + height + 8), name, INK, _font(14, bold=True))
    colour = RIGHT if example.verdict == "best" else WRONG
    draw.text((right, head + height + 29), example.label, colour, _font(12), anchor="ra")
    draw.text((GAP, head + height + 29), _fit(draw, file, 12, room), FAINT, _font(12))
    return page


def overview(examples: Iterable[Example], low: float, high: float) -> Image.Image:
    """One column a class: its clearest defect and the good image that looks most like one."""
    shown = [one for one in examples if one.rank == 1]
    columns = []
    for name in sorted({one.sample.class_name for one in shown}):
        mine = [one for one in shown if one.sample.class_name == name]
        defect = next((one for one in mine if one.kind == "defect"), None)  # the best comes first
        good = next((one for one in mine[::-1] if one.kind == "good"), None)  # the worst comes last
        columns.append((name, defect, good))
    lines = max(1, math.ceil(len(columns) / COLUMNS))
    most = max(1, math.ceil(len(columns) / lines))
    blocks = [columns[start : start + most] for start in range(0, len(columns), most)]
    rows = ("defect", "ground truth", "heat map", "good", "heat map")
    margin, head, bar = 100, 26, 84
    block_height = head + len(rows) * (CELL + GAP) + GAP
    size = (margin + most * (CELL + GAP) + bar, GAP + lines * block_height)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for index, block in enumerate(blocks):
        top = GAP + index * block_height
        for row, title in enumerate(rows):
            y = top + head + row * (CELL + GAP) + CELL // 2
            draw.text((margin - 10, y), title, INK, _font(12), anchor="rm")
        for column, (name, defect, good) in enumerate(block):
            x = margin + column * (CELL + GAP)
            title = _fit(draw, name, 13, CELL, bold=True)
            draw.text((x + CELL // 2, top + 4), title, INK, _font(13, bold=True), anchor="ma")
            for row, panel in enumerate(_column(defect, good, low, high)):
                spot = (x + (CELL - panel.width) // 2, top + head + row * (CELL + GAP))
                page.paste(panel, (spot[0], spot[1] + (CELL - panel.height) // 2))
        bar_at = margin + most * (CELL + GAP) + 4
        _scale_bar(page, (bar_at, top + head, 14, block_height - head - 2 * GAP), low, high)
    return page


def save_examples(
    folder: Path, examples: Sequence[Example], scale: tuple[float, float] | None = None
) -> list[Path]:
    """Writes a sheet for each example and an overview, as PNG.

    Sheets are ``CLASS/{defect,good}-{best,worst}-RANK.png``; the overview is ``overview.png``.

    Args:
        folder: made where it does not exist.
        examples: as :meth:`ExamplePicker.examples` gives them.
        scale: (low, high) scores of all pictures; None for :func:`heat_scale` of the examples.

    Returns:
        The files written, the overview first.

    Raises:
        GradError: an image can't be read any more, or a file can't be written.
    """
    low, high = heat_scale(examples) if scale is None else scale
    files = [folder / "overview.png"]
    with replacing(files[0]) as path:
        overview(examples, low, high).save(path, format="PNG", optimize=True)
    for example in examples:
        name = f"{example.kind}-{example.verdict}-{example.rank}.png"
        files.append(folder / example.sample.class_name / name)
        with replacing(files[-1]) as path:
            sheet(example, low, high).save(path, format="PNG")
    return files


def _column(
    defect: Example | None, good: Example | None, low: float, high: float
) -> list[Image.Image]:
    panels = [Image.new("RGB", (CELL, CELL), PAPER)] * 5
    if defect is not None:
        image, mask = _load(defect.sample, CELL)
        panels[0] = to_picture(image.permute(1, 2, 0))
        panels[1] = _ground_truth(defect.sample, image, mask)[0]
        panels[2] = overlay(image, defect.anomaly_map, low, high)
    if good is not None:
        image, _ = _load(good.sample, CELL)
        panels[3] = to_picture(image.permute(1, 2, 0))
        panels[4] = overlay(image, good.anomaly_map, low, high)
    return panels


def _load(sample: Sample, longest: int) -> tuple[Tensor, Tensor | None]:
    """Image and mask in the image's own aspect ratio, the longest side as given."""
    height, width = image_size(sample.path)
    factor = longest / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    mask = None if sample.mask is None else load_mask(sample.mask, size, sample.mask_rule)
    return load_image(sample.path, size, sample.white_level), mask


def _ground_truth(sample: Sample, image: Tensor, mask: Tensor | None) -> tuple[Image.Image, str]:
    """The panel with the defect's outline, and its title."""
    if mask is not None:
        return outline(image, mask), f"ground truth: {sample.defect}"
    height, width = image.shape[1:]
    panel = Image.new("RGB", (width, height), "#eeeeee")
    text = "no mask" if sample.anomalous else "no defect"
    ImageDraw.Draw(panel).text((width / 2, height / 2), text, FAINT, _font(12), anchor="mm")
    return panel, f"ground truth: {sample.defect}"


def _scale_bar(page: Image.Image, box: tuple[int, int, int, int], low: float, high: float) -> None:
    """Draws the colours of a heat map from low (bottom) to high; box is (x, y, width, height)."""
    x, y, width, height = box
    ramp = torch.linspace(high, low, height)[:, None].expand(height, width)
    page.paste(overlay(torch.full((3, height, width), 0.5), ramp, low, high), (x, y))
    draw = ImageDraw.Draw(page)
    for score, at, anchor in ((high, y, "la"), ((high + low) / 2, y + height / 2, "lm")):
        draw.text((x + width + 5, at), f"{score:.3g}", FAINT, _font(11), anchor=anchor)
    draw.text((x + width + 5, y + height), f"{low:.3g}", FAINT, _font(11), anchor="ld")


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings and which knows most alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, width: int, bold: bool = False) -> str:
    """The text, its middle left out where it is wider than ``width`` pixels."""
    text = printable(text)
    font = _font(size, bold)
    if draw.textlength(text, font) <= width:
        return text
    for left in range(len(text) - 1, 0, -1):
        short = f"{text[: (left + 1) // 2]}…{text[len(text) - left // 2 :]}"
        if draw.textlength(short, font) <= width:
            return short
    return "…"
