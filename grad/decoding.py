"""Images decoded in threads, ahead of the network that takes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from grad.data.picture import Picture, as_floats
from grad.errors import GradError
from grad.sources import Item

Skip = Callable[[GradError], None]
"""Is told why an image is left out."""


@dataclass(frozen=True)
class Decoded:
    """An image ready for the network.

    Attributes:
        item: where it is from.
        size: (h, w) of the image in pixels.
        whole: the image, None where it is not needed any more.
        resized: (3, S, S), None where the image is cut into tiles.
    """

    item: Item
    size: tuple[int, int]
    whole: Picture | None
    resized: Tensor | None

    @property
    def picture(self) -> Picture:
        """The image, which was asked to be kept."""
        assert self.whole is not None
        return self.whole

    @property
    def pixels(self) -> Tensor:
        """The resized image, which was asked for."""
        assert self.resized is not None
        return self.resized


@dataclass(frozen=True)
class Decode:
    """Decodes an item and resizes it.

    Args:
        image_size: S; None: not resized, but kept whole.
        keep: whether to keep it whole in any case.
    """

    image_size: int | None
    keep: bool

    def __call__(self, item: Item) -> Decoded:
        """Raises a GradError where the item can't be used."""
        picture = item.picture()
        if self.image_size is None:
            return Decoded(item, picture.size, picture, None)
        resized = picture.resize((self.image_size, self.image_size)).tensor()
        return Decoded(item, picture.size, picture if self.keep else None, resized)


def default_workers() -> int:
    """One thread a core that this process may use, at most 8."""
    return min(len(os.sched_getaffinity(0)), 8)


def decode_ahead(
    items: Iterator[Item], decode: Decode, *, workers: int, ahead: int, on_error: Skip | None
) -> Iterator[Decoded]:
    """Decoded items in order, never more than ``ahead`` of them in memory here.

    Raises:
        GradError: an item can't be used, where there is no ``on_error`` to tell.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="grad-decode")
    waiting: deque[Future[Decoded]] = deque()
    end: GradError | None = None  # of the items; those before it come first
    try:
        while True:
            try:
                for item in islice(items, 0 if end else ahead - len(waiting)):
                    waiting.append(pool.submit(decode, item))
            except GradError as error:
                end = error
            if not waiting:
                if end is not None:
                    raise end
                return
            try:
                one = waiting.popleft().result()
            except GradError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            yield one
    finally:
        pool.shutdown(cancel_futures=True)


def batches(decoded: Iterator[Decoded], size: int) -> Iterator[list[Decoded]]:
    """Lists of ``size``; the last may be shorter, also where it ends with an error."""
    end: GradError | None = None
    while end is None:
        batch: list[Decoded] = []
        try:
            batch.extend(islice(decoded, size))
        except GradError as error:
            end = error
        if batch:
            yield batch
        elif end is None:
            return
    raise end


def collate(images: list[Tensor]) -> Tensor:
    """A batch (B, 3, S, S) in channels_last memory: uint8 where all images are, else floats."""
    if any(image.dtype != torch.uint8 for image in images):
        images = [as_floats(image) for image in images]
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
