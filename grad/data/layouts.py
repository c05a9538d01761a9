"""Recognising folder layouts: MVTec AD, VisA, or a plain folder of good images.

Every layout ends in the same samples. What is odd becomes a note, or an error where going on would
train or judge on something else than was meant. Under ``strict``, whatever a note would report as
left out is an error.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

from grad.data.images import UnreadableImage, image_size, image_suffixes
from grad.data.samples import GOOD, Dataset, Sample, check_classes
from grad.errors import GradError

_VISA_TABLE = Path("split_csv", "1cls.csv")
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_MASK_ENDING = "_mask"
_EXPECTED = (
    "a folder of good images, CLASS/train/good and CLASS/test/DEFECT as in MVTec AD (one class or "
    "several), or VisA with split_csv/1cls.csv"
)


@dataclass
class _Scan:
    """What one search of a folder has come across so far."""

    strict: bool
    notes: list[str] = field(default_factory=list)
    other_files: list[Path] = field(default_factory=list)  # in image folders, but no images
    hidden_files: int = 0

    def left_out(self, text: str) -> None:
        """Note that something is not used."""
        if self.strict:
            raise GradError(f"{text} (--strict makes this an error).")
        self.notes.append(f"{text}.")

    def images(self, folder: Path) -> list[Path]:
        """The image files right inside a folder, by name; none where there is no folder."""
        found, folders = [], []
        for path in _entries(folder):
            if path.name.startswith("."):
                self.hidden_files += path.is_file()
            elif path.is_dir():
                folders.append(path)
            elif path.suffix.lower() in image_suffixes():
                found.append(path)
            else:
                self.other_files.append(path)
        if folders:
            self.left_out(f"{folder} holds {_count(len(folders), 'folder')}, which is not searched")
        return found

    def finish(self) -> tuple[str, ...]:
        """All notes, with the counts of files that are no images."""
        if self.other_files:
            files = _count(len(self.other_files), "file")
            self.left_out(
                f"{files} without an image's ending left out, the first is {self.other_files[0]}"
            )
        if self.hidden_files:
            self.notes.append(f"{_count(self.hidden_files, 'hidden file')} left out.")
        return tuple(self.notes)


_Samples = list[Sample]
_Reader = Callable[[_Scan], tuple[_Samples, _Samples]]


def find_dataset(
    root: Path | str,
    classes: Sequence[str] | None = None,
    *,
    strict: bool = False,
    training: bool = True,
) -> Dataset:
    """Find the images below a folder; the layout is recognised by itself.

    - ``mvtec``: folders CLASS with ``train/good``, ``test/good``, ``test/DEFECT`` and, as far as
      there are masks, ``ground_truth/DEFECT/STEM_mask.EXT`` or ``STEM.EXT``.
    - ``mvtec class``: such a CLASS folder itself.
    - ``visa``: ``split_csv/1cls.csv`` with the columns object, split, label, image, mask.
    - ``folder``: good images right inside the folder; all of them are for training.

    Image files are not decoded here, but the headers of masks and their images are read.

    Args:
        root: the folder.
        classes: the classes to take, None for all.
        strict: raise where something would be left out with a note.
        training: whether every class needs training images.

    Raises:
        GradError: no folder, nothing in it, no known layout; a class without training images or
            with a single one, where they are needed; a mask without its image or of another size;
            an unknown class.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise GradError(f"--data {root} does not exist: give a folder of images.")
    if not root.is_dir():
        raise GradError(f"--data {root} is a file: give the folder that holds the images.")
    if not any(not path.name.startswith(".") for path in _entries(root)):
        raise GradError(f"--data {root} is empty: give {_EXPECTED}.")

    scan = _Scan(strict)
    layout, readers = _recognise(root, scan)
    chosen = sorted(readers) if classes is None else check_classes(classes, sorted(readers), root)
    train: _Samples = []
    test: _Samples = []
    for name in chosen:
        class_train, class_test = readers[name](scan)
        if training:
            _check_training_images(name, class_train, root)
        _check_mask_sizes(class_test)
        _note_missing_masks(name, class_test, scan)
        train += class_train
        test += class_test
    return Dataset(root, layout, tuple(train), tuple(test), scan.finish())


def _recognise(root: Path, scan: _Scan) -> tuple[str, dict[str, _Reader]]:
    """The layout's name, and for each class a function that finds its samples."""
    own_name = root.resolve().name
    if (root / _VISA_TABLE).is_file():
        return "visa", _visa_readers(root)
    if _is_mvtec_class(root):
        return "mvtec class", {own_name: partial(_read_mvtec, root, own_name)}

    folders = [path for path in _entries(root) if path.is_dir() and _is_visible(path)]
    classes = [path for path in folders if _is_mvtec_class(path)]
    if classes:
        others = [path.name for path in folders if path not in classes]
        if others:
            scan.left_out(
                f"{root} holds {', '.join(others)} without train and test folders, left out"
            )
        return "mvtec", {path.name: partial(_read_mvtec, path, path.name) for path in classes}

    if any(path.suffix.lower() in image_suffixes() for path in _entries(root) if path.is_file()):
        return "folder", {own_name: partial(_read_folder, root, own_name)}
    _refuse(root, folders)


def _refuse(root: Path, folders: list[Path]) -> NoReturn:
    """Raise for a folder in which no layout was recognised, with the likeliest reason."""
    if any((path / "Data" / "Images").is_dir() for path in [root, *folders]):
        where = root.parent if (root / "Data").is_dir() else root
        raise GradError(f"--data {root} looks like VisA, but {where / _VISA_TABLE} is missing.")
    found = ", ".join(path.name for path in folders[:5]) or "no images"
    raise GradError(
        f"--data {root} has no layout that GRAD knows (found {found}): give {_EXPECTED}."
    )


def _is_mvtec_class(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _train(path: Path, class_name: str) -> Sample:
    return Sample(path, class_name, "train")


def _read_folder(root: Path, name: str, scan: _Scan) -> tuple[_Samples, _Samples]:
    return [_train(path, name) for path in scan.images(root)], []


# MVTec AD


def _read_mvtec(folder: Path, name: str, scan: _Scan) -> tuple[_Samples, _Samples]:
    good = folder / "train" / GOOD
    _leave_out([path for path in _entries(folder / "train") if path != good], f"not {good}", scan)
    train = [_train(path, name) for path in scan.images(good)]

    kinds = _entries(folder / "test")
    _leave_out([path for path in kinds if not path.is_dir()], "not a folder of test images", scan)
    used: set[Path] = set()
    test: _Samples = []
    for kind in kinds:
        if kind.is_dir() and _is_visible(kind):
            test += _read_mvtec_kind(kind, folder / "ground_truth" / kind.name, name, used, scan)
    if not test:
        scan.notes.append(f"{name} has no test images: it can be trained, not evaluated.")
    _check_masks_used(folder, used)
    return train, test


def _read_mvtec_kind(
    folder: Path, mask_folder: Path, name: str, used: set[Path], scan: _Scan
) -> _Samples:
    """The test samples of one kind of defect, or the good ones; adds their masks to ``used``."""
    anomalous = folder.name != GOOD
    masks = _masks(mask_folder, scan) if anomalous else {}
    samples = []
    for path in scan.images(folder):
        mask = masks.get(path.stem + _MASK_ENDING) or masks.get(path.stem)
        samples.append(Sample(path, name, "test", anomalous, folder.name, mask))
    used.update(sample.mask for sample in samples if sample.mask)
    if not samples:
        scan.left_out(f"{folder} holds no images")
    return samples


def _leave_out(paths: list[Path], why: str, scan: _Scan) -> None:
    """Note the visible ones among some files and folders as not used."""
    visible = [path for path in paths if _is_visible(path)]
    if visible:
        more = f" and {len(visible) - 1} more are" if visible[1:] else " is"
        scan.left_out(f"{visible[0]}{more} left out: {why}")


def _masks(folder: Path, scan: _Scan) -> dict[str, Path]:
    """The mask files of one kind of defect by their stem."""
    masks: dict[str, Path] = {}
    for path in scan.images(folder):
        if path.stem in masks:
            raise GradError(
                f"{path} and {masks[path.stem].name} are masks of the same image: keep one."
            )
        masks[path.stem] = path
    return masks


def _check_masks_used(folder: Path, used: set[Path]) -> None:
    """Raise where a mask has no image; masks of good images say nothing and may lie about."""
    for kind_folder in _entries(folder / "ground_truth"):
        if not kind_folder.is_dir() or kind_folder.name == GOOD or not _is_visible(kind_folder):
            continue
        images = [path for path in _entries(kind_folder) if path.suffix.lower() in image_suffixes()]
        unused = [path for path in images if _is_visible(path) and path not in used]
        if unused:
            raise GradError(
                f"The mask {unused[0]} has no image in {folder / 'test' / kind_folder.name} "
                f"({len(unused)} such in that folder): add the image or remove the mask."
            )


# VisA


def _visa_readers(root: Path) -> dict[str, _Reader]:
    rows: dict[str, list[_Row]] = {}
    for row in _table(root / _VISA_TABLE):
        rows.setdefault(row.values["object"], []).append(row)
    return {name: partial(_read_visa, root, name, of_class) for name, of_class in rows.items()}


def _read_visa(root: Path, name: str, rows: list[_Row], scan: _Scan) -> tuple[_Samples, _Samples]:
    train: _Samples = []
    test: _Samples = []
    missing: list[Path] = []
    for row in rows:
        split, label = row.values["split"].lower(), row.values["label"].lower()
        if split not in ("train", "test") or label not in ("normal", "anomaly"):
            raise GradError(
                f"{row.where}: split is {split!r} and label {label!r}, where GRAD knows train or "
                "test, and normal or anomaly."
            )
        path = _inside(root, row.values["image"], row.where)
        mask = _inside(root, row.values["mask"], row.where) if row.values["mask"] else None
        if not path.is_file():
            missing.append(path)
        elif split == "test":
            test.append(_visa_test_sample(path, name, label == "anomaly", mask, missing))
        elif label == "normal":
            train.append(_train(path, name))
        else:
            scan.left_out(f"{row.where}: {path} is left out, as it is anomalous and for training")
    if missing:
        scan.left_out(f"{name}: {_count(len(missing), 'listed file')} missing, first {missing[0]}")
    return sorted(train, key=_order), sorted(test, key=_order)


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
            absent = [column for column in _VISA_COLUMNS if column not in (reader.fieldnames or ())]
            if absent:
                raise GradError(f"{path} has no column {', '.join(absent)}: VisA's own has it.")
            for line in reader:
                values = {column: (line[column] or "").strip() for column in _VISA_COLUMNS}
                where = f"{path}, line {reader.line_num}"
                if not values["object"]:
                    raise GradError(f"{where}: the column object is empty; it names the class.")
                yield _Row(values, where)
    except (UnicodeDecodeError, csv.Error) as error:
        raise GradError(f"{path} is no table of comma-separated values ({error}).") from error


def _inside(root: Path, entry: str, where: str) -> Path:
    """The path of a table's entry, which must stay inside the data folder."""
    relative = PurePosixPath(entry)
    if not entry or relative.is_absolute() or ".." in relative.parts:
        raise GradError(f"{where}: {entry!r} is no path inside {root}.")
    return root / relative


# What holds for every layout


def _check_training_images(name: str, train: _Samples, root: Path) -> None:
    if not train:
        raise GradError(
            f"Class {name} in {root} has no good training images (train/good): GRAD learns from "
            "good images only; add some, or choose other classes with --classes."
        )
    if len(train) == 1:
        raise GradError(
            f"Class {name} in {root} has a single training image, {train[0].path}: add more, or "
            "choose other classes with --classes."
        )


def _check_mask_sizes(test: _Samples) -> None:
    for sample in test:
        if sample.mask is None:
            continue
        mask_size = image_size(sample.mask)
        try:
            size = image_size(sample.path)
        except UnreadableImage:
            continue  # reported where images are decoded, like every other unreadable image
        if mask_size != size:
            raise GradError(
                f"The mask {sample.mask} has {mask_size[1]} x {mask_size[0]} pixels, its image "
                f"{sample.path} has {size[1]} x {size[0]}: make them equal."
            )


def _note_missing_masks(name: str, test: _Samples, scan: _Scan) -> None:
    anomalous = [sample for sample in test if sample.anomalous]
    without = [sample for sample in anomalous if sample.mask is None]
    if without and len(without) == len(anomalous):
        scan.notes.append(f"{name} has no masks: it gets image metrics only.")
    elif without:
        scan.left_out(
            f"{name}: {len(without)} of {len(anomalous)} defect images have no mask and are left "
            f"out of pixel metrics, first {without[0].path}"
        )


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, by name; nothing where there is no folder."""
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise GradError(f"The folder {folder} can't be read: {error.strerror}.") from error


def _is_visible(path: Path) -> bool:
    return not path.name.startswith((".", "__MACOSX"))


def _order(sample: Sample) -> tuple[str, str]:
    return sample.defect, sample.path.as_posix()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
