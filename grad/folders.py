"""Folders that results go to: given by ``--out``, or new in ``runs/``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grad.errors import GradError


@contextmanager
def output_folder(out: Path | None, name: str) -> Iterator[Path]:
    """A folder of results, claimed at once; removed where nothing came to lie in it.

    Raises:
        GradError: as :func:`new_folder`.
    """
    folder = new_folder(out, name)
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()  # only goes where it is empty


def new_folder(out: Path | None, name: str) -> Path:
    """The folder ``out``, or a free one in ``runs/`` with a name such as ``demo-grad``.

    Raises:
        GradError: ``out`` holds files already, or a folder can't be made.
    """
    try:
        folder = _free_folder(name) if out is None else out.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise GradError(
            f"The folder --out {out or 'runs'} can't be made ({error.strerror}): choose another."
        ) from error
    if occupied:
        raise GradError(f"--out {out} is not empty: choose another folder, or empty it.")
    return folder


def _free_folder(name: str) -> Path:
    number = 1
    while True:
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder
