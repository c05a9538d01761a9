"""Are defects among the good images found, and what does leaving them out bring back?

    python benchmarks/bench_contamination.py --data DIR --classes A,B,C --out DIR [--seeds 0,1,2] \
        -- TRAIN OPTIONS...

Of each class defective test images are put among the training images, so many that they are one in
twenty; the test set loses them. Three trainings: without them; with them; with them, but without
what the second's ``oddest.txt`` proposes, unread. All are judged on the same test images.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grad.data.layouts import find_dataset
from grad.data.samples import Sample
from grad.system.command_line import run_command
from grad.system.errors import GradError

SHARE = 0.05
METRICS = ("image_auroc", "pixel_auroc", "pixel_ap")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error."""
    return run_command(lambda: _run(arguments))


def mix(root: Path, data: Path, classes: Sequence[str], seed: int) -> dict[str, list[Path]]:
    """Make folders ``clean`` and ``mixed`` of links to a data set's images.

    Returns:
        Of each class the links to defects among the good images of ``mixed``.
    """
    dataset = find_dataset(data, classes)
    mixed: dict[str, list[Path]] = {}
    for name in classes:
        train = [s for s in dataset.train if s.class_name == name]
        test = [s for s in dataset.test if s.class_name == name]
        defects = [s for s in test if s.anomalous]
        number = round(SHARE / (1 - SHARE) * len(train))
        if number >= len(defects):
            raise GradError(f"Class {name} has {len(defects)} defects, and {number} go elsewhere.")
        moved = set(random.Random(f"{seed}/{name}").sample(defects, number))
        for folder in ("clean", "mixed"):
            for sample in train:
                _link(sample.path, root / folder / name / "train/good" / sample.path.name)
            for sample in test:
                if sample not in moved:
                    _link_test(sample, root / folder / name)
        links = [
            root / "mixed" / name / "train/good" / f"mixed-{s.defect}-{s.path.name}" for s in moved
        ]
        for link, sample in zip(links, moved, strict=True):
            _link(sample.path, link)
        mixed[name] = links
    return mixed


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(source.absolute())


def _link_test(sample: Sample, folder: Path) -> None:
    _link(sample.path, folder / "test" / sample.defect / sample.path.name)
    if sample.mask is not None:
        mask = f"{sample.path.stem}_mask{sample.mask.suffix}"
        _link(sample.mask, folder / "ground_truth" / sample.defect / mask)


def _train(data: Path, out: Path, options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The metrics of each class, None where one is undefined."""
    if not (out / "metrics.json").is_file():
        command = [sys.executable, "-m", "grad.train", "--data", str(data), "--out", str(out)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    classes: dict[str, dict[str, Any]] = json.loads((out / "metrics.json").read_text())["classes"]
    return classes


def _run(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args(arguments)
    classes = given.classes.split(",")
    print("| seed | class | mixed in | in the first tenth | metric | clean | mixed | left out |")
    print("|---|---|---|---|---|---|---|---|")
    for seed in given.seeds.split(","):
        _measure(given, classes, int(seed))


def _measure(given: argparse.Namespace, classes: Sequence[str], seed: int) -> None:
    root = given.out / f"seed-{seed}"
    if (root / "mixed").is_dir():
        mixed = {
            name: sorted((root / "mixed" / name / "train/good").glob("mixed-*")) for name in classes
        }
    else:
        mixed = mix(root, given.data, classes, seed)
    options = [*given.options, "--seed", str(seed)]
    clean = _train(root / "clean", root / "run-clean", options)
    with_them = _train(root / "mixed", root / "run-mixed", options)
    listed = root / "run-mixed/oddest.txt"
    without = _train(root / "mixed", root / "run-left-out", [*options, "--leave-out", str(listed)])
    proposed = set(listed.read_text(encoding="utf-8").splitlines())
    for name in classes:
        found = sum(path.relative_to(root / "mixed").as_posix() in proposed for path in mixed[name])
        for metric in METRICS:
            values = [run[name][metric] for run in (clean, with_them, without)]
            if None in values:
                continue  # a class without masks
            text = " | ".join(f"{value:.4f}" for value in values)
            print(f"| {seed} | {name} | {len(mixed[name])} | {found} | {metric} | {text} |")
    for metric in METRICS:
        means = [
            np.mean([run[n][metric] for n in classes if run[n][metric] is not None])
            for run in (clean, with_them, without)
        ]
        lost, back = means[0] - means[1], means[2] - means[1]
        print(
            f"\nSeed {seed}, {metric}: lost {lost:.4f}, back {back:.4f}"
            + (f" ({back / lost:.0%})" if lost > 0 else "")
        )
