"""The embedded demo set: two classes under open licences, see ``demo/README.md``."""

from __future__ import annotations

from pathlib import Path

from grad.data.layouts import find_dataset
from grad.data.samples import Dataset

DEMO_FOLDER = Path(__file__).parent / "demo"


def demo_dataset() -> Dataset:
    """The classes ``cookie`` and ``pcb`` that come inside the package, with masks."""
    return find_dataset(DEMO_FOLDER)
