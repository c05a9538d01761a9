"""A decoded image on its way to the network: the same numbers whatever it was decoded from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from grad.data.samples import FULL_WHITE

_CHANNELS = (1, 3, 4)  # of an array with three axes
_MOST_BETWEEN = 2**25  # pixels of an image that is resized along one axis


@dataclass(frozen=True)
class Picture:
    """An upright image as Pillow holds it.

    Attributes:
        bands: one image of 8-bit RGB, or one (grey) or three (RGB) of float32 in [0, 1].
        clipped: whether it held values above the white level, which became 1.
    """

    bands: tuple[Image.Image, ...]
    clipped: bool = False

    @classmethod
    def from_image(cls, image: Image.Image, white_level: int = FULL_WHITE) -> Picture:
        """Of any of Pillow's modes.

        Grey becomes colour; alpha is dropped, not composited; 16-bit grey and 32-bit integers are
        divided by ``white_level``; floating point is taken as it is.

        Raises:
            ValueError: no pixels, values outside the range of their type above.
        """
        if 0 in image.size:
            raise ValueError(f"its size is {image.size}, it has no pixels")
        if image.mode[0] in "IF":  # I, I;16, I;16B, ..., F
            return cls._of_values(np.asarray(image), white_level)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return cls((image.convert("RGB"),))

    @classmethod
    def from_array(cls, array: NDArray[Any], white_level: int = FULL_WHITE) -> Picture:
        """Of an array (h, w), (h, w, 1), (h, w, 3) in the order RGB, or (h, w, 4) with alpha.

        uint8; uint16, divided by ``white_level``; floats in [0, 1]; bool for black and white.

        Raises:
            ValueError: another shape or dtype, no pixels, NaN, values outside of [0, 1].
        """
        if array.ndim == 3 and array.shape[2] in _CHANNELS:
            array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
        elif array.ndim != 2:
            raise ValueError(f"its shape is {array.shape}, GRAD takes (h, w), (h, w, 3), (h, w, 4)")
        if 0 in array.shape:
            raise ValueError(f"its shape is {array.shape}, it has no pixels")
        if array.dtype == np.bool_:
            array = array.astype(np.uint8) * 255
        if array.dtype == np.uint8:
            return cls((Image.fromarray(np.ascontiguousarray(array)).convert("RGB"),))
        if array.dtype != np.uint16 and array.dtype.kind != "f":
            raise ValueError(
                f"its dtype is {array.dtype}, GRAD takes uint8, uint16, and floats from 0 to 1"
            )
        return cls._of_values(array, white_level)

    @classmethod
    def _of_values(cls, array: NDArray[Any], white_level: int) -> Picture:
        """Of (h, w) or (h, w, 3): integers of 16 bits, or floats from 0 to 1."""
        if array.dtype.kind == "f":
            values, clipped = _unit_range(array, 1), False
        else:
            values = _unit_range(array, FULL_WHITE, white_level)
            clipped = bool(values.max() > 1)
            values = values.clip(max=1) if clipped else values
        bands = [values] if values.ndim == 2 else np.moveaxis(values, 2, 0)
        return cls(tuple(Image.fromarray(np.ascontiguousarray(b)) for b in bands), clipped)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        width, height = self.bands[0].size
        return height, width

    def resize(self, size: tuple[int, int]) -> Picture:
        """Resized straight to (H, W), bilinear with Pillow's antialiasing.

        First along rows, then along columns: on its own Pillow begins with the columns of some tall
        images from version 13 on, which rounds to other numbers. Images so narrow that rows first
        would take much more memory than the image itself are the exception.
        """
        if size == self.size:
            return self
        between = (size[1], self.size[0])
        if between[0] * between[1] > max(_MOST_BETWEEN, self.size[0] * self.size[1]):
            between = (self.size[1], size[0])
        wanted, kind = (size[1], size[0]), Image.Resampling.BILINEAR
        return Picture(tuple(b.resize(between, kind).resize(wanted, kind) for b in self.bands))

    def crop(self, top: int, left: int, height: int, width: int) -> Picture:
        """A rectangle of it, in pixels."""
        box = (left, top, left + width, top + height)
        return Picture(tuple(band.crop(box) for band in self.bands))

    def tensor(self) -> Tensor:
        """(3, H, W), uint8 or float32 in [0, 1], in channels_last memory where it is uint8."""
        if self.bands[0].mode == "RGB":
            return torch.from_numpy(np.array(self.bands[0])).permute(2, 0, 1)
        bands = [torch.from_numpy(np.asarray(band).clip(0.0, 1.0)) for band in self.bands]
        return torch.stack(bands).expand(3, *self.size)

    def rgb(self) -> Image.Image:
        """8-bit RGB, for showing."""
        if self.bands[0].mode == "RGB":
            return self.bands[0]
        return Image.fromarray((self.tensor() * 255).round().byte().permute(1, 2, 0).numpy())


def as_floats(pixels: Tensor) -> Tensor:
    """float32 in [0, 1]: uint8 divided by 255, floats as they are."""
    return pixels.float().div_(255.0) if pixels.dtype == torch.uint8 else pixels.float()


def collate(pixels: list[Tensor]) -> Tensor:
    """Images (3, H, W) as a batch (B, 3, H, W) in channels_last memory.

    uint8 where all of them are, else floats in [0, 1].
    """
    if any(one.dtype != torch.uint8 for one in pixels):
        pixels = [as_floats(one) for one in pixels]
    return torch.stack([one.permute(1, 2, 0) for one in pixels]).permute(0, 3, 1, 2)


def _unit_range(
    values: NDArray[Any], top: int, white_level: int | None = None
) -> NDArray[np.float32]:
    """Values from 0 to ``top`` as float32, of which 1 is ``white_level`` (None: ``top``)."""
    low, high = values.min(), values.max()
    if np.isnan(low):
        raise ValueError(f"it holds NaN, GRAD takes 0 to {top}")
    if not (low >= 0 and high <= top):
        raise ValueError(f"its values go from {low:g} to {high:g}, GRAD takes 0 to {top}")
    return values.astype(np.float32) / np.float32(white_level or top)
