"""Variants of good images that are good too: in another light, shifted, turned, mirrored.

They are fixed, so that the features of each are computed once and kept. Every variant has the size
of its image: what lies outside of a region of interest is painted over afterwards, as in any image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grad.data.picture import Picture
from grad.data.samples import Augmentation, Sample

_Values = NDArray[np.float32]
_Change = Callable[[Picture], Picture]

_SHIFT = 0.02  # of the sides: four pixels of 224


def with_variants(samples: Sequence[Sample], names: Sequence[Augmentation]) -> tuple[Sample, ...]:
    """Images as they come, then all of them as each variant."""
    variants = [variant for name in names for variant in _VARIANTS[name]]
    return (
        *samples,
        *(replace(sample, variant=variant) for variant in variants for sample in samples),
    )


def make_variant(picture: Picture, variant: str | None) -> Picture:
    """An image as one of its variants, of the same size; itself where that is None."""
    return picture if variant is None else _CHANGES[variant](picture)


def _brightness(factor: float, values: _Values, mean: float) -> _Values:
    return factor * values


def _contrast(factor: float, values: _Values, mean: float) -> _Values:
    return mean + factor * (values - mean)


def _gamma(exponent: float, values: _Values, mean: float) -> _Values:
    return values**exponent


def _light(change: Callable[[_Values, float], _Values], picture: Picture) -> Picture:
    """Each value changed alike; what leaves the range from 0 to 1 is cut off."""
    if picture.bands[0].mode == "RGB":
        image = picture.bands[0]
        mean = float(np.asarray(image).mean()) / 255
        table = change(np.linspace(0, 1, 256, dtype=np.float32), mean).clip(0, 1)
        return replace(picture, bands=(image.point((255 * table).round().tolist() * 3),))
    bands = [np.asarray(band) for band in picture.bands]
    mean = float(np.mean([band.mean() for band in bands]))
    return _with_bands(picture, [change(band, mean).clip(0, 1) for band in bands])


def _shift(right: int, down: int, picture: Picture) -> Picture:
    """By a share of the sides; what comes in is the mirrored border."""
    height, width = picture.size
    dy, dx = (round(_SHIFT * side) for side in picture.size)
    rows, columns = _mirrored(height, dy * down, height), _mirrored(width, dx * right, width)
    return _picked(picture, rows, columns)


def _transpose(way: Image.Transpose, picture: Picture) -> Picture:
    """Turned or mirrored within the frame; what a quarter turn leaves empty, mirrored borders."""
    moved = replace(picture, bands=tuple(band.transpose(way) for band in picture.bands))
    if moved.size == picture.size:
        return moved
    rows, columns = (
        _mirrored(there, (here - there) // 2, here)
        for here, there in zip(picture.size, moved.size, strict=True)
    )
    return _picked(moved, rows, columns)


def _mirrored(length: int, start: int, wanted: int) -> NDArray[np.int64]:
    """Which pixels of an axis that goes on mirrored lie from ``start`` before it on."""
    places = (np.arange(wanted) - start) % (2 * length)
    found: NDArray[np.int64] = np.minimum(places, 2 * length - 1 - places)
    return found


def _picked(picture: Picture, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Picture:
    bands = [np.asarray(band)[rows][:, columns] for band in picture.bands]
    return _with_bands(picture, bands)


def _with_bands(picture: Picture, bands: Sequence[NDArray[np.generic]]) -> Picture:
    return replace(picture, bands=tuple(Image.fromarray(band) for band in bands))


# A name says all about its variant, as it is a part of the key that features are kept under.
_VARIANTS: dict[Augmentation, dict[str, _Change]] = {
    "light": {
        f"{name} {strength}": partial(_light, partial(change, strength))
        for name, change, strengths in (
            ("brightness", _brightness, (0.75, 1.25)),
            ("contrast", _contrast, (0.75,)),
            ("gamma", _gamma, (0.75, 1.3)),
        )
        for strength in strengths
    },
    "shift": {
        f"shift {_SHIFT * right} {_SHIFT * down}": partial(_shift, right, down)
        for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1))
    },
    "rotate90": {
        "turn 90": partial(_transpose, Image.Transpose.ROTATE_90),
        "turn 180": partial(_transpose, Image.Transpose.ROTATE_180),
        "turn 270": partial(_transpose, Image.Transpose.ROTATE_270),
    },
    "flip": {
        "flip left right": partial(_transpose, Image.Transpose.FLIP_LEFT_RIGHT),
        "flip top bottom": partial(_transpose, Image.Transpose.FLIP_TOP_BOTTOM),
    },
}
_CHANGES = {name: change for changes in _VARIANTS.values() for name, change in changes.items()}
