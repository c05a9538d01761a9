"""The VisA layout: a table ``split_csv/1cls.csv`` says which image is what."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from grad.data.samples import Sample, check_class_name
from grad.data.scan import Reader, Samples, Scan, count, order
from grad.system.errors import GradError, first_line

TABLE = Path("split_csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")


def visa_readers(root: Path) -> dict[str, Reader]:
    """For each class of the table a function that finds its samples."""
    rows: dict[str, list[_Row]] = {}
    for row in _table(root / TABLE):
        rows.setdefault(row.values["object"], []).append(row)
    return {name: partial(_read_visa, root, name, of_class) for name, of_class in rows.items()}


def _read_visa(root: Path, name: str, rows: list[_Row], scan: Scan) -> tuple[Samples, Samples]:
    train: Samples = []
    test: Samples = []
    missing: list[Path] = []
    for row in rows:
        split, label = row.values["split"].lower(), row.values["label"].lower()
        if split not in ("train", "test") or label not in ("normal", "anomaly"):
            raise GradError(
                f"{row.where}: split is {split[:99]!r} and label {label[:99]!r}, where GRAD "
                "knows train or test, and normal or anomaly."
            )
        path = _inside(root, row.values["image"], row.where)
        mask = _inside(root, row.values["mask"], row.where) if row.values["mask"] else None
        if not path.is_file():
            missing.append(path)
        elif split == "test":
            test.append(_visa_test_sample(path, name, label == "anomaly", mask, missing))
        elif label == "normal":
            train.append(Sample(path, name, "train"))
        else:
            scan.left_out(f"{row.where}: {path} is left out, as it is anomalous and for training")
    if missing:
        scan.left_out(f"{name}: {count(len(missing), 'listed file')} missing, first {missing[0]}")
    return sorted(train, key=order), sorted(test, key=order)


def _visa_test_sample(
    path: Path, name: str, anomalous: bool, mask: Path | None, missing: list[Path]
) -> Sample:
    if not anomalous:
        return Sample(path, name, "test")
    if mask is not None and not mask.is_file():
        missing.append(mask)
        mask = None
    return Sample(path, name, "test", True, "anomaly", mask)


@dataclass(frozen=True)
class _Row:
    """A line of VisA's table: its values by column, and where it stands."""

    values: dict[str, str]
    where: str


def _table(path: Path) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if absent:
                raise GradError(f"{path} has no column {', '.join(absent)}: VisA's own has it.")
            for line in reader:
                values = {column: (line[column] or "").strip() for column in _COLUMNS}
                where = f"{path}, line {reader.line_num}"
                if not values["object"]:
                    raise GradError(f"{where}: the column object is empty; it names the class.")
                check_class_name(values["object"], where)
                yield _Row(values, where)
    except (UnicodeDecodeError, csv.Error) as error:
        raise GradError(f"{path} is no table of comma-separated values ({error}).") from error


def _inside(root: Path, entry: str, where: str) -> Path:
    """The path of a table's entry, which must stay inside the data folder."""
    relative = PurePosixPath(entry)
    if not entry or relative.is_absolute() or ".." in relative.parts:
        raise GradError(f"{where}: {entry!r} is no path inside {root}.")
    path = root / relative
    try:
        inside = path.resolve().is_relative_to(root.resolve())
        path.exists()
    except (OSError, ValueError) as error:  # too long, a zero in it
        raise GradError(
            f"{where}: {entry[:200]!r} can't be a path ({first_line(error)})."
        ) from None
    if not inside:
        raise GradError(f"{where}: {entry!r} is a link to a place outside {root}.")
    return path
