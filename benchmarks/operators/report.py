"""What is shown and written: rows, the table, where we stand against the goals, the JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from operators.cases import Shape

ROOT = Path(__file__).resolve().parents[2]
BUSY = 0.3  # spread above which a time means little


@dataclass(frozen=True)
class Row:
    """One measured pass; None where it was not measured. Times in milliseconds."""

    op: str
    pass_: str
    device: str
    dtype: str
    layout: str
    shape: Shape
    ms: float
    spread: float
    gb_per_s: float
    limit_ms: float
    limit_share: float
    eager_ms: float
    eager_ratio: float
    compiled_ms: float | None
    compiled_ratio: float | None
    peak_bytes: int
    output_bytes: int
    eager_peak_bytes: int
    host_bound: bool
    difference: float
    paper: bool

    def record(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The object of this row in the JSON file."""
        values = asdict(self)
        return {"op": values.pop("op"), "pass": values.pop("pass_"), **values, **facts}


@dataclass(frozen=True)
class Goal:
    """What forward and backward together must reach at the paper's sizes.

    Args:
        device, op: where, and of which operator.
        eager, compiled: how many times faster than each.
        share: part of the bandwidth's limit, at the largest batch.
    """

    device: str
    op: str
    eager: float
    compiled: float | None = None
    share: float | None = None


def print_report(
    description: str,
    facts: dict[str, Any],
    rows: Sequence[Row],
    goals: Sequence[Goal],
    notes: Sequence[str],
) -> None:
    """The table, where we stand against the goals, and notes, 120 columns wide."""
    console = Console(width=120, highlight=False)
    console.print(f"[bold]{description}[/bold]")
    console.print(", ".join(f"{name} {value}" for name, value in _shown(facts).items()))
    console.print(
        "ms: ours, median; ±: distance of its quartiles; limit: time that its bytes need at copy "
        "speed, as a share of ms;\nx eager, x compiled: their time / ours; extra: peak memory "
        "beyond the inputs, MB; out: what of it is results"
    )
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("operator", "size", "dtype", "layout", "pass"):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "±", "GB/s", "limit", "x eager", "x compiled", "extra", "out"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in sorted(rows, key=lambda row: not row.paper):
        case = (row.op, str(row.shape), row.dtype, row.layout)
        if previous is not None and case != previous:
            table.add_section()
        shown = case if case != previous else ("", "", "", "")
        previous = case
        table.add_row(*shown, row.pass_, *_cells(row))
    console.print(table)
    for line in [*_standing(rows, goals), *notes]:
        console.print(line, soft_wrap=True, markup=False)


def _cells(row: Row) -> list[str]:
    compiled = "" if row.compiled_ratio is None else _coloured(row.compiled_ratio)
    return [
        f"{row.ms:.3f}" + ("*" if row.host_bound else ""),
        f"{row.spread:.0%}",
        f"{row.gb_per_s:.0f}" if row.gb_per_s >= 10 else f"{row.gb_per_s:.1f}",
        f"{row.limit_share:.0%}",
        _coloured(row.eager_ratio),
        compiled,
        f"{row.peak_bytes / 1e6:.1f}",
        f"{row.output_bytes / 1e6:.1f}",
    ]


def _coloured(ratio: float) -> str:
    return f"[{'green' if ratio >= 1 else 'red'}]{ratio:.1f}[/]"


def _standing(rows: Sequence[Row], goals: Sequence[Goal]) -> Iterator[str]:
    """One line a goal, then the sizes at which eager or compiled PyTorch is faster."""
    both = [
        row for row in rows if row.paper and row.pass_ == "both" and "converted" not in row.layout
    ]
    for goal in goals:
        mine = [row for row in both if (row.device, row.op) == (goal.device, goal.op)]
        largest = max((row.shape.batch for row in mine), default=0)
        measures = [
            ("x eager", goal.eager, [row.eager_ratio for row in mine]),
            ("x compiled", goal.compiled, [row.compiled_ratio for row in mine]),
            (
                f"of the limit at B{largest}",
                goal.share,
                [row.limit_share for row in mine if row.shape.batch == largest],
            ),
        ]
        for name, wanted, values in measures:
            measured = [value for value in values if value is not None]
            if wanted is not None and measured:
                met = "reached" if min(measured) >= wanted else "MISSED"
                yield (
                    f"{goal.op} forward + backward, {name}: {min(measured):.2f} to "
                    f"{max(measured):.2f}, goal {wanted:g}: {met}"
                )
    slower = [row for row in rows if row.eager_ratio < 1]
    for row in slower:
        yield (
            f"slower than eager: {row.op} {row.shape} {row.dtype} {row.layout} {row.pass_}, "
            f"{row.eager_ratio:.2f}x"
        )
    busy = sum(row.spread > BUSY for row in rows)
    if busy:
        yield f"{busy} of {len(rows)} rows vary by more than {BUSY:.0%}: measure on an idle machine"
    if any(row.host_bound for row in rows):
        yield "*: a launch queue could not keep the device busy; the time is partly the host's"
    if rows and not slower:
        yield "no row is slower than eager"


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"copy_gb_per_s": f"{facts['copy_gb_per_s']:.1f}"}
