"""The frozen backbone sees each image once: its features, computed in batches and kept on disk.

Each class of a split is one file, ``KEY.npy``: float16 (N, H, W, C), read through a memory map. The
key is a digest of the backbone, the image size and the content of every image. ``KEY.json`` beside
it holds the file's checksum and which images could not be read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from grad.data import Sample, UnreadableImage, load_image
from grad.errors import GradError
from grad.files import replacing
from grad.progress import Progress

_FORMAT = "grad-features/1"  # part of every key: raise it when the files' meaning changes
_BATCH = 16  # images that the backbone takes at once
_BLOCK = 1 << 22  # bytes read at once for checksums

# The next rows of an array, (B, H, W, C), and why some of them have no image.
_Rows = tuple[NDArray[np.float16], dict[int, str]]


class FeatureExtractor(Protocol):
    """What this module needs of a backbone."""

    channels: int
    fingerprint: str

    def feature_size(self, image_size: int) -> tuple[int, int]:
        """(H, W) of the feature maps of square images."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, C, H, W)."""
        ...


@dataclass(frozen=True)
class Features:
    """Feature maps of samples, read from disk as they are asked for.

    Attributes:
        samples: the images that could be read.
        skipped: the images that could not.
    """

    samples: tuple[Sample, ...]
    skipped: tuple[Path, ...]
    _maps: tuple[NDArray[np.float16], ...]
    _places: tuple[tuple[int, int], ...]  # of each sample: (which array, which row)

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """(B, C, H, W) float16 in channels_last memory, for samples by index."""
        rows = [self._maps[array][row] for array, row in (self._places[i] for i in indices)]
        return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)

    def of_classes(self, names: Sequence[str]) -> Features:
        """Those of some classes; nothing is copied."""
        return self.subset([i for i, s in enumerate(self.samples) if s.class_name in names])

    def subset(self, indices: Sequence[int]) -> Features:
        """Those of some samples by index; nothing is copied."""
        return replace(
            self,
            samples=tuple(self.samples[i] for i in indices),
            _places=tuple(self._places[i] for i in indices),
        )


def default_cache() -> Path:
    """The user's cache folder for features."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "grad" / "features"


def compute_features(
    samples: Sequence[Sample],
    backbone: FeatureExtractor,
    image_size: int,
    *,
    cache: Path,
    device: torch.device | str = "cpu",
    workers: int = 2,
    strict: bool = False,
    console: Console | None = None,
) -> Features:
    """Features of all samples: from the cache where it has them, computed otherwise.

    Memory does not grow with the number of images. The float16 files are what is used even right
    after they were computed, so a run gives the same with a cold and a warm cache.

    Args:
        samples: images, those of a class and split side by side.
        backbone: on ``device``.
        image_size: side of the square that images are resized to, in pixels.
        cache: folder of the files; made where it is missing.
        device: where the backbone runs.
        workers: threads that read and decode images.
        strict: raise for an unreadable image instead of leaving it out.
        console: progress and notes go here; None for silence.

    Raises:
        GradError: an unreadable image under ``strict``; a class without a single readable one; the
            cache can't be written.
    """
    cache = Path(cache).expanduser()
    groups = [list(g) for _, g in groupby(samples, key=lambda s: (s.class_name, s.split))]
    maps: list[NDArray[np.float16]] = []
    kept: list[Sample] = []
    places: list[tuple[int, int]] = []
    skipped: list[Path] = []
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        Progress(console, "features", len(samples)) as progress,
    ):
        for members in groups:
            file = _CacheFile(cache, _key(members, backbone, image_size, pool))
            if not file.is_usable(console):
                shape = (len(members), *backbone.feature_size(image_size), backbone.channels)
                batches = _batches(members, backbone, image_size, device, pool, progress)
                file.write(shape, batches)
            else:
                progress.advance(len(members))
            array, unreadable = file.read()
            _report_unreadable(members, unreadable, strict, console)
            readable = [i for i in range(len(members)) if i not in unreadable]
            places += [(len(maps), i) for i in readable]
            kept += [members[i] for i in readable]
            skipped += [members[i].path for i in unreadable]
            maps.append(array)
    return Features(tuple(kept), tuple(skipped), tuple(maps), tuple(places))


class _CacheFile:
    """The features of one class and split: an array, and a JSON file that vouches for it."""

    def __init__(self, folder: Path, key: str) -> None:
        self.array = folder / f"{key}.npy"
        self.record = folder / f"{key}.json"

    def is_usable(self, console: Console | None) -> bool:
        """Whether both files are there and whole; says so where they are there, but damaged."""
        if not self.record.exists():
            return False
        try:
            self.read()
            expected = json.loads(self.record.read_text())["sha256"]
            damage = "" if _digest(self.array) == expected else "its checksum is wrong"
        except (OSError, ValueError, KeyError, TypeError) as error:
            damage = str(error) or type(error).__name__
        if damage and console is not None:
            console.print(f"The cached features {self.array} are damaged ({damage}): made again.")
        return not damage

    def read(self) -> tuple[NDArray[np.float16], dict[int, str]]:
        """The array (N, H, W, C) as a memory map, and why some of its rows have no image."""
        unreadable = json.loads(self.record.read_text())["unreadable"]
        array = np.load(self.array, mmap_mode="r", allow_pickle=False)
        return array, {int(row): reason for row, reason in unreadable.items()}

    def write(self, shape: tuple[int, ...], batches: Iterable[_Rows]) -> None:
        """Write the array batch by batch, then the record; rows of unreadable images are zero.

        Not through a memory map, as a full disk would end the process there, not raise.
        """
        unreadable: dict[int, str] = {}
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        with replacing(self.array) as temporary:
            with temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for maps, failures in batches:
                    file.write(maps.tobytes())
                    unreadable |= failures
            checksum = _digest(temporary)
        with replacing(self.record) as temporary:
            temporary.write_text(json.dumps({"sha256": checksum, "unreadable": unreadable}))


def _batches(
    samples: Sequence[Sample],
    backbone: FeatureExtractor,
    image_size: int,
    device: torch.device | str,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Iterator[_Rows]:
    """The features of each batch; the rows of unreadable images are zero.

    While the backbone works on one batch, the next is decoded.
    """
    size = (image_size, image_size)
    shape = (*backbone.feature_size(image_size), backbone.channels)
    starts = range(0, len(samples), _BATCH)

    def decode(start: int) -> list[Future[Tensor]]:
        return [pool.submit(load_image, s.path, size) for s in samples[start : start + _BATCH]]

    coming = decode(0)
    for start in starts:
        futures, coming = coming, decode(start + _BATCH)
        images, failures = {}, {}
        for row, future in enumerate(futures):
            try:
                images[row] = future.result()
            except UnreadableImage as error:
                failures[start + row] = str(error)
        maps = np.zeros((len(futures), *shape), np.float16)
        if images:
            with torch.inference_mode():
                found = backbone(torch.stack(list(images.values())).to(device))
            maps[list(images)] = _to_float16(found)
        yield maps, failures
        progress.advance(len(futures))


def _to_float16(maps: Tensor) -> NDArray[np.float16]:
    """(B, C, H, W) -> (B, H, W, C); what float16 can't hold becomes its largest value."""
    largest = torch.finfo(torch.float16).max
    array: NDArray[np.float16] = (
        maps.permute(0, 2, 3, 1).clamp(-largest, largest).half().cpu().numpy()
    )
    return array


def _report_unreadable(
    samples: Sequence[Sample], unreadable: dict[int, str], strict: bool, console: Console | None
) -> None:
    """Name the images that are left out, or raise."""
    if not unreadable:
        return
    name, split = samples[0].class_name, samples[0].split
    first = next(iter(unreadable.values()))
    if strict:
        raise GradError(f"{first.rstrip('.')} (--strict makes this an error).")
    if len(unreadable) == len(samples):
        raise GradError(
            f"None of the {len(samples)} {split} images of class {name} can be read: {first}"
        )
    if console is not None:
        for reason in unreadable.values():
            console.print(reason, style="yellow", markup=False)
        console.print(
            f"{name}: {len(unreadable)} of {len(samples)} {split} images left out.", markup=False
        )


def _key(
    samples: Sequence[Sample], backbone: FeatureExtractor, size: int, pool: ThreadPoolExecutor
) -> str:
    """A digest of everything that the features of a class depend on."""
    key = hashlib.sha256(f"{_FORMAT} {backbone.fingerprint} {size}".encode())
    for digest in pool.map(_digest_or_nothing, [sample.path for sample in samples]):
        key.update(digest.encode() + b" ")
    return key.hexdigest()


def _digest_or_nothing(path: Path) -> str:
    """The checksum of a file; of one that can't be opened, its path (reported when decoded)."""
    try:
        return _digest(path)
    except OSError:
        return f"unreadable {path}"


def _digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
