"""Files that are either whole or not there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

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
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; some writers have one of their own
        yield temporary
        temporary.chmod(stat.S_IMODE(mode))
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

    The right ends with the process, whatever ends it. What stands for it is the file
    ``.NAME.lock``, which stays.

    Args:
        path: the file.
        wait: until another process gives up the right; else go on without it.

    Yields:
        Whether the right is held.

    Raises:
        GradError: the folder can't be written to.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=-1 if wait else 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _acquire(lock)
    except OSError as error:
        raise GradError(
            f"{path} can't be written ({error.strerror}): free some space or choose another folder."
        ) from error
    try:
        yield held
    finally:
        lock.release()


def _acquire(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


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
