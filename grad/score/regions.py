"""The places that are marked in an image, one by one: connected parts of its mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

_NEIGHBOURS = np.ones((3, 3), bool)  # pixels that touch at a corner are of one region


@dataclass(frozen=True)
class Region:
    """A connected part of what is marked; all in pixels of the image, from its upper left corner.

    Attributes:
        box: left, top, right, bottom; right and bottom are the first column and row outside.
        area: pixels.
        share: of the image's pixels.
        centre: x, y, mean of its pixels' centres, so that the image's first pixel is at 0.5, 0.5.
        peak: largest value of the anomaly map in it.
        peak_at: x, y of the pixel that has it.
        mean: mean value of the anomaly map in it.
    """

    box: tuple[int, int, int, int]
    area: int
    share: float
    centre: tuple[float, float]
    peak: float
    peak_at: tuple[int, int]
    mean: float


def resize_map(anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
    """An anomaly map (H, W) at the size (h, w) of the image, bilinearly."""
    return F.interpolate(anomaly_map[None, None], size=size, mode="bilinear")[0, 0]


def find_regions(anomaly_map: Tensor, level: float) -> list[Region]:
    """The regions of an image, highest peak first.

    Args:
        anomaly_map: (h, w) floats on the CPU, at the size of the image.
        level: values above are marked.
    """
    values = anomaly_map.numpy()
    labels, _ = ndimage.label(values > level, structure=_NEIGHBOURS)
    regions = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = np.nonzero(labels[place] == number)
        top, left = place[0].start, place[1].start
        inside = values[place][rows, columns]
        highest = int(inside.argmax())
        regions.append(
            Region(
                box=(left, top, place[1].stop, place[0].stop),
                area=len(inside),
                share=len(inside) / values.size,
                centre=(float(left + columns.mean() + 0.5), float(top + rows.mean() + 0.5)),
                peak=float(inside[highest]),
                peak_at=(int(left + columns[highest]), int(top + rows[highest])),
                mean=float(inside.mean(dtype=np.float64)),
            )
        )
    return sorted(regions, key=lambda region: -region.peak)
