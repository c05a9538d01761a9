"""From features on disk to batches on the device: their order, and how they get there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from grad.features.features import Features

OnDevice = Literal["auto", "always", "never"]

_SHARE = 0.5  # of a GPU's free memory that features may take
_BLOCK = 256  # images moved to the device at once


def batches(count: int, size: int, order: torch.Generator) -> list[list[int]]:
    """All indices in random order, in batches.

    The last, incomplete batch is kept; but a single image left over joins the batch before, as
    batch normalisation would learn from one image alone.
    """
    return _split(torch.randperm(count, generator=order), size)


def balanced_batches(classes: Sequence[str], size: int, order: torch.Generator) -> list[list[int]]:
    """As many indices as there are images, drawn with replacement, each class equally likely.

    Args:
        classes: of each image.
        size: images in a batch; the last one as in :func:`batches`.
        order: what they are drawn with.
    """
    images = Counter(classes)
    weights = torch.tensor([1 / images[name] for name in classes], dtype=torch.float64)
    return _split(torch.multinomial(weights, len(classes), replacement=True, generator=order), size)


def _split(indices: Tensor, size: int) -> list[list[int]]:
    split = [batch.tolist() for batch in indices.split(size)]
    if len(split) > 1 and len(split[-1]) == 1:
        split[-2:] = [split[-2] + split[-1]]
    return split


class Loader:
    """Features as the model takes them, batch by batch.

    They are kept on the device, or read from disk by a thread while the model works on the batch
    before; to CUDA they go from pinned memory, which nothing waits for.

    Args:
        features: what there is to load.
        device: where batches go.
        dtype: of batches; stored features are float16.
        on_device: whether all features are kept there; ``"auto"``: on a GPU where they take at most
            half of the memory that is free now.

    Attributes:
        resident: whether they are kept on the device.
    """

    def __init__(
        self,
        features: Features,
        device: torch.device,
        dtype: torch.dtype,
        on_device: OnDevice = "auto",
    ) -> None:
        self._features, self._device, self._dtype = features, device, dtype
        self.resident = on_device == "always" or (on_device == "auto" and fits(features, device))
        self._kept = self._keep() if self.resident else None

    def load(self, parts: Sequence[Sequence[int]]) -> Generator[Tensor, None, None]:
        """The batches of these indices in turn, each (B, C, H, W) in channels_last memory."""
        if self._kept is not None:
            for part in parts:
                rows = torch.tensor(part, dtype=torch.int64, pin_memory=self._pinned)
                yield self._kept[rows.to(self._device, non_blocking=True)].to(self._dtype)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, parts[0])
            for following in [*parts[1:], []]:
                stored, coming = coming.result(), reader.submit(self._read, following)
                yield stored.to(self._device, non_blocking=True).to(self._dtype)

    @property
    def _pinned(self) -> bool:
        return self._device.type == "cuda"

    def _read(self, part: Sequence[int]) -> Tensor:
        return self._features.batch(part, pinned=self._pinned)

    def _keep(self) -> Tensor:
        count, *shape = self._features.shape
        kept = torch.empty(
            (count, *shape),
            dtype=torch.float16,
            device=self._device,
            memory_format=torch.channels_last,
        )
        for first in range(0, count, _BLOCK):
            block = range(first, min(first + _BLOCK, count))
            kept[first : first + _BLOCK] = self._features.batch(block)
        return kept


def fits(features: Features, device: torch.device) -> bool:
    """Whether a device is a GPU and half of its free memory is enough for all features."""
    if device.type != "cuda":
        return False
    count, channels, height, width = features.shape
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * count * channels * height * width <= _SHARE * free
