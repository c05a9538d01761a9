"""A roofline on paper: what limits each kernel on a GPU, from its bytes and its arithmetic.

    python benchmarks/roofline.py [--write benchmarks/results/roofline.md]

Nothing is measured here. Bytes are those of the benchmark's cases; what a kernel moves beyond them
(partial sums of blocks) and its arithmetic are counted from csrc/.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from operators import grid as bench_grid
from operators import refine as bench_refine
from operators.cases import Case, Shape

BATCHES = (16, 64, 512)
ROWS_PER_PART = 128  # rows of a backward block, unless the device is full
PARTS_PER_MULTIPROCESSOR = 1


@dataclass(frozen=True)
class Device:
    """Peak figures of a device's data sheet."""

    name: str
    gb_per_s: float
    tflops: float  # float32, outside tensor cores
    multiprocessors: int


DEVICES = (Device("H100 SXM", 3350.0, 67.0, 132), Device("H200", 4800.0, 67.0, 132))


def operations(case: Case, name: str) -> float:
    """Float32 operations of a pass, a multiply-add as two; noise and tanh at 200 a row."""
    s = case.shape
    rows = s.batch * s.height * s.width
    if case.op == "refine":
        return rows * s.channels * (9.0 if name == "forward" else 7.0)
    assert s.dims is not None
    corners = 2**s.dims
    if case.op == "global":
        return rows * s.channels * corners * (2.0 if name == "forward" else 4.0)
    head = 2.0 * s.dims * s.channels
    if name == "forward":
        return rows * (head + 2.0 * corners * s.channels + 200.0)
    return rows * (2 * head + 4.0 * corners * s.channels + 200.0)


def partial_sum_bytes(case: Case, name: str, device: Device) -> float:
    """Bytes of the blocks' private sums of the local head's backward pass, written and read."""
    s = case.shape
    if case.op != "project" or name != "backward":
        return 0.0
    assert s.dims is not None and s.resolution is not None
    parts = s.batch * s.height * s.width // ROWS_PER_PART
    parts = max(1, min(parts, PARTS_PER_MULTIPROCESSOR * device.multiprocessors))
    return 2.0 * parts * 4 * (s.resolution**s.dims * s.channels + s.dims * (s.channels + 1))


def cases() -> Iterator[Case]:
    """The paper's sizes, a row for each operator, batch and type."""
    for batch in BATCHES:
        for dtype in (torch.float32, torch.bfloat16):
            local = Shape(batch, 216, 28, 28, 2, bench_grid.LOCAL)
            whole = Shape(batch, 216, 28, 28, 2, bench_grid.GLOBAL)
            yield bench_grid.project_case(local, dtype, "channels_last")
            yield bench_grid.global_case(whole, dtype, "NCHW")
            yield bench_refine.refine_case(Shape(batch, 216, 28, 28), dtype, "channels_last")


def table(device: Device) -> Iterator[str]:
    """Markdown rows: bytes, arithmetic, the time of each alone, and which is longer."""
    yield f"## {device.name}: {device.gb_per_s:,.0f} GB/s, {device.tflops:g} TFLOP/s float32"
    yield ""
    yield (
        "| operator | size | dtype | pass | MB that must move | MB of partial sums | "
        "memory, us | arithmetic, us | limit | highest share |"
    )
    yield "|---|---|---|---|---:|---:|---:|---:|---|---:|"
    for case in cases():
        for name in ("forward", "backward"):
            must, more = case.bytes_of(name), partial_sum_bytes(case, name, device)
            memory = (must + more) / device.gb_per_s / 1e3
            arithmetic = operations(case, name) / device.tflops / 1e6
            limit = "memory" if memory >= arithmetic else "arithmetic"
            share = must / device.gb_per_s / 1e3 / max(memory, arithmetic)
            yield (
                f"| {case.op} | {case.shape} | {str(case.dtype)[6:]} | {name} | {must / 1e6:.1f} | "
                f"{more / 1e6:.1f} | {memory:.1f} | {arithmetic:.1f} | {limit} | {share:.0%} |"
            )
    yield ""


def document() -> str:
    """The whole page."""
    head = [
        "# Roofline on paper",
        "",
        "`python benchmarks/roofline.py --write FILE`: computed from sizes and data sheets,",
        "nothing measured.",
        "*Memory* is the time of all bytes at the data sheet's bandwidth (a copy reaches less),",
        "*arithmetic* that of all float32 operations at full rate (real kernels reach less).",
        "*Highest share* is what the benchmark's column *limit* could show at most: bytes that",
        "must move, by the longer of the two.",
        "",
    ]
    return "\n".join([*head, *(line for device in DEVICES for line in table(device))])


def main() -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description="What limits each kernel, on paper.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it there")
    options = parser.parse_args()
    text = document()
    if options.write is None:
        print(text)
    else:
        options.write.write_text(text)
    return 0
