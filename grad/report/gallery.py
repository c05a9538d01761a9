"""The pictures of a report: of each test image a thumbnail, its heat map and its mask, all small.

A heat map is taken from each anomaly map as results come in; images and masks are decoded in the
end, and only those that are shown.
"""

from __future__ import annotations

import base64
import io
from bisect import insort
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from grad.data.images import UnreadableImage, image_size, load_image, load_mask
from grad.data.roi import grey_outside
from grad.data.samples import Sample

LIMIT = 1000  # images shown
HEAT_SIDE = 56  # pixels; maps hold nothing finer, as they were smoothed
MASK_SIDE = 128  # pixels, longest side
SMALL, LARGE = 160, 288  # pixels, longest side of a thumbnail
FEW = 200  # images up to which thumbnails are large
_QUALITY = 60  # of WebP
_RIGHT_SHARE = 4  # one image in so many is kept for being right, the others for being near wrong


@dataclass(frozen=True)
class Heat:
    """An anomaly map in 8 bits: value = low + (high - low) byte / 255.

    Attributes:
        picture: lossless grey WebP, at most ``HEAT_SIDE`` on each side.
    """

    picture: bytes
    low: float
    high: float


@dataclass(frozen=True)
class Shown:
    """A test image that the report shows."""

    sample: Sample
    score: float
    maximum: float
    heat: Heat


@dataclass(frozen=True)
class Thumbnail:
    """What the page draws of an image; base64 of WebP (thumbnail, heat map) and PNG (mask).

    Attributes:
        thumbnail: "" where the file can't be read any more.
        mask: "" where there is none.
        least: share of the image that the smallest region that counts has.
    """

    shown: Shown
    thumbnail: str
    heat: str
    mask: str
    least: float


class Gallery:
    """Keeps the results that the report shows while they come in, as an observer of ``evaluate``.

    Args:
        limit: most images to keep. Beyond it, each class's good and defective images lose those
            that are neither near a mistake nor the clearest, the largest group first.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._groups: dict[tuple[str, bool], list[Shown]] = {}

    def add(self, samples: Sequence[Sample], image_scores: Tensor, anomaly_maps: Tensor) -> None:
        """Offers a batch.

        Args:
            samples: B samples.
            image_scores: (B,).
            anomaly_maps: (B, h, w).
        """
        heats = _small_maps(anomaly_maps)
        maxima = anomaly_maps.amax(dim=(1, 2)).tolist()
        for sample, score, maximum, heat in zip(
            samples, image_scores.tolist(), maxima, heats, strict=True
        ):
            self._keep(Shown(sample, score, maximum, _encode_heat(heat)))

    def merge(self, other: Gallery) -> None:
        """Offers what another gallery kept, such as another process's."""
        for group in other._groups.values():
            for shown in group:
                self._keep(shown)

    def shown(self) -> list[Shown]:
        """The images kept: by class, defects first, those nearest to a mistake first."""
        order = sorted(self._groups, key=lambda group: (group[0], not group[1]))
        return [shown for key in order for shown in self._groups[key]]

    def pictures(
        self, workers: int = 1, advance: Callable[[int], None] = lambda images: None
    ) -> list[Thumbnail]:
        """Decodes and encodes everything that is shown, in the order of :meth:`shown`.

        Args:
            workers: threads.
            advance: is told of each picture.
        """
        shown = self.shown()
        side = LARGE if len(shown) <= FEW else SMALL
        pictures = []
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for picture in pool.map(lambda one: _thumbnail(one, side), shown):
                pictures.append(picture)
                advance(1)
        return pictures

    def _keep(self, shown: Shown) -> None:
        sample = shown.sample
        # From the most to the least mistaken: a good image of a high score, a defect of a low one.
        sign = 1 if sample.anomalous else -1
        insort(
            self._groups.setdefault((sample.class_name, sample.anomalous), []),
            shown,
            key=lambda one: (sign * one.score, one.sample.path.as_posix()),
        )
        if sum(map(len, self._groups.values())) > self.limit:
            largest = max(self._groups.values(), key=len)
            del largest[len(largest) - 1 - len(largest) // _RIGHT_SHARE]


def _small_maps(anomaly_maps: Tensor) -> Tensor:
    """(B, h, w) -> (B, h', w') float32 on the CPU, means over cells, sides at most HEAT_SIDE."""
    height, width = anomaly_maps.shape[1:]
    size = (min(HEAT_SIDE, height), min(HEAT_SIDE, width))
    small = F.adaptive_avg_pool2d(anomaly_maps.detach().float()[:, None], size)
    return small[:, 0].cpu()


def _encode_heat(heat: Tensor) -> Heat:
    low, high = float(heat.min()), float(heat.max())
    scaled = (heat - low) * (255.0 / max(high - low, 1e-30))
    return Heat(_webp(Image.fromarray(scaled.round().to(torch.uint8).numpy()), None), low, high)


def _thumbnail(shown: Shown, side: int) -> Thumbnail:
    sample = shown.sample
    thumbnail = mask = b""
    least = 0.0
    try:
        height, width = image_size(sample.path)
        least = sample.min_area / (height * width)
        size = _fitted((height, width), side)
        image = load_image(sample.path, size, sample.white_level)
        pixels = (image * 255.0).round().to(torch.uint8)
        shown_image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        thumbnail = _webp(grey_outside(shown_image, sample.roi), _QUALITY)
        if sample.mask is not None:
            mask = _encode_mask(load_mask(sample.mask, rule=sample.mask_rule))
    except UnreadableImage:
        pass  # removed since it was scored; the page says so
    return Thumbnail(shown, _text(thumbnail), _text(shown.heat.picture), _text(mask), least)


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(H, W) in the same proportion, the longer one at most ``side``."""
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _encode_mask(mask: Tensor) -> bytes:
    """One bit a pixel, set where any pixel of its cell is: no defect gets lost."""
    small = F.adaptive_max_pool2d(
        mask.float()[None], _fitted((mask.shape[0], mask.shape[1]), MASK_SIDE)
    )[0]
    file = io.BytesIO()
    Image.fromarray(small.bool().numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()


def _webp(image: Image.Image, quality: int | None) -> bytes:
    """Lossless without a quality."""
    file = io.BytesIO()
    if quality is None:
        image.convert("RGB").save(file, "WEBP", lossless=True, quality=50, method=4)
    else:
        image.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
