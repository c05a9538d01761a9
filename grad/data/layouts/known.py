"""The layouts that GRAD recognises. The first that fits a folder is taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from grad.data.layouts import folders, manifest, masks_beside, mvtec, real_iad, visa
from grad.data.scan import Reader, Scan
from grad.system.errors import GradError

Recognised = tuple[str, dict[str, Reader]]
"""A layout's name, and for each class a function that finds its images."""


@dataclass(frozen=True)
class Layout:
    """A family of layouts.

    Attributes:
        names: what a data set of it may be called.
        recognise: what it sees in a folder, None where it does not fit.
        listed: whether a file says which image is what, so that it fits no folder by chance.
    """

    names: tuple[str, ...]
    recognise: Callable[[Path, Scan], Recognised | None]
    listed: bool = False


LAYOUTS = (
    Layout(("manifest",), manifest.recognise, listed=True),
    Layout(("visa",), visa.recognise, listed=True),
    Layout(("real-iad",), real_iad.recognise, listed=True),
    Layout(masks_beside.NAMES, masks_beside.recognise),
    Layout(mvtec.NAMES, mvtec.recognise),
    Layout(("good and defects", "good and defects class"), folders.recognise_sorted),
    Layout(("folder",), folders.recognise_plain),
)


def recognise(root: Path, scan: Scan) -> Recognised | None:
    """The layout of a folder; a list of its images wins over how they lie, which is noted."""
    for number, layout in enumerate(LAYOUTS):
        found = layout.recognise(root, scan)
        if found is None:
            continue
        also = [row for row in LAYOUTS[number + 1 : -1] if layout.listed and _fits(row, root)]
        if also:
            scan.notes.append(
                f"{root} looks like {also[0].names[0]} too: it is read as {found[0]}, whose list "
                "says what each image is; images that are not in it are not used."
            )
        return found
    return None


def _fits(layout: Layout, root: Path) -> bool:
    with suppress(GradError):
        return layout.recognise(root, Scan(strict=False)) is not None
    return False
