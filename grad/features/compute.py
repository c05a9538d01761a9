"""The frozen backbone sees each image once: its features, computed in batches and kept on disk.

Each class of a split, and each variant of its images, is one file (:mod:`grad.features.store`),
float16 (N, H, W, C), with a row an image, or a row for each of the tiles that images are cut into:
EfficientNets' features stay far below what float16 holds, and it has three more bits of precision
than bfloat16.
The key, the file's name, is a digest of the backbone, the image size and the content of every
image. ``SEEN.key`` remembers the key of a list of images that nobody has touched since.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import platformdirs
import torch
from rich.console import Console
from torch import Tensor

from grad.data.augment import make_variant
from grad.data.images import UnreadableImage, image_size, load_picture
from grad.data.mosaic import Mosaic
from grad.data.picture import as_floats
from grad.data.roi import inside, paint_outside
from grad.data.samples import FULL_WHITE, Sample
from grad.data.tiling import Tiling
from grad.features.features import Features
from grad.features.store import FORMAT, FeatureFile, Maps, StoredMaps
from grad.system import distributed
from grad.system.errors import GradError
from grad.system.files import claimed, remove_leftovers, replacing
from grad.system.progress import Progress, print_line

_BATCH = 16  # images that the backbone takes at once
_BLOCK = 1 << 22  # bytes read at once for checksums
_SETTLED = 2.0  # seconds without a change, after which a further one would show in a file's times


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


def default_cache() -> Path:
    """The user's cache folder for features."""
    return platformdirs.user_cache_path("grad") / "features"


def compute_features(
    samples: Sequence[Sample],
    backbone: FeatureExtractor,
    image_size: int,
    *,
    cache: Path,
    tiling: Tiling | None = None,
    device: torch.device | str = "cpu",
    workers: int = 2,
    strict: bool = False,
    console: Console | None = None,
) -> Features:
    """Features of all samples: from the cache where it has them, computed otherwise.

    Memory does not grow with the number of images. The files are what is used even right after they
    were computed, so a run gives the same with a cold and a warm cache. Of several processes each
    makes files of its own; two never write one, and neither do two runs at once.

    Args:
        samples: images, those of a class, split and variant side by side.
        backbone: on ``device``.
        image_size: side of the square that images are resized to, in pixels.
        cache: folder of the files; made where it is missing.
        tiling: how images are cut; None: not at all.
        device: where the backbone runs.
        workers: threads that read and decode images.
        strict: raise for an unreadable image instead of leaving it out.
        console: progress and notes go here; None for silence.

    Raises:
        GradError: an unreadable image under ``strict``; a class without a single readable one; the
            cache can't be written.
    """
    cache = _usable(Path(cache).expanduser())
    kinds = groupby(samples, key=lambda s: (s.class_name, s.split, s.variant))
    groups = [list(group) for _, group in kinds]
    remove_leftovers(cache, ".npy")
    with ThreadPoolExecutor(max(1, workers)) as pool:
        keys = distributed.shared(
            [
                _key(g, _base(backbone, image_size, tiling, g[0]), cache, pool)
                for g in distributed.shard(groups)
            ]
        )
        cut = _Cut(image_size, tiling)
        counts = [list(pool.map(cut.count, group)) for group in groups]
        files = [FeatureFile(cache, key) for part in keys for key in part]
        turns = distributed.turns(len(groups))
        total = sum(sum(counts[i]) for turn in turns for i in turn)
        with Progress(console, "features", total) as progress:
            work = _Work(backbone, cut, torch.device(device), pool, progress, console)
            for turn in turns:
                for i in turn:
                    work.make_sure_of(files[i], groups[i], counts[i])
                distributed.barrier()
    return _opened(files, groups, counts, tiling, strict, console)


def _usable(cache: Path) -> Path:
    """A folder that can be written to, made where it is missing."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        raise GradError(
            f"The features can't be kept in {cache} ({error.strerror}): name another folder with "
            "--cache DIR."
        ) from error


def _opened(
    files: Sequence[FeatureFile],
    groups: Sequence[Sequence[Sample]],
    counts: Sequence[Sequence[int]],
    tiling: Tiling | None,
    strict: bool,
    console: Console | None,
) -> Features:
    """All files together, without the images that could not be read, which are named."""
    maps: list[StoredMaps] = []
    kept: list[Sample] = []
    places: list[tuple[int, int]] = []
    rows: list[int] = []
    skipped: list[Path] = []
    for file, members, of_members in zip(files, groups, counts, strict=True):
        stored, failures = file.open()
        starts = list(accumulate(of_members, initial=0))[:-1]
        unreadable = {i: failures[row] for i, row in enumerate(starts) if row in failures}
        _report_unreadable(members, unreadable, strict, console)
        readable = [i for i in range(len(members)) if i not in unreadable]
        places += [(len(maps), starts[i]) for i in readable]
        rows += [of_members[i] for i in readable]
        kept += [members[i] for i in readable]
        skipped += [members[i].path for i in unreadable]
        maps.append(stored)
    return Features(
        tuple(kept),
        tuple(skipped),
        tuple(maps),
        tuple(places),
        tiling,
        () if tiling is None else tuple(rows),
    )


@dataclass(frozen=True)
class _Cut:
    """Images as the backbone takes them: whole, or in tiles."""

    image_size: int
    tiling: Tiling | None

    def count(self, sample: Sample) -> int:
        """How many there are of an image; one of an image whose header can't be read."""
        if self.tiling is None:
            return 1
        try:
            return len(Mosaic.of_image(self.tiling, image_size(sample.path), self.image_size))
        except UnreadableImage:
            return 1

    def decode(self, sample: Sample) -> list[Tensor]:
        """All of an image, (3, S, S), floats in [0, 1] or uint8."""
        picture, roi = load_picture(sample.path, sample.white_level), sample.roi
        picture = make_variant(picture, sample.variant)
        if self.tiling is not None:
            mosaic = Mosaic.of_image(self.tiling, picture.size, self.image_size)
            return list(mosaic.cut(picture, roi))
        size = (self.image_size, self.image_size)
        looked_at = None if roi is None else inside(roi, size)
        return [paint_outside(picture.resize(size).tensor(), roi, looked_at)]


@dataclass(frozen=True)
class _Work:
    """What it takes to make a file of features."""

    backbone: FeatureExtractor
    cut: _Cut
    device: torch.device
    pool: ThreadPoolExecutor
    progress: Progress
    console: Console | None

    def make_sure_of(
        self, file: FeatureFile, samples: Sequence[Sample], counts: Sequence[int]
    ) -> None:
        """Make a file unless it is there and whole; says so where it is there, but damaged."""
        if file.damage(self.pool) != "":
            with claimed(file.array):
                damage = file.damage(self.pool)  # again: another process may just have made it
                if damage and self.console is not None:
                    self.console.print(
                        f"The cached features {file.array} are damaged ({damage}): made again."
                    )
                if damage != "":
                    side = self.cut.image_size
                    shape = (*self.backbone.feature_size(side), self.backbone.channels)
                    file.write((sum(counts), *shape), self._batches(samples, counts, shape))
                    return
        self.progress.advance(sum(counts))

    def _batches(
        self, samples: Sequence[Sample], counts: Sequence[int], shape: tuple[int, ...]
    ) -> Iterator[tuple[Maps, dict[int, str]]]:
        """The features of each batch; the rows of unreadable images are zero."""
        rows, start = self._decoded(samples, counts), 0
        while batch := list(islice(rows, _BATCH)):
            images = {i: as_floats(row) for i, row in enumerate(batch) if isinstance(row, Tensor)}
            maps = np.zeros((len(batch), *shape), np.float16)
            if images:
                with torch.inference_mode():
                    found = self.backbone(torch.stack(list(images.values())).to(self.device))
                maps[list(images)] = _to_float16(found)
            yield maps, {start + i: row for i, row in enumerate(batch) if isinstance(row, str)}
            start += len(batch)
            self.progress.advance(len(batch))

    def _decoded(self, samples: Sequence[Sample], counts: Sequence[int]) -> Iterator[Tensor | str]:
        """For each row the image or the tile, or why there is none.

        While the backbone works on one batch, images enough for the next are decoded.
        """
        coming = iter(zip(samples, counts, strict=True))
        waiting: deque[tuple[int, Future[list[Tensor]]]] = deque()
        while True:
            while sum(count for count, _ in waiting) < 2 * _BATCH:
                sample, count = next(coming, (None, 0))
                if sample is None:
                    break
                waiting.append((count, self.pool.submit(self.cut.decode, sample)))
            if not waiting:
                return
            count, future = waiting.popleft()
            try:
                rows: Sequence[Tensor | str] = future.result()
            except UnreadableImage as error:
                rows = [str(error)] * count
            if len(rows) != count:
                raise GradError("An image has changed its size while it was read: start again.")
            yield from rows


def _to_float16(maps: Tensor) -> Maps:
    """(B, C, H, W) -> (B, H, W, C); what float16 can't hold becomes its largest value."""
    largest = torch.finfo(torch.float16).max
    array: Maps = maps.permute(0, 2, 3, 1).clamp(-largest, largest).half().cpu().numpy()
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
    if console is not None and samples[0].variant is None:
        for reason in unreadable.values():
            print_line(reason, "yellow", console)
        count = f"{len(unreadable)} of {len(samples)}"
        print_line(f"{name}: {count} {split} images left out.", None, console)


def _base(backbone: FeatureExtractor, size: int, tiling: Tiling | None, sample: Sample) -> str:
    """What the features of every image of a class depend on, one of which is given."""
    base = f"{FORMAT} {backbone.fingerprint} {size}"
    if sample.white_level != FULL_WHITE:
        base += f" white {sample.white_level}"
    if sample.roi is not None and sample.roi.painted:
        base += f" roi {sample.roi.mask}"
    if sample.variant is not None:
        base += f" variant {sample.variant}"
    return base if tiling is None else f"{base} tiles {tiling.size} {tiling.shared}"


def _key(samples: Sequence[Sample], base: str, cache: Path, pool: ThreadPoolExecutor) -> str:
    """A digest of everything that the features of a class depend on.

    Images are read for it only where one of them, or its times, has changed since the last run.
    """
    start = time.time()
    paths = [sample.path for sample in samples]
    seen, changed = _state(base, paths)
    memory = cache / f"{seen}.key"
    with suppress(OSError, ValueError):
        of, _, known = memory.read_text(encoding="utf-8").partition(" ")
        if of == seen and len(bytes.fromhex(known)) == hashlib.sha256().digest_size:
            return known
    key = hashlib.sha256(base.encode())
    for digest in pool.map(_digest_or_nothing, paths):
        key.update(digest.encode() + b" ")
    if changed < start - _SETTLED:
        with suppress(GradError), replacing(memory) as temporary:
            temporary.write_text(f"{seen} {key.hexdigest()}", encoding="utf-8")
    return key.hexdigest()


def _state(base: str, paths: Sequence[Path]) -> tuple[str, float]:
    """A digest of what the file system knows of files, and when the last of them changed.

    Whatever writes to a file sets its time of change (ctime), and nobody can set it back.
    """
    state, latest = hashlib.sha256(base.encode()), 0.0
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            latest = math.inf
            continue
        numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        state.update(f"{path.absolute()} {numbers}\n".encode())
        latest = max(latest, found.st_ctime)
    return state.hexdigest(), latest


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
