"""Where a model's grids are asked: points for the report's scatter plots (paper, Figures 3 and 4).

A point of the local grid is a pixel of the feature map, one of the global grid an image. Pixels of
good images are normal, those inside a mask abnormal; others of defective images are neither.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from grad.data.images import load_mask
from grad.data.mosaic import Mosaic
from grad.data.samples import Sample
from grad.data.tiling import Tiling
from grad.features.features import Features
from grad.model.grad import GRAD

IMAGES = 1200  # looked at, each a point of the global grid
PIXELS = 4000  # points of the local grid
_PIXELS_OF_IMAGE = 64


@dataclass(frozen=True)
class Points:
    """Coordinates in one grid.

    Attributes:
        coords: (N, D) float32 in [-1, 1].
        classes: of each point's image, N.
        abnormal: (N,) bool.
        resolution: cells along each axis of the grid.
    """

    coords: NDArray[np.float32]
    classes: tuple[str, ...]
    abnormal: NDArray[np.bool_]
    resolution: int


@dataclass(frozen=True)
class Coordinates:
    """Points in both grids; None for a grid that the model doesn't have."""

    local: Points | None
    global_: Points | None


def sample_coordinates(
    model: GRAD,
    features: Sequence[Features],
    image_size: int,
    *,
    images: int = IMAGES,
    pixels: int = PIXELS,
) -> Coordinates:
    """Coordinates of a few images in a model's grids, drawn evenly over classes, good and bad.

    Args:
        model: on any device, in any mode; there is no jitter.
        features: such as those of training and of test images.
        image_size: side of what the backbone saw, in pixels.
        images: most images to look at; one that was cut into tiles gives a point for each of them.
        pixels: most points of the local grid.
    """
    chance = np.random.default_rng(0)
    device = next(model.parameters()).device
    local: list[tuple[Sample, Tensor]] = []
    global_: list[tuple[Sample, Tensor]] = []
    for split in features:
        groups = [(sample.class_name, sample.anomalous) for sample in split.samples]
        for index in _even(groups, images // len(features), chance):
            sample = split.samples[index]
            masks = iter(_masks(sample, split.tiling, image_size))
            for tiles in split.tiles_of(index):
                with torch.inference_mode():
                    of_pixels, of_images = model.coordinates(tiles.to(device).float())
                shown = list(islice(masks, len(tiles)))
                if of_pixels is not None:
                    for coords, mask in zip(of_pixels.cpu(), shown, strict=True):
                        found = _some_pixels(coords, sample.anomalous, mask, chance)
                        local += [(sample, point) for point in found]
                if of_images is not None:
                    global_ += [
                        (sample, point)
                        for point, mask in zip(of_images.cpu(), shown, strict=True)
                        if _is_like_its_image(sample, split.tiling, mask)
                    ]
    groups = [(sample.class_name, sample.anomalous) for sample, _ in local]
    local = [local[index] for index in _even(groups, pixels, chance)]
    s = model.settings
    return Coordinates(_points(local, s.local_resolution), _points(global_, s.global_resolution))


def _masks(
    sample: Sample, tiling: Tiling | None, image_size: int
) -> Iterator[Tensor] | Iterator[None]:
    """The part of an image's mask that each of its tiles shows; None where it has no mask."""
    if sample.mask is None:
        return repeat(None)
    mask = load_mask(sample.mask, rule=sample.mask_rule)
    if tiling is None:
        return iter([mask])
    mosaic = Mosaic.of_image(tiling, (mask.shape[0], mask.shape[1]), image_size)
    whole = F.adaptive_max_pool2d(mask[None].float(), mosaic.size)[0] > 0
    side = mosaic.side
    return (whole[top : top + side, left : left + side] for top, left in mosaic.corners())


def _is_like_its_image(sample: Sample, tiling: Tiling | None, mask: Tensor | None) -> bool:
    """Whether a tile may be called abnormal where its image is: one that shows a defect."""
    whole_or_good = tiling is None or not sample.anomalous
    return whole_or_good or (mask is not None and bool(mask.any()))


def _even(groups: Sequence[Hashable], most: int, chance: np.random.Generator) -> list[int]:
    """Random indices, ascending, at most ``most``: as even over the groups as their sizes allow."""
    members: dict[Hashable, list[int]] = {}
    for index in chance.permutation(len(groups)).tolist():
        members.setdefault(groups[index], []).append(index)
    chosen: list[int] = []
    smallest_first = sorted(members.values(), key=len)
    for done, group in enumerate(smallest_first):  # what a small one leaves is for the larger ones
        share = (most - len(chosen)) // (len(smallest_first) - done)
        chosen += group[:share]
    return sorted(chosen)


def _some_pixels(
    coords: Tensor, anomalous: bool, mask: Tensor | None, chance: np.random.Generator
) -> Tensor:
    """(H, W, D) -> (M, D): of a good image any pixels, of a defective one pixels of its mask."""
    if not anomalous:
        pixels = coords.flatten(0, 1)
    elif mask is not None:
        marked = F.adaptive_max_pool2d(mask[None].float(), coords.shape[:2])  # any of its cell
        pixels = coords[marked[0] > 0]
    else:
        return coords.new_zeros(0, coords.shape[2])
    return pixels[chance.permutation(len(pixels))[:_PIXELS_OF_IMAGE]]


def _points(found: Sequence[tuple[Sample, Tensor]], resolution: int) -> Points | None:
    if not found:
        return None
    return Points(
        torch.stack([coords for _, coords in found]).float().numpy(),
        tuple(sample.class_name for sample, _ in found),
        np.array([sample.anomalous for sample, _ in found]),
        resolution,
    )
