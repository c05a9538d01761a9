"""The VisA layout: a table ``split_csv/1cls.csv`` says which image is what."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grad.data.layouts.listed import inside
from grad.data.samples import Sample, check_class_name
from grad.data.scan import ClassImages, Reader, Samples, Scan, count, folders_in, order
from grad.system.errors import GradError

_TABLE = Path("split_csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")


def recognise(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]] | None:
    """VisA: a table, and for each class of it a function that finds its samples.

    Raises:
        GradError: its images without the table.
    """
    if not (root / _TABLE).is_file():
        if any((path / "Data" / "Images").is_dir() for path in [root, *folders_in(root)]):
            where = root.parent if (root / "Data").is_dir() else root
            raise GradError(f"--data {root} looks like VisA, but {where / _TABLE} is missing.")
        return None
    rows: dict[str, list[_Row]] = {}
    for row in _table(root / _TABLE):
        rows.setdefault(row.values["object"], []).append(row)
    return "visa", {name: partial(_read, root, name, mine) for name, mine in rows.items()}


def _read(root: Path, name: str, rows: list[_Row], scan: Scan) -> ClassImages:
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
        path = inside(root, row.values["image"], row.where)
        mask = inside(root, row.values["mask"], row.where) if row.values["mask"] else None
        if not path.is_file():
            missing.append(path)
        elif split == "test":
            test.append(_test_sample(path, name, label == "anomaly", mask, missing))
        elif label == "normal":
            train.append(Sample(path, name, "train"))
        else:
            scan.left_out(f"{row.where}: {path} is left out, as it is anomalous and for training")
    if missing:
        scan.left_out(f"{name}: {count(len(missing), 'listed file')} missing, first {missing[0]}")
    return ClassImages(sorted(train, key=order), sorted(test, key=order))


def _test_sample(
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
