"""MVTec AD and its kin: the folders ``train``, ``test`` and ``ground_truth`` of each class.

MPDD has the same form. BTAD calls its kinds ok and ko. MVTec LOCO AD has a folder of masks for each
image, and further good images in ``validation``, as MVTec AD 2 has, whose test images lie in
``test_public``, with their masks.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from grad.data.layouts.masks import MASKS, check_masks_used, mask_of, masks_beside, masks_in
from grad.data.samples import GOOD, Sample, check_class_name, is_good
from grad.data.scan import (
    ClassImages,
    Reader,
    Samples,
    Scan,
    entries,
    folders_in,
    is_image,
    is_visible,
)

_PUBLIC = "test_public"
_UNLABELLED = ("test_private", "test_private_mixed")
# What tells the kin from MVTec AD: a folder that their classes have.
_KIN = {
    "mvtec ad 2": _PUBLIC,
    "mvtec loco": "test/logical_anomalies",
    "btad": "test/ko",
}
NAMES = tuple(name + one for name in ("mvtec", *_KIN) for one in ("", " class"))


def recognise(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]] | None:
    """Folders of classes, or one such folder itself."""
    if _is_class(root):
        return f"{_kin(root)} class", {root.resolve().name: _reader(root)}
    folders = folders_in(root)
    classes = [path for path in folders if _is_class(path)]
    if not classes:
        return None
    others = [path.name for path in folders if path not in classes]
    if others:
        scan.left_out(f"{root} holds {', '.join(others)} without train and test folders, left out")
    return _kin(classes[0]), {path.name: _reader(path) for path in classes}


def _is_class(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("train", "test", _PUBLIC))


def _kin(folder: Path) -> str:
    return next((name for name, has in _KIN.items() if (folder / has).is_dir()), "mvtec")


def _reader(folder: Path) -> Reader:
    name = check_class_name(folder.resolve().name, folder)
    return partial(_read, folder, name)


def _read(folder: Path, name: str, scan: Scan) -> ClassImages:
    train = _read_good(folder / "train", name, scan)
    validation = _read_good(folder / "validation", name, scan)
    place = folder / "test" if (folder / "test").is_dir() else folder / _PUBLIC
    masks = (folder if place.name == "test" else place) / MASKS
    known = ("train", "validation", place.name, MASKS, *_UNLABELLED)
    others = [path for path in entries(folder) if path.name not in known]
    others = [path for path in others if path.is_dir() or is_image(path)]
    scan.leave_out(others, "beside train, test and ground_truth")
    unlabelled = [path for path in _UNLABELLED if (folder / path).is_dir()]
    if unlabelled:
        scan.notes.append(f"{name}: {' and '.join(unlabelled)} come without labels: not used.")

    kinds = [path for path in entries(place) if path != masks]
    scan.leave_out([path for path in kinds if not path.is_dir()], "not a folder of test images")
    used: set[Path] = set()
    test: Samples = []
    for kind in kinds:
        if kind.is_dir() and is_visible(kind):
            test += read_kind(kind, masks / kind.name, name, used, scan)
    if not test:
        scan.notes.append(f"{name} has no test images: it can be trained, not evaluated.")
    check_masks_used(masks, place, used, scan)
    return ClassImages(train, test, validation)


def _read_good(folder: Path, name: str, scan: Scan) -> Samples:
    """The good images of a folder, in which they are a folder of their own."""
    inside = entries(folder)
    good = [path for path in inside if path.is_dir() and is_good(path.name)]
    scan.leave_out([path for path in inside if path not in good], f"not in {folder.name}/good")
    return [Sample(path, name, "train") for path in sorted(p for g in good for p in scan.images(g))]


def read_kind(folder: Path, mask_folder: Path, name: str, used: set[Path], scan: Scan) -> Samples:
    """The test samples of one kind of defect, or the good ones.

    Args:
        folder: of the images; what it is called is the kind.
        mask_folder: holds their masks, where these don't lie beside the images.
        name: of the class.
        used: the masks are added here.
        scan: gets notes.
    """
    anomalous = not is_good(folder.name)
    masks = masks_in(mask_folder, scan) if anomalous else {}
    files = scan.images(folder)
    beside = masks_beside(files)
    samples = []
    for path in files:
        if path not in beside.values():
            mask = (mask_of(path, masks) or beside.get(path)) if anomalous else None
            defect = folder.name if anomalous else GOOD
            samples.append(Sample(path, name, "test", anomalous, defect, mask))
    used.update(sample.mask for sample in samples if sample.mask)
    if not samples:
        scan.left_out(f"{folder} holds no images")
    return samples
