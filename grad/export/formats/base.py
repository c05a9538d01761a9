"""The formats that a model can be exported to: a row each, and what they have in common.

A format is a row here and a module beside this one, which has two functions:

- ``write(program, path, facts, **options)`` writes an exported program with facts about it, to a
  path with the right suffix; ``options`` are those that the row names, as far as they were given
  (for ``int8`` batches of good images as the graph takes them).
  It returns the files written: ``path``, and others with its stem.
- ``open_file(path, threads)`` says how to run it on the CPU; 0 threads: one a core.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grad.system.errors import GradError

# A batch of images as the graph takes them -> its outputs, in the order of graph.OUTPUTS.
Runner = Callable[[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of its files.
        runtime: what runs it here, for the parity table.
        purpose: what it is for, for ``--help``.
        module: which writes and runs it.
        packages: what must be installed for that.
        options: fields of :class:`grad.export.options.ExportOptions` that it alone has.
    """

    suffix: str
    runtime: str
    purpose: str
    module: str
    packages: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def load(self) -> Any:
        """The module, with ``write`` and ``open_file``.

        Raises:
            GradError: a package is missing, or does not load.
        """
        for name in self.packages:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise GradError(
                    f"Files of the format {self.runtime} need the package {name} ({error}): run "
                    '`pip install "grad-anomaly[export]"`.'
                ) from error
        return importlib.import_module(self.module)


FORMATS = {
    "onnx": Format(
        ".onnx",
        "ONNX Runtime",
        "for ONNX Runtime and TensorRT",
        "grad.export.formats.onnx",
        ("onnx", "onnxscript", "onnxruntime"),
        options=("opset", "int8"),
    ),
    "openvino": Format(
        ".xml",
        "OpenVINO",
        "for Intel's processors",
        "grad.export.formats.openvino",
        ("onnx", "onnxscript", "onnxruntime", "openvino"),
        options=("int8",),
    ),
    "torch": Format(
        ".pt2", "torch.export", "with the compiled operators", "grad.export.formats.torch"
    ),
}


def as_arrays(outputs: Any) -> list[NDArray[Any]]:
    """Any runtime's tensors as arrays."""
    return [np.asarray(output) for output in outputs]
