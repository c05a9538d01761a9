"""Pictures of results: heat maps over images, a sheet an example, and an overview over classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from grad.data.images import image_size, load_image, load_mask
from grad.data.roi import grey_outside
from grad.data.samples import Sample
from grad.score.heat import VERDICTS, colours, font, outline, overlay
from grad.score.regions import map_pixels
from grad.score.thresholds import Threshold
from grad.system.files import replacing
from grad.system.names import printable

PANEL = 288  # pixels, longest side of a panel of a sheet
CELL = 144  # pixels, longest side of a panel of the overview
STRIP = 40  # pixels at most, the words below a heat map of that size
COLUMNS = 8  # classes side by side in the overview
GAP = 8
_ODDEST = 6 * COLUMNS  # images of the sheet of the oddest
PAPER, INK, FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"
OUTLINE = "#00c8ff"  # around the true defect

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
    limit: Threshold | None = None
    """Of its class; None: no verdict."""

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

    @property
    def mistake(self) -> str:
        """``"missed"`` or ``"false alarm"``; ``""`` where the verdict is right or there is none."""
        bad, limit = self.sample.anomalous, self.limit
        if limit is None or limit.is_anomalous(self.score, float(self.anomaly_map.max())) == bad:
            return ""
        return "missed" if bad else "false alarm"


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


def sheet(example: Example) -> Image.Image:
    """``image | ground truth | heat map`` with the scale beside and a caption below."""
    image, mask = _load(example.sample, PANEL)
    hot = _overlay(example, image)
    panels = [
        (image, "image"),
        _ground_truth(example.sample, image, mask),
        (hot, "heat map"),
    ]
    width, height = hot.size
    head, foot, bar = 24, 52, 96
    page = Image.new("RGB", (4 * GAP + 3 * width + bar, head + height + foot), PAPER)
    draw = ImageDraw.Draw(page)
    for column, (panel, title) in enumerate(panels):
        x = GAP + column * (width + GAP)
        draw.text((x, 5), _fit(draw, title, 12, width), INK, font(12))
        page.paste(panel, (x, head))
    _scale_bar(page, (4 * GAP + 3 * width, head, 14, height))

    right = page.width - GAP
    file = f"{example.sample.path.parent.name}/{example.sample.path.name}"
    room = right - GAP - 160
    name = _fit(draw, example.sample.class_name, 14, room, bold=True)
    draw.text((GAP, head + height + 8), name, INK, font(14, bold=True))
    colour = VERDICTS[True] if example.mistake else INK
    label = f"{example.label}{example.mistake and ': '}{example.mistake}"
    draw.text((right, head + height + 29), label, colour, font(12), anchor="ra")
    draw.text((GAP, head + height + 29), _fit(draw, file, 12, room), FAINT, font(12))
    return page


def overview(examples: Iterable[Example]) -> Image.Image:
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
    margin, head, bar = 100, 26, 104
    heights = [CELL + (STRIP if title == "heat map" else 0) for title in rows]
    tops = [head + sum(heights[:row]) + row * GAP for row in range(len(rows) + 1)]
    block_height = tops[-1] + GAP
    size = (margin + most * (CELL + GAP) + bar, GAP + lines * block_height)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for index, block in enumerate(blocks):
        top = GAP + index * block_height
        for row, title in enumerate(rows):
            y = top + tops[row] + CELL // 2
            draw.text((margin - 10, y), title, INK, font(12), anchor="rm")
        for column, (name, defect, good) in enumerate(block):
            x = margin + column * (CELL + GAP)
            title = _fit(draw, name, 13, CELL, bold=True)
            draw.text((x + CELL // 2, top + 4), title, INK, font(13, bold=True), anchor="ma")
            for row, panel in enumerate(_column(defect, good)):
                spot = (x + (CELL - panel.width) // 2, top + tops[row])
                page.paste(panel, (spot[0], spot[1] + (heights[row] - panel.height) // 2))
        bar_at = margin + most * (CELL + GAP) + 4
        _scale_bar(page, (bar_at, top + head, 14, block_height - head - 2 * GAP))
    return page


def contact_sheet(samples: Sequence[Sample]) -> Image.Image:
    """Images side by side, in order, with class and file name below each."""
    columns = max(1, min(COLUMNS, len(samples)))
    lines = math.ceil(len(samples) / columns)
    words = 36
    size = (GAP + columns * (CELL + GAP), GAP + lines * (CELL + words + GAP))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for place, sample in enumerate(samples):
        line, column = divmod(place, columns)
        left, top = GAP + column * (CELL + GAP), GAP + line * (CELL + words + GAP)
        image, _ = _load(sample, CELL)
        page.paste(image, (left + (CELL - image.width) // 2, top + (CELL - image.height) // 2))
        for row, (text, ink) in enumerate(((sample.class_name, INK), (sample.path.name, FAINT))):
            at = (left, top + CELL + 4 + 15 * row)
            draw.text(at, _fit(draw, text, 12, CELL), ink, font(12))
    return page


def save_oddest(folder: Path, samples: Sequence[Sample]) -> None:
    """Write ``oddest.png``, the training images that look least like the others; some of them.

    Raises:
        GradError: an image can't be read any more, or the file can't be written.
    """
    with replacing(folder / "oddest.png") as path:
        contact_sheet(samples[:_ODDEST]).save(path, format="PNG", optimize=True)


def save_examples(folder: Path, examples: Sequence[Example]) -> list[Path]:
    """Writes a sheet for each example and an overview, as PNG.

    Sheets are ``CLASS/{defect,good}-{best,worst}-RANK.png``; the overview is ``overview.png``.

    Args:
        folder: made where it does not exist.
        examples: as :meth:`ExamplePicker.examples` gives them.

    Returns:
        The files written, the overview first.

    Raises:
        GradError: an image can't be read any more, or a file can't be written.
    """
    files = [folder / "overview.png"]
    with replacing(files[0]) as path:
        overview(examples).save(path, format="PNG", optimize=True)
    for example in examples:
        name = f"{example.kind}-{example.verdict}-{example.rank}.png"
        files.append(folder / example.sample.class_name / name)
        with replacing(files[-1]) as path:
            sheet(example).save(path, format="PNG")
    return files


def _column(defect: Example | None, good: Example | None) -> list[Image.Image]:
    panels = [Image.new("RGB", (CELL, CELL), PAPER)] * 5
    if defect is not None:
        image, mask = _load(defect.sample, CELL)
        panels[0] = image
        panels[1] = _ground_truth(defect.sample, image, mask)[0]
        panels[2] = _overlay(defect, image)
    if good is not None:
        panels[3], _ = _load(good.sample, CELL)
        panels[4] = _overlay(good, panels[3])
    return panels


def _overlay(example: Example, image: Image.Image) -> Image.Image:
    size = image_size(example.sample.path)
    pixels = map_pixels(example.sample.min_area, size, image.size)
    return overlay(image, example.anomaly_map, example.limit, example.score, pixels)


def _load(sample: Sample, longest: int) -> tuple[Image.Image, Tensor | None]:
    """Image and mask in the image's own aspect ratio, the longest side as given."""
    height, width = image_size(sample.path)
    factor = longest / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    mask = None if sample.mask is None else load_mask(sample.mask, size, sample.mask_rule)
    pixels = (load_image(sample.path, size, sample.white_level) * 255).round().to(torch.uint8)
    return grey_outside(Image.fromarray(pixels.permute(1, 2, 0).numpy()), sample.roi), mask


def _ground_truth(
    sample: Sample, image: Image.Image, mask: Tensor | None
) -> tuple[Image.Image, str]:
    """The panel with the defect's outline, and its title."""
    if mask is not None:
        panel = image.copy()
        outline(panel, mask.numpy(), OUTLINE)
        return panel, f"ground truth: {sample.defect}"
    panel = Image.new("RGB", image.size, "#eeeeee")
    text = "no mask" if sample.anomalous else "no defect"
    middle = (image.width / 2, image.height / 2)
    ImageDraw.Draw(panel).text(middle, text, FAINT, font(12), anchor="mm")
    return panel, f"ground truth: {sample.defect}"


def _scale_bar(page: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Draws the colours of calibrated values from 0 (bottom) to 1; box is (x, y, width, height)."""
    x, y, width, height = box
    ramp = Image.fromarray(colours()[::-1, None]).resize((width, height))
    page.paste("#808080", (x, y, x + width, y + height))
    page.paste(ramp, (x, y), ramp)
    draw = ImageDraw.Draw(page)
    ends = ((y, "far above", "la"), (y + height / 2, "threshold", "lm"), (y + height, "good", "ld"))
    for at, text, anchor in ends:
        draw.text((x + width + 5, at), text, FAINT, font(11), anchor=anchor)


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, width: int, bold: bool = False) -> str:
    """The text, its middle left out where it is wider than ``width`` pixels."""
    text = printable(text)
    letters = font(size, bold)
    if draw.textlength(text, letters) <= width:
        return text
    for left in range(len(text) - 1, 0, -1):
        short = f"{text[: (left + 1) // 2]}…{text[len(text) - left // 2 :]}"
        if draw.textlength(short, letters) <= width:
            return short
    return "…"
