"""The paper's tables, on any data: ours and its rivals, mean and standard deviation over seeds.

    python benchmarks/bench_accuracy.py --data DIR --table 1 [--seeds 0,1,2] [--epochs N]

Each row and seed is kept in ``OUT/rows``: a command that was interrupted goes on where it was, and
what is done is not done again, in another table either. README.md beside this file says more.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.facts import machine_facts
from rich.console import Console

from accuracy import render
from accuracy.rows import Row, Table
from accuracy.runner import Runner
from accuracy.store import Result
from accuracy.tables import TABLES
from grad.system.command_line import run_command
from grad.system.errors import GradError
from grad.system.files import replacing
from grad.train.options import TrainOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""
    return run_command(
        lambda: _make_tables(arguments), "Interrupted: the same command goes on from here."
    )


def _make_tables(arguments: Sequence[str] | None) -> None:
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    seeds = _seeds(options.seeds)
    runner = Runner(_train_options(options), options.out, console)
    for number in options.table:
        table = TABLES[number]
        results = _run(table, seeds, runner, console)
        facts = _facts(runner, seeds, arguments)
        _write(table, results, facts, options.out)
        console.print(render.markdown(table, results, facts), markup=False, soft_wrap=True)


def _run(
    table: Table, seeds: Sequence[int], runner: Runner, console: Console
) -> list[tuple[Row, list[Result]]]:
    """All rows with the first seed, then with the next, so that a table is whole early."""
    found: dict[str, list[Result]] = {row.name: [] for row in table.rows}
    for seed in seeds:
        for row in table.rows:
            start = time.perf_counter()
            result = runner.result(row, seed)
            found[row.name].append(result)
            values = [render.spread([result.mean(k)]) for k in ("image_auroc", "pixel_auroc")]
            console.print(
                f"table {table.number}, {row.name}, seed {seed}: {' / '.join(values)}, "
                f"{time.perf_counter() - start:.0f} s",
                markup=False,
            )
    return [(row, found[row.name]) for row in table.rows]


def _write(table: Table, results: render.Results, facts: dict[str, str], out: Path) -> None:
    with replacing(out / f"table-{table.number}.md") as temporary:
        temporary.write_text(render.markdown(table, results, facts))
    with replacing(out / f"table-{table.number}.json") as temporary:
        temporary.write_text(json.dumps(render.record(table, results, facts), indent=1) + "\n")


def _facts(runner: Runner, seeds: Sequence[int], arguments: Sequence[str] | None) -> dict[str, str]:
    """What was run on what."""
    given = sys.argv[1:] if arguments is None else arguments
    plan = runner.plan
    machine = machine_facts(plan.device)
    return {
        "command": f"`python benchmarks/bench_accuracy.py {shlex.join(given)}`",
        "data": f"{len(runner.dataset.classes)} classes ({', '.join(runner.dataset.classes)}), "
        f"{len(runner.dataset.train)} training and {len(runner.dataset.test)} test images",
        "training": f"{plan.epochs} epochs in batches of {plan.batch_size}, "
        f"{plan.precision}, seeds {', '.join(map(str, seeds))}; the last epoch is the result",
        "backbone": f"{runner.backbone(plan).name} at {plan.image_size} pixels",
        "machine": f"{platform.machine()}, {machine['device_name']}, torch {machine['torch']}",
        "±": "sample standard deviation over the seeds",
    }


def _train_options(options: argparse.Namespace) -> TrainOptions:
    names = {field.name for field in dataclasses.fields(TrainOptions)} - {"out"}
    given: dict[str, Any] = {
        name: value for name, value in vars(options).items() if name in names and value is not None
    }
    return TrainOptions(**given)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise GradError(f"--seeds {text!r} is no list of numbers: give 0,1,2.") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise GradError(f"--seeds {text!r}: give different numbers, 0 or more.")
    return seeds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/bench_accuracy.py", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument(
        "--table", type=int, nargs="+", choices=sorted(TABLES), required=True, help="1 to 9"
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/accuracy"), help="folder of tables and rows"
    )
    for name in ("classes", "backbone", "preset", "device", "precision", "drops"):
        parser.add_argument(f"--{name}", help="as in python -m grad.train")
    for name in ("weights", "cache"):
        parser.add_argument(f"--{name}", type=Path, help="as in python -m grad.train")
    for name in ("epochs", "batch-size", "image-size", "workers"):
        parser.add_argument(f"--{name}", type=int, help="as in python -m grad.train")
    return parser
