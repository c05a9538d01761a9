"""What a report is made from, beside metrics, records and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grad.report.coordinates import Coordinates


@dataclass(frozen=True)
class About:
    """What was done, in words.

    Attributes:
        title: of the page, such as the name of the data.
        facts: text by label: data, backbone, model, epochs, time, ...
        options: every option by its name, as it was used.
        notes: one sentence for each thing that a reader must know, such as images left out.
    """

    title: str
    facts: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ModelPart:
    """One model of a run: there is one for all classes, or one a class.

    Attributes:
        classes: what it was tested on.
        size: parameters and so on, in words.
        history: a value an epoch of ``"loss"``, ``"learning_rate"`` and ``"seconds"``, as far as
            they are known.
        coordinates: points in its grids; None where they were not asked for.
    """

    classes: tuple[str, ...]
    size: str = ""
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    coordinates: Coordinates | None = None

    @property
    def name(self) -> str:
        """The class, or ``"all classes"``."""
        return self.classes[0] if len(self.classes) == 1 else "all classes"
