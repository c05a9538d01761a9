"""Good images for thresholds that lie in a folder of their own (``--validation DIR``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grad.data.images import image_suffixes
from grad.data.samples import ROI_FILE, Sample
from grad.system.errors import GradError

# Where the good images of a class may lie below its folder; the first that has some counts.
_PLACES = ("validation/good", "train/good", "good", "")


def find_validation(
    root: Path | str, classes: Sequence[str], training: Sequence[Sample]
) -> tuple[Sample, ...]:
    """The good images of each class in a folder.

    They lie in ``CLASS``, or in ``good``, ``train/good`` or ``validation/good`` below it; with a
    single class also right in the folder.

    Args:
        root: the folder.
        classes: the classes that need images.
        training: what is trained on, which must not be among them.

    Raises:
        GradError: no folder; a class without images; images that are trained on.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise GradError(f"--validation {root} is no folder: give one with good images.")
    trained = {sample.path.resolve() for sample in training}
    samples: list[Sample] = []
    for name in classes:
        folders = [root / name, root] if len(classes) == 1 else [root / name]
        paths = next(filter(None, (_images(folder) for folder in folders)), [])
        if not paths:
            raise GradError(
                f"--validation {root} has no images of class {name}: put good ones in "
                f"{root / name}, or leave --validation out."
            )
        twice = [path for path in paths if path.resolve() in trained]
        if twice:
            raise GradError(
                f"--validation {root}: {twice[0]} is trained on too ({len(twice)} such): give "
                "other images, or leave --validation out to keep a share of the training images."
            )
        samples += [Sample(path, name, "train") for path in paths]
    return tuple(samples)


def _images(folder: Path) -> list[Path]:
    """The images in the first of the usual places below a folder that has some, by name."""
    for place in _PLACES:
        try:
            found = sorted((folder / place).iterdir()) if (folder / place).is_dir() else []
        except OSError as error:
            raise GradError(
                f"The folder {folder / place} can't be read: {error.strerror}."
            ) from error
        images = [
            path
            for path in found
            if path.suffix.lower() in image_suffixes()
            and not path.name.startswith(".")
            and path.name != ROI_FILE
            and path.is_file()
        ]
        if images:
            return images
    return []
