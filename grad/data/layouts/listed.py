"""What layouts share in which a file lists the images."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from grad.system.errors import GradError, first_line


def inside(root: Path, entry: str, where: str) -> Path:
    """The path of a list's entry, which must stay inside the data folder.

    Args:
        root: the data folder.
        entry: a path relative to it, with slashes.
        where: the entry's place, for messages.

    Raises:
        GradError: it does not, or is no path at all.
    """
    relative = PurePosixPath(entry)
    if not entry or relative.is_absolute() or ".." in relative.parts:
        raise GradError(f"{where}: {entry[:200]!r} is no path inside {root}.")
    path = usable(root / relative, where)
    if not path.resolve().is_relative_to(root.resolve()):
        raise GradError(f"{where}: {entry[:200]!r} is a link to a place outside {root}.")
    return path


def usable(path: Path, where: str) -> Path:
    """The path, where the system can look for it.

    Raises:
        GradError: it can't: the path is too long, or has a zero in it.
    """
    try:
        path.resolve()
        path.exists()
    except (OSError, ValueError) as error:
        name = str(path)[-200:]
        raise GradError(f"{where}: {name!r} can't be a path ({first_line(error)}).") from None
    return path
