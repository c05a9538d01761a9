"""Do thresholds keep the false-alarm rate asked for, and what do they find?

    for seed in 0 1 2; do grad train --data DIR --seed $seed --out runs/seed-$seed; done
    python benchmarks/bench_thresholds.py runs/seed-* [--rates 0.01,0.05,0.1] [--out FILE.md]
    python benchmarks/bench_thresholds.py --simulated [--out FILE.md]

No network runs: the scores of the good images that thresholds are made from are in each model,
those of the test images in ``records.jsonl``. Test images took no part in the thresholds.

Beside what a threshold finds stands the *oracle*: what the best threshold of each class and run
could find with as many false alarms. It knows the test images, so that what it misses the scores
can't tell, and what else is missed the threshold throws away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grad.detector.checkpoint import load_calibration, model_files
from grad.score.rates import check_rate
from grad.score.records import ImageRecord, read_records
from grad.score.thresholds import Calibration, Threshold, calibrate
from grad.system.command_line import run_command
from grad.system.errors import GradError
from grad.system.files import replacing
from grad.system.run_folder import RECORDS

EVERY, UNKNOWN = "all", "class not stated"

Floats = NDArray[np.float64]


@dataclass
class Tally:
    """Test images and what became of them."""

    good: int = 0
    false_alarms: int = 0
    defects: int = 0
    found: int = 0
    oracle: int = 0
    calibration_images: int = 0

    def add(self, records: Sequence[ImageRecord], limit: Threshold) -> None:
        """Judge images of one class by one threshold."""
        good = [r for r in records if not r.anomalous]
        defects = [r for r in records if r.anomalous]
        alarms = sum(_is_anomalous(r, limit) for r in good)
        self.good += len(good)
        self.false_alarms += alarms
        self.defects += len(defects)
        self.found += sum(_is_anomalous(r, limit) for r in defects)
        self.oracle += _best(
            [_value(r, limit) for r in good], [_value(r, limit) for r in defects], alarms
        )

    def take(self, other: Tally) -> None:
        """Take up the images of another."""
        for name in ("good", "false_alarms", "defects", "found", "oracle"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Simulated:
    """Scores that are made up, for what real classes have too few images to show.

    Attributes:
        name: what they are like.
        draw: (generator, images) -> (images, 2), logarithms of scores and of maxima.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Floats]


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
        records = read_records(run / RECORDS)
        for name, calibration in calibrations.items():
            mine = [record for record in records if record.class_name == name]
            of_run = Tally(calibration_images=calibration.classes[name].images)
            of_run.add(mine, calibration.threshold(name))
            tallies.setdefault(name, Tally()).take(of_run)
            tallies[name].calibration_images = of_run.calibration_images
            tallies.setdefault(EVERY, Tally()).take(of_run)
            if len(calibration.classes) > 1:
                tallies.setdefault(UNKNOWN, Tally()).add(mine, calibration.unknown)
    return tallies


def markdown(runs: Sequence[Path], rates: Sequence[float]) -> str:
    """A row a class: for each rate the false alarms, the defects found, those of the oracle."""
    found = {rate: tally(runs, rate) for rate in rates}
    first = found[rates[0]]
    heads = [f"asked {rate:.2%}: false alarms | found | oracle" for rate in rates]
    lines = [
        f"Test images of {len(runs)} run{'s'[: len(runs) > 1]} together; *made from*: good images "
        "that thresholds were made from in each run; *oracle*: what the best threshold with as "
        "many false alarms finds.",
        "",
        "| class | made from | good | defects | " + " | ".join(heads) + " |",
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
                _share(images.found, images.defects, digits=0),
                _share(images.oracle, images.defects, digits=0),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def simulate(rates: Sequence[float], counts: Sequence[int], repetitions: int = 200) -> str:
    """A row a kind of scores: false alarms over what was asked, and the share of the oracle's.

    Args:
        rates: to ask for.
        counts: good images that a threshold is made from.
        repetitions: thresholds in each cell.
    """
    heads = [f"{count} images, {rate:.0%}" for count in counts for rate in rates]
    lines = [
        "False alarms as a multiple of what was asked for, and defects found as a share of the "
        f"oracle's; means of {repetitions} thresholds, each on 500 new good images and 200 defects "
        "three spreads higher.",
        "",
        "| scores | " + " | ".join(heads) + " |",
        "|" + "---|" * (1 + len(heads)),
    ]
    for kind in SIMULATED:
        cells = [
            "{:.2f}, {:.0%}".format(*_simulated(kind, count, rate, repetitions))
            for count in counts
            for rate in rates
        ]
        lines.append("| " + " | ".join([kind.name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _normal(chance: np.random.Generator, images: int) -> Floats:
    common = chance.normal(size=(images, 1))
    return common + 0.5 * chance.normal(size=(images, 2))


def _heavy(chance: np.random.Generator, images: int) -> Floats:
    return chance.standard_t(3, size=(images, 1)) + 0.5 * chance.normal(size=(images, 2))


def _rare(chance: np.random.Generator, images: int) -> Floats:
    odd = chance.random((images, 1)) < 0.04
    return _normal(chance, images) + 4 * odd


def _grouped(chance: np.random.Generator, images: int) -> Floats:
    groups = chance.normal(size=(-(-images // 10), 1)).repeat(10, axis=0)[:images]
    return _normal(chance, images) + groups


SIMULATED = (
    Simulated("log-normal", _normal),
    Simulated("heavy tails (Student's t, 3 degrees of freedom)", _heavy),
    Simulated("4 % rare good images, four spreads higher", _rare),
    Simulated("groups of 10 that differ by a spread", _grouped),
)


def _simulated(kind: Simulated, count: int, rate: float, repetitions: int) -> tuple[float, float]:
    chance = np.random.default_rng(0)
    alarms = found = best = 0.0
    for _ in range(repetitions):
        good = np.exp(0.1 * kind.draw(chance, count))
        limit = calibrate(
            {"a": good[:, 0].tolist()}, {"a": good[:, 1].tolist()}, {"a": "folds"}, rate
        ).classes["a"]
        new = _made_up(np.exp(0.1 * kind.draw(chance, 500)), False)
        bad = _made_up(np.exp(0.1 * (_normal(chance, 200) + 3)), True)
        tallied = Tally()
        tallied.add([*new, *bad], limit)
        alarms += tallied.false_alarms / tallied.good
        found += tallied.found
        best += tallied.oracle
    return alarms / repetitions / rate, found / best if best else 1.0


def _made_up(scores: Floats, anomalous: bool) -> list[ImageRecord]:
    return [
        ImageRecord("", "a", anomalous, "", None, score, maximum)
        for score, maximum in scores.tolist()
    ]


def _is_anomalous(record: ImageRecord, limit: Threshold) -> bool:
    return limit.is_anomalous(record.score, record.map_maximum)


def _value(record: ImageRecord, limit: Threshold) -> float:
    """How far an image is above what is typical; above 1 it is anomalous."""
    of_score = (record.score - limit.image_typical) / (limit.image - limit.image_typical)
    of_map = (record.map_maximum - limit.pixel_typical) / (limit.pixel - limit.pixel_typical)
    return max(of_score, of_map) if limit.joint else of_score


def _best(good: Iterable[float], defects: Iterable[float], alarms: int) -> int:
    """Defects above the lowest threshold with at most so many false alarms."""
    ordered = sorted(good, reverse=True)
    limit = ordered[alarms] if alarms < len(ordered) else -np.inf
    return sum(value > limit for value in defects)


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
    if not options.runs and not options.simulated:
        raise GradError("No run is named: give folders of finished runs, or --simulated.")
    text = markdown(options.runs, rates) if options.runs else ""
    if options.simulated:
        text += ("\n" if text else "") + simulate(rates, (8, 30, 100, 200))
    print(text, end="")
    if options.out is not None:
        with replacing(options.out) as temporary:
            temporary.write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--rates", default="0.01,0.05,0.1", help="false-alarm rates to ask for")
    parser.add_argument("--simulated", action="store_true", help="also on scores that are made up")
    parser.add_argument("--out", type=Path, help="file for the table")
    return parser
