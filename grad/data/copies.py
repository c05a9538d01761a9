"""Near copies: one shot that was saved twice, in another format, size or brightness.

Pictures are compared by their fine structure: small and grey, without what is smooth. Parts that
lie alike resemble each other in it too, so a near copy is what is several times as near as good
images of its class are to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from grad.data.picture import Picture

_SIDE = 64  # pixels
_SMOOTH = 5  # pixels, side of the box whose mean is taken away
_STRONGEST = 3.0  # times the median strength; edges stronger than that count as much
_NEAR = 0.25  # of the median distance of an image to the nearest other
_FEWEST = 5  # images that tell how far apart images of a class are
_BLOCK = 1024  # images compared at once

Look = NDArray[np.int8]


def describe_look(picture: Picture) -> Look:
    """The fine structure of a picture: (4096,) int8."""
    grey = np.asarray(picture.resize((_SIDE, _SIDE)).rgb().convert("L"), np.float32)
    fine = grey - ndimage.uniform_filter(grey, _SMOOTH)
    limit = _STRONGEST * max(float(np.median(np.abs(fine))), 1e-3)
    return np.round(127 / limit * fine.clip(-limit, limit)).astype(np.int8).ravel()


def find_near_copies(
    looks: Sequence[Look], others: Sequence[Look] | None = None
) -> list[tuple[int, int]]:
    """Images that are nearly copies, by index.

    Args:
        looks: different images of one class, which tell how alike its images are.
        others: further images of it.

    Returns:
        (image, that which it is a copy of): among ``looks`` each pair once; with ``others`` which
        of those is a copy of which of ``looks``.
    """
    if len(looks) < _FEWEST:
        return []
    known = _normalised(looks)
    distances, nearest = _nearest(known, known, among=True)
    limit = _NEAR * float(np.median(distances))
    if others is None:
        found = [(max(i, j), min(i, j)) for i, j in enumerate(nearest) if distances[i] < limit]
        return sorted(set(found))
    if not others:
        return []
    distances, nearest = _nearest(_normalised(others), known)
    return [(i, int(j)) for i, j in enumerate(nearest) if distances[i] < limit]


def _normalised(looks: Sequence[Look]) -> NDArray[np.float32]:
    """(N, 4096), each of length 1; of a picture without structure 0."""
    values: NDArray[np.float32] = np.stack(looks).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True).clip(min=1e-6)
    return values


def _nearest(
    images: NDArray[np.float32], known: NDArray[np.float32], among: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Of each image the distance to the nearest known one, and which that is; not itself."""
    distances, places = [], []
    for first in range(0, len(images), _BLOCK):
        alike = images[first : first + _BLOCK] @ known.T
        if among:
            alike[np.arange(len(alike)), np.arange(first, first + len(alike))] = -1
        places.append(alike.argmax(axis=1))
        distances.append(np.sqrt(np.maximum(0, 1 - alike.max(axis=1))))
    return np.concatenate(distances), np.concatenate(places)
