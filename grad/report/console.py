"""What a run found, for a terminal: tables of verdicts, thresholds and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from grad.system.progress import cell, print_line

_HEADINGS = {
    "image_auroc": "image\nAUROC",
    "image_ap": "\nAP",
    "image_f1max": "\nF1max",
    "part_auroc": "part\nAUROC",
    "pixel_auroc": "pixel\nAUROC",
    "pixel_ap": "\nAP",
    "pixel_f1max": "\nF1max",
    "aupro_30": "AUPRO\n30 %",
    "aupro_5": "AUPRO\n5 %",
}
_BLIND = 0.1  # share of the defects found, below which it is said
_NUMBER: Mapping[str, Any] = {"justify": "right", "no_wrap": True}


def _table(title: str, several: bool, footer: str) -> Table:
    """Of 80 columns or less, with a row a class and, of several, one of all together."""
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        show_footer=several,
    )
    table.add_column("class", footer, overflow="fold")
    return table


def metrics_table(summary: Mapping[str, Any]) -> Table:
    """A row a class and one of means; a dash where a metric is undefined."""
    table = _table("Metrics, whatever the threshold", len(summary["classes"]) > 1, footer="mean")
    for key, mean in summary["mean"].items():
        table.add_column(_HEADINGS[key], _cell(mean), min_width=6, **_NUMBER)
    for name, values in summary["classes"].items():
        table.add_row(cell(name), *(_cell(values.get(key)) for key in summary["mean"]))
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def rates_table(rates: Sequence[Mapping[str, Any]]) -> Table:
    """A row a class: defects found and missed, and false alarms, at each of a few rates."""
    asked = " and ".join(", ".join(f"{r['asked_rate']:.0%}" for r in rates).rsplit(", ", 1))
    names = list(rates[0]["classes"])
    title = f"Defects found and missed with {asked} false alarms asked for"
    table = _table(title, len(names) > 1, footer="all")
    shown = ("true_positives", "false_negatives", "false_positives")
    for of_rate in rates:
        headings = (f"{of_rate['asked_rate']:.0%}\nfound", "\nmissed", "false\nalarms")
        for heading, key in zip(headings, shown, strict=True):
            table.add_column(heading, f"{of_rate['all'][key]:,}", min_width=6, **_NUMBER)
    for name in names:
        counts = [f"{of_rate['classes'][name][key]:,}" for of_rate in rates for key in shown]
        table.add_row(cell(name), *counts)
    return table


def thresholds_table(section: Mapping[str, Any]) -> Table:
    """A row a class: threshold, its rate, defects found, good images called anomalous."""
    title = {
        "good": f"Thresholds for {_asked(section['asked_rate'])}",
        "f1": "Thresholds where F1 of the test images is largest",
        "fixed": "Thresholds as given",
    }[section["method"]]
    every = section["all"]["counts"]
    tested = any(every.values())
    rows = section["classes"] | (
        {"class not stated": section["unknown"]} if section["unknown"] else {}
    )
    table = _table(title, tested and len(rows) > 1, footer="all")
    if tested:
        table.add_column("found", _found(every), min_width=10, **_NUMBER)
        table.add_column("false\nalarms", _alarms(every), min_width=9, **_NUMBER)
    for heading in ("threshold", "false alarms\nasked, likely", "from good\nimages"):
        table.add_column(heading, min_width=10, **_NUMBER)
    for name, row in rows.items():
        found = (_found(row["counts"]), _alarms(row["counts"])) if tested else ()
        limit = (f"{row['image']:.4g}", _interval(row), f"{row['images']:,}")
        table.add_row(cell(name), *found, *limit)
    return table


def show_verdicts(summary: Mapping[str, Any], console: Console) -> None:
    """Both tables, and what is to be said about how far the thresholds can be trusted.

    Args:
        summary: the sections of metrics.json that depend on thresholds.
        console: where they are shown.
    """
    section = summary["thresholds"]
    if any(section["all"]["counts"].values()):
        console.print(rates_table(summary["rates"]))
    console.print(thresholds_table(section))
    for text in _cautions(section):
        print_line(text, "yellow", console)


def _asked(rate: float | str | None) -> str:
    if isinstance(rate, float):
        return f"a false-alarm rate of {rate:.2%}"
    return "the false-alarm rates that the good images support"


def _cautions(section: Mapping[str, Any]) -> Iterator[str]:
    rows = section["classes"]
    new = [name for name, row in rows.items() if row["source"] is None]
    if new:
        yield f"Not trained on, so judged as a class not stated: {', '.join(new)}."
    recalls = {name: row["recall"] for name, row in rows.items() if row["recall"] is not None}
    blind = [name for name, recall in recalls.items() if recall < _BLIND]
    if blind:
        yield (
            f"Of {', '.join(blind)} hardly a defect is found. Try --tile for small defects, a "
            "larger --image-size, another --preset, or more good images."
        )
    if section["method"] == "f1":
        yield "The test images made these thresholds: they are no test of them any more."
    if section["method"] != "good":
        return
    trained = [name for name, row in rows.items() if row["source"] == "training"]
    few = [
        f"{name} from {1 / (row['images'] + 1):.1%} on"
        for name, row in rows.items()
        if row["source"] not in (None, "training") and row.get("interval") is None
    ]
    if few:
        yield (
            "Fitted, as the good images are too few for the rate that was asked for; they would "
            f"do for {', '.join(few)}. More of them make it surer; --false-alarm-rate auto asks "
            "for no more than they support."
        )
    if trained:
        yield (
            f"The model knew the good images of {', '.join(trained)}: new ones may score higher, "
            "so that there are more false alarms than asked for."
        )


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
