"""Is drift said where the light changes half-way, and only there?

    python benchmarks/bench_drift.py RUN --data DIR [--cache DIR]

Good test images of each class come in ten orders. *Unchanged*: all of them as they are.
*Half-way*: the first half as they are, then the other half and the first again in another light
(brightness x 0.8, Gaussian blur of 1 pixel). A watch that speaks before that speaks wrongly.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from accuracy.render import grid

from grad.data.layouts import find_dataset
from grad.detector.checkpoint import load_checkpoint
from grad.detector.features import features_for
from grad.features.compute import default_cache
from grad.features.features import Features
from grad.model.grad import GRAD
from grad.score.dataset import good_scores
from grad.score.drift import DriftWatch
from grad.score.false_alarms import GoodScores
from grad.score.thresholds import no_thresholds
from grad.system.command_line import run_command
from grad.system.errors import GradError
from product.update import relight

ORDERS = 10

Scores = list[tuple[float, float]]  # image score and largest map value of each image


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error."""
    return run_command(lambda: _run(arguments))


def said_at(known: GoodScores, scores: Scores, seed: int) -> int | None:
    """At which image a watch says drift; None: at none."""
    watch = DriftWatch(known, seed)
    return next((i for i, one in enumerate(scores) if watch.add(*one)), None)


def _line(known: GoodScores, plain: Scores, relit: Scores) -> list[str]:
    unchanged, early, after = 0, 0, []
    half = len(plain) // 2
    for seed in range(ORDERS):
        order = random.Random(seed).sample(range(len(plain)), len(plain))
        unchanged += said_at(known, [plain[i] for i in order], seed) is not None
        turned = [*order[half:], *order[:half]]
        found = said_at(
            known, [*(plain[i] for i in order[:half]), *(relit[i] for i in turned)], seed
        )
        early += found is not None and found < half
        if found is not None and found >= half:
            after.append(found - half + 1)
    shown = f"{statistics.median(after):.0f}" if after else "-"
    return [str(len(plain)), str(unchanged), str(early), str(len(after)), shown]


def _scores(model: GRAD, features: Features, size: int, name: str) -> Scores:
    of_images, of_maxima = good_scores(model, features, size)
    return list(zip(of_images[name], of_maxima[name], strict=True))


def _run(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=default_cache())
    given = parser.parse_args(arguments)
    loaded = load_checkpoint(given.run)
    if loaded.calibration is None:
        raise GradError(no_thresholds(f"The model {given.run}"))
    data = find_dataset(given.data, loaded.info.classes)
    head = (
        "class, good test images, unchanged: said, half-way: too early, after it, images until then"
    )
    lines = [head.split(", ")]
    for name in loaded.info.classes:
        good = [s for s in data.test if s.class_name == name and not s.anomalous]
        with tempfile.TemporaryDirectory() as folder:
            lit = [relight(s, Path(folder, f"{i}.png")) for i, s in enumerate(good)]
            size, model = loaded.info.image_size, loaded.model
            plain, relit = (
                _scores(model, features_for(loaded, some, cache=given.cache), size, name)
                for some in (good, lit)
            )
        lines.append([name, *_line(loaded.calibration.good(name), plain, relit)])
    print(grid(lines))
