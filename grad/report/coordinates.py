"""Where a model's grids are asked: points for the report's scatter plots (paper, Figures 3 and 4).

A point of the local grid is a pixel of the feature map, one of the global grid an image. Pixels of
good images are normal, those inside a mask abnormal; others of defective images are neither.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from grad.data import Sample, load_mask
from grad.features import Features
from grad.model import GRAD

IMAGES = 1200  # looked at, each a point of the global grid
PIXELS = 4000  # points of the local grid
_PIXELS_OF_IMAGE = 64
_BATCH = 16


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
    model: GRAD, features: Sequence[Features], *, images: int = IMAGES, pixels: int = PIXELS
) -> Coordinates:
    """Coordinates of a few images in a model's grids, drawn evenly over classes, good and bad.

    Args:
        model: on any device, in any mode; there is no jitter.
        features: such as those of training and of test images.
        images: most images to look at.
        pixels: most points of the local grid.
    """
    chance = np.random.default_rng(0)
    device = next(model.parameters()).device
    local: list[tuple[Sample, Tensor]] = []
    global_: list[tuple[Sample, Tensor]] = []
    for of_split in (split.tiles() for split in features):
        groups = [(sample.class_name, sample.anomalous) for sample in of_split.samples]
        chosen = _even(groups, images // len(features), chance)
        for start in range(0, len(chosen), _BATCH):
            indices = chosen[start : start + _BATCH]
            with torch.inference_mode():
                maps = of_split.batch(indices).to(device).float()
                of_pixels, of_images = model.coordinates(maps)
            samples = [of_split.samples[index] for index in indices]
            if of_pixels is not None:
                local += [
                    (sample, coords)
                    for sample, of_image in zip(samples, of_pixels.cpu(), strict=True)
                    for coords in _some_pixels(sample, of_image, chance)
                ]
            if of_images is not None:
                global_ += zip(samples, of_images.cpu(), strict=True)
    groups = [(sample.class_name, sample.anomalous) for sample, _ in local]
    local = [local[index] for index in _even(groups, pixels, chance)]
    s = model.settings
    return Coordinates(_points(local, s.local_resolution), _points(global_, s.global_resolution))


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


def _some_pixels(sample: Sample, coords: Tensor, chance: np.random.Generator) -> Tensor:
    """(H, W, D) -> (M, D): of a good image any pixels, of a defective one pixels of its mask."""
    if not sample.anomalous:
        pixels = coords.flatten(0, 1)
    elif sample.mask is not None:
        mask = load_mask(sample.mask)[None].float()
        pixels = coords[F.adaptive_max_pool2d(mask, coords.shape[:2])[0] > 0]  # any of its cell
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
