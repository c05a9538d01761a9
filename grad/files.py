"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grad.errors import GradError


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
