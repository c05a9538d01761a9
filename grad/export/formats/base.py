"""What the formats have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from grad.system.errors import GradError

# A batch of images as the graph takes them -> its outputs, in the order of graph.OUTPUTS.
Runner = Callable[[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of its files.
        runtime: what runs it here, for the parity table.
        packages: what must be installed to write and run it.
        write: program, path, facts about it, version of ONNX's operators -> the files written,
            ``path`` and others with its stem; may take any path with the right suffix.
        open: path, threads (0: one a core) -> how to run it, on the CPU.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, dict[str, str], int], list[Path]]
    open: Callable[[Path, int], Runner]

    def check_packages(self) -> None:
        """Load the packages.

        Raises:
            GradError: one is missing, or does not load.
        """
        for name in self.packages:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise GradError(
                    f"Files of the format {self.runtime} need the package {name} ({error}): run "
                    '`pip install "grad-anomaly[export]"`.'
                ) from error


def as_arrays(outputs: Any) -> list[NDArray[Any]]:
    """Any runtime's tensors as arrays."""
    return [np.asarray(output) for output in outputs]
