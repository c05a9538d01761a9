"""How the cost of training grows: with the images, with their size, with the grids.

``python benchmarks/bench_scaling.py images size grid --json FILE`` measures and adds to the file;
``... plot --json FILE --png FILE`` draws it. ``memory`` is the most memory that a whole run of
``grad.train`` takes, from generated image files to the report.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from common.facts import machine_facts, write_json
from common.generated import generate_images

from grad.data.samples import Sample
from grad.detector.training.loop import fit, make_optimizer
from grad.detector.training.schedule import Schedule
from grad.detector.training.step import TrainingStep
from grad.features.backbone import Backbone, load_backbone
from grad.features.features import Features
from grad.features.store import FeatureFile
from grad.features.weights import BUILT_IN_BACKBONE
from grad.model.grad import GRAD
from grad.system.allocator import suit_large_tensors
from grad.system.devices import choose_precision
from grad.system.errors import GradError

CPU = torch.device("cpu")
SIZES = (224, 288, 352, 416, 512)
GRIDS = (
    *({"local_dims": dims} for dims in (1, 2, 3, 4)),
    *({"local_resolution": resolution} for resolution in (4, 8, 16, 32)),
    *({"global_dims": dims} for dims in (1, 2, 3)),
    *({"global_resolution": resolution} for resolution in (2, 4, 8)),
)

Record = dict[str, Any]


def images(options: argparse.Namespace, backbone: Backbone) -> Iterator[Record]:
    """Seconds of one epoch from the cache, by number of images."""
    counts = sorted(options.counts)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        features = made_features(Path(folder), counts[-1], backbone, 224)
        for count in counts:
            torch.manual_seed(0)
            model = GRAD.from_preset(options.preset, *features.shape[1:])
            schedule = Schedule(epochs=1, batch_size=options.batch_size)
            part = features.subset(range(count))
            result = fit(model, part, schedule, precision=options.precision)
            yield {"what": "images", "images": count, "seconds": result.history.seconds[0]}


def size(options: argparse.Namespace, backbone: Backbone) -> Iterator[Record]:
    """Milliseconds an image of the backbone and of a training step, by image size."""
    batch = options.batch_size // 2
    for side in SIZES:
        pictures = torch.rand(batch, 3, side, side)
        with torch.inference_mode():
            of_backbone = median_ms(lambda pictures=pictures: backbone(pictures))
        maps = (backbone.channels, *backbone.feature_size(side))
        yield {
            "what": "size",
            "size": side,
            "backbone_ms": of_backbone / batch,
            "step_ms": step_ms(options, maps, batch) / batch,
        }


def grid(options: argparse.Namespace, backbone: Backbone) -> Iterator[Record]:
    """Milliseconds of a training step by axes and resolution of the two grids."""
    maps = (backbone.channels, *backbone.feature_size(224))
    for settings in GRIDS:
        ms = step_ms(options, maps, options.batch_size, **settings)
        yield {"what": "grid", **settings, "step_ms": ms}


def memory(options: argparse.Namespace, backbone: Backbone) -> Iterator[Record]:
    """Most memory of a run of one epoch on generated images, in a process of its own."""
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            generate_images(Path(folder, "images"), count)
            command = [sys.executable, "-m", "grad.train", "--data", f"{folder}/images/made"]
            command += ["--preset", options.preset, "--backbone", BUILT_IN_BACKBONE]
            command += ["--epochs", "1", "--batch-size", str(options.batch_size)]
            command += ["--device", "cpu", "--out", f"{folder}/run", "--cache", f"{folder}/cache"]
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise GradError(f"{' '.join(command)} failed: run it by itself.")
            yield {
                "what": "memory",
                "images": count,
                "peak_mb": usage.ru_maxrss / 1024,
                "cache_mb": sum(f.stat().st_size for f in Path(folder, "cache").iterdir()) / 1e6,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "seconds": time.perf_counter() - start,
            }


def made_features(folder: Path, count: int, backbone: Backbone, side: int) -> Features:
    """Features that no image has, in a file as the cache's: rows of noise, 64 different ones."""
    shape = (*backbone.feature_size(side), backbone.channels)
    rows = np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float16)
    file = FeatureFile(folder, "made")
    parts = [64] * (count // 64) + [count % 64] * bool(count % 64)
    file.write((count, *shape), ((rows[:part], {}) for part in parts))
    samples = tuple(Sample(Path(f"{i}.png"), "made", "train") for i in range(count))
    return Features(samples, (), (file.open()[0],), tuple((0, i) for i in range(count)))


def step_ms(
    options: argparse.Namespace, maps: tuple[int, ...], batch: int, **settings: int
) -> float:
    """Milliseconds of one training step on feature maps of (C, H, W)."""
    torch.manual_seed(0)
    model = GRAD.from_preset(options.preset, *maps, **settings).train()
    autocast = options.precision == "bfloat16"
    step = TrainingStep(model, make_optimizer(model, Schedule()), clip=0.1, autocast=autocast)
    dtype = torch.bfloat16 if autocast else torch.float32
    features = torch.randn(batch, *maps).to(dtype).to(memory_format=torch.channels_last)
    return median_ms(lambda: step(features, batch))


def median_ms(call: Any, rounds: int = 7) -> float:
    """Milliseconds of a call, the median after one that warms up."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def plot(records: Sequence[Record], path: Path) -> None:
    """Four curves: epoch against images, parts against size, step against axes and resolution."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(14, 3.2), layout="constrained")
    _lines(axes[0], records, "images", "images", {"seconds": "an epoch"})
    axes[0].set(xlabel="images", ylabel="seconds")
    parts = {"backbone_ms": "backbone", "step_ms": "training step"}
    _lines(axes[1], records, "size", "size", parts)
    axes[1].set(xlabel="image size, pixels", ylabel="ms an image")
    for axis, unit in ((axes[2], "dims"), (axes[3], "resolution")):
        for name in ("local", "global"):
            _lines(axis, records, "grid", f"{name}_{unit}", {"step_ms": f"{name} grid"})
        axis.set(xlabel={"dims": "axes", "resolution": "cells an axis"}[unit], ylabel="ms a step")
    axes[2].set_xticks((1, 2, 3, 4))
    axes[3].set_xscale("log", base=2)
    for axis in axes:
        axis.set_ylim(0, 1.08 * axis.dataLim.ymax)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def _lines(
    axis: Any, records: Sequence[Record], what: str, key: str, shown: dict[str, str]
) -> None:
    chosen = sorted((r for r in records if r["what"] == what and key in r), key=lambda r: r[key])
    for value, label in shown.items():
        points = [(r[key], r[value]) for r in chosen]
        axis.plot(*zip(*points, strict=True), marker="o", label=label)


PARTS = {"images": images, "size": size, "grid": grid, "memory": memory}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    suit_large_tensors()  # as every command does
    records = json.loads(options.json.read_text()) if options.json.exists() else []
    facts = machine_facts(CPU) | {"precision": options.precision, "preset": options.preset}
    backbone = load_backbone(BUILT_IN_BACKBONE)
    try:
        for name in options.parts:
            if name == "plot":
                plot(records, options.png)
                continue
            for record in PARTS[name](options, backbone):
                print(json.dumps(record), flush=True)
                records.append(record | facts)
                write_json(options.json, records)
    except GradError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "plot"])
    parser.add_argument("--json", type=Path, required=True, help="results are added to this file")
    parser.add_argument("--png", type=Path, help="of plot")
    parser.add_argument("--preset", default="grad-tiny")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--counts", type=_counts, default=(1000, 2000, 5000, 10000))
    parser.add_argument("--folder", type=Path, help="for generated files (default: the system's)")
    options = parser.parse_args(arguments)
    if "plot" in options.parts and options.png is None:
        parser.error("plot needs --png FILE")
    options.precision = choose_precision(CPU)
    return options


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
