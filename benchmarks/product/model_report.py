"""What the benchmarks of the whole model show: ways to run it, parts, images a second."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from common.facts import machine_facts
from common.timing import copy_bandwidth
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Way:
    """A way to run the whole network on a batch; ``error`` is relative to float32 as trained."""

    name: str
    batch: int
    ms: float
    spread: float
    error: float

    def record(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The object of this row in the JSON file."""
        return {"what": "way", **asdict(self), **facts}


@dataclass(frozen=True)
class Part:
    """A part of a prediction: of the batch, with the time of the whole network beside."""

    precision: str
    batch: int
    name: str
    ms: float
    spread: float
    whole_ms: float
    flops: int
    bytes: int

    def record(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The object of this row in the JSON file."""
        return {"what": "part", **asdict(self), **facts}


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on besides the model."""
    facts = machine_facts(device) | {"copy_gb_per_s": copy_bandwidth(device) / 1e9}
    if device.type == "cpu":
        facts["processor"] = _processor()
        facts["amx"] = torch.cpu._is_amx_tile_supported()
    return facts


def print_model_report(
    facts: dict[str, Any],
    ways: Sequence[Way],
    parts: Sequence[Part],
    ends: Sequence[dict[str, Any]],
    notes: Sequence[str],
) -> None:
    """The tables, 110 columns wide."""
    console = Console(width=110, highlight=False)
    shown = facts | {"copy_gb_per_s": f"{facts['copy_gb_per_s']:.1f}"}
    console.print(", ".join(f"{name} {value}" for name, value in shown.items()))
    if ways:
        console.print(_ways_table(ways))
    if parts:
        console.print(_parts_table(parts))
    for end in ends:
        console.print(
            f"{end['what']}, {end['precision']}: {end['images_per_s']:,.0f} images/s from files, "
            f"{1e3 / end['images_per_s']:.1f} ms an image"
        )
    for note in notes:
        console.print(note, markup=False)


def _ways_table(ways: Sequence[Way]) -> Table:
    table = _table("Ways to run the whole network", ("way", "batch"))
    for name in ("ms", "±", "ms an image", "images/s", "error"):
        table.add_column(name, justify="right")
    for way in ways:
        table.add_row(
            way.name,
            str(way.batch),
            f"{way.ms:.2f}",
            f"{way.spread:.0%}",
            f"{way.ms / way.batch:.2f}",
            f"{1e3 * way.batch / way.ms:,.0f}",
            f"{way.error:.0e}",
        )
    return table


def _parts_table(parts: Sequence[Part]) -> Table:
    """Shares are of the network's own time, which decoding and resizing go beside."""
    table = _table("Parts of a prediction (engine)", ("precision", "batch", "part"))
    for name in ("ms", "±", "of the network", "GFLOP", "GFLOP/s", "MB", "GB/s"):
        table.add_column(name, justify="right")
    for part in parts:
        table.add_row(
            part.precision,
            str(part.batch),
            part.name,
            f"{part.ms:.2f}",
            f"{part.spread:.0%}",
            f"{part.ms / part.whole_ms:.0%}",
            f"{part.flops / 1e9:.2f}" if part.flops else "",
            f"{part.flops / 1e6 / part.ms:,.0f}" if part.flops else "",
            f"{part.bytes / 1e6:.1f}" if part.bytes else "",
            f"{part.bytes / 1e6 / part.ms:.1f}" if part.bytes else "",
        )
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
