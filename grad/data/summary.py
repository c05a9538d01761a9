"""What a data set holds, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from grad.data.samples import Dataset
from grad.system.progress import cell, print_line


def show_dataset(dataset: Dataset, console: Console) -> None:
    """What was found in a folder: the counts of each class, and what is odd."""
    table = Table("class")
    headings = ["train", "validation", "test good", "test defects", "masks"]
    if not dataset.validation:
        headings.remove("validation")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in dataset.summary():
        counts = {"train": row.train, "validation": row.validation, "test good": row.test_good}
        counts |= {"test defects": row.test_anomalous, "masks": row.masks}
        table.add_row(cell(row.name), *(f"{counts[heading]:,}" for heading in headings))
    print_line(f"{dataset.root} ({dataset.layout})", None, console)
    console.print(table)
    for note in dataset.notes:
        print_line(note, "yellow", console)
