"""Masks beside their images: KolektorSDD, KolektorSDD2, and plain folders of that kind.

A mask is called as its image, with an ending more. An image is defective where its mask marks a
pixel, and good where it marks none or is missing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from grad.data.images import load_mask
from grad.data.layouts.masks import masks_beside, stem_of_image
from grad.data.layouts.split import split_good
from grad.data.samples import GOOD, Sample, check_class_name, is_defective, is_good
from grad.data.scan import ClassImages, Reader, Samples, Scan, count, entries, folders_in, is_image
from grad.system.errors import GradError

NAMES = ("kolektor sdd", "kolektor sdd2", "masks beside images")


def recognise(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]] | None:
    """``train`` and ``test`` with masks (SDD2), folders of items (SDD), or all in one folder."""
    folders = folders_in(root)
    own = root.resolve().name
    if _has_masks(root):
        scan.leave_out(folders, "images are taken from the folder itself")
        found, read = "masks beside images", partial(_read_items, [root], own)
    elif _has_masks(root / "train") or _has_masks(root / "test"):
        scan.leave_out(
            [f for f in folders if f.name not in ("train", "test")], "beside train, test"
        )
        found, read = "kolektor sdd2", partial(_read_split, root, own)
    elif any(is_good(path.name) or is_defective(path.name) for path in folders):
        return None  # what images are follows from where they lie
    elif items := [path for path in folders if _has_masks(path)]:
        scan.leave_out([path for path in folders if path not in items], "without masks")
        found, read = "kolektor sdd", partial(_read_items, items, own)
    else:
        return None
    return found, {check_class_name(own, root): read}


def _read_items(items: list[Path], name: str, scan: Scan) -> ClassImages:
    """Images of a few items, each a folder, whose images are not divided among train and test."""
    samples: Samples = []
    for folder in items:
        samples += _read_folder(folder, name, folder.name if items[1:] else None, scan)
    good = [sample for sample in samples if not sample.anomalous]
    defects = [sample for sample in samples if sample.anomalous]
    return split_good(name, good, defects, ClassImages(), scan)


def _read_split(root: Path, name: str, scan: Scan) -> ClassImages:
    train = _read_folder(root / "train", name, None, scan)
    good = [Sample(sample.path, name, "train") for sample in train if not sample.anomalous]
    defects = len(train) - len(good)
    if defects:
        scan.notes.append(
            f"{name}: {count(defects, 'defective image')} in {root / 'train'} not used, as GRAD "
            "learns from good images."
        )
    return ClassImages(good, _read_folder(root / "test", name, None, scan))


def _read_folder(folder: Path, name: str, group: str | None, scan: Scan) -> Samples:
    """All images right inside a folder, as test images."""
    files = scan.images(folder)
    masks = masks_beside(files)
    samples: Samples = []
    for path in files:
        if path in masks.values():
            continue
        try:
            if stem_of_image(path) is not None:
                raise GradError(f"The mask {path} has no image: add the image or remove the mask.")
            mask = masks.get(path)
            anomalous = mask is not None and bool(load_mask(mask).any())
        except GradError as error:
            scan.wrong(error)
        else:
            defect = "defect" if anomalous else GOOD
            mask = mask if anomalous else None
            samples.append(Sample(path, name, "test", anomalous, defect, mask, group=group))
    return samples


def _has_masks(folder: Path) -> bool:
    files = entries(folder)
    if not any(map(stem_of_image, files)):
        return False
    return bool(masks_beside([path for path in files if is_image(path)]))
