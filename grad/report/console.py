"""What a run found, for a terminal: tables of metrics and thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from grad.score.metrics.classes import METRICS
from grad.system.names import printable
from grad.system.progress import cell

_SOURCES = {
    "folds": "in folds",
    "held out": "held out",
    "validation": "validation",
    "training": "trained on",
}
_HEADINGS = {
    "image_auroc": "image\nAUROC",
    "image_ap": "\nAP",
    "image_f1max": "\nF1max",
    "pixel_auroc": "pixel\nAUROC",
    "pixel_ap": "\nAP",
    "pixel_f1max": "\nF1max",
    "aupro_30": "AUPRO\n30 %",
    "aupro_5": "AUPRO\n5 %",
}


def metrics_table(summary: Mapping[str, Any]) -> Table:
    """A row a class and one of means; a dash where a metric is undefined."""
    table = Table(show_footer=len(summary["classes"]) > 1)
    table.add_column("class", footer="mean")
    for key in METRICS:
        table.add_column(_HEADINGS[key], footer=_cell(summary["mean"][key]), justify="right")
    for name, values in summary["classes"].items():
        table.add_row(cell(name), *(_cell(values[key]) for key in METRICS))
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def verdict_table(section: Mapping[str, Any]) -> Table:
    """A row a class: threshold, its rate, defects found, good images called anomalous."""
    title = {
        "good": f"Thresholds for {_asked(section['asked_rate'])}",
        "f1": "Thresholds where F1 of the test images is largest",
        "fixed": "Thresholds as given",
    }[section["method"]]
    table = Table(title=title, title_justify="left", show_footer=len(section["classes"]) > 1)
    every = section["all"]["counts"]
    table.add_column("class", footer="all", no_wrap=True)
    table.add_column("found", footer=_found(every), justify="right")
    table.add_column("false\nalarms", footer=_alarms(every), justify="right")
    table.add_column("threshold", justify="right")
    table.add_column("asked for\nand likely", justify="right")
    table.add_column("made from\nimages", justify="right")
    for name, row in section["classes"].items():
        table.add_row(cell(name), *_cells(row))
    if section["unknown"]:
        table.add_section()
        table.add_row("not stated", *_cells(section["unknown"]))
    return table


def show_thresholds(section: Mapping[str, Any], console: Console) -> None:
    """The table, and what is to be said about how far the thresholds can be trusted."""
    console.print(verdict_table(section))
    for text in _cautions(section):
        console.print(printable(text), style="yellow", markup=False, highlight=False)


def _asked(rate: float | str | None) -> str:
    if isinstance(rate, float):
        return f"a false-alarm rate of {rate:.2%}"
    return "the false-alarm rates that the good images support"


def _cautions(section: Mapping[str, Any]) -> Iterator[str]:
    rows = section["classes"]
    new = [name for name, row in rows.items() if row["source"] is None]
    if new:
        yield f"Not trained on, so judged by the threshold for unknown classes: {', '.join(new)}."
    blind = [name for name, row in rows.items() if row["recall"] == 0]
    if blind:
        yield (
            f"No defect of {', '.join(blind)} is found. Try --tile for small defects, a larger "
            "--image-size, another --preset, or more good images."
        )
    if section["method"] == "f1":
        yield "The test images made these thresholds: they are no test of them any more."
    if section["method"] != "good":
        return
    trained = [name for name, row in rows.items() if row["source"] == "training"]
    few = [
        f"{name} {1 / (row['images'] + 1):.2%}"
        for name, row in rows.items()
        if row["source"] not in (None, "training") and row.get("interval") is None
    ]
    if few:
        yield (
            "Fitted, as the rate is finer than the good images tell by rank, which they do from "
            f"here on: {', '.join(few)}. More good images make it surer; --false-alarm-rate auto "
            "asks for no more than they tell."
        )
    if trained:
        yield (
            f"The model knew the good images of {', '.join(trained)}: new ones may score higher, "
            "so that there are more false alarms than asked for."
        )


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    counts = row["counts"]
    made = " ".join([str(row["images"]), _SOURCES.get(row.get("source", ""), "images")])
    return _found(counts), _alarms(counts), f"{row['image']:.4g}", _interval(row), made


def _interval(row: Mapping[str, Any]) -> str:
    """The rate that was asked for, and where that on further good images lies."""
    rate, interval = row.get("rate"), row.get("interval")
    if rate is None:
        return "-"
    if interval is None:
        return f"{rate:.1%}\nfitted"
    return f"{rate:.1%}\n{interval[0]:.1%} to {interval[1]:.1%}"


def _found(counts: Mapping[str, int]) -> str:
    found, missed = counts["true_positives"], counts["false_negatives"]
    every = found + missed
    return f"{found} of {every}\n{found / every:.0%}" if every else "-"


def _alarms(counts: Mapping[str, int]) -> str:
    alarms, quiet = counts["false_positives"], counts["true_negatives"]
    every = alarms + quiet
    return f"{alarms} of {every}\n{alarms / every:.1%}" if every else "-"
