"""Files that are either whole or not there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from grad.system.errors import GradError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it, renamed to ``path`` when all went well.

    Raises:
        GradError: the file can't be written: a full disk, no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise GradError(
            f"{path} can't be written ({reason}): free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def claimed(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the sole right to write a file, against all processes that ask for it in this way.

    The right ends with the process, whatever ends it. The file that stands for it, ``.NAME.lock``,
    is gone afterwards.

    Args:
        path: the file.
        wait: until another process gives up the right; else go on without it.

    Yields:
        Whether the right is held.

    Raises:
        GradError: the folder can't be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock, wait)
    except OSError as error:
        raise GradError(
            f"{path} can't be written ({error.strerror}): free some space or choose another folder."
        ) from error
    try:
        yield file is not None
    finally:
        if file is not None:
            with suppress(OSError):
                lock.unlink()
            file.close()


def _locked(lock: Path, wait: bool) -> BinaryIO | None:
    """The open and locked file; None where another process holds it and there is no waiting."""
    while True:
        file = lock.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    return file
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.close()  # whoever held it before has unlinked it: this one is no longer in the folder


def remove_leftovers(folder: Path, suffix: str) -> None:
    """Remove the temporary files of processes that were killed while they wrote to a folder.

    Args:
        folder: which need not exist.
        suffix: of the files' names, all of which are :func:`claimed` while they are written.
    """
    for temporary in folder.glob(f".*{suffix}.*.tmp"):
        name = temporary.name[1:].rsplit(".", 2)[0]
        with suppress(GradError, OSError), claimed(folder / name, wait=False) as mine:
            if mine:
                temporary.unlink()
