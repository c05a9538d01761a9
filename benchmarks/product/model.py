"""What a prediction costs: its parts, the ways to run it, and `grad predict` from files.

    python benchmarks/bench_model.py --device cpu --threads 2
    python benchmarks/bench_model.py --model runs/NAME --batch-sizes 1,64 --compile

Without --model the networks are freshly made; their time does not depend on their weights.
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common.facts import write_json
from common.timing import Call, measure_rounds, total_bytes
from operators.harness import Parser, check_files_and_threads, device_of
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.utils.flop_counter import FlopCounterMode

from grad import ops
from grad.data.demo import demo_dataset
from grad.data.images import load_picture
from grad.data.picture import collate
from grad.detector import onednn
from grad.detector.checkpoint import LoadedModel, ModelInfo, load_checkpoint
from grad.detector.detector import Detector
from grad.detector.engine import Engine, Pipeline, optimise
from grad.features.backbone import load_backbone
from grad.features.weights import BUILT_IN_BACKBONE
from grad.model.grad import GRAD
from grad.model.presets import PRESETS
from grad.model.rows import to_rows
from grad.predict.options import PredictOptions
from grad.predict.run import predict_all
from grad.score.anomaly_map import map_and_score
from grad.system.allocator import suit_large_tensors
from grad.system.errors import GradError
from product.model_report import Part, Way, machine, print_model_report

BUDGET = {"seconds": 1.5, "least": 5, "most": 40}


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 after one sentence about what was wrong."""
    try:
        suit_large_tensors()  # as every command does
        options = parse(arguments)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        bench = Bench(options)
        ways = [way for size in options.batch_sizes for way in bench.ways(size)]
        parts = [part for size in options.batch_sizes for part in bench.parts(size)]
        ends = list(bench.end_to_end())
        print_model_report(bench.facts, ways, parts, ends, bench.notes)
        if options.json is not None:
            rows = [row.record(bench.facts) for row in (*ways, *parts)]
            write_json(options.json, rows + [end | bench.facts for end in ends])
    except GradError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


class Bench:
    """One model on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = options.device
        self.notes: list[str] = []
        self.loaded = load_checkpoint(options.model) if options.model else fresh_model(options)
        self.size = self.loaded.info.image_size
        self.plain = Pipeline(self.loaded.backbone, self.loaded.model, self.size)
        self.facts = machine(self.device) | {
            "backbone": self.loaded.info.backbone,
            "preset": self.loaded.model.settings.preset,
            "image_size": self.size,
        }
        self.pictures = [load_picture(sample.path) for sample in demo_dataset().test]

    def images(self, count: int) -> Tensor:
        """uint8 (B, 3, S, S) on the CPU, of the demo set."""
        size = (self.size, self.size)
        chosen = [self.pictures[i % len(self.pictures)] for i in range(count)]
        return collate([picture.resize(size).tensor() for picture in chosen])

    def ways(self, count: int) -> Iterator[Way]:
        """Every way to run the whole network on a batch."""
        images = self.images(count)
        engines = {p: self.engine(p) for p in self.options.precisions}
        expected = [t.cpu() for t in self.eager(self.plain)(images)]
        calls: dict[str, Callable[[Tensor], Any]] = {"as trained": self.eager(self.plain)}
        for precision in self.options.precisions:
            with separate():
                folded = optimise(self.plain, self.device, precision)
            calls[f"folded {precision}"] = self.eager(folded)
            if self.options.compile:
                calls[f"compiled {precision}"] = self.compiled(folded)
            calls[f"engine {precision}"] = engines[precision]
        if self.device.type == "cuda":
            for precision in self.options.precisions:
                calls[f"graph {precision}"] = self.graph(precision, count)
        found = {name: [t.cpu() for t in call(images)] for name, call in calls.items()}
        given = images.to(self.device)
        timings = measure_rounds(
            {name: _on(call, given) for name, call in calls.items()}, self.device, **BUDGET
        )
        for name, timing in timings.items():
            errors = [
                float((ours - true).abs().max() / true.abs().max())
                for ours, true in zip(found[name], expected, strict=True)
            ]
            yield Way(name, count, timing.ms, timing.spread, max(errors))

    def parts(self, count: int) -> Iterator[Part]:
        """The engine's parts on a batch, one after the other."""
        for precision in self.options.precisions:
            calls, costs = self._parts(precision, count)
            timings = measure_rounds(calls, self.device, **BUDGET)
            whole = timings.pop("whole").ms
            for name, timing in timings.items():
                flops, bytes_ = costs.get(name, (0, 0))
                yield Part(precision, count, name, timing.ms, timing.spread, whole, flops, bytes_)

    def _parts(
        self, precision: str, count: int
    ) -> tuple[dict[str, Call], dict[str, tuple[int, int]]]:
        """A call for each part, and its FLOP and the bytes that it must read and write."""
        engine = self.engine(precision)
        fast, size = engine._pipeline, (self.size, self.size)
        images = self.images(count).to(self.device)
        paths = [sample.path for sample in demo_dataset().test]
        with torch.inference_mode():
            ready = engine._prepared(images)
            features = fast.backbone(ready)
            lookups = copy.copy(fast.model)
            lookups._modules = dict(fast.model._modules) | {"fusion": nn.Identity()}
            values = lookups(features)
            prediction = fast.model.fusion(values)
            rows = to_rows(features).to(prediction.dtype), to_rows(prediction)
            score = fast.model.loss_and_score(features)[1]
            maps = map_and_score(score, size)[0]
        mode = fast.model.settings.refine
        work: dict[str, Callable[[], Any]] = {
            "backbone": lambda: fast.backbone(ready),
            "heads and lookups": lambda: lookups(features),
            "fusion": lambda: fast.model.fusion(values),
            "refine": lambda: ops.refine(rows[0], rows[1], mode=mode),
            "map and score": lambda: map_and_score(score, size),
        }
        calls: dict[str, Call] = {}
        if self.device.type == "cpu":
            chosen = [paths[i % len(paths)] for i in range(count)]
            calls["decode"] = lambda _: [load_picture(path) for path in chosen]
            some = [self.pictures[i % len(self.pictures)] for i in range(count)]
            calls["resize"] = lambda _: collate([p.resize(size).tensor() for p in some])
        calls["to floats"] = lambda _: engine._prepared(images)
        calls |= {name: _quietly(call) for name, call in work.items()}
        calls["whole"] = _on(engine, images)
        flops = self._flops(count)
        moved = {
            "to floats": [images, ready],
            "backbone": [ready, features, *fast.backbone.parameters()],
            "heads and lookups": [features, values, *lookups.parameters()],
            "fusion": [values, prediction, *self.plain.model.fusion.parameters()],
            "refine": [*rows, score],
            "map and score": [score, maps],
        }
        costs = {
            name: (flops.get(name, 0), total_bytes(tensors)) for name, tensors in moved.items()
        }
        return calls, costs

    def _flops(self, count: int) -> dict[str, int]:
        """FLOP of the parts with matrix products (two for each multiply-add), counted by torch."""
        counts = {}
        model, images = self.plain.model, torch.zeros(count, 3, self.size, self.size)
        with torch.no_grad():
            features = self.plain.backbone(images)
            for name, call in {
                "backbone": lambda: self.plain.backbone(images),
                "network": lambda: model(features),
                "fusion": lambda: model.fusion(features.new_zeros(self._fusion_shape(count))),
            }.items():
                with FlopCounterMode(display=False) as counter:
                    call()
                counts[name] = int(counter.get_total_flops())
        counts["heads and lookups"] = counts.pop("network") - counts["fusion"]
        return counts

    def _fusion_shape(self, count: int) -> tuple[int, int, int, int]:
        s = self.plain.model.settings
        channels = 2 * s.channels if s.parts == "local+global" else s.channels
        return count, channels, s.height, s.width

    def end_to_end(self) -> Iterator[dict[str, Any]]:
        """Images a second from image files to tables."""
        paths = [str(sample.path) for sample in demo_dataset().test]
        count = self.options.files
        paths = (paths * (count // len(paths) + 1))[:count]
        for precision in self.options.precisions:
            detector = Detector(self.engine(precision), self.loaded.info, self.loaded.calibration)
            list(detector.stream(paths[:64]))
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                found = list(detector.stream(paths))
                seconds.append(time.perf_counter() - start)
            rate = len(found) / sorted(seconds)[1]
            yield {"what": "stream", "precision": precision, "images_per_s": rate}
            detector.warm_up()
            seconds = []
            for path in paths[:100]:
                start = time.perf_counter()
                detector.predict(path)
                seconds.append(time.perf_counter() - start)
            rate = 1 / statistics.median(seconds)
            yield {"what": "one by one", "precision": precision, "images_per_s": rate}
            if self.options.model:
                seconds_all = self._command(paths, precision)
                yield {
                    "what": "grad predict, with the model's loading",
                    "precision": precision,
                    "images_per_s": len(paths) / seconds_all,
                }

    def _command(self, paths: list[str], precision: str) -> float:
        """Seconds of ``grad predict MODEL PATHS --out DIR``, but for Python's own start."""
        with tempfile.TemporaryDirectory() as folder:
            options = PredictOptions(
                model=self.options.model,
                paths=paths,
                out=Path(folder, "out"),
                device=str(self.device),
                precision=precision,
            )
            start = time.perf_counter()
            with redirect_stderr(io.StringIO()):  # where it says what it found
                predict_all(options)
            return time.perf_counter() - start

    def engine(self, precision: str) -> Engine:
        """The engine as users have it."""
        loaded = self.loaded
        return Engine(
            loaded.backbone, loaded.model, self.size, device=self.device, precision=precision
        )

    def graph(self, precision: str, count: int) -> Engine:
        """The engine with a CUDA graph for batches of this size."""
        engine = self.engine(precision)
        engine.warm_up(count)
        return engine

    def eager(self, pipeline: Pipeline) -> Callable[[Tensor], Any]:
        """A pipeline as it is."""
        pipeline = copy.deepcopy(pipeline).to(self.device)

        def call(images: Tensor) -> Any:
            with torch.inference_mode():
                return pipeline(images.to(self.device).float().div_(255.0))

        return call

    def compiled(self, pipeline: Pipeline) -> Callable[[Tensor], Any]:
        """Under torch.compile with its weights as constants; notes how long compiling takes."""
        compiled = torch.compile(pipeline, dynamic=False)
        first = True

        def call(images: Tensor) -> Any:
            nonlocal first
            start = time.perf_counter()
            with torch.no_grad(), inductor.patch(freezing=True):
                found = compiled(images.to(self.device).float().div_(255.0))
            if first:
                first = False
                seconds = time.perf_counter() - start
                self.notes.append(f"compiling for a batch of {len(images)} took {seconds:.0f} s")
            return found

        return call


def fresh_model(options: argparse.Namespace) -> LoadedModel:
    """A model that has learned nothing, on the backbone's trained weights."""
    context = PRESETS[options.preset].context
    backbone = load_backbone(options.backbone, options.weights, context=context)
    shape = (backbone.channels, *backbone.feature_size(options.image_size))
    model = GRAD.from_preset(options.preset, *shape, context=backbone.context).eval()
    info = ModelInfo.of(backbone, image_size=options.image_size, classes=("none",), epochs=0)
    return LoadedModel(model, backbone, info, None)


@contextmanager
def separate() -> Iterator[None]:
    """Convolutions stay torch's, their activations separate."""
    with mock.patch.object(onednn, "is_available", return_value=False):
        yield


def _on(call: Callable[[Tensor], Any], images: Tensor) -> Call:
    return lambda _: call(images)


def _quietly(call: Callable[[], Any]) -> Call:
    def run(_: int) -> Any:
        with torch.inference_mode():
            return call()

    return run


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        GradError: if an option is unknown or does not fit this machine.
    """
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--model", type=Path, help="run or model file (default: a fresh model)")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="grad-tiny")
    parser.add_argument("--backbone", default=BUILT_IN_BACKBONE, help="timm model")
    parser.add_argument("--weights", type=Path, help="the backbone's")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-sizes", default="1,8", metavar="N,N")
    parser.add_argument("--precisions", default="float32,bfloat16", metavar="NAME,NAME")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile too, which takes long"
    )
    parser.add_argument("--files", type=int, default=480, help="images from file to score")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one object a row")
    given = parser.parse_args(arguments)
    given.device = device_of(given.device)
    check_files_and_threads(given)
    try:
        given.batch_sizes = [int(part) for part in given.batch_sizes.split(",")]
    except ValueError:
        raise GradError(f"--batch-sizes {given.batch_sizes} is no list of numbers.") from None
    given.precisions = given.precisions.split(",")
    return given
