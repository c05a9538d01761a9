"""Every image of a data set decoded once: its size, its kind, whether it can be read at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from grad.data.copies import Look, describe_look
from grad.data.images import UnreadableImage, load_mask, load_picture, mask_files
from grad.data.samples import FULL_WHITE, Dataset

_Found = TypeVar("_Found")

DEEP = "16-bit grey"

_MOST_VALUES = 32  # of a mask that numbers its kinds of defects; JPEG and smoothing make more
_KINDS = {"1": "black and white", "L": "grey", "LA": "grey with alpha", "F": "floating point"}


@dataclass(frozen=True)
class ImageFacts:
    """What one image file holds.

    Attributes:
        size: (H, W) in pixels, upright.
        kind: its colours in words, such as ``"RGB"``, ``"grey"``, ``"16-bit grey"``.
        digest: of its pixels as they are used; equal pictures have equal ones, whatever the format.
        brightest: its largest value; of 16 bits as it is, else from 0 to 1.
        look: its fine structure, in which near copies are alike (:mod:`grad.data.copies`).
    """

    size: tuple[int, int]
    kind: str
    digest: str
    brightest: float
    look: Look = field(repr=False, compare=False)


@dataclass(frozen=True)
class Survey:
    """All images of a data set.

    Attributes:
        images: what each readable image holds.
        unreadable: why the others can't be read.
        empty_masks: masks without a single pixel.
        soft_masks: masks with many values between black and white.
        unreadable_masks: why masks can't be read.
    """

    images: dict[Path, ImageFacts]
    unreadable: dict[Path, UnreadableImage]
    empty_masks: frozenset[Path]
    unreadable_masks: dict[Path, UnreadableImage]
    soft_masks: frozenset[Path] = frozenset()


def survey_images(
    dataset: Dataset, workers: int = 1, advance: Callable[[int], None] = lambda images: None
) -> Survey:
    """Decode every image and mask of a data set.

    Args:
        dataset: what was found in a folder.
        workers: threads that decode.
        advance: called with the number of files that were done since.
    """
    images: dict[Path, ImageFacts] = {}
    unreadable: dict[Path, UnreadableImage] = {}
    empty: set[Path] = set()
    soft: set[Path] = set()
    unreadable_masks: dict[Path, UnreadableImage] = {}
    paths = [sample.path for sample in dataset.samples]
    masks = [sample.mask for sample in dataset.test if sample.mask is not None]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for path, facts in _each(pool, image_facts, paths):
            if isinstance(facts, UnreadableImage):
                unreadable[path] = facts
            else:
                images[path] = facts
            advance(1)
        for path, values in _each(pool, _count_values, masks):
            if isinstance(values, UnreadableImage):
                unreadable_masks[path] = values
            elif values == 0:
                empty.add(path)
            elif values > _MOST_VALUES:
                soft.add(path)
            advance(1)
    return Survey(images, unreadable, frozenset(empty), unreadable_masks, frozenset(soft))


def image_facts(path: Path) -> ImageFacts:
    """Decode an image and describe it.

    Raises:
        UnreadableImage: as for :func:`grad.data.images.load_image`.
    """
    picture = load_picture(path)
    with Image.open(path) as image:  # its header, as the picture is in colour whatever it was
        mode = image.mode
    digest = hashlib.sha256(repr((picture.size, picture.bands[0].mode)).encode())
    for band in picture.bands:
        digest.update(band.tobytes())
    kind = DEEP if mode[0] == "I" else _KINDS.get(mode, mode)
    brightest = max(float(np.asarray(band).max()) for band in picture.bands)
    if mode[0] == "I":
        brightest *= FULL_WHITE
    elif mode != "F":
        brightest /= 255
    look = describe_look(picture)
    return ImageFacts(picture.size, kind, digest.hexdigest(), brightest, look)


def check_masks(dataset: Dataset) -> None:
    """Decode every mask once, as a broken one should not come up after hours.

    Raises:
        GradError: a mask can't be read.
    """
    for sample in dataset.test:
        if sample.mask is not None:
            load_mask(sample.mask)


def _count_values(mask: Path) -> int:
    """How many different values above zero a mask has; 0 of one without a pixel."""
    if not load_mask(mask).any():
        return 0
    pictures = [np.asarray(load_picture(file).rgb()) for file in mask_files(mask)]
    return max(len(np.unique(values[..., band])) for values in pictures for band in range(3)) - 1


def _each(
    pool: ThreadPoolExecutor, look: Callable[[Path], _Found], paths: Sequence[Path]
) -> Iterator[tuple[Path, _Found | UnreadableImage]]:
    """Files and what ``look`` finds in them, or why they can't be read; in order."""

    def attempt(path: Path) -> _Found | UnreadableImage:
        try:
            return look(path)
        except UnreadableImage as error:
            return error

    return zip(paths, pool.map(attempt, paths), strict=True)
