"""The options of ``grad info``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InfoOptions:
    """``grad info`` has no options of its own."""
