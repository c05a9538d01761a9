"""What a row and a table are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from accuracy.paper import NONE, Figure

Method = Literal["grad", "uniad", "memory bank"]
Kind = Literal["rows", "cost", "classes"]


@dataclass(frozen=True)
class Row:
    """One model of a table.

    Args:
        name: what the table calls it.
        overrides: fields of :class:`grad.train.options.TrainOptions` that differ from the command
            line's.
        method: what is trained on the features.
        equal_steps: train for as many steps as all images would give, where fewer are taken.
        paper: the paper's figures for this row.
        paper_epochs, paper_parameters, paper_gflop: what the paper says of its cost.
    """

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    method: Method = "grad"
    equal_steps: bool = False
    paper: Figure = NONE
    paper_epochs: int | None = None
    paper_parameters: float | None = None
    paper_gflop: float | None = None


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Args:
        number: the paper's.
        title: what it compares.
        rows: its models.
        kind: how it is shown: a line a model with its accuracy, with its cost too, or a line a
            class and a column a model.
        metrics: what a table of classes shows.
        data: the data set of the paper's figures.
        note: how its rows are trained beyond the options, for the text under the table.
    """

    number: int
    title: str
    rows: tuple[Row, ...]
    kind: Kind = "rows"
    metrics: tuple[str, ...] = ("image_auroc", "pixel_auroc")
    data: Literal["MVTec AD", "VisA"] = "MVTec AD"
    note: str = ""
