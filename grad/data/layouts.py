"""Recognising folder layouts: MVTec AD, VisA, or a plain folder of good images.

Every layout ends in the same samples. What is odd becomes a note, or an error where going on would
train or judge on something else than was meant. Under ``strict``, whatever a note would report as
left out is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from grad.data.images import UnreadableImage, image_size, image_suffixes
from grad.data.samples import (
    GOOD,
    Dataset,
    Sample,
    check_class_name,
    check_classes,
    is_good,
)
from grad.data.scan import Reader, Samples, Scan, entries, is_visible
from grad.data.visa import TABLE, visa_readers
from grad.system.errors import GradError
from grad.system.names import check_text

_MASK_ENDING = "_mask"
_MVTEC_FOLDERS = ("train", "test", "ground_truth")
_EXPECTED = (
    "a folder of good images, CLASS/train/good and CLASS/test/DEFECT as in MVTec AD (one class or "
    "several), or VisA with split_csv/1cls.csv"
)


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
    scan = Scan(strict)
    root, layout, readers = _open(root, scan)
    chosen = sorted(readers) if classes is None else check_classes(classes, sorted(readers), root)
    return _collect(root, layout, {name: readers[name] for name in chosen}, scan, training)


def survey_dataset(
    root: Path | str, classes: Sequence[str] | None = None
) -> tuple[Dataset, tuple[str, ...]]:
    """As :func:`find_dataset`, but with every problem instead of the first alone.

    Returns:
        what was found, and what keeps it from being used: a sentence each.

    Raises:
        GradError: no folder, nothing in it, no known layout; an unknown class.
    """
    problems: list[str] = []
    scan = Scan(strict=False, problems=problems)
    root, layout, readers = _open(root, scan)
    chosen = sorted(readers) if classes is None else check_classes(classes, sorted(readers), root)
    dataset = _collect(root, layout, {name: readers[name] for name in chosen}, scan, training=True)
    return dataset, tuple(problems)


def _open(root: Path | str, scan: Scan) -> tuple[Path, str, dict[str, Reader]]:
    """The folder, its layout's name, and for each class a function that finds its samples."""
    root = Path(root).expanduser()
    try:
        there = root.exists()
    except OSError as error:
        raise GradError(f"--data {root} can't be read: {error.strerror}.") from error
    if not there:
        raise GradError(f"--data {root} does not exist: give a folder of images.")
    if not root.is_dir():
        raise GradError(f"--data {root} is a file: give the folder that holds the images.")
    check_text(root.absolute())
    if not any(not path.name.startswith(".") for path in entries(root)):
        raise GradError(f"--data {root} is empty: give {_EXPECTED}.")
    return root, *_recognise(root, scan)


def _collect(
    root: Path, layout: str, readers: dict[str, Reader], scan: Scan, training: bool
) -> Dataset:
    train: Samples = []
    test: Samples = []
    for name, read in readers.items():
        try:
            class_train, class_test = read(scan)
        except GradError as error:
            scan.wrong(error)
            continue
        if training:
            _check_training_images(name, class_train, root, scan)
        _check_mask_sizes(class_test, scan)
        _note_missing_masks(name, class_test, scan)
        train += class_train
        test += class_test
    return Dataset(root, layout, tuple(train), tuple(test), scan.finish())


def _recognise(root: Path, scan: Scan) -> tuple[str, dict[str, Reader]]:
    """The layout's name, and for each class a function that finds its samples."""
    own_name = root.resolve().name
    if (root / TABLE).is_file():
        return "visa", visa_readers(root)
    if _is_mvtec_class(root):
        return "mvtec class", {own_name: _mvtec_reader(root)}

    folders = [path for path in entries(root) if path.is_dir() and is_visible(path)]
    classes = [path for path in folders if _is_mvtec_class(path)]
    if classes:
        others = [path.name for path in folders if path not in classes]
        if others:
            scan.left_out(
                f"{root} holds {', '.join(others)} without train and test folders, left out"
            )
        return "mvtec", {path.name: _mvtec_reader(path) for path in classes}

    check_class_name(own_name, root)
    if _holds_images(root):
        _leave_out(folders, "images are taken from the folder itself", scan)
        return "folder", {own_name: partial(_read_folder, (root,), own_name)}
    holding = [path for path in folders if _holds_images(path)]
    if holding and not any(is_good(path.name) for path in holding):
        _leave_out([path for path in folders if path not in holding], "without images", scan)
        names = ", ".join(path.name for path in holding)
        scan.notes.append(f"{root}: all images in {names} are taken as good ones of one class.")
        return "folder", {own_name: partial(_read_folder, tuple(holding), own_name)}
    _refuse(root, folders)


def _holds_images(folder: Path) -> bool:
    return any(
        path.suffix.lower() in image_suffixes() and path.is_file() for path in entries(folder)
    )


def _mvtec_reader(folder: Path) -> Reader:
    name = check_class_name(folder.resolve().name, folder)
    return partial(_read_mvtec, folder, name)


def _refuse(root: Path, folders: list[Path]) -> NoReturn:
    """Raise for a folder in which no layout was recognised, with the likeliest reason."""
    if any((path / "Data" / "Images").is_dir() for path in [root, *folders]):
        where = root.parent if (root / "Data").is_dir() else root
        raise GradError(f"--data {root} looks like VisA, but {where / TABLE} is missing.")
    good = [path.name for path in folders if is_good(path.name)]
    if good:
        raise GradError(
            f"--data {root} holds {good[0]} without train and test: put good images to learn from "
            f"into CLASS/train/good, others into CLASS/test/good, defects into CLASS/test/DEFECT."
        )
    found = ", ".join(path.name for path in folders[:5]) or "no images"
    raise GradError(
        f"--data {root} has no layout that GRAD knows (found {found}): give {_EXPECTED}."
    )


def _is_mvtec_class(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _train(path: Path, class_name: str) -> Sample:
    return Sample(path, class_name, "train")


def _read_folder(folders: Sequence[Path], name: str, scan: Scan) -> tuple[Samples, Samples]:
    return [_train(path, name) for folder in folders for path in scan.images(folder)], []


# MVTec AD


def _read_mvtec(folder: Path, name: str, scan: Scan) -> tuple[Samples, Samples]:
    inside = entries(folder / "train")
    good = [path for path in inside if path.is_dir() and is_good(path.name)]
    _leave_out([path for path in inside if path not in good], "not in train/good", scan)
    train = [_train(path, name) for path in sorted(p for kind in good for p in scan.images(kind))]
    others = [path for path in entries(folder) if path.name not in _MVTEC_FOLDERS]
    others = [path for path in others if path.is_dir() or path.suffix.lower() in image_suffixes()]
    _leave_out(others, "beside train, test and ground_truth", scan)

    kinds = entries(folder / "test")
    _leave_out([path for path in kinds if not path.is_dir()], "not a folder of test images", scan)
    used: set[Path] = set()
    test: Samples = []
    for kind in kinds:
        if kind.is_dir() and is_visible(kind):
            test += _read_mvtec_kind(kind, folder / "ground_truth" / kind.name, name, used, scan)
    if not test:
        scan.notes.append(f"{name} has no test images: it can be trained, not evaluated.")
    _check_masks_used(folder, used, scan)
    return train, test


def _read_mvtec_kind(
    folder: Path, mask_folder: Path, name: str, used: set[Path], scan: Scan
) -> Samples:
    """The test samples of one kind of defect, or the good ones; adds their masks to ``used``."""
    anomalous = not is_good(folder.name)
    masks = _masks(mask_folder, scan) if anomalous else {}
    samples = []
    for path in scan.images(folder):
        mask = masks.get(path.stem + _MASK_ENDING) or masks.get(path.stem)
        defect = folder.name if anomalous else GOOD
        samples.append(Sample(path, name, "test", anomalous, defect, mask))
    used.update(sample.mask for sample in samples if sample.mask)
    if not samples:
        scan.left_out(f"{folder} holds no images")
    return samples


def _leave_out(paths: list[Path], why: str, scan: Scan) -> None:
    """Note the visible ones among some files and folders as not used."""
    visible = [path for path in paths if is_visible(path)]
    if visible:
        more = f" and {len(visible) - 1} more are" if visible[1:] else " is"
        scan.left_out(f"{visible[0]}{more} left out: {why}")


def _masks(folder: Path, scan: Scan) -> dict[str, Path]:
    """The mask files of one kind of defect by their stem."""
    masks: dict[str, Path] = {}
    for path in scan.images(folder):
        if path.stem in masks:
            other = masks[path.stem].name
            scan.wrong(GradError(f"{path} and {other} are masks of the same image: keep one."))
        masks[path.stem] = path
    return masks


def _check_masks_used(folder: Path, used: set[Path], scan: Scan) -> None:
    """Raise where a mask has no image; masks of good images say nothing and may lie about."""
    for kind_folder in entries(folder / "ground_truth"):
        if not kind_folder.is_dir() or is_good(kind_folder.name) or not is_visible(kind_folder):
            continue
        images = [path for path in entries(kind_folder) if path.suffix.lower() in image_suffixes()]
        unused = [path for path in images if is_visible(path) and path not in used]
        if unused:
            place = folder / "test" / kind_folder.name
            scan.wrong(
                GradError(
                    f"The mask {unused[0]} has no image in {place} ({len(unused)} such in that "
                    "folder): add the image or remove the mask."
                )
            )


# What holds for every layout


def _check_training_images(name: str, train: Samples, root: Path, scan: Scan) -> None:
    if not train:
        scan.wrong(
            GradError(
                f"Class {name} in {root} has no good training images (train/good): GRAD learns "
                "from good images only; add some, or choose other classes with --classes."
            )
        )
    if len(train) == 1:
        scan.wrong(
            GradError(
                f"Class {name} in {root} has a single training image, {train[0].path}: add more, "
                "or choose other classes with --classes."
            )
        )


def _check_mask_sizes(test: Samples, scan: Scan) -> None:
    for sample in test:
        if sample.mask is None:
            continue
        try:
            mask_size = image_size(sample.mask)
        except UnreadableImage as error:
            scan.wrong(error)
            continue
        try:
            size = image_size(sample.path)
        except UnreadableImage:
            continue  # reported where images are decoded, like every other unreadable image
        if mask_size != size:
            scan.wrong(
                GradError(
                    f"The mask {sample.mask} has {mask_size[1]} x {mask_size[0]} pixels, its image "
                    f"{sample.path} has {size[1]} x {size[0]}: make them equal."
                )
            )


def _note_missing_masks(name: str, test: Samples, scan: Scan) -> None:
    anomalous = [sample for sample in test if sample.anomalous]
    without = [sample for sample in anomalous if sample.mask is None]
    if without and len(without) == len(anomalous):
        scan.notes.append(f"{name} has no masks: it gets image metrics only.")
    elif without:
        scan.left_out(
            f"{name}: {len(without)} of {len(anomalous)} defect images have no mask and are left "
            f"out of pixel metrics, first {without[0].path}"
        )
