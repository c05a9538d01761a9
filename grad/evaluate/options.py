"""The options of ``grad evaluate``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grad.data.samples import MaskRule
from grad.score.rates import RATE_HELP, Rate, check_rate
from grad.system.command_line import argument, check_lowest, class_list, flag, option
from grad.system.errors import GradError


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of ``python -m grad.evaluate``.

    Raises:
        GradError: options that contradict each other, or a value out of range.
    """

    model: Path = argument("Folder of a run, or its model.safetensors.")
    data: Path | None = option(
        None, "Folder of test images, as for training; none: what the run has stored of its own."
    )
    classes: str | None = option(None, "Classes of --data to take, as NAME,NAME; none: all.")
    false_alarm_rate: Rate | None = option(None, f"{RATE_HELP}; none: as the model has it.")
    threshold: Literal["good", "f1"] | float | None = option(
        None,
        "good: from good images; f1: where F1 of the test images is largest; a number: that image "
        "score; none: as they are.",
    )
    save: bool = option(False, "Write the thresholds into the model file too.")
    out: Path | None = option(
        None, "With --data: folder for the results, new or empty; none: a free name in runs/."
    )
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one.")
    cache: Path | None = option(
        None, "Folder for features, kept for later runs; none: grad/features in the user's cache."
    )
    workers: int | None = option(None, "Threads that decode images; none: one a core, at most 8.")
    mask_rule: MaskRule = option(
        "any",
        "Pixels of a mask that mark a defect: any above zero, or those above half of the mask's "
        "brightest, for masks in JPEG or with soft edges.",
    )
    exact_metrics: bool = option(
        False, "Keep the score of every pixel, 4 bytes each, however many there are."
    )
    strict: bool = option(False, "Stop at unreadable images and odd files, not leave them out.")

    def __post_init__(self) -> None:
        if self.false_alarm_rate is not None:
            check_rate(self.false_alarm_rate)
            if self.threshold not in (None, "good"):
                raise GradError(
                    f"--false-alarm-rate and --threshold {self.threshold} are two ways to choose "
                    "a threshold: give one of them."
                )
        if isinstance(self.threshold, float) and not 0.0 < self.threshold < math.inf:
            raise GradError(f"--threshold {self.threshold} must be an image score above 0.")
        check_lowest(self, workers=1)
        for name in ("classes", "out"):
            if self.data is None and getattr(self, name) is not None:
                raise GradError(f"{flag(name)} needs --data: the run's own results are in the run.")
        if self.data is None and self.mask_rule != "any":
            raise GradError(
                "--mask-rule needs --data: the run's own results are as they were made."
            )
        self.class_names()

    def class_names(self) -> tuple[str, ...] | None:
        """``--classes`` as names."""
        return class_list(self.classes)
