"""What ``grad predict`` writes: tables that grow result by result, and pictures beside them."""

from __future__ import annotations

import csv
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from grad.detector.detector import Result
from grad.system.files import replacing
from grad.system.run_folder import PREDICTIONS

MapFormat = Literal["npy", "png16"]

_WAITING = 4  # results a thread that may wait to be written
_DIGITS = 5  # of numbers in the CSV file; the JSON lines have all
COLUMNS = (
    "name",
    "class_name",
    "score",
    "value",
    "threshold",
    "is_anomalous",
    "p_value",
    "p_resolution",
    "map_maximum",
    "regions",
    "width",
    "height",
    "time",
    "model",
    "model_version",
)
"""Of ``predictions.csv``; the inspection page exports the same (``serve/page/csv.js``)."""


class Tables:
    """``predictions.csv`` and ``predictions.jsonl``: a row a result, written as they come.

    The files have a temporary name until the work has ended, well or not.

    Args:
        csv_file, jsonl_file: open for writing.
        pictures: the columns that name files made of each image.
        spreadsheet: whether the CSV file is for spreadsheets with a decimal comma.
    """

    def __init__(
        self,
        csv_file: IO[str],
        jsonl_file: IO[str],
        pictures: tuple[str, ...],
        spreadsheet: bool = False,
    ) -> None:
        self._files = (csv_file, jsonl_file)
        self._spreadsheet = spreadsheet
        separator = ";" if spreadsheet else ","
        self._csv = csv.DictWriter(
            csv_file, (*COLUMNS, *pictures), delimiter=separator, lineterminator="\n"
        )
        self._csv.writeheader()

    def add(self, row: dict[str, Any]) -> None:
        """Append a row to both; in the CSV file regions are counted."""
        regions = row["regions"]
        counted = row | {"regions": None if regions is None else len(regions)}
        self._csv.writerow({key: self._cell(value) for key, value in counted.items()})
        self._files[1].write(json.dumps(row) + "\n")

    def _cell(self, value: Any) -> Any:
        """A value as the CSV file has it; in spreadsheets no text is taken for a formula."""
        if isinstance(value, float):
            number = f"{value:.{_DIGITS}g}"
            return number.replace(".", ",") if self._spreadsheet else number
        formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
        return f"'{value}" if self._spreadsheet and formula else value

    def flush(self) -> None:
        """Make what was added so far visible to who looks into the files."""
        for file in self._files:
            file.flush()


@contextmanager
def tables(
    folder: Path, pictures: tuple[str, ...], part: int | None = None, *, spreadsheet: bool = False
) -> Iterator[Tables]:
    """Tables in a folder.

    Args:
        folder: is there.
        pictures, spreadsheet: as of :class:`Tables`.
        part: which of several parts of the tables to write; see :func:`join_parts`.
    """
    with ExitStack() as stack:
        paths = [stack.enter_context(replacing(path)) for path in _table_files(folder, part)]
        encodings = ("utf-8-sig" if spreadsheet else "utf-8", "utf-8")
        files = [stack.enter_context(_open(*file)) for file in zip(paths, encodings, strict=True)]
        yield Tables(files[0], files[1], pictures, spreadsheet)


def join_parts(folder: Path, parts: int) -> None:
    """Make the tables from their parts, in order, and remove those."""
    for whole in _table_files(folder, None):
        with replacing(whole) as temporary, _open(temporary) as file:
            for part in range(parts):
                path = _part_of(whole, part)
                with path.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
                    if part > 0 and whole.suffix == ".csv":
                        next(lines)  # the header
                    shutil.copyfileobj(lines, file)
        for part in range(parts):
            _part_of(whole, part).unlink()


def _table_files(folder: Path, part: int | None) -> list[Path]:
    whole = [folder / name for name in PREDICTIONS]
    return whole if part is None else [_part_of(path, part) for path in whole]


def _part_of(path: Path, part: int) -> Path:
    return path.with_name(f"{path.stem}.part-{part}{path.suffix}")


class Pictures:
    """Overlays, maps and masks of results, written by threads.

    Args:
        folder: holds ``overlays``, ``maps`` and ``masks``, as far as they are asked for.
        overlays, masks: whether to write them.
        maps: format of raw maps, None for none.
        workers: number of threads.
    """

    def __init__(
        self, folder: Path, *, overlays: bool, maps: MapFormat | None, masks: bool, workers: int
    ) -> None:
        self._folder = folder
        self._makers: dict[str, tuple[str, Callable[[Result, Path], None]]] = {}
        if overlays:
            self._makers["overlay"] = ("overlays", _save_overlay)
        if maps is not None:
            self._makers["map"] = ("maps", _save_npy if maps == "npy" else _save_png16)
        if masks:
            self._makers["mask"] = ("masks", _save_mask)
        self._suffix = ".npy" if maps == "npy" else ".png"
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="grad-write")
        self._limit = _WAITING * workers
        self._waiting: deque[tuple[Path, Future[None]]] = deque()

    @property
    def columns(self) -> tuple[str, ...]:
        """The kinds of files: ``overlay``, ``map``, ``mask``."""
        return tuple(self._makers)

    def add(self, result: Result) -> dict[str, str]:
        """Have the files of a result written; returns where, relative to the folder, by column.

        Waits where too many results wait already.

        Raises:
            GradError: an earlier file can't be written.
        """
        written = {}
        for column, (folder, save) in self._makers.items():
            while len(self._waiting) >= self._limit:
                self._waiting.popleft()[1].result()
            path = self._free(folder, result.item.key, self._suffix if column == "map" else ".png")
            self._waiting.append((path, self._pool.submit(_write, save, result, path)))
            written[column] = path.relative_to(self._folder).as_posix()
        return written

    def _free(self, folder: str, key: str, suffix: str) -> Path:
        """A path named after the image that no other image has: a.png and a.jpg differ there."""
        place = self._folder / folder / key
        taken = {path for path, _ in self._waiting}
        path, number = place.with_suffix(suffix), 1
        while path in taken or path.exists():
            number += 1
            path = place.with_name(f"{place.stem}-{number}{suffix}")
        return path

    def close(self) -> None:
        """Wait until everything is written.

        Raises:
            GradError: a file can't be written.
        """
        self._pool.shutdown()
        for _, future in self._waiting:
            future.result()


def _open(path: Path, encoding: str = "utf-8") -> TextIOWrapper:
    """For writing; names of files that are no text are kept as they are."""
    return path.open("w", encoding=encoding, errors="surrogateescape", newline="")


def _write(save: Callable[[Result, Path], None], result: Result, path: Path) -> None:
    with replacing(path) as temporary:
        save(result, temporary)


def _save_overlay(result: Result, path: Path) -> None:
    result.overlay().save(path, format="PNG", compress_level=1)


def _save_mask(result: Result, path: Path) -> None:
    Image.fromarray(result.mask_of_image().numpy()).save(path, format="PNG")


def _save_npy(result: Result, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, result.anomaly_map.numpy(), allow_pickle=False)


def _save_png16(result: Result, path: Path) -> None:
    """65535 stands for the map's maximum, which the PNG and the tables tell."""
    values = result.anomaly_map.numpy().clip(0.0)
    maximum = float(values.max())
    info = PngInfo()
    info.add_text("map_maximum", repr(maximum))
    levels = np.round(values * (65535 / maximum if maximum > 0 else 0.0)).astype(np.uint16)
    Image.fromarray(levels).save(path, format="PNG", pnginfo=info)
