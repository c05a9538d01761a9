"""The places that are marked in an image, one by one: connected parts of its mask.

A model may have a smallest region that counts. Peaks of an anomaly map that no region of that size
reaches are then cut down (:func:`cut_small_peaks`), so that the map's largest value, and with it
verdicts and thresholds, is that of a region that counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
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


def map_pixels(min_area: int, image: tuple[int, int], anomaly_map: tuple[int, int]) -> int:
    """An area in pixels of an image (H, W), in pixels of an anomaly map (h, w); 1 at least."""
    share = min_area / (image[0] * image[1])
    return max(1, math.ceil(share * anomaly_map[0] * anomaly_map[1]))


def cut_small_peaks(anomaly_map: Tensor, pixels: int) -> Tensor:
    """The map, cut at the highest level that a region of so many pixels reaches everywhere.

    Args:
        anomaly_map: (h, w) floats on the CPU.
        pixels: of the smallest region that counts; the whole map where that is smaller.
    """
    pixels = min(pixels, anomaly_map.numel())
    if pixels <= 1:
        return anomaly_map
    values = anomaly_map.numpy()
    levels = np.sort(values, axis=None)[::-1]
    low, high = pixels - 1, values.size - 1  # of levels: perhaps, and certainly reached by one
    step = pixels
    while low < high:  # the wanted level is most often near the top
        middle = min(low + step, (low + high) // 2)
        if _areas(_label(values >= levels[middle])).max() >= pixels:
            high = middle
        else:
            low, step = middle + 1, 2 * step
    return anomaly_map.clamp(max=float(levels[high]))


def label_regions(anomaly_map: Tensor, level: float, pixels: int = 1) -> NDArray[np.int32]:
    """The number of the region that each pixel is in; 0 outside of all.

    Args:
        anomaly_map: (h, w) floats on the CPU.
        level: values above are marked.
        pixels: smaller regions are none, but the largest of all is one in any case.
    """
    labels = _label(anomaly_map.numpy() > level)
    areas = _areas(labels)
    if pixels > 1 and len(areas) > 1:
        labels[areas[labels] < min(pixels, areas.max())] = 0
    return labels


def find_regions(anomaly_map: Tensor, level: float, min_area: int = 1) -> list[Region]:
    """The regions of an image, highest peak first.

    Args:
        anomaly_map: (h, w) floats on the CPU, at the size of the image.
        level: values above are marked.
        min_area: pixels of the smallest region, as of :func:`label_regions`.
    """
    values, labels = anomaly_map.numpy(), label_regions(anomaly_map, level, min_area)
    regions = []
    places = ndimage.find_objects(labels)
    for number in np.unique(labels[labels > 0]).tolist():
        place = places[number - 1]
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


def _label(marked: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The number of the region that each pixel is in, from 1 on; 0 outside of all."""
    return ndimage.label(marked, _NEIGHBOURS)[0].astype(np.int32, copy=False)


def _areas(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """The pixels of each region, by its number; none for what is outside of all."""
    areas: NDArray[np.int64] = np.bincount(labels.ravel())
    areas[0] = 0
    return areas
