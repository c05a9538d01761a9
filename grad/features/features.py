"""Feature maps of samples, as they lie on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from grad.data.samples import Sample
from grad.data.tiling import Tiling
from grad.features.store import MapsInMemory, StoredMaps

_BATCH = 16  # tiles read at once


@dataclass(frozen=True)
class Features:
    """Feature maps of samples, read as they are asked for: from disk, but for a few.

    Attributes:
        samples: the images that could be read.
        skipped: the images that could not.
        tiling: how images were cut into tiles, each of which has a feature map; None: they were
            not.
    """

    samples: tuple[Sample, ...]
    skipped: tuple[Path, ...]
    _maps: tuple[StoredMaps | MapsInMemory, ...]
    _places: tuple[tuple[int, int], ...]  # of each sample: (which file, which row)
    tiling: Tiling | None = None
    _counts: tuple[int, ...] = ()  # rows of each sample; none given: one of each

    @classmethod
    def in_memory(cls, samples: Sequence[Sample], maps: Tensor) -> Features:
        """Those of samples whose maps (N, H, W, C) no file holds."""
        places = tuple((0, row) for row in range(len(samples)))
        return cls(tuple(samples), (), (MapsInMemory(maps),), places)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W) of all of them together."""
        _, height, width, channels = self._maps[0].shape
        return len(self), channels, height, width

    def batch(self, indices: Sequence[int], *, pinned: bool = False) -> Tensor:
        """(B, C, H, W) float16 in channels_last memory, for samples by index.

        Args:
            indices: B of them, of which none is cut into tiles.
            pinned: in memory from which CUDA copies while the process goes on.

        Raises:
            GradError: the cache was damaged in the meantime.
        """
        assert not self._counts
        return self._read([self._places[i] for i in indices], pinned)

    def tiles_of(self, index: int) -> Iterator[Tensor]:
        """The maps of an image's tiles, row by row of the mosaic, in batches (B, C, H, W)."""
        file, first = self._places[index]
        rows = range(first, first + (self._counts[index] if self._counts else 1))
        for start in range(0, len(rows), _BATCH):
            yield self._read([(file, row) for row in rows[start : start + _BATCH]], False)

    def tiles(self) -> Features:
        """The same with each tile as a sample of its own; itself where images are whole."""
        if not self._counts:
            return self
        samples: list[Sample] = []
        places: list[tuple[int, int]] = []
        for sample, (file, row), count in zip(
            self.samples, self._places, self._counts, strict=True
        ):
            samples += [sample] * count
            places += [(file, row + i) for i in range(count)]
        return Features(tuple(samples), self.skipped, self._maps, tuple(places))

    def _read(self, places: Sequence[tuple[int, int]], pinned: bool) -> Tensor:
        _, height, width, channels = self._maps[0].shape
        shape = (len(places), height, width, channels)
        rows = torch.empty(shape, dtype=torch.float16, pin_memory=pinned)
        for maps, (file, row) in zip(rows.numpy(), places, strict=True):
            self._maps[file].read_into(row, maps)
        return rows.permute(0, 3, 1, 2)

    def subset(self, indices: Sequence[int]) -> Features:
        """Those of some samples by index; nothing is copied."""
        return replace(
            self,
            samples=tuple(self.samples[i] for i in indices),
            _places=tuple(self._places[i] for i in indices),
            _counts=tuple(self._counts[i] for i in indices) if self._counts else (),
        )

    def of_classes(self, names: Sequence[str]) -> Features:
        """Those of some classes; nothing is copied."""
        return self.subset([i for i, s in enumerate(self.samples) if s.class_name in names])

    def joined(self, other: Features) -> Features:
        """Both, one after the other, of which none is cut into tiles; nothing is copied."""
        assert not self._counts and not other._counts
        first = len(self._maps)
        return Features(
            self.samples + other.samples,
            self.skipped + other.skipped,
            self._maps + other._maps,
            self._places + tuple((first + file, row) for file, row in other._places),
        )

    def as_they_come(self) -> Features:
        """Those of the images themselves, without their variants; nothing is copied."""
        return self.subset([i for i, s in enumerate(self.samples) if s.variant is None])

    def digest(self) -> str:
        """A digest of which features these are, of what images, in what order."""
        found = hashlib.sha256()
        for file, row in self._places:
            found.update(f"{self._maps[file].key} {row}\n".encode())
        return found.hexdigest()
