"""Lists of training images that are left out: made by a run, looked through by people, given back.

A path a line, relative to the folder of images; one that can't be shown on a line is JSON. What
begins with # is for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from grad.data.samples import Dataset
from grad.system.errors import GradError
from grad.system.files import replacing

_EXPLANATION = (
    "# Training images that look least like the others of their class, the oddest first: there may",
    "# be defects among them, or images of other things. Look at them, remove the lines of those",
    "# that are good, and train again with --leave-out and this file.",
)


def write_list(path: Path, root: Path, images: Iterable[Path]) -> None:
    """Write a list; the file is whole or not there.

    Args:
        path: the file.
        root: folder of the images' data set.
        images: absolute paths.

    Raises:
        GradError: the file can't be written.
    """
    base = root.absolute()
    lines = [*_EXPLANATION]
    for image in images:
        name = image.relative_to(base) if image.is_relative_to(base) else image
        text = name.as_posix()
        plain = text.isprintable() and not text.startswith(("#", '"')) and text == text.strip()
        lines.append(text if plain else json.dumps(text))
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def leave_out(dataset: Dataset, path: Path) -> Dataset:
    """The set without the training images that a list names.

    Raises:
        GradError: the list can't be read; it names what is no training image, or all of a class.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
        names = [json.loads(line) if line.startswith('"') else line.strip() for line in lines]
    except (OSError, ValueError) as error:
        raise GradError(f"--leave-out {path} can't be read ({error}): give a text file.") from None
    wanted = {dataset.root.absolute() / name for name in names if name and name[0] != "#"}
    rest = tuple(s for s in dataset.train if s.path.absolute() not in wanted)
    unknown = sorted(wanted - {sample.path.absolute() for sample in dataset.train})
    if unknown:
        raise GradError(
            f"--leave-out {path} names {unknown[0]}, which is no training image of {dataset.root}: "
            "remove that line."
        )
    left = {sample.class_name for sample in rest}
    for sample in dataset.train:
        if sample.class_name not in left:
            raise GradError(
                f"--leave-out {path} names all training images of class {sample.class_name}: keep "
                "some."
            )
    count = len(dataset.train) - len(rest)
    note = f"{count} training image{'' if count == 1 else 's'} left out, as {path} names"
    note += " it." if count == 1 else " them."
    return replace(dataset, train=rest, notes=(*dataset.notes, note))
