"""Training taken apart: where a step's time goes, and an epoch with and without the cache.

``python benchmarks/bench_training.py`` measures on generated images, in about a minute on two
cores. Each part is timed inside real steps, by marks that hooks set.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.facts import machine_facts, write_json
from common.generated import generate_images
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from grad.data.images import load_image
from grad.data.samples import Sample
from grad.detector.training.loop import fit, make_optimizer
from grad.detector.training.schedule import Schedule
from grad.detector.training.step import TrainingStep
from grad.features.backbone import Backbone, load_backbone
from grad.features.batches import Loader, batches
from grad.features.compute import compute_features
from grad.features.features import Features
from grad.features.weights import BUILT_IN_BACKBONE
from grad.model.grad import GRAD
from grad.system.allocator import suit_large_tensors
from grad.system.devices import choose_precision
from grad.system.errors import GradError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = (
    "fetch",
    "heads and lookups, forward",
    "fusion, forward",
    "refine, forward",
    "refine, backward",
    "fusion, backward",
    "heads and lookups, backward",
    "clip",
    "optimiser",
)


@dataclass(frozen=True)
class Part:
    """One part of a step: its time, and the work that it has at least."""

    name: str
    ms: float
    share: float
    gflop: float
    megabytes: float


class Marks:
    """Times within a step, by name; on CUDA those of the device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def set(self, name: str) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def between(self) -> dict[str, float]:
        """Milliseconds up to the last mark of each name, from the mark before it."""
        if self._cuda:
            torch.cuda.synchronize()
        last = dict(self._marks)  # keeps the order of first marks and the values of the last
        found, before = {}, None
        for name, value in last.items():
            if before is not None:
                found[name] = before.elapsed_time(value) if self._cuda else 1e3 * (value - before)
            before = value
        self._marks.clear()
        return found


def watch(model: GRAD, optimizer: torch.optim.Optimizer, marks: Marks) -> None:
    """Set marks at the borders between parts in every step of a model."""
    original = model.loss_and_score

    def loss_and_score(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        marks.set("fetch")
        result = original(*arguments)
        marks.set("refine, forward")
        return result

    def before_fusion(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        marks.set("heads and lookups, forward")
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: marks.set("fusion, backward"))

    def after_fusion(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        marks.set("fusion, forward")
        if output.requires_grad:
            output.register_hook(lambda _: marks.set("refine, backward"))

    model.loss_and_score = loss_and_score  # type: ignore[method-assign]
    model.fusion.register_forward_pre_hook(before_fusion)
    model.fusion.register_forward_hook(after_fusion)
    for name, parameter in model.named_parameters():
        if not name.startswith("fusion"):
            parameter.register_post_accumulate_grad_hook(
                lambda _: marks.set("heads and lookups, backward")
            )
    optimizer.register_step_pre_hook(lambda *_: marks.set("clip"))
    optimizer.register_step_post_hook(lambda *_: marks.set("optimiser"))


def measure_step(features: Features, options: argparse.Namespace) -> list[Part]:
    """The median time of each part over steps, after two that warm up."""
    model, step, marks = _watched(features, options)
    size = options.batch_size
    order = [
        [(i * size + j) % len(features) for j in range(size)] for i in range(options.steps + 2)
    ]
    loader = Loader(features, options.device, DTYPES[options.precision], "never")
    times: dict[str, list[float]] = {name: [] for name in PARTS}
    for number, part in enumerate(order):
        marks.set("start")
        images = next(iter(loader.load([part])))  # not ahead of time, or nothing could be seen
        step(images, size)
        for name, ms in marks.between().items():
            if number >= 2:
                times[name].append(ms)
    medians = {name: statistics.median(values) for name, values in times.items()}
    work = _work(model, features, options)
    total = sum(medians.values())
    return [Part(name, medians[name], medians[name] / total, *work[name]) for name in PARTS]


def _watched(features: Features, options: argparse.Namespace) -> tuple[GRAD, TrainingStep, Marks]:
    torch.manual_seed(0)
    model = GRAD.from_preset(options.preset, *features.shape[1:]).to(options.device).train()
    optimizer, marks = make_optimizer(model, Schedule()), Marks(options.device)
    watch(model, optimizer, marks)
    return model, _step(model, optimizer, options), marks


def _work(
    model: GRAD, features: Features, options: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """GFLOP and megabytes of each part: matrix products; tensors read and written once a use.

    Backward has twice the products of forward. A layer of the network reads its input and its
    weights and writes its output; backward reads them again with the gradient, and writes two
    gradients. AdamW reads four numbers of each parameter and writes three.
    """
    batch, (_, channels, height, width) = options.batch_size, features.shape
    values = batch * channels * height * width
    wide = DTYPES[options.precision].itemsize
    images = torch.zeros(1, channels, height, width, device=options.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    counts = counter.get_flop_counts()
    whole, fusion = (sum(counts[name].values()) * batch / 1e9 for name in ("Global", "GRAD.fusion"))
    layers = _layer_values(model, images) * batch * wide / 1e6
    parameters = sum(p.numel() for p in model.parameters()) * 4 / 1e6
    heads = whole - fusion
    maps = values * wide / 1e6
    return {
        "fetch": (0.0, 2 * values * 2 / 1e6 + values * (2 + wide) / 1e6),
        "heads and lookups, forward": (heads, 7 * maps),  # F twice, hidden thrice, normal (2 C)
        "fusion, forward": (fusion, layers),
        "refine, forward": (0.0, 2 * maps),
        "refine, backward": (0.0, 3 * maps),
        "fusion, backward": (2 * fusion, 2 * layers),
        "heads and lookups, backward": (2 * heads, 10 * maps),
        "clip": (0.0, 3 * parameters),
        "optimiser": (0.0, 7 * parameters),
    }


def _layer_values(model: GRAD, images: Tensor) -> int:
    """Numbers that the layers of the fusion network read and write for one image."""
    total = 0

    def add(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].numel() + output.numel()

    hooks = [m.register_forward_hook(add) for m in model.fusion.modules() if not list(m.children())]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return total


def cached_epochs(features: Features, options: argparse.Namespace) -> list[float]:
    """Seconds of each epoch of a training from the cache."""
    torch.manual_seed(0)
    model = GRAD.from_preset(options.preset, *features.shape[1:]).to(options.device)
    schedule = Schedule(epochs=options.epochs, batch_size=options.batch_size)
    return list(fit(model, features, schedule, precision=options.precision).history.seconds)


def uncached_epoch(
    samples: Sequence[Sample], backbone: Backbone, features: Features, options: argparse.Namespace
) -> float:
    """Seconds of an epoch that decodes every image and runs the backbone on it.

    The next batch is decoded by threads meanwhile; backbone and step follow each other, as each
    keeps all cores busy.
    """
    torch.manual_seed(0)
    model = GRAD.from_preset(options.preset, *features.shape[1:]).to(options.device).train()
    step = _step(model, make_optimizer(model, Schedule()), options)
    parts = batches(len(samples), options.batch_size, torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(2) as pool:

        def decode(part: Sequence[int]) -> list[Future[Tensor]]:
            return [pool.submit(load_image, samples[i].path, (224, 224)) for i in part]

        start, coming = time.perf_counter(), decode(parts[0])
        for part, following in zip(parts, [*parts[1:], []], strict=True):
            images, coming = [future.result() for future in coming], decode(following)
            with torch.no_grad():
                maps = backbone(torch.stack(images).to(options.device))
            step(maps.to(DTYPES[options.precision]), len(part))
        if options.device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def _step(
    model: GRAD, optimizer: torch.optim.Optimizer, options: argparse.Namespace
) -> TrainingStep:
    return TrainingStep(model, optimizer, clip=0.1, autocast=options.precision == "bfloat16")


def show(parts: Sequence[Part], console: Console) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("part of a step")
    for heading in ("ms", "share", "GFLOP", "GFLOP/s", "MB", "GB/s"):
        table.add_column(heading, justify="right")
    total = Part(
        "whole step",
        *(sum(getattr(p, n) for p in parts) for n in ("ms", "share", "gflop", "megabytes")),
    )
    for part in [*parts, total]:
        table.add_row(
            part.name,
            f"{part.ms:.2f}",
            f"{part.share:.0%}",
            f"{part.gflop:.1f}" if part.gflop else "",
            f"{1e3 * part.gflop / part.ms:,.0f}" if part.gflop else "",
            f"{part.megabytes:.0f}",
            f"{part.megabytes / part.ms:.1f}",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    suit_large_tensors()  # as every command does
    console = Console(width=100, highlight=False)
    facts = machine_facts(options.device)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    try:
        with tempfile.TemporaryDirectory() as folder:
            samples = generate_images(Path(folder, "images"), options.images)
            backbone = load_backbone(BUILT_IN_BACKBONE).to(options.device)
            start = time.perf_counter()
            cache = Path(folder, "cache")
            features = compute_features(samples, backbone, 224, cache=cache, device=options.device)
            first = time.perf_counter() - start
            console.print(
                f"{options.preset}, {BUILT_IN_BACKBONE} at 224 pixels, {options.precision}, "
                f"batch {options.batch_size}, {options.images} generated images of 256 x 256"
            )
            parts = measure_step(features, options)
            show(parts, console)
            cached = cached_epochs(features, options)
            uncached = uncached_epoch(samples, backbone, features, options)
    except GradError as error:
        print(error, file=sys.stderr)
        return 2
    best = statistics.median(cached)
    console.print(
        f"an epoch: {best:.2f} s from the cache ({options.images / best:,.0f} images/s), "
        f"{uncached:.2f} s without ({options.images / uncached:,.0f} images/s), "
        f"{uncached / best:.1f} x; filling the cache took {first:.2f} s"
    )
    if options.json is not None:
        epochs = {"cached": cached, "uncached": uncached, "features": first}
        records = [vars(part) | facts for part in parts]
        write_json(options.json, [*records, {"part": "epoch", **epochs, **facts}])
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="grad-tiny")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3, help="from the cache; without it one")
    parser.add_argument("--precision", choices=tuple(DTYPES), help="default: as in training")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    options.precision = options.precision or choose_precision(options.device)
    return options
