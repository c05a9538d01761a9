"""A manifest: a table of images, as CSV or JSON lines, for whatever no folder layout says.

A line an image, with the columns image, label, class, split, mask, group and part, of which only
the first is needed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

from grad.data.images import mask_files
from grad.data.layouts.listed import inside, usable
from grad.data.layouts.split import split_good
from grad.data.samples import GOOD, ROI_FILE, Sample, check_class_name, is_good
from grad.data.scan import ClassImages, Reader, Samples, Scan, count, entries, is_image, order
from grad.system.errors import GradError, first_line

# The columns, and by which other names they go.
_COLUMNS = {
    "image": ("image_path", "path", "file", "filename"),
    "label": (),
    "class": ("class_name", "object", "category"),
    "split": (),
    "mask": ("mask_path",),
    "group": (),
    "part": (),
}
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_Cells = tuple[int, list[tuple[str, str]]]  # a line's number, its values with their names
_ZERO, _ONE = ("0", "0.0", "false"), ("1", "1.0", "true")  # labels that are numbers


def recognise(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]] | None:
    """A file ``manifest.csv`` or ``manifest.jsonl`` in the folder, of images below it."""
    found = [root / f"manifest{ending}" for ending in _READERS]
    found = [path for path in found if path.is_file()]
    if not found:
        return None
    if found[1:]:
        raise GradError(f"{root} holds {found[0].name} and {found[1].name}: keep one of them.")
    return read_manifest(found[0], scan, anywhere=False)


def is_manifest(path: Path) -> bool:
    """Whether a file's ending is that of a manifest."""
    return path.suffix.lower() in _READERS


def read_manifest(path: Path, scan: Scan, *, anywhere: bool) -> tuple[str, dict[str, Reader]]:
    """The layout's name, and for each class of a manifest a function that finds its samples.

    Args:
        path: the manifest.
        scan: gets notes.
        anywhere: whether its paths may lead out of its folder.

    Raises:
        GradError: it can't be read, lists no images, or has a value that means nothing.
    """
    root, rows = path.parent, list(_rows(path))
    if not rows:
        raise GradError(f"{path} lists no images: give each a line.")
    places = [_place(row, "image", root, anywhere) for row in rows]
    first: dict[str, _Row] = {}
    for row, place in zip(rows, places, strict=True):
        known = first.setdefault(os.path.normpath(place), row)
        if known is not row:
            raise GradError(f"{row.where}: {place} is in line {known.line} too: keep one of them.")
    if unknown := [name for name in rows[0].values if name not in _COLUMNS]:
        scan.notes.append(f"{path}: columns not used: {', '.join(unknown)}.")
    by_class: dict[str, list[_Listed]] = {}
    for row, place in zip(rows, places, strict=True):
        listed = _listed(row, place, root, anywhere)
        by_class.setdefault(listed.sample.class_name, []).append(listed)
    _note_unlisted(path, [listed.sample for mine in by_class.values() for listed in mine], scan)
    return "manifest", {name: partial(_read, name, mine) for name, mine in by_class.items()}


@dataclass(frozen=True)
class _Row:
    """A line of a manifest: the values that it has by column, and where it stands."""

    file: Path
    line: int
    values: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.line}"

    def wrong(self, column: str, what: str) -> GradError:
        return GradError(f"{self.where}, column {column}: {what}")

    def text(self, column: str) -> str | None:
        """The value of a column; None where there is no such column."""
        return self.values.get(column)


@dataclass(frozen=True)
class _Listed:
    """An image of a manifest, the use that it names, if it does, and where."""

    sample: Sample
    split: str | None
    where: str


def _listed(row: _Row, path: Path, root: Path, anywhere: bool) -> _Listed:
    name = row.text("class")
    if name is None:
        name = root.resolve().name
    mask = _place(row, "mask", root, anywhere) if row.text("mask") else None
    defect = _defect(row, mask)
    sample = Sample(
        path,
        check_class_name(name, f"{row.where}, column class"),
        "test",
        defect != GOOD,
        defect,
        mask if defect != GOOD else None,
        group=row.text("group") or None,
        part=row.text("part") or None,
    )
    return _Listed(sample, _split(row), row.where)


def _defect(row: _Row, mask: Path | None) -> str:
    """The kind of defect, ``"good"`` of good images; without labels it is told by the mask."""
    label = row.text("label")
    if label is None:
        return "defect" if mask else GOOD
    if is_good(label) or label.lower() in _ZERO:
        return GOOD
    if not label or not label.isprintable():
        raise row.wrong("label", f"{label[:99]!r} is no label: give good, or the kind of defect.")
    return "defect" if label.lower() in _ONE else label


def _split(row: _Row) -> str | None:
    split = row.text("split")
    if not split:
        return None
    for name, words in _SPLITS.items():
        if split.lower() in words:
            return name
    raise row.wrong("split", f"{split[:99]!r} is none of {', '.join(_SPLITS)}.")


def _place(row: _Row, column: str, root: Path, anywhere: bool) -> Path:
    """The path that a column names."""
    entry, where = row.text(column) or "", f"{row.where}, column {column}"
    if not entry:
        raise row.wrong(column, "there is no path.")
    if PurePath(entry).name == ROI_FILE:
        raise row.wrong(column, f"{entry} is a region of interest: leave it out, or rename it.")
    if "\\" in entry and not usable(root / entry, where).exists():
        entry = entry.replace("\\", "/")  # as Windows writes it
    return usable(root / entry, where) if anywhere else inside(root, entry, where)


def _read(name: str, listed: list[_Listed], scan: Scan) -> ClassImages:
    found = ClassImages()
    good: Samples = []
    defects: Samples = []
    missing: list[Path] = []
    unusable: list[_Listed] = []
    for one in listed:
        sample = one.sample
        if not sample.path.is_file():
            missing.append(sample.path)
            continue
        if sample.mask is not None and not any(map(Path.is_file, mask_files(sample.mask))):
            missing.append(sample.mask)
            sample = replace(sample, mask=None)
        if one.split in ("train", "validation") and sample.anomalous:
            unusable.append(one)
        elif one.split == "train":
            found.train.append(replace(sample, split="train"))
        elif one.split == "validation":
            found.validation.append(replace(sample, split="train"))
        elif one.split == "test":
            found.test.append(sample)
        else:
            (defects if sample.anomalous else good).append(sample)
    if unusable:
        scan.left_out(
            f"{name}: {count(len(unusable), 'image')} left out, anomalous and not for testing, "
            f"first {unusable[0].where}"
        )
    if missing:
        scan.left_out(f"{name}: {count(len(missing), 'listed file')} missing, first {missing[0]}")
    return split_good(name, sorted(good, key=order), defects, found, scan)


def _note_unlisted(path: Path, samples: Iterable[Sample], scan: Scan) -> None:
    """Say which images lie beside listed ones without being listed."""
    listed = {sample.path.resolve() for sample in samples}
    folders = {image.parent for image in listed}
    listed |= {sample.mask.resolve() for sample in samples if sample.mask}
    others = [
        file
        for folder in sorted(folders)
        for file in entries(folder)
        if is_image(file) and file.resolve() not in listed
    ]
    if others:
        scan.notes.append(
            f"{count(len(others), 'image')} beside listed ones not in {path.name}, the first is "
            f"{others[0]}."
        )


def _rows(path: Path) -> Iterator[_Row]:
    """The lines of a manifest, their columns under the names that GRAD has for them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, cells in _READERS[path.suffix.lower()](path, file):
                values: dict[str, str] = {}
                for name, text in cells:
                    column = _column(name)
                    if column in values:
                        raise GradError(f"{path}, line {line}: two columns {column}: keep one.")
                    values[column] = text
                yield _Row(path, line, values)
    except UnicodeDecodeError as error:
        raise GradError(f"{path} is no text in UTF-8 ({error.reason}): save it as that.") from None
    except OSError as error:
        raise GradError(f"{path} can't be read: {error.strerror}.") from None


def _column(name: str) -> str:
    """What GRAD calls a column; its own name where it has none."""
    low = name.strip().lower()
    known = (column for column, others in _COLUMNS.items() if low in (column, *others))
    return next(known, name.strip())


def _read_csv(path: Path, file: Iterable[str]) -> Iterator[_Cells]:
    """Lines by number, their values with the header's names; commas, semicolons or tabs."""
    lines = iter(file)
    header = next(lines, "")
    separator = max(",;\t", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    if "image" not in map(_column, names):
        raise GradError(
            f"{path}, line 1: no column image among {', '.join(names)[:200] or 'none'}."
        )
    reader = csv.reader(lines, delimiter=separator)
    try:
        for values in reader:
            if len(values) > len(names):
                raise GradError(
                    f"{path}, line {reader.line_num + 1}: {len(values)} values for {len(names)} "
                    f"columns: put values that hold {separator!r} into quotes."
                )
            if any(map(str.strip, values)):
                padded = values + [""] * (len(names) - len(values))
                cells = zip(names, map(str.strip, padded), strict=True)
                yield reader.line_num + 1, [(name, text) for name, text in cells if name]
    except csv.Error as error:
        raise GradError(f"{path}, line {reader.line_num + 1}: {first_line(error)}.") from None


def _read_json_lines(path: Path, file: Iterable[str]) -> Iterator[_Cells]:
    """Lines by number, each an object; numbers and true or false as texts."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError("it is none")
        except (ValueError, RecursionError) as error:
            raise GradError(
                f"{path}, line {number}: no JSON object ({first_line(error)})."
            ) from None
        yield (
            number,
            [(name, _as_text(value, name, path, number)) for name, value in values.items()],
        )


def _as_text(value: object, name: str, path: Path, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    if _column(name) not in _COLUMNS:
        return ""
    raise GradError(f"{path}, line {number}, column {name}: give a text or a number.")


_READERS: dict[str, Callable[[Path, Iterable[str]], Iterator[_Cells]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
}
