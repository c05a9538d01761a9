"""The folder of a run: what its files are called, and where results go.

Results go to ``--out``, or to a new folder in ``runs/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grad.system.errors import GradError

MODEL = "model.safetensors"
PREVIOUS = "previous.safetensors"  # what the model was before it learned on
CONFIG = "config.yaml"
METRICS = "metrics.json"
ODDEST = "oddest.txt"
RECORDS = "records.jsonl"
REPORT = "report.html"
EXAMPLES = "examples"  # a folder
STATE = "training.safetensors"
HISTORY = "history.json"
PREDICTIONS = ("predictions.csv", "predictions.jsonl")


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
    return _free_folder(name) if out is None else empty_folder(out)


def empty_folder(out: Path) -> Path:
    """The folder of ``--out``, made where it is missing.

    Raises:
        GradError: it is not empty, or can't be made.
    """
    folder = out.expanduser()
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Half-written files of a process that was killed are none.
        occupied = any(not path.match(".*.tmp") for path in folder.iterdir())
    if occupied:
        raise GradError(f"--out {folder} is not empty: choose another folder, or empty it.")
    return folder


def _free_folder(name: str) -> Path:
    number = 1
    with _explained(Path("runs")):
        while True:
            folder = Path("runs", name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return folder


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GradError(
            f"The folder --out {folder} can't be made ({error.strerror}): choose another."
        ) from error
