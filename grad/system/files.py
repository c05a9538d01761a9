"""Files that are either whole or not there, alone or several together."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from grad.system.errors import GradError

_CHANGES = ".changes.json"  # files of a folder, written and not yet renamed, and their names
_waiting: ContextVar[list[Path] | None] = ContextVar("waiting", default=None)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it, renamed to ``path`` when all went well.

    Raises:
        GradError: the file can't be written: a full disk, no permission.
    """
    temporary = _temporary(path, os.getpid())
    waiting = _waiting.get()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; some writers have one of their own
        yield temporary
        temporary.chmod(stat.S_IMODE(mode))
        if waiting is None:
            os.replace(temporary, path)
        else:
            waiting.append(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if not waiting or waiting[-1] != path:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def replacing_together(folder: Path) -> Iterator[None]:
    """Files that are written by :func:`replacing` inside take their names in the end, all or none.

    What a process does not come to, as it is killed in between, :func:`finish_replacing` does.

    Args:
        folder: keeps the list of the files until all have their names.

    Raises:
        GradError: a file can't be written.
    """
    finish_replacing(folder)
    waiting: list[Path] = []
    token = _waiting.set(waiting)
    try:
        yield
        _waiting.set(None)
        with replacing(folder / _CHANGES) as changes:
            names = [os.path.relpath(path, folder) for path in waiting]
            text = json.dumps({"process": os.getpid(), "files": names})
            changes.write_text(text, encoding="utf-8")
    except BaseException:
        for path in waiting:
            with suppress(OSError):
                _temporary(path, os.getpid()).unlink()
        raise
    finally:
        _waiting.reset(token)
    finish_replacing(folder)


def finish_replacing(folder: Path) -> None:
    """Give the files their names that a killed :func:`replacing_together` left without.

    Raises:
        GradError: they can't be renamed.
    """
    changes = folder / _CHANGES
    if not changes.is_file():
        return
    try:
        with suppress(FileNotFoundError):  # another process is quicker
            listed = json.loads(changes.read_text(encoding="utf-8"))
            for path in (folder / name for name in listed["files"]):
                with suppress(FileNotFoundError):  # has its name
                    os.replace(_temporary(path, listed["process"]), path)
            changes.unlink()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GradError(
            f"What {changes} lists can't be renamed ({error}): allow it, or remove that file."
        ) from error


def _temporary(path: Path, process: int) -> Path:
    return path.with_name(f".{path.name}.{process}.tmp")


def _not_written(path: Path, error: OSError) -> GradError:
    reason = error.strerror or str(error)
    return GradError(
        f"{path} can't be written ({reason}): free some space or choose another folder."
    )


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
        raise _not_written(path, error) from error
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
