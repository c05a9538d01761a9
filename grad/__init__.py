"""GRAD: anomaly detection in images from good examples only (arXiv 2402.18293).

``grad.Detector`` finds defects with a trained model, ``grad.ops`` holds the operators; all
else is in packages in the order of the data, from ``grad.system`` to ``grad.report``, and in one
package a command.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from grad.system.errors import GradError
from grad.system.version import __version__

if TYPE_CHECKING:
    from grad import ops
    from grad.detector import Detector, Result

__all__ = ["Detector", "GradError", "Result", "__version__", "ops"]

_LAZY = {"Detector": "grad.detector", "Result": "grad.detector"}  # imports torch when asked for


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("grad.ops")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
