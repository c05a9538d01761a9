"""``Result``: what was found in an image."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from grad.data.picture import Picture
from grad.data.roi import grey_outside
from grad.data.samples import Roi
from grad.data.sources import Item
from grad.score.heat import overlay
from grad.score.regions import Region, find_regions, label_regions, map_pixels, resize_map
from grad.score.thresholds import Threshold, no_thresholds
from grad.system.errors import GradError


@dataclass(frozen=True)
class Result:
    """What was found in an image.

    Attributes:
        name: the image's path, or its place in a list, batch or video.
        class_name: the class that it was judged as; None: a class that was not stated.
        score: raw; higher is more anomalous.
        anomaly_map: raw; (S, S) float32 on the CPU, S the model's image size. Of an image that was
            cut into tiles (h, w), the image's own size.
        size: (h, w) of the image, upright, in pixels.
        limit: the threshold for images and map values; None where the model has none.
        p_value: how seldom a good image is as odd: (1 + good images at least as odd) / (n + 1), of
            the n good images that the threshold was made from; None where the model has none.
        p_resolution: the smallest that ``p_value`` can be, 1 / (n + 1).
        clipped: whether it has 16-bit values above the model's white level, which count as white.
        roi: what of it was looked at (:mod:`grad.data.roi`); None: all.
        min_area: pixels of its smallest region that counts.
    """

    name: str
    class_name: str | None
    score: float
    anomaly_map: Tensor = field(repr=False)
    size: tuple[int, int]
    limit: Threshold | None = field(repr=False)
    item: Item = field(repr=False)
    decoded: Picture | None = field(default=None, repr=False)
    p_value: float | None = None
    p_resolution: float | None = None
    clipped: bool = False
    roi: Roi | None = None
    min_area: int = 1

    @cached_property
    def map_maximum(self) -> float:
        """The largest value of the anomaly map."""
        return float(self.anomaly_map.max())

    @property
    def threshold(self) -> float:
        """Scores above are anomalous; so are images with a marked pixel.

        Raises:
            GradError: the model has no thresholds; so do ``value``, ``is_anomalous``, ``mask``.
        """
        return self._limit().image

    @property
    def value(self) -> float:
        """The calibrated value: 0.1 for a typical good image, 0.5 at the threshold, below 1."""
        return self._limit().value(self.score, self.map_maximum)

    @property
    def is_anomalous(self) -> bool:
        """The verdict: whether score or map are above their threshold."""
        return self._limit().is_anomalous(self.score, self.map_maximum)

    @property
    def mask(self) -> Tensor:
        """Which pixels are marked, some in anomalous images and none in others.

        Bool, of the anomaly map's shape.
        """
        size = (self.anomaly_map.shape[0], self.anomaly_map.shape[1])
        pixels = map_pixels(self.min_area, self.size, size)
        return torch.from_numpy(label_regions(self.anomaly_map, self._level(), pixels) > 0)

    def mask_of_image(self) -> Tensor:
        """The mask in the image's own size: (h, w) bool, from the map resized bilinearly."""
        values = resize_map(self.anomaly_map, self.size)
        return torch.from_numpy(label_regions(values, self._level(), self.min_area) > 0)

    @cached_property
    def regions(self) -> list[Region]:
        """The connected parts of :meth:`mask_of_image`, highest peak first; none of a good image.

        Raises:
            GradError: the model has no thresholds.
        """
        if not self.is_anomalous:
            return []
        values = resize_map(self.anomaly_map, self.size)
        return find_regions(values, self._level(), self.min_area)

    @property
    def picture(self) -> Picture:
        """The image, decoded again where only its path is known.

        Raises:
            GradError: it can't be read any more.
        """
        return self.item.picture() if self.decoded is None else self.decoded

    @property
    def image(self) -> Image.Image:
        """The image in its own size, upright, as 8-bit RGB."""
        return self.picture.rgb()

    def overlay(self, longest: int | None = None) -> Image.Image:
        """The image under its heat map, what is marked within a line; verdict and score below.

        Colours are on the calibrated scale, so they mean the same in all images; a model without
        thresholds has a scale for each image, and no verdict. What is not looked at is grey.

        Args:
            longest: the longest side of the image in pixels; larger ones are made smaller. None:
                none are.

        Returns:
            RGB.
        """
        picture = self.picture
        factor = 1.0 if longest is None else min(1.0, longest / max(self.size))
        size = (max(1, round(factor * self.size[0])), max(1, round(factor * self.size[1])))
        image = grey_outside(picture.resize(size).rgb(), self.roi)
        pixels = map_pixels(self.min_area, self.size, size)
        return overlay(image, self.anomaly_map, self.limit, self.score, pixels)

    def to_dict(self) -> dict[str, Any]:
        """Everything but image and map, for JSON; what needs a threshold is None without one."""
        known = self.limit is not None
        return {
            "name": self.name,
            "class_name": self.class_name,
            "score": self.score,
            "value": self.value if known else None,
            "threshold": self.threshold if known else None,
            "is_anomalous": self.is_anomalous if known else None,
            "p_value": self.p_value,
            "p_resolution": self.p_resolution,
            "map_maximum": self.map_maximum,
            "regions": [asdict(region) for region in self.regions] if known else None,
            "width": self.size[1],
            "height": self.size[0],
        }

    def _level(self) -> float:
        """Above which pixels are marked."""
        return self._limit().pixel_level(self.score, self.map_maximum)

    def _limit(self) -> Threshold:
        if self.limit is None:
            raise GradError(no_thresholds(self.name))
        return self.limit


def check_score(name: str, score: float) -> None:
    """Refuse a score that is not finite, which would be neither above a threshold nor below it.

    Raises:
        GradError: it is NaN or infinite.
    """
    if not math.isfinite(score):
        raise GradError(
            f"{name} has the score {score}, so it is neither good nor anomalous: the numbers in "
            "the network grew too large; try --precision float32, or train again."
        )
