"""Folders by what is in them: good images and defects, or good images alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from grad.data.layouts.masks import MASKS, check_masks_used
from grad.data.layouts.mvtec import read_kind
from grad.data.layouts.split import split_good
from grad.data.samples import Sample, check_class_name, is_defective, is_good
from grad.data.scan import (
    ClassImages,
    Reader,
    Samples,
    Scan,
    entries,
    folders_in,
    holds_images,
    is_image,
)


def recognise_sorted(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]] | None:
    """``good`` beside folders of defects, in the folder itself or in those of its classes."""
    if _is_sorted(root):
        name = check_class_name(root.resolve().name, root)
        return "good and defects class", {name: partial(_read_sorted, root, name)}
    folders = folders_in(root)
    classes = [path for path in folders if _is_sorted(path)]
    if not classes:
        return None
    scan.leave_out([path for path in folders if path not in classes], "without a folder good")
    names = [check_class_name(path.name, path) for path in classes]
    return "good and defects", {
        name: partial(_read_sorted, path, name) for name, path in zip(names, classes, strict=True)
    }


def recognise_plain(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]] | None:
    """Images right inside the folder, or inside its folders: all of them good ones of one class."""
    name = check_class_name(root.resolve().name, root)
    folders = folders_in(root)
    if holds_images(root):
        scan.leave_out(folders, "images are taken from the folder itself")
        return "folder", {name: partial(_read_plain, (root,), name)}
    holding = [path for path in folders if holds_images(path)]
    if not holding or any(is_defective(path.name) for path in holding):
        return None
    scan.leave_out([path for path in folders if path not in holding], "without images")
    names = ", ".join(path.name for path in holding)
    scan.notes.append(f"{root}: all images in {names} are taken as good ones of one class.")
    return "folder", {name: partial(_read_plain, tuple(holding), name)}


def _is_sorted(folder: Path) -> bool:
    return any(is_good(path.name) and holds_images(path) for path in folders_in(folder))


def _read_sorted(folder: Path, name: str, scan: Scan) -> ClassImages:
    folders = [path for path in folders_in(folder) if path.name != MASKS]
    kinds = [kind for path in folders if not is_good(path.name) for kind in _kinds(path)]
    scan.leave_out([path for path in entries(folder) if is_image(path)], "beside folders of images")
    used: set[Path] = set()
    defects: Samples = []
    for kind in kinds:
        defects += read_kind(kind, folder / MASKS / kind.name, name, used, scan)
    check_masks_used(folder / MASKS, folder, used, scan)
    unsure = [kind.name for kind in kinds if not is_defective(kind.name)]
    if unsure:
        scan.notes.append(f"{name}: images in {', '.join(unsure)} are taken as defects.")
    good = [path for path in folders if is_good(path.name)]
    return split_good(name, _good(good, name, scan), defects, ClassImages(), scan)


def _kinds(folder: Path) -> list[Path]:
    """The kinds of defects in a folder: those inside ``NG``, or it is one itself."""
    inside = [path for path in folders_in(folder) if holds_images(path)]
    return inside if is_defective(folder.name) and not holds_images(folder) and inside else [folder]


def _read_plain(folders: Sequence[Path], name: str, scan: Scan) -> ClassImages:
    return ClassImages(_good(folders, name, scan))


def _good(folders: Sequence[Path], name: str, scan: Scan) -> Samples:
    return [Sample(path, name, "train") for folder in folders for path in scan.images(folder)]
