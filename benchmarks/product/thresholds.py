"""Do thresholds keep the false-alarm rate asked for? Good test images of finished runs tell.

    for seed in 0 1 2; do grad train --data DIR --seed $seed --out runs/seed-$seed; done
    python benchmarks/bench_thresholds.py runs/seed-* [--rates 0.01,0.05,0.1] [--out FILE.md]

No network runs: the scores of the good images that thresholds are made from are in each model,
those of the test images in ``records.jsonl``. Test images took no part in the thresholds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grad.detector.checkpoint import load_calibration, model_files
from grad.score.rates import check_rate
from grad.score.records import ImageRecord, read_records
from grad.score.thresholds import Calibration, Threshold
from grad.system.command_line import run_command
from grad.system.errors import GradError
from grad.system.files import replacing
from grad.system.run_folder import RECORDS

EVERY, UNKNOWN = "all", "class not stated"


@dataclass
class Tally:
    """Test images and what became of them."""

    good: int = 0
    false_alarms: int = 0
    marked: int = 0
    defects: int = 0
    found: int = 0
    calibration_images: int = 0

    def add(self, record: ImageRecord, limit: Threshold) -> None:
        """Judge one image."""
        alarm = record.score > limit.image
        if record.anomalous:
            self.defects += 1
            self.found += alarm
        else:
            self.good += 1
            self.false_alarms += alarm
            self.marked += record.map_maximum > limit.pixel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def tally(runs: Sequence[Path], rate: float) -> dict[str, Tally]:
    """What thresholds at a rate do to the test images of several runs, by class.

    Raises:
        GradError: a run has no records or no thresholds.
    """
    tallies: dict[str, Tally] = {}
    for run in runs:
        calibrations = _calibrations(run, rate)
        for name, calibration in calibrations.items():
            images = tallies.setdefault(name, Tally())
            images.calibration_images = calibration.classes[name].images
        for record in read_records(run / RECORDS):
            calibration = calibrations[record.class_name]
            limit = calibration.threshold(record.class_name)
            tallies[record.class_name].add(record, limit)
            tallies.setdefault(EVERY, Tally()).add(record, limit)
            if len(calibration.classes) > 1:
                tallies.setdefault(UNKNOWN, Tally()).add(record, calibration.unknown)
    return tallies


def markdown(runs: Sequence[Path], rates: Sequence[float]) -> str:
    """A row a class: for each rate the false alarms, the marked good images, the defects found."""
    found = {rate: tally(runs, rate) for rate in rates}
    first = found[rates[0]]
    heads = [f"asked {rate:.2%}: false alarms | marked | found" for rate in rates]
    lines = [
        f"Good test images of {len(runs)} run{'s'[: len(runs) > 1]} together; *kept*: images for "
        "thresholds in each run; *marked*: good images with a marked pixel.",
        "",
        "| class | kept | good | defects | " + " | ".join(heads) + " |",
        "|" + "---|" * (4 + 3 * len(rates)),
    ]
    order = [name for name in first if name not in (EVERY, UNKNOWN)]
    for name in [*order, *(name for name in (EVERY, UNKNOWN) if name in first)]:
        row = first[name]
        cells = [name, str(row.calibration_images or ""), str(row.good), str(row.defects)]
        for rate in rates:
            images = found[rate][name]
            cells += [
                _share(images.false_alarms, images.good),
                _share(images.marked, images.good),
                _share(images.found, images.defects, digits=0),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _calibrations(run: Path, rate: float) -> dict[str, Calibration]:
    """The calibration of each class at a rate."""
    found = {}
    for file in model_files(run):
        info, calibration = load_calibration(file)
        if calibration is None:
            raise GradError(f"The model {file} has no thresholds: train it to the end.")
        found |= dict.fromkeys(info.classes, calibration.at_rate(rate))
    return found


def _share(some: int, every: int, digits: int = 1) -> str:
    return f"{some / every:.{digits}%}" if every else "-"


def _run(options: argparse.Namespace) -> None:
    try:
        rates = [float(rate) for rate in options.rates.split(",")]
    except ValueError:
        raise GradError(f"--rates {options.rates} is no list of rates: give 0.01,0.05.") from None
    for rate in rates:
        check_rate(rate)
    text = markdown(options.runs, rates)
    print(text, end="")
    if options.out is not None:
        with replacing(options.out) as temporary:
            temporary.write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--rates", default="0.01,0.05,0.1", help="false-alarm rates to ask for")
    parser.add_argument("--out", type=Path, help="file for the table")
    return parser
