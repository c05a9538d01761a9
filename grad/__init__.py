"""GRAD: anomaly detection in images from good examples only (arXiv 2402.18293).

``grad.ops`` holds the operators; the model, the data and the command line entries are modules of
their own, imported where they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from grad.errors import GradError

if TYPE_CHECKING:
    from grad import ops

__version__ = "0.1.0"

__all__ = ["GradError", "__version__", "ops"]


def __getattr__(name: str) -> Any:
    if name == "ops":  # imports torch, so only when it is asked for
        return importlib.import_module("grad.ops")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
