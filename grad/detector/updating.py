"""A model file that learns on: one process at a time, and what it was stays beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grad.detector.checkpoint import LoadedModel, save_checkpoint
from grad.system.errors import GradError
from grad.system.files import claimed, replacing
from grad.system.run_folder import PREVIOUS


@contextmanager
def claimed_update(file: Path) -> Iterator[None]:
    """The sole right to change a model file.

    Raises:
        GradError: another update is at work.
    """
    with claimed(file, wait=False) as mine:
        if not mine:
            raise GradError(f"Another update of {file} is at work: wait for it.")
        yield


def save_update(learned: LoadedModel, file: Path) -> None:
    """Write a model in the place of the one that it was, which is kept beside it.

    Raises:
        GradError: it can't be written; the model is as it was.
    """
    with replacing(file.with_name(PREVIOUS)) as temporary:
        shutil.copyfile(file, temporary)
    save_checkpoint(
        file,
        learned.model,
        learned.backbone,
        learned.info,
        learned.calibration,
        learned.exemplars,
    )
