"""A table's results as Markdown and JSON: means and standard deviations over seeds, in per cent."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from accuracy.paper import (
    MVTEC_CLASSES,
    MVTEC_GRAD,
    MVTEC_GRAD_SEPARATE,
    NONE,
    VISA_CLASSES,
    VISA_GRAD,
    Figure,
)
from accuracy.rows import Row, Table
from accuracy.store import Result

HEADINGS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro_30": "AUPRO 30 %",
}
CLASSES = {"MVTec AD": MVTEC_CLASSES, "VisA": VISA_CLASSES}
OF_CLASSES = {"MVTec AD": MVTEC_GRAD, "VisA": VISA_GRAD}

Results = Sequence[tuple[Row, Sequence[Result]]]  # of each row the results of its seeds
Lines = list[list[str]]


def markdown(table: Table, results: Results, facts: Mapping[str, str]) -> str:
    """The page of a table.

    Args:
        table: which one.
        results: rows without any result are left out.
        facts: what was run on what, shown under the table.
    """
    results = [(row, of_seeds) for row, of_seeds in results if of_seeds]
    classes = set(results[0][1][0].summary["classes"])
    lines = (
        _by_class(table, results, classes) if table.kind == "classes" else _by_row(table, results)
    )
    notes = [_paper_note(table, classes), table.note, *_reasons(results)]
    shown = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return (
        f"# Table {table.number}: {table.title}\n\n{grid(lines)}\n"
        + "".join(f"\n{note}\n" for note in notes if note)
        + f"\n{shown}\n"
    )


def record(table: Table, results: Results, facts: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the page shows and all other metrics, for the JSON file."""
    rows = [
        {"name": row.name, "paper": row.paper, "results": [asdict(result) for result in of_seeds]}
        for row, of_seeds in results
    ]
    return {"table": table.number, "title": table.title, "facts": dict(facts), "rows": rows}


def spread(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation in per cent; a dash where a value is undefined."""
    found = [100 * value for value in values if value is not None]
    if not found or len(found) < len(values):
        return "-"
    mean = f"{statistics.fmean(found):.1f}"
    return mean if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.1f}"


def _by_row(table: Table, results: Results) -> Lines:
    """A line a model: accuracy, the paper's, and where asked for, cost."""
    cost = table.kind == "cost"
    head = ["row"]
    if cost:
        head += ["parameters, M", "GFLOP", "epochs", "paper's parameters, GFLOP, epochs"]
    head += [*HEADINGS.values(), f"paper ({table.data}), image / pixel", "seeds"]
    lines = [head]
    for row, of_seeds in results:
        line = [row.name]
        if cost:
            line += [*_cost(of_seeds[0]), _paper_cost(row)]
        line += [spread([result.mean(key) for result in of_seeds]) for key in HEADINGS]
        lines.append([*line, _figure(row.paper), str(len(of_seeds))])
    return lines


def _by_class(table: Table, results: Results, classes: set[str]) -> Lines:
    """A line a class, a column a model; the last line is the mean over the classes."""
    lines = [
        [
            "class",
            *(row.name for row, _ in results),
            f"paper ({table.data}), GRAD unified (separate)",
        ]
    ]
    paper = OF_CLASSES[table.data]
    for name in [*sorted(classes), "mean"]:
        line = [name]
        for _, of_seeds in results:
            found = [
                r.summary["mean"] if name == "mean" else r.summary["classes"][name]
                for r in of_seeds
            ]
            line.append(" / ".join(spread([v[key] for v in found]) for key in table.metrics))
        shown = _shown(paper.get(name, NONE), table.metrics)
        if table.data == "MVTec AD" and name in MVTEC_GRAD_SEPARATE:
            shown += f" ({_shown(MVTEC_GRAD_SEPARATE[name], table.metrics)})"
        lines.append([*line, shown])
    means = [_shown(row.paper, table.metrics) for row, _ in results]
    lines.append([f"paper's mean ({table.data})", *means, ""])
    return lines


def _shown(figure: Figure, metrics: Sequence[str]) -> str:
    both = dict(zip(("image_auroc", "pixel_auroc"), figure, strict=True))
    return " / ".join("-" if both[key] is None else f"{both[key]:.1f}" for key in metrics)


def _figure(figure: Figure) -> str:
    return "" if figure == NONE else _shown(figure, ("image_auroc", "pixel_auroc"))


def _cost(result: Result) -> list[str]:
    flops = "-" if result.flops is None else f"{result.flops / 1e9:.1f}"
    return [f"{result.parameters / 1e6:.1f}", flops, str(result.epochs)]


def _paper_cost(row: Row) -> str:
    if row.paper_parameters is None or row.paper_gflop is None:
        return ""
    return f"{row.paper_parameters / 1e6:.1f}, {row.paper_gflop:.1f}, {row.paper_epochs}"


def _paper_note(table: Table, classes: set[str]) -> str:
    theirs = CLASSES[table.data]
    if classes == theirs:
        return ""
    return (
        f"The paper's figures are those of the {len(theirs)} classes of {table.data}, a larger "
        f"backbone and 100 epochs; the {len(classes)} classes here are others: compare the order "
        "of the rows, not the figures."
    )


def _reasons(results: Results) -> list[str]:
    """What some metrics leave out: a line for each class and reason."""
    found: dict[str, set[str]] = {}
    for _, of_seeds in results:
        for result in of_seeds:
            for name, reasons in result.summary["reasons"].items():
                found.setdefault(name, set()).update(reasons.values())
    return [f"{name}: {'; '.join(sorted(reasons))}." for name, reasons in sorted(found.items())]


def grid(lines: Lines, text_columns: int = 1) -> str:
    """Lines as a Markdown table; the first is its head, the first columns are text."""
    head, *body = lines
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body])
