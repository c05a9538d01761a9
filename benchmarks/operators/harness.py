"""What every benchmark of an operator shares: the command line, and from cases to rows.

For each case: a check that both compute the same, then for each pass (forward, backward, both) one
row of measured numbers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from common.facts import machine_facts, write_json
from common.timing import (
    Timing,
    copy_bandwidth,
    input_sets,
    launch_floor,
    measure_rounds,
    peak_bytes,
    total_bytes,
)
from torch._functorch import config as functorch_config

from grad.system.allocator import suit_large_tensors
from grad.system.errors import GradError
from operators.cases import PASSES, Arguments, Case, contestants, difference
from operators.report import Goal, Row, print_report

# Relative difference between ours and eager in float32. One gradient in ten thousand may fall on
# the other side of a cell's border, which alone is 1e-2.
SAME = 2e-2
QUICK_SECONDS = 40  # no further case begins after this with --quick, on a busy machine say


@dataclass(frozen=True)
class Options:
    """The command line."""

    quick: bool
    full: bool
    device: torch.device
    json: Path | None
    threads: int | None
    compile: bool
    seconds: float | None

    @property
    def batches(self) -> tuple[int, ...]:
        """Images at once, the first of them everywhere."""
        if self.device.type == "cuda":
            return (64,) if self.quick else (64, 512, 16)
        return (16, 64) if self.full and not self.quick else (16,)


class Bench:
    """Measures cases on one device, and keeps what is the same for all of them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = options.device
        self.notes: list[str] = []
        self.bandwidth = copy_bandwidth(self.device)
        self.floor_ms = launch_floor(self.device)
        self.facts = machine_facts(self.device) | {"copy_gb_per_s": self.bandwidth / 1e9}
        if options.quick:
            self.budget = {"seconds": 0.4, "least": 5, "most": 20}
        else:
            seconds = 2.0 if self.device.type == "cpu" else 0.3
            self.budget = {"seconds": seconds, "least": 7, "most": 50}

    def rows(self, case: Case) -> Iterator[Row]:
        """Measure one case: check that both compute the same, then a row for each pass."""
        error = difference(case, self.device)
        if not error <= SAME:
            raise GradError(
                f"{case.title}: eager and our kernels compute different things, "
                f"the relative difference is {error:.1e}: the times would mean nothing."
            )
        sets = input_sets(case.forward_bytes, self.device)
        ours, eager = contestants(case, self.device, sets)
        compiled = self._compiled(case, eager)
        for name in PASSES:
            calls = {"ours": ours.call(name), "eager": eager.call(name)}
            if compiled is not None:
                calls["compiled"] = compiled.call(name)
            timings = measure_rounds(calls, self.device, **self.budget)
            self._refuse_impossible(case, name, timings)
            peaks = [peak_bytes(calls[who], self.device) for who in ("ours", "eager")]
            yield self._row(case, name, timings, peaks, _output_bytes(case, ours, name), error)

    def _row(
        self,
        case: Case,
        name: str,
        timings: dict[str, Timing],
        peaks: list[int],
        output_bytes: int,
        error: float,
    ) -> Row:
        ours, eager, compiled = timings["ours"], timings["eager"], timings.get("compiled")
        bytes_ = case.bytes_of(name)
        limit_ms = 1e3 * bytes_ / self.bandwidth
        return Row(
            op=case.op,
            pass_=name,
            device=self.device.type,
            dtype=str(case.dtype)[6:],
            layout=case.layout,
            shape=case.shape,
            ms=ours.ms,
            spread=ours.spread,
            gb_per_s=bytes_ / (1e6 * ours.ms),
            limit_ms=limit_ms,
            limit_share=limit_ms / ours.ms,
            eager_ms=eager.ms,
            eager_ratio=eager.ratio_to(ours),
            compiled_ms=compiled.ms if compiled else None,
            compiled_ratio=compiled.ratio_to(ours) if compiled else None,
            peak_bytes=peaks[0],
            output_bytes=output_bytes,
            eager_peak_bytes=peaks[1],
            host_bound=any(timing.host_bound for timing in timings.values()),
            difference=error,
            paper=case.paper,
        )

    def _compiled(self, case: Case, eager: Arguments) -> Arguments | None:
        """Eager under torch.compile, on the same arguments; None if it is off or fails."""
        if not (self.options.compile and case.compiled):
            return None
        # A graph whose backward runs more than once keeps its buffers.
        functorch_config.donated_buffer = False
        torch.compiler.reset()
        function = torch.compile(eager.function, dynamic=False)
        result = Arguments(function, eager.sets, case.wanted, eager.gradients.__getitem__)
        try:
            result.run()
        except Exception as error:  # whatever a compiler raises; the other columns stand
            self.notes.append(f"torch.compile failed on {case.title}: {_first_line(error)}")
            return None
        return result

    def _refuse_impossible(self, case: Case, name: str, timings: dict[str, Timing]) -> None:
        for who, timing in timings.items():
            if timing.ms < 0.8 * self.floor_ms:
                raise GradError(
                    f"{case.title}, {name}, {who}: {timing.ms:.4f} ms is less than the "
                    f"{self.floor_ms:.4f} ms of an empty kernel, so its work did not run on the "
                    "current stream."
                )


def run(
    description: str,
    make_cases: Callable[[Options], Iterable[Case]],
    goals: Sequence[Goal],
    arguments: Sequence[str] | None = None,
) -> int:
    """The whole command: measure the cases, print the table, write the JSON file.

    Returns:
        The exit code: 0, or 2 after one sentence about what was wrong.
    """
    try:
        options = parse(description, arguments)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        suit_large_tensors()  # as every command does; for ours and the baseline
        cases = list(make_cases(options))
        bench = Bench(options)
        rows = measure_all(bench, cases)
    except GradError as error:
        print(error, file=sys.stderr)
        return 2
    print_report(description, bench.facts, rows, goals, bench.notes)
    return 0


def measure_all(bench: Bench, cases: Sequence[Case]) -> list[Row]:
    """Rows of all cases, as far as the time allows; written to the JSON file after each case."""
    rows: list[Row] = []
    start = time.perf_counter()
    for number, case in enumerate(cases):
        limit = bench.options.seconds
        if limit is not None and time.perf_counter() - start > limit:
            left = ", ".join(dict.fromkeys(case.op for case in cases[number:]))
            bench.notes.append(
                f"--seconds {limit:g} were over: {len(cases) - number} of {len(cases)} cases were "
                f"not measured ({left})."
            )
            break
        print(f"[{number + 1}/{len(cases)}] {case.title}", file=sys.stderr, flush=True)
        try:
            rows += bench.rows(case)
        except torch.OutOfMemoryError:
            bench.notes.append(f"{case.title} does not fit in the device's memory.")
        if bench.options.json is not None:
            write_json(bench.options.json, [row.record(bench.facts) for row in rows])
    return rows


class Parser(argparse.ArgumentParser):
    """Raises what is wrong with the command line."""

    def error(self, message: str) -> NoReturn:
        raise GradError(f"{message}; --help lists the options.")


def parse(description: str, arguments: Sequence[str] | None = None) -> Options:
    """The command line.

    Raises:
        GradError: if an option is unknown or does not fit this machine.
    """
    parser = Parser(description=description)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few sizes, under a minute")
    size.add_argument("--full", action="store_true", help="all sizes, layouts and dtypes")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to run (default: cuda if there is one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one object a row")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="also against torch.compile (default: not with --quick)",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="begin no further case after this time"
    )
    given = parser.parse_args(arguments)
    device = device_of(given.device)
    check_files_and_threads(given)
    return Options(
        quick=given.quick,
        full=given.full,
        device=device,
        json=given.json,
        threads=given.threads,
        compile=not given.quick if given.compile is None else given.compile,
        seconds=QUICK_SECONDS if given.quick and given.seconds is None else given.seconds,
    )


def device_of(name: str | None) -> torch.device:
    """The device of ``--device``; without it the GPU, if there is one.

    Raises:
        GradError: if it is not there.
    """
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise GradError("--device cuda: torch sees no CUDA device here; use --device cpu.")
    return torch.device(name or ("cuda" if cuda else "cpu"))


def check_files_and_threads(given: argparse.Namespace) -> None:
    """Raise a GradError for ``--threads`` or ``--json`` that can't be."""
    if given.threads is not None and given.threads < 1:
        raise GradError(f"--threads must be at least 1, got {given.threads}.")
    if given.json is not None and not given.json.resolve().parent.is_dir():
        raise GradError(f"--json {given.json}: the folder {given.json.parent} does not exist.")


def _output_bytes(case: Case, ours: Arguments, name: str) -> int:
    """Bytes of what a pass returns: outputs (forward), gradients, or gradients after outputs."""
    outputs, gradients = ours.run()
    parts = {"forward": total_bytes(outputs), "backward": total_bytes(gradients)}
    # The output dies with its graph, but both are alive where the gradients are made.
    return parts[name] if name in parts else total_bytes([outputs[0], *gradients])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
