"""What a run of ``grad predict`` has found, for people."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from grad.detector.detector import Detector, Result
from grad.predict.options import PredictOptions
from grad.score.drift import DRIFT, DriftWatch
from grad.score.thresholds import no_thresholds
from grad.system import distributed
from grad.system.errors import GradError
from grad.system.names import printable
from grad.system.progress import print_line


def load_detector(options: PredictOptions, device: torch.device) -> Detector:
    """The model, with the thresholds that are asked for.

    Raises:
        GradError: no such model; it has no thresholds, and something needs them.
    """
    detector = Detector.load(
        options.model,
        device=device,
        precision=options.precision,
        false_alarm_rate=options.false_alarm_rate,
    )
    if options.threshold is not None:
        detector = detector.with_threshold(options.threshold)
    for name, given in (("masks", options.masks), ("fail-on-anomaly", options.fail_on_anomaly)):
        if given and detector.calibration is None:
            raise GradError(no_thresholds(f"The model {options.model}, for --{name},"))
    return detector


class Tally:
    """Counts what was found, and says what people should know at once.

    Args:
        options: of the command.
        detector: that judges.
        console: where people read.
    """

    def __init__(self, options: PredictOptions, detector: Detector, console: Console) -> None:
        self._options, self._detector, self._console = options, detector, console
        self.images = self.anomalous = self.skipped = self.clipped = 0
        known, name = detector.calibration, options.class_name
        watched = known is not None and not detector.info.is_cut_later(name)
        self._watch = DriftWatch(known.good(name)) if known and watched else None

    def add(self, result: Result) -> None:
        """Count a result."""
        self.images += 1
        self.clipped += result.clipped
        self.anomalous += result.limit is not None and result.is_anomalous
        if self._watch is not None and self._watch.add(result.score, result.map_maximum):
            print_line(f"{printable(result.name)}: {DRIFT}", "yellow", self._console)

    def skip(self, error: GradError) -> None:
        """Count an image that can't be used, and say why."""
        self.skipped += 1
        self.warn(str(error))

    def warn(self, sentence: str) -> None:
        """Say something that is not as it should be."""
        print_line(sentence, "yellow", self._console)

    def add_other_processes(self) -> None:
        """Count what all processes have seen."""
        mine = (self.images, self.anomalous, self.skipped, self.clipped)
        counts = map(sum, zip(*distributed.shared(mine), strict=True))
        self.images, self.anomalous, self.skipped, self.clipped = counts

    def report(self, results: Path | None) -> None:
        """Say in a line what was found, and in which folder the results are."""
        parts = [f"{self.images:,} image{'' if self.images == 1 else 's'}"]
        if self._detector.calibration is None:
            parts.append("not judged, as the model has no thresholds")
        else:
            parts.append(f"{self.anomalous:,} anomalous")
        if self.skipped:
            parts.append(f"{self.skipped:,} left out, as they can't be read")
        if self.clipped:
            level = self._detector.info.white_level
            parts.append(f"{self.clipped:,} with values above {level}, which count as white")
        if results is not None:
            parts.append(f"results in {results}")
        print_line("; ".join(parts), None, self._console)

    def exit_code(self) -> int:
        """0; with ``--fail-on-anomaly`` 1 where an image is anomalous, 2 where one is left out."""
        if not self._options.fail_on_anomaly:
            return 0
        return 1 if self.anomalous else 2 if self.skipped else 0


def line_of(result: Result) -> str:
    """A result as a line: verdict, calibrated value, score, name."""
    name = printable(result.name)
    if result.limit is None:
        return f"{result.score:.4g}\t{name}"
    verdict = "anomalous" if result.is_anomalous else "good"
    return f"{verdict}\t{result.value:.3f}\t{result.score:.4g}\t{name}"
