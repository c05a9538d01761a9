"""Finds and loads the compiled operators, ``grad._C``, and explains why where that fails.

A library runs with the torch it was built with, and with the Python sources that know its
operators. Both are in a record beside it (written by setup.py), so that a library that does not
fit is named in a sentence instead of failing with undefined symbols.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import torch

from grad.ops.source_digest import digest
from grad.system.errors import GradError

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = PACKAGE.parent / "csrc"  # only in a source tree
REBUILD = "pip install --no-cache-dir --force-reinstall --no-deps ."


@dataclass(frozen=True)
class Library:
    """A compiled library that was found, and the record of what it was built for."""

    spec: ModuleSpec
    torch: str
    cuda: str
    sources: str


def is_reference_forced() -> bool:
    """Whether GRAD_REFERENCE=1 asks for plain PyTorch in place of the compiled operators."""
    return os.environ.get("GRAD_REFERENCE") == "1"


@functools.cache
def load() -> ModuleType:
    """Load ``grad._C``, which registers the operators under ``torch.ops.grad_anomaly``.

    Returns:
        The module; its ``build_info()`` says what it was built for.

    Raises:
        GradError: if there is no library, or none that fits the running torch and these sources.
    """
    library = find()
    assert library.spec.loader is not None
    try:
        module = importlib.util.module_from_spec(library.spec)
        library.spec.loader.exec_module(module)
    except ImportError as error:
        raise GradError(f"{_mismatch(library)} The loader said: {error}") from error
    sys.modules["grad._C"] = module
    return module


def find() -> Library:
    """The compiled library that fits.

    It is beside these files in an installed package and after ``pip install -e .``. But a command
    run in a clone after ``pip install .`` imports the clone's ``grad``, as Python puts the working
    directory first, while the library is in the installed package. So every ``grad`` folder
    on the import path is looked into, and there a library counts if it was built from the sources
    in this clone.

    Raises:
        GradError: if there is none; says what was wrong with the first one found.
    """
    problems = []
    for library in _candidates():
        beside = Path(library.spec.origin or "").parent == PACKAGE
        stale = SOURCES.is_dir() and digest(SOURCES) != library.sources
        if _minor(library.torch) != _minor(torch.__version__):
            problems.append(_mismatch(library))
        elif stale and not beside:
            problems.append(
                f"{library.spec.origin} was built from other sources than {SOURCES}: "
                "run `pip install .`"
            )
        else:
            if stale:  # of someone at work on them
                message = "the sources in csrc have changed since grad._C was built from them"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            return library
    raise GradError(
        problems[0]
        if problems
        else "GRAD's compiled operators are missing: run `pip install .` in the source folder "
        "(GRAD_REFERENCE=1 runs slow plain PyTorch instead)."
    )


def _candidates() -> Iterator[Library]:
    """Every library for this Python on the import path, the one beside the sources first."""
    folders = [str(PACKAGE), *(str(Path(entry, "grad").resolve()) for entry in sys.path)]
    for folder in dict.fromkeys(folders):
        spec = PathFinder.find_spec("grad._C", [folder])
        if spec is not None and spec.origin is not None:
            record = Path(spec.origin).with_suffix(".json")
            if record.is_file():
                facts = json.loads(record.read_text(encoding="utf-8"))
                yield Library(spec, facts["torch"], facts["cuda"], facts["sources"])


def _minor(version: str) -> list[str]:
    """The part of a torch version that decides about compatibility: major and minor."""
    return version.split("+")[0].split(".")[:2]


def _mismatch(library: Library) -> str:
    return (
        f"GRAD's compiled operators were built for torch {library.torch} and do not load with "
        f"torch {torch.__version__}: rebuild them with `{REBUILD}` in the source folder."
    )
