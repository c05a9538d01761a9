"""One file of features, ``KEY.npy``: how it is written, checked and read.

``KEY.json`` beside it vouches for it with a checksum of each row (an image), and names the rows
that have no image. It is written last, so features without it are none.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grad.system.errors import GradError, first_line
from grad.system.files import replacing

FORMAT = "grad-features/2"  # part of every key: raise it when the files' meaning changes
_READ = 1 << 23  # bytes that a thread checks at a time

Maps = NDArray[np.float16]


class StoredMaps:
    """The rows of a file of features, float16 (N, H, W, C), read when they are asked for.

    Not through a memory map, whose pages count as the process's memory: here a process holds what
    it has asked for, however large the file is.

    Raises:
        OSError, ValueError: no such file, or not one that this module writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._turn = threading.Lock()  # of those who read by seeking
        version = np.lib.format.read_magic(self._file)
        if version != (1, 0):
            raise ValueError(f"its version is {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(self._file)
        if fortran or dtype != np.dtype("<f2") or len(shape) != 4:
            raise ValueError(f"it holds {dtype} {shape}")
        self.shape: tuple[int, ...] = shape
        self._start = self._file.tell()
        self._row_bytes = 2 * shape[1] * shape[2] * shape[3]
        expected, found = self._start + shape[0] * self._row_bytes, path.stat().st_size
        if found != expected:
            raise ValueError(f"it has {found} bytes, not {expected}")

    @property
    def key(self) -> str:
        """A digest of what the features were made from."""
        return self.path.stem

    def read_into(self, row: int, maps: Maps) -> None:
        """Read one row.

        Args:
            row: its index.
            maps: (H, W, C), is overwritten.

        Raises:
            GradError: the file has been damaged or cut since it was opened.
        """
        buffer = maps.data.cast("B")
        offset = self._start + row * self._row_bytes
        try:
            while buffer:
                count = self._read_at(buffer, offset)
                if count == 0:
                    raise OSError("it has been cut")
                buffer, offset = buffer[count:], offset + count
        except OSError as error:
            raise GradError(
                f"The cached features {self.path} can't be read ({error}): start again, what is "
                "damaged is made again."
            ) from error

    def _read_at(self, buffer: memoryview, offset: int) -> int:
        """Read what a place of the file holds; from several threads at once."""
        if hasattr(os, "preadv"):  # not on Windows
            return os.preadv(self._file.fileno(), [buffer], offset)
        with self._turn:
            self._file.seek(offset)
            return self._file.readinto(buffer)

    def checksums(self, pool: ThreadPoolExecutor) -> list[int]:
        """CRC-32 of each row."""
        rows = self.shape[0]
        step = max(1, _READ // max(self._row_bytes, 1))

        def part(first: int) -> list[int]:
            maps = np.empty(self.shape[1:], np.float16)
            found = []
            for row in range(first, min(first + step, rows)):
                self.read_into(row, maps)
                found.append(zlib.crc32(maps.data))
            return found

        return [crc for found in pool.map(part, range(0, rows, step)) for crc in found]


class MapsInMemory:
    """Rows of features that no file holds, as :class:`StoredMaps` gives them.

    Args:
        maps: (N, H, W, C), any float dtype.
    """

    def __init__(self, maps: Tensor) -> None:
        self._maps: Maps = maps.half().contiguous().numpy()
        self.shape: tuple[int, ...] = self._maps.shape

    @cached_property
    def key(self) -> str:
        """A digest of the features."""
        return hashlib.sha256(self._maps.data.cast("B")).hexdigest()

    def read_into(self, row: int, maps: Maps) -> None:
        """Read one row; arguments as of :meth:`StoredMaps.read_into`."""
        maps[:] = self._maps[row]


class FeatureFile:
    """The features of one class and split, and the record that vouches for them."""

    def __init__(self, folder: Path, key: str) -> None:
        self.array = folder / f"{key}.npy"
        self.record = folder / f"{key}.json"

    def damage(self, pool: ThreadPoolExecutor) -> str | None:
        """What is wrong with the file; empty where it is whole, None where there is none.

        All of it is read: that costs a second for some gigabytes, and training reads them anyway.
        """
        if not self.record.exists():
            return None
        try:
            maps, _ = self.open()
            record = json.loads(self.record.read_text(encoding="utf-8"))
            if record.get("key", self.array.stem) != self.array.stem:  # older records have none
                return "its record is another file's"
            return "" if maps.checksums(pool) == record["crc32"] else "its checksum is wrong"
        except Exception as error:  # whatever is in it, it can be made again
            return first_line(error)

    def open(self) -> tuple[StoredMaps, dict[int, str]]:
        """The rows, and why some of them have no image."""
        unreadable = json.loads(self.record.read_text(encoding="utf-8"))["unreadable"]
        return StoredMaps(self.array), {int(row): reason for row, reason in unreadable.items()}

    def write(self, shape: tuple[int, ...], batches: Iterable[tuple[Maps, dict[int, str]]]) -> None:
        """Write the rows batch by batch, then the record.

        Not through a memory map, as a full disk would end the process there, not raise.

        Args:
            shape: (N, H, W, C).
            batches: the next rows, and why some of them have no image; those are zero.
        """
        unreadable: dict[int, str] = {}
        checksums: list[int] = []
        with replacing(self.array) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for maps, failures in batches:
                file.write(maps.data.cast("B"))
                checksums += [zlib.crc32(row.data) for row in maps]
                unreadable |= failures
        with replacing(self.record) as temporary:
            record = {"key": self.array.stem, "crc32": checksums, "unreadable": unreadable}
            temporary.write_text(json.dumps(record), encoding="utf-8")
