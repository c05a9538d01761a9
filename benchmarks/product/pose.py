"""Do models bear turned parts and other light, and what do augmentations do for that?

    python benchmarks/bench_pose.py turn --data DIR --classes A,B,C --out DIR [--seed 0]
    python benchmarks/bench_pose.py judge RUN... --data DIR [--rate 0.05]

``turn`` writes all images of some classes, and their masks, each turned about its centre by an
angle of its own; what comes in at the corners has the mean colour of the image's border.

``judge`` is what runs make of the test images of a folder: as they come, in other light
(brightness x 0.8, x 1.2), and in other light and blurred (x 0.8, Gaussian blur of 1 pixel).
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from grad.data.layouts import find_dataset
from grad.data.samples import Sample
from grad.detector.checkpoint import LoadedModel, load_checkpoint
from grad.detector.features import features_for
from grad.features.compute import default_cache
from grad.score.dataset import evaluate, good_scores
from grad.system.command_line import run_command

LIGHT: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as they come": lambda image: image,
    "x 0.8": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "x 1.2": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "x 0.8, blurred": lambda image: ImageEnhance.Brightness(
        image.filter(ImageFilter.GaussianBlur(1.0))
    ).enhance(0.8),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def turn(data: Path, classes: Sequence[str], out: Path, seed: int) -> None:
    """Write a data set with each image, and its mask, turned by a random angle."""
    for sample in find_dataset(data, classes).samples:
        angle = random.Random(f"{seed}/{sample.path.relative_to(data)}").uniform(0, 360)
        folder, path = out / sample.class_name, sample.path
        with Image.open(path) as image:
            turned = _turned(image.convert("RGB"), angle)
        _save(turned, folder / sample.split / sample.defect / f"{path.stem}.png")
        if sample.mask is not None:
            with Image.open(sample.mask) as mask:
                turned = mask.convert("L").rotate(angle, Image.Resampling.NEAREST)
            _save(turned, folder / "ground_truth" / sample.defect / f"{path.stem}_mask.png")


def _turned(image: Image.Image, angle: float) -> Image.Image:
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(border.mean(axis=0).round().astype(int).tolist())
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=colour)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def judge(run: Path, data: Path, cache: Path, rate: float) -> list[str]:
    """Rows of a table: what a run makes of the test images in each light."""
    loaded = load_checkpoint(run)
    assert loaded.calibration is not None
    loaded = replace(loaded, calibration=loaded.calibration.at_rate(rate))
    test = find_dataset(data, loaded.info.classes).test
    rows = []
    for name, light in LIGHT.items():
        with tempfile.TemporaryDirectory() as folder:
            seen = [_relit(s, light, Path(folder, f"{i}.png")) for i, s in enumerate(test)]
            rows += [f"| {run.name} | {name} | {row} |" for row in _judge(loaded, seen, cache)]
    return rows


def _relit(sample: Sample, light: Callable[[Image.Image], Image.Image], path: Path) -> Sample:
    with Image.open(sample.path) as image:
        light(image.convert("RGB")).save(path)
    return replace(sample, path=path)


def _judge(loaded: LoadedModel, samples: Sequence[Sample], cache: Path) -> list[str]:
    assert loaded.calibration is not None
    classes, side = loaded.info.classes, loaded.info.image_size
    features = features_for(loaded, samples, cache=cache)
    reports = evaluate(loaded.model, features, side, (), classes=classes)
    scores, maxima = good_scores(loaded.model, features, side)
    rows = []
    for name in classes:
        limit = loaded.calibration.threshold(name)
        alarms = [*map(limit.is_anomalous, scores[name], maxima[name])]
        bad = [s.anomalous for s in features.samples if s.class_name == name]
        counts = [
            sum(alarm == kind for alarm, is_bad in zip(alarms, bad, strict=True) if is_bad == kind)
            for kind in (True, False)
        ]
        values = (reports[name].values[metric] for metric in ("image_auroc", "pixel_auroc"))
        aurocs = " | ".join("-" if value is None else f"{value:.3f}" for value in values)
        good = len(bad) - sum(bad)
        rows.append(f"{name} | {aurocs} | {good - counts[1]} of {good} | {counts[0]} of {sum(bad)}")
    return rows


def _run(options: argparse.Namespace) -> None:
    if options.kind == "turn":
        turn(options.data, options.classes.split(","), options.out, options.seed)
        return
    print("| run | light | class | image AUROC | pixel AUROC | false alarms | defects found |")
    print("|" + "---|" * 7)
    for run in options.runs:
        print("\n".join(judge(run, options.data, options.cache, options.rate)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    turning = kinds.add_parser("turn")
    turning.add_argument("--classes", required=True)
    turning.add_argument("--out", type=Path, required=True)
    turning.add_argument("--seed", type=int, default=0)
    judging = kinds.add_parser("judge")
    judging.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    judging.add_argument("--cache", type=Path, default=default_cache(), help="of features")
    judging.add_argument("--rate", type=float, default=0.05, help="false-alarm rate to ask for")
    for command in (turning, judging):
        command.add_argument("--data", type=Path, required=True)
    return parser
