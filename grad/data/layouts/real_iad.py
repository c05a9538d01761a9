"""Real-IAD: a JSON file for each class lists its images, of which several are views of one part."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from grad.data.layouts.listed import inside
from grad.data.samples import Sample, check_class_name
from grad.data.scan import ClassImages, Reader, Samples, Scan, count, entries, folders_in, order
from grad.system.errors import GradError, first_line

_LISTS = "realiad_jsons"
_IMAGES = "realiad_"  # and the side of its images in pixels


def recognise(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]] | None:
    """``realiad_jsons`` beside folders of images such as ``realiad_1024``, or one of the latter."""
    chosen = root.name.startswith(_IMAGES) and not (root / _LISTS).is_dir()
    home = root.parent if chosen else root
    lists = home / _LISTS / _LISTS if (home / _LISTS / _LISTS).is_dir() else home / _LISTS
    files = [path for path in entries(lists) if path.suffix.lower() == ".json"]
    if not files:
        return None
    sizes = [p for p in folders_in(home) if p.name.startswith(_IMAGES) and p.name != _LISTS]
    if not sizes:
        raise GradError(f"--data {root} looks like Real-IAD, but has no images in {_IMAGES}1024.")
    images = root if chosen else max(sizes, key=_side)
    unused = [path.name for path in sizes if path != images]
    if unused:
        scan.notes.append(
            f"Images are taken from {images}, not from {', '.join(unused)}: --data takes one of "
            "these too."
        )
    there = [path for path in files if (images / path.stem).is_dir()]
    if there != files:
        gone = count(len(files) - len(there), "class", "es")
        scan.notes.append(f"{gone} of {lists} without images in {images}.")
    names = [check_class_name(path.stem, path) for path in there]
    return "real-iad", {
        name: partial(_read, path, images / path.stem, name)
        for name, path in zip(names, there, strict=True)
    }


def _side(folder: Path) -> int:
    side = folder.name.removeprefix(_IMAGES)
    return int(side) if side.isdecimal() else 0


def _read(listing: Path, folder: Path, name: str, scan: Scan) -> ClassImages:
    try:
        listed = json.loads(listing.read_text(encoding="utf-8-sig"))
        normal = listed["meta"]["normal_class"]
        splits = {split: list(listed[split]) for split in ("train", "test")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GradError(
            f"{listing} is no list of Real-IAD, with meta, train and test ({first_line(error)})."
        ) from None
    found = ClassImages()
    missing: list[Path] = []
    defects = 0
    for number, entry in enumerate(splits["train"], 1):
        sample = _sample(entry, normal, folder, name, f"{listing}, train {number}", missing)
        defects += sample.anomalous
        if not sample.anomalous:
            found.train.append(Sample(sample.path, name, "train", part=sample.part))
    for number, entry in enumerate(splits["test"], 1):
        where = f"{listing}, test {number}"
        found.test.append(_sample(entry, normal, folder, name, where, missing))
    if defects:
        scan.left_out(f"{name}: {count(defects, 'image')} left out, anomalous and for training")
    gone = set(missing)
    if missing:
        scan.left_out(f"{name}: {count(len(missing), 'listed file')} missing, first {missing[0]}")
    return ClassImages(_present(found.train, gone), _present(found.test, gone))


def _sample(
    entry: Any, normal: str, folder: Path, name: str, where: str, missing: list[Path]
) -> Sample:
    """A test sample; files that are not there are added to ``missing``."""
    try:
        image, kind, marks = entry["image_path"], entry["anomaly_class"], entry.get("mask_path")
        if not (isinstance(image, str) and isinstance(kind, str) and isinstance(marks or "", str)):
            raise TypeError("a value is no text")
    except (KeyError, TypeError, AttributeError) as error:
        raise GradError(
            f"{where}: no image_path, anomaly_class and mask_path ({first_line(error)})."
        ) from None
    path = inside(folder, image, where)
    part = path.parent.relative_to(folder).as_posix()
    if not path.is_file():
        missing.append(path)
    if kind == normal:
        return Sample(path, name, "test", part=part)
    mask = inside(folder, marks, where) if marks else None
    if mask is not None and not mask.is_file():
        missing.append(mask)
        mask = None
    return Sample(path, name, "test", True, kind, mask, part=part)


def _present(samples: Samples, missing: set[Path]) -> Samples:
    return sorted((sample for sample in samples if sample.path not in missing), key=order)
