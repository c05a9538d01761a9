"""Decoding: image files to tensors in [0, 1], mask files to boolean tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from grad.data.picture import Picture, as_floats
from grad.data.samples import FULL_WHITE, MaskRule
from grad.system.errors import GradError

_ORIENTATION_TAG = 0x0112
_SCAN, _MOST_SCANS = b"\xff\xda", 100  # the marker before a scan of a JPEG; encoders make about 10
# Formats that Pillow registers but can't decode on its own.
_UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class UnreadableImage(GradError):
    """An image or mask file that can't be decoded.

    Training leaves such files out and names them; under ``--strict`` it stops. Survives the way
    back from a worker process.

    Attributes:
        path: the file.
        reason: a clause that says why.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"The image {self.path} can't be read: {self.reason}; replace or remove it."


@cache
def image_suffixes() -> frozenset[str]:
    """The file name endings that Pillow decodes, in lower case, with their dot."""
    formats = Image.registered_extensions()  # also initialises Image.OPEN
    return frozenset(
        suffix
        for suffix, name in formats.items()
        if name in Image.OPEN and name not in _UNDECODABLE
    )


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) in pixels with the EXIF orientation applied; reads only the header where it can.

    Raises:
        UnreadableImage: the header can't be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow decodes the whole of a PNG to look for EXIF data behind the pixels.
            look = image.format != "PNG" or "exif" in image.info
            sideways = look and image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
        if sideways:  # formats differ in whether the header's size is the upright one
            width, height = _open(path).size
    except Exception as error:
        raise UnreadableImage(path, _reason(path, error)) from error
    return height, width


def load_image(path: Path, size: tuple[int, int], white_level: int = FULL_WHITE) -> Tensor:
    """Decode an image and resize it straight to ``size``, without keeping the aspect ratio.

    Bilinear with Pillow's antialiasing, no crop. The EXIF orientation is applied. Grey becomes
    three equal channels; an alpha channel is dropped, not composited; of several frames the first
    counts. 8-bit values are divided by 255, 16-bit grey (and 32-bit integer) by the white
    level, floating point is taken as it is.

    Args:
        path: any file that Pillow decodes.
        size: (H, W) in pixels.
        white_level: the 16-bit value that counts as 1, as does what is above it.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        UnreadableImage: the file is missing, no image, truncated, too large (Pillow's limit
            against decompression bombs), or has values outside the range above.
    """
    try:
        picture = Picture.from_image(_open(path), white_level)
        return as_floats(picture.resize(size).tensor()).contiguous()
    except Exception as error:
        raise UnreadableImage(path, _reason(path, error)) from error


def load_picture(path: Path, white_level: int = FULL_WHITE) -> Picture:
    """Decode an image, for use at any size.

    Args:
        path: any file that Pillow decodes.
        white_level: as for :func:`load_image`.

    Raises:
        UnreadableImage: as for :func:`load_image`.
    """
    try:
        return Picture.from_image(_open(path), white_level)
    except Exception as error:
        raise UnreadableImage(path, _reason(path, error)) from error


def brightest_value(path: Path) -> int:
    """The largest value of a 16-bit grey image; 0 of any other, and of one that can't be read."""
    with suppress(Exception), Image.open(path) as image:
        if image.mode[0] == "I":
            return int(np.asarray(_open(path)).max())
    return 0


def load_mask(path: Path, size: tuple[int, int] | None = None, rule: MaskRule = "any") -> Tensor:
    """Decode a ground truth mask, or all in a folder: True where a pixel of any marks a defect.

    With the rule "any" that is where any colour is above zero. So values 0 and 255, 0 and 1, and
    0..N with a number for each kind of defect all work. With "half" it is where a colour is above
    half of the mask's brightest, which leaves the grey out that JPEG and smoothing put around a
    drawn defect. An alpha channel does not count.

    Args:
        path: any file that Pillow decodes, or a folder of masks of one size.
        size: (H, W) to resize to (nearest), None for the mask's own.
        rule: "any" or "half", as above.

    Returns:
        (H, W) bool.

    Raises:
        UnreadableImage: as for :func:`load_image`.
    """
    masks = [_load_mask(file, size, rule) for file in mask_files(path)]
    if len({mask.shape for mask in masks}) != 1:
        raise UnreadableImage(path, "there is no mask in it" if not masks else "sizes differ in it")
    return torch.from_numpy(np.logical_or.reduce(masks))


def mask_files(path: Path) -> list[Path]:
    """The files of a mask: itself, or where it is a folder the images in it, by name."""
    if not path.is_dir():
        return [path]
    return [
        file
        for file in sorted(path.iterdir())
        if file.suffix.lower() in image_suffixes() and not file.name.startswith(".")
    ]


def _load_mask(path: Path, size: tuple[int, int] | None, rule: MaskRule) -> NDArray[np.bool_]:
    try:
        image = _open(path)
        if image.mode[0] in "IF":
            values = np.asarray(image)
        else:
            values = np.asarray(Picture.from_image(image).rgb()).max(axis=2)
        mask = values > (0 if rule == "any" else max(0.0, values.max() / 2))
        if size is not None and mask.shape != size:
            resized = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
            mask = np.asarray(resized)
        return np.array(mask, dtype=bool)
    except Exception as error:
        raise UnreadableImage(path, _reason(path, error)) from error


def check_scans(image: Image.Image, read: Callable[[], bytes]) -> None:
    """Refuse a progressive JPEG that goes over its pixels more often than encoders make it.

    Each scan takes as long as decoding the whole image once, and a file of some hundred kilobytes
    can hold tens of thousands.

    Args:
        image: opened, not decoded.
        read: gives the file's content.

    Raises:
        ValueError: it has too many scans.
    """
    if image.format != "JPEG" or not image.info.get("progressive"):
        return
    scans = read().count(_SCAN)
    if scans > _MOST_SCANS:
        raise ValueError(f"it has {scans} scans, where GRAD takes {_MOST_SCANS}")


def _open(path: Path) -> Image.Image:
    """Decode the first frame, upright; the file is closed again."""
    with Image.open(path) as image:
        check_scans(image, path.read_bytes)
        image.load()
        upright = ImageOps.exif_transpose(image)
    return image if upright is None else upright


def _reason(path: Path, error: Exception) -> str:
    """Why a file can't be decoded, as a clause without a full stop."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"it has more than {limit} million pixels; cut it into tiles or make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if os.path.exists(path) and os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image that Pillow knows, or its header is damaged"
    return " ".join(str(error).rstrip(".").split()) or type(error).__name__
