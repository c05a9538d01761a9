"""The digest of the C++ and CUDA sources: which ones a compiled library was built from.

Run by setup.py as well, so it imports nothing of the package.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SUFFIXES = (".cpp", ".cu", ".cuh", ".h", ".inl")


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all sources below ``folder``."""
    total = hashlib.sha256()
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*"))
    for name, path in files:
        if path.suffix in SUFFIXES and path.is_file():
            total.update(f"{name}\0{path.stat().st_size}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()
