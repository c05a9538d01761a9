"""What a run found in its test images, gathered model by model and written to one folder."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from grad.features.features import Features
from grad.features.split import TrainingSplit
from grad.model.grad import GRAD
from grad.model.size import describe
from grad.report.console import metrics_table, show_verdicts
from grad.report.contents import About, ModelPart
from grad.report.coordinates import sample_coordinates
from grad.report.examples import Example, ExamplePicker, save_examples
from grad.report.gallery import Gallery
from grad.report.write import write_report
from grad.score.dataset import MASK_RULES, Observer, evaluate
from grad.score.metrics.classes import ClassReport, summarize
from grad.score.records import ImageRecord, Recorder, write_records
from grad.score.thresholds import ByClass, Calibration
from grad.score.verdicts import judge_all
from grad.system.files import replacing
from grad.system.progress import print_line
from grad.system.run_folder import EXAMPLES, METRICS, RECORDS, REPORT
from grad.system.version import __version__

_ODD = 0.1  # share of a class's good images that are listed as odd


@dataclass
class Results:
    """Metrics, records and examples of one or several models.

    Attributes:
        reports: the metrics of each class.
        calibrations: the calibration of each class's model.
        recorder: the records of all test images.
        good: those of the good images that thresholds were made from.
        picker: the best and worst of each class.
        gallery: the images that the report shows.
        models: of each model what only the report shows.
        exact: whether pixel metrics are exact for any number of pixels, which are then all kept.
        tested: whether the run has test images.
    """

    reports: dict[str, ClassReport] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    recorder: Recorder = field(default_factory=Recorder)
    good: Recorder = field(default_factory=Recorder)
    picker: ExamplePicker = field(default_factory=ExamplePicker)
    gallery: Gallery = field(default_factory=Gallery)
    models: list[ModelPart] = field(default_factory=list)
    exact: bool = False
    tested: bool = True

    def add(
        self,
        model: GRAD,
        test: Features,
        image_size: int,
        classes: Sequence[str],
        console: Console,
        *,
        train: Features | None = None,
        history: Mapping[str, Sequence[float]] | None = None,
    ) -> list[ImageRecord]:
        """Evaluate a model.

        Args:
            model: trained.
            test: test images of ``classes``.
            image_size: side of the anomaly maps, in pixels.
            classes: what to report on.
            console: where progress goes.
            train: the images that the model was trained on, where they are at hand.
            history: a value an epoch of ``"loss"`` and the like, where it was trained just now.

        Returns:
            The records of the images.

        Raises:
            GradError: scores are NaN; a mask can't be read.
        """
        before = len(self.recorder.records)
        observers = (self.recorder, self.picker, self.gallery)
        self.reports |= evaluate(
            model,
            test,
            image_size,
            observers,
            classes=classes,
            exact=self.exact,
            console=console,
        )
        splits = [test] if train is None else [train, test]
        coordinates = sample_coordinates(model, splits, image_size)
        self.models.append(ModelPart(tuple(classes), describe(model), history or {}, coordinates))
        return self.recorder.records[before:]

    def of_good(self) -> tuple[Observer, ...]:
        """What is to see good images while thresholds are made; pictures where no others are."""
        return (self.good,) if self.tested else (self.good, self.picker, self.gallery)

    def set_good(self, scores: ByClass, maxima: ByClass) -> None:
        """Give the good images of some classes that were seen the scores thresholds are made of."""
        values = {name: zip(scores[name], maxima[name], strict=True) for name in scores}
        for place, record in enumerate(self.good.records):
            if record.class_name in values:
                score, maximum = next(values[record.class_name])
                self.good.records[place] = replace(record, score=score, map_maximum=maximum)

    def oddest(self) -> list[Path]:
        """The tenth of each class's good images that look least like the others, oddest first."""
        counts = Counter(record.class_name for record in self.good.records)
        left = {name: math.ceil(_ODD * count) for name, count in counts.items()}
        found = []
        for record in rank_by_oddness(self.good.records, self.calibrations):
            if left[record.class_name] > 0:
                left[record.class_name] -= 1
                found.append(Path(record.path))
        return found

    def write(
        self,
        out: Path,
        settings: Mapping[str, Any],
        about: About,
        console: Console,
        *,
        workers: int = 1,
    ) -> None:
        """Write everything to a folder and show the tables.

        Args:
            out: the folder.
            settings: the section of that name in metrics.json.
            about: what the report says of the run.
            console: where progress and tables go.
            workers: threads that decode images for the report.

        Raises:
            GradError: a file can't be written.
        """
        records = self.recorder.records
        summary = (
            summarize(self.reports)
            | judge_all(self.calibrations, records)
            | {"settings": dict(settings)}
        )
        write_records(out / RECORDS, records)
        seen = records or self.good.records
        save_examples(out / EXAMPLES, self._judged(seen))
        write_report(
            out / REPORT,
            about,
            metrics=summary,
            records=seen,
            models=self.models,
            gallery=self.gallery,
            workers=workers,
            console=console,
        )
        write_metrics(out / METRICS, summary)  # last, as it says that the run is complete
        show_verdicts(summary, console)
        if records:
            console.print(metrics_table(summary))
            _show_reasons(summary, console)
        elif seen:
            self._show_oddest(console)

    def _judged(self, records: Sequence[ImageRecord]) -> list[Example]:
        """The examples with their thresholds, and the scores that the records have."""
        known, judged = {record.path: record for record in records}, []
        for example in self.picker.examples():
            record = known[str(example.sample.path.absolute())]
            limit = self.calibrations[record.class_name].threshold(record.class_name)
            raised = record.map_maximum / max(float(example.anomaly_map.max()), 1e-30)
            map_ = example.anomaly_map * raised
            judged.append(replace(example, score=record.score, anomaly_map=map_, limit=limit))
        return judged

    def _show_oddest(self, console: Console) -> None:
        oddest = rank_by_oddness(self.good.records, self.calibrations)[:3]
        print_line(
            "There are no test images. The oddest good images, among which there may be defects, "
            f"are {', '.join(record.path for record in oddest)}; {REPORT} shows them and more.",
            "yellow",
            console,
        )


def rank_by_oddness(
    records: Iterable[ImageRecord], calibrations: Mapping[str, Calibration]
) -> list[ImageRecord]:
    """Records of images, the highest calibrated value of each class's threshold first."""

    def oddness(record: ImageRecord) -> float:
        limit = calibrations[record.class_name].threshold(record.class_name)
        return limit.value(record.score, record.map_maximum)

    return sorted(records, key=oddness, reverse=True)


def write_metrics(path: Path, summary: Mapping[str, Any]) -> None:
    """Write metrics.json; the file is whole or not there."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


def test_settings(test: Features, image_size: int, split: TrainingSplit | None) -> dict[str, Any]:
    """What metrics depend on whatever the model; for the section ``settings`` of metrics.json.

    Args:
        test: the test images.
        image_size: side of the anomaly maps, in pixels.
        split: the images that the model was trained on; None where that was earlier.
    """
    images = {}
    for name in split.classes if split else sorted({s.class_name for s in test.samples}):
        tested = [sample for sample in test.samples if sample.class_name == name]
        defects = [sample for sample in tested if sample.anomalous]
        images[name] = {
            "train": split.training_images(name) if split else 0,
            "calibration": split.further_images(name) if split else 0,
            "test_good": len(tested) - len(defects),
            "test_defects": len(defects),
            "masks": sum(sample.mask is not None for sample in defects),
        }
    skipped = (split.skipped if split else ()) + test.skipped
    return {
        "grad_version": __version__,
        "image_size": image_size,
        "anomaly_map_size": image_size,
        "mask_rule": MASK_RULES[test.samples[0].mask_rule if test.samples else "any"],
        "images": images,
        "unreadable_images": len(skipped),
    }


def _show_reasons(summary: Mapping[str, Any], console: Console) -> None:
    """Why there are dashes in the table, a line for each class and reason."""
    for name, reasons in summary["reasons"].items():
        for reason in dict.fromkeys(reasons.values()):
            keys = ", ".join(key for key, why in reasons.items() if why == reason)
            console.print(f"{name}: {reason} ({keys})", style="yellow", markup=False)
