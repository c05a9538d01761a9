"""The options of ``grad info``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grad.system.command_line import argument


@dataclass(frozen=True)
class InfoOptions:
    """The options of ``python -m grad.info``."""

    model: Path | None = argument(
        "Folder of a run, or its model.safetensors, to say what is in it; none: of this GRAD.",
        count="?",
    )
