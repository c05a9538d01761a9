"""Which mask is of which image, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grad.data.samples import is_good
from grad.data.scan import Scan, entries, folders_in, holds_images, is_image, is_visible
from grad.system.errors import GradError

MASKS = "ground_truth"
_ENDINGS = ("_label", "_gt", "_mask")  # of the stem of a mask that lies beside its image


def mask_of(image: Path, masks: dict[str, Path]) -> Path | None:
    """The mask of an image among those of a folder of masks: ``STEM_mask.EXT`` or ``STEM.EXT``."""
    return masks.get(f"{image.stem}_mask") or masks.get(image.stem)


def masks_in(folder: Path, scan: Scan) -> dict[str, Path]:
    """The masks of one kind of defect by their stem: files, or a folder of files an image."""
    masks: dict[str, Path] = {}
    for path in _masks_in(folder):
        stem = path.name if path.is_dir() else path.stem
        if stem in masks:
            other = masks[stem].name
            scan.wrong(GradError(f"{path} and {other} are masks of the same image: keep one."))
        masks[stem] = path
    return masks


def check_masks_used(masks: Path, images: Path, used: set[Path], scan: Scan) -> None:
    """Raise where a mask has no image; masks of good images say nothing and may lie about."""
    for kind in folders_in(masks):
        unused = [path for path in _masks_in(kind) if path not in used]
        if unused and not is_good(kind.name):
            scan.wrong(
                GradError(
                    f"The mask {unused[0]} has no image in {images / kind.name} ({len(unused)} "
                    "such in that folder): add the image or remove the mask."
                )
            )


def masks_beside(files: Sequence[Path]) -> dict[Path, Path]:
    """For each image the mask that lies beside it: ``STEM_label``, ``STEM_GT``, ``STEM_mask``.

    Args:
        files: the image files of a folder, masks among them.
    """
    images = {path.stem: path for path in files}
    named = {path: stem_of_image(path) for path in files}
    return {images[stem]: mask for mask, stem in named.items() if stem in images}


def stem_of_image(mask: Path) -> str | None:
    """What the image of a mask beside it is called; None of a file that is not called as one."""
    for ending in _ENDINGS:
        if mask.stem.lower().endswith(ending):
            return mask.stem[: -len(ending)]
    return None


def _masks_in(folder: Path) -> list[Path]:
    return [
        path
        for path in entries(folder)
        if is_image(path) or (path.is_dir() and is_visible(path) and holds_images(path))
    ]
