"""Exported files beside the detector on this CPU: images a second from decoded images.

    python benchmarks/bench_export.py runs/NAME --threads 2

Exports the model in every format to a temporary folder and runs all of them in turn: in float32,
and OpenVINO also in the precision that it chooses itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.timing import Call, measure_rounds
from numpy.typing import NDArray
from operators.harness import Parser
from rich.console import Console
from rich.table import Table

from grad.data.demo import demo_dataset
from grad.data.images import load_picture
from grad.data.picture import Picture, collate
from grad.detector.checkpoint import LoadedModel, load_checkpoint
from grad.detector.detector import Detector
from grad.export.formats.base import FORMATS
from grad.export.graph import ExportGraph, columns, facts, trace
from grad.system.allocator import suit_large_tensors
from grad.system.errors import GradError
from product.model_report import machine

CPU = torch.device("cpu")
BUDGET = {"seconds": 8.0, "least": 5, "most": 40}

Run = Callable[[NDArray[np.uint8]], Any]  # (B, h, w, 3) -> maps, scores, ...


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 after one sentence about what was wrong."""
    suit_large_tensors()  # as every command does
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    try:
        loaded = load_checkpoint(options.model)
        if loaded.calibration is None:
            raise GradError(f"The model {options.model} has no thresholds: train it again.")
        with tempfile.TemporaryDirectory() as folder:
            runs = contestants(loaded, Path(folder), options.threads)
            console.print(report(loaded, runs, options))
    except GradError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(machine(CPU), highlight=False)
    return 0


def contestants(loaded: LoadedModel, folder: Path, threads: int) -> dict[str, Run]:
    """Everything that can judge decoded images."""
    size = loaded.info.image_size
    runs: dict[str, Run] = {}
    for precision in ("float32", "bfloat16"):
        detector = Detector.of(loaded, device=CPU, precision=precision)  # type: ignore[arg-type]
        runs[f"detector {precision}"] = from_pictures(detector, size)
    chosen = columns(loaded.calibration, None)  # type: ignore[arg-type]
    graph = ExportGraph(loaded.backbone, loaded.model, size, chosen)
    program, about = trace(graph), facts(loaded.info, chosen, "graph")
    for row in FORMATS.values():
        module = row.load()
        file = module.write(program, folder / f"model{row.suffix}", about)[0]
        runs[f"{row.runtime} float32"] = module.open_file(file, threads)
    runs["OpenVINO by default"] = openvino_by_default(folder / "model.xml", threads)
    return runs


def from_pictures(detector: Detector, size: int) -> Run:
    """The detector, with its resize by Pillow."""

    def run(pixels: NDArray[np.uint8]) -> Any:
        pictures = [Picture.from_array(one).resize((size, size)) for one in pixels]
        return detector.score_batch(collate([picture.tensor() for picture in pictures]))

    return run


def openvino_by_default(path: Path, threads: int) -> Run:
    """OpenVINO in the precision that it takes where nothing is said."""
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads})
    return lambda pixels: list(model(pixels).values())


def report(loaded: LoadedModel, runs: dict[str, Run], options: argparse.Namespace) -> Table:
    """Milliseconds a batch, images a second, and the largest difference of the image score."""
    table = Table("runtime", "batch", "ms", "±", "images/s", "score differs by")
    table.title = (
        f"{loaded.info.backbone}, {loaded.model.settings.preset}, images of {options.side} px"
    )
    side = (options.side, options.side)
    pictures = [load_picture(sample.path).resize(side) for sample in demo_dataset().test]
    for count in options.batch_sizes:
        pixels = np.stack([np.asarray(picture.rgb()) for picture in pictures[:count]])
        scores = {name: np.asarray(run(pixels)[1]) for name, run in runs.items()}
        calls = {name: bound(run, pixels) for name, run in runs.items()}
        for name, timing in measure_rounds(calls, CPU, **BUDGET).items():
            error = np.abs(scores[name] / scores["detector float32"] - 1).max()
            rate = 1e3 * count / timing.ms
            table.add_row(
                *(name, str(count), f"{timing.ms:.1f}"),
                *(f"{timing.spread:.0%}", f"{rate:.0f}", f"{error:.0e}"),
            )
        table.add_section()
    return table


def bound(run: Run, pixels: NDArray[np.uint8]) -> Call:
    return lambda _: run(pixels)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a run, or its model.safetensors")
    parser.add_argument("--threads", type=int, default=2, help="of every runtime")
    parser.add_argument("--side", type=int, default=256, help="of the square images, in pixels")
    parser.add_argument("--batch-sizes", type=numbers, default=[1, 8], help="as 1,8")
    return parser.parse_args(arguments)


def numbers(text: str) -> list[int]:
    """A list of numbers, given as 1,8."""
    return [int(part) for part in text.split(",")]
