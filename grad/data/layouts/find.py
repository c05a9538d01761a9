"""From a folder to samples, whatever its layout.

Every layout ends in the same samples. What is odd becomes a note, or an error where going on would
train or judge on something else than was meant. Under ``strict``, whatever a note would report as
left out is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from grad.data.images import UnreadableImage, image_size, mask_files
from grad.data.layouts.known import recognise
from grad.data.layouts.manifest import is_manifest, read_manifest
from grad.data.samples import Dataset, Sample, check_classes, is_defective
from grad.data.scan import Reader, Samples, Scan, entries, folders_in
from grad.system.errors import GradError
from grad.system.names import check_text

_EXPECTED = (
    "a folder of good images, folders good and NG, CLASS/train/good and CLASS/test/DEFECT as in "
    "MVTec AD, or a table of images called manifest.csv"
)


def find_dataset(
    root: Path | str,
    classes: Sequence[str] | None = None,
    *,
    strict: bool = False,
    training: bool = True,
) -> Dataset:
    """Find the images below a folder; the layout (:mod:`grad.data.layouts.known`) is recognised.

    Image files are not decoded here, but the headers of masks and their images are read, and masks
    where they tell what is good.

    Args:
        root: the folder, or a manifest.
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
    check_text(root.absolute())
    if not root.is_dir():
        if is_manifest(root):
            return root.parent, *read_manifest(root, scan, anywhere=True)
        raise GradError(
            f"--data {root} is a file: give the folder that holds the images, or a table of them "
            "(.csv, .jsonl)."
        )
    if not any(not path.name.startswith(".") for path in entries(root)):
        raise GradError(f"--data {root} is empty: give {_EXPECTED}.")
    return root, *(recognise(root, scan) or _refuse(root))


def _refuse(root: Path) -> NoReturn:
    """Raise for a folder in which no layout was recognised, with the likeliest reason."""
    folders = folders_in(root)
    defective = [path.name for path in folders if is_defective(path.name)]
    if defective:
        raise GradError(
            f"--data {root} holds {defective[0]} without good images: put those into {root}/good."
        )
    found = ", ".join(path.name for path in folders[:5]) or "no images"
    raise GradError(
        f"--data {root} has no layout that GRAD knows (found {found}): give {_EXPECTED}."
    )


def _collect(
    root: Path, layout: str, readers: dict[str, Reader], scan: Scan, training: bool
) -> Dataset:
    train: Samples = []
    test: Samples = []
    validation: Samples = []
    for name, read in readers.items():
        try:
            found = read(scan)
        except GradError as error:
            scan.wrong(error)
            continue
        if training:
            _check_training_images(name, found.train, root, scan)
        _check_mask_sizes(found.test, scan)
        _note_missing_masks(name, found.test, scan)
        train += found.train
        test += found.test
        validation += found.validation
    notes = scan.finish()
    return Dataset(root, layout, tuple(train), tuple(test), notes, tuple(validation))


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
        for mask in mask_files(sample.mask) if sample.mask else ():
            _check_mask_size(mask, sample, scan)


def _check_mask_size(mask: Path, sample: Sample, scan: Scan) -> None:
    try:
        mask_size = image_size(mask)
    except UnreadableImage as error:
        scan.wrong(error)
        return
    try:
        size = image_size(sample.path)
    except UnreadableImage:
        return  # reported where images are decoded, like every other unreadable image
    if mask_size != size:
        scan.wrong(
            GradError(
                f"The mask {mask} has {mask_size[1]} x {mask_size[0]} pixels, its image "
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
