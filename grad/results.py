"""What a run found in its test images, gathered model by model and written to one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from grad.calibration import Calibration, Method
from grad.evaluation import evaluate, metrics_table, write_metrics
from grad.features import Features
from grad.metrics import ClassReport, summarize
from grad.model import GRAD
from grad.records import FILE_NAME as RECORDS
from grad.records import Recorder, write_records
from grad.verdicts import f1_calibration, judge, show_notes, verdict_table
from grad.visualize import ExamplePicker, save_examples

METRICS = "metrics.json"


@dataclass
class Results:
    """Metrics, records and examples of one or several models.

    Attributes:
        reports: the metrics of each class.
        calibrations: the calibration of each class's model.
        recorder: the records of all test images.
        picker: the best and worst of each class.
    """

    reports: dict[str, ClassReport] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    recorder: Recorder = field(default_factory=Recorder)
    picker: ExamplePicker = field(default_factory=ExamplePicker)

    def add(
        self,
        model: GRAD,
        test: Features,
        image_size: int,
        calibration: Calibration,
        method: Method,
        classes: Sequence[str],
        console: Console,
    ) -> Calibration:
        """Evaluate a model.

        Args:
            model: trained.
            test: test images of ``classes``.
            image_size: side of the anomaly maps, in pixels.
            calibration: from good images.
            method: whether thresholds come from those or from the test images.
            classes: what to report on.
            console: where progress goes.

        Returns:
            The calibration that the images are judged by.

        Raises:
            GradError: scores are NaN; a mask can't be read.
        """
        before = len(self.recorder.records)
        observers = (self.recorder, self.picker)
        self.reports |= evaluate(
            model, test, image_size, observers, classes=classes, console=console
        )
        if method == "f1":
            calibration = f1_calibration(calibration, self.recorder.records[before:])
        self.calibrations |= dict.fromkeys(classes, calibration)
        return calibration

    def write(self, out: Path, settings: Mapping[str, Any], console: Console) -> None:
        """Write everything to a folder and show the tables.

        Raises:
            GradError: a file can't be written.
        """
        records = self.recorder.records
        summary = summarize(self.reports) | {
            "thresholds": judge(self.calibrations, records),
            "settings": dict(settings),
        }
        write_metrics(out / METRICS, summary)
        write_records(out / RECORDS, records)
        save_examples(out / "examples", self.picker.examples())
        # The report is written here.
        show_summary(summary, console)


def show_summary(summary: Mapping[str, Any], console: Console) -> None:
    """The tables of metrics and of thresholds, with what is to be said about either."""
    console.print(metrics_table(summary))
    _show_reasons(summary, console)
    console.print(verdict_table(summary["thresholds"]))
    show_notes(summary["thresholds"], console)


def _show_reasons(summary: Mapping[str, Any], console: Console) -> None:
    """Why there are dashes in the table, a line for each class and reason."""
    for name, reasons in summary["reasons"].items():
        for reason in dict.fromkeys(reasons.values()):
            keys = ", ".join(key for key, why in reasons.items() if why == reason)
            console.print(f"{name}: {reason} ({keys})", style="yellow", markup=False)
