"""Predicted times of the CUDA kernels, from what the emulator counts and the compiler reports.

    python benchmarks/emulated.py [--programs FOLDER] [--out benchmarks/results/emulated.md]

Needs neither GPU nor nvcc: tests/emulate counts, benchmarks/results/ptxas.md has the registers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from operators.cases import Case
from operators.ptxas import BLOCKS, REGISTERS, ROOT, WARPS
from operators.roofline import cases, operations

RESULTS = ROOT / "benchmarks" / "results"
PASSES = ("forward", "backward")
RESOURCES = ("memory", "L2", "load/store unit", "arithmetic", "latency")
FEW, MORE = 2, 6  # blocks that are emulated of each launch

SECTOR = 32  # bytes
# Copies reach about nine tenths of the data sheet's bandwidth: an assumption. The share of the
# limit, which benchmarks take of a measured copy, depends little on it.
COPY = 0.9
# From a load to its value under load: an assumption, about twice that of an idle memory (466 and
# 479 clocks on A100 and H100 in arXiv 2402.13499, quoted from memory).
MEMORY_NS = 500.0
# Clocks; L2 261 to 263, shared memory 29 (ibid.); a shuffle as shared memory; a barrier is a guess.
CACHE_CLOCKS, SHARED_CLOCKS, SHUFFLE_CLOCKS, BARRIER_CLOCKS = 262, 29, 29, 30
SHUFFLES_TOGETHER = 6  # warp_sum<32> of common/reduce.cuh: 31 in 5 steps
# Of a multiprocessor's load/store unit, a clock: 32 banks of 4 bytes or 4 sectors (CUDA
# programming guide, capabilities 8.0 and 9.0: 128 bytes), or one shuffle of a warp (its table of
# throughputs: 32 lanes).
SECTORS_A_CLOCK = 4
# L2, bytes a clock: A100's architecture paper; Hopper's is taken to be the same.
L2_BYTES_A_CLOCK = 5120
LAUNCH_US = 1.5  # start and end of a launch behind another: an assumption
RESERVED = 1024  # bytes of shared memory that each block takes for the system (programming guide)


@dataclass(frozen=True)
class Device:
    """A device: data sheets, but shared memory, from the programming guide."""

    name: str
    architecture: str
    gb_per_s: float
    tflops: float  # float32, outside tensor cores
    multiprocessors: int
    ghz: float  # boost
    shared: int  # bytes of a multiprocessor


DEVICES = (
    Device("A100 SXM 80 GB", "80", 2039.0, 19.5, 108, 1.41, 164 * 1024),
    Device("H200 SXM", "90", 4800.0, 67.0, 132, 1.98, 228 * 1024),
)


@dataclass(frozen=True)
class Kernel:
    """Which instance runs, and how many requests of a warp wait together, read from csrc."""

    types: str  # of the paper's sizes: {t} values, {w} columns of 16 bytes
    memory: float  # loads of what comes from memory
    caches: float = 4.0  # other loads: the corners of a cell
    shared: float = 4.0  # of shared memory: loops unrolled by 4, corners
    ahead: float = 0.0  # share of loads from memory that wait while others are worked on


KERNELS = {
    "project_forward_kernel": Kernel("2, {t}, {t}, {w}", 8),  # kWarpRows rows of h
    # kRowGroup rows of the gradient, then of h. All but the first of a group's share of a tile are
    # loaded while those before are worked on: of 43 to 85 rows, 8 are not.
    "project_backward_kernel": Kernel("2, {t}, {t}, 4, true", 8, ahead=0.8),
    "interpolate_forward_kernel": Kernel("2, {t}, {t}, {w}", 4),  # the corners of a cell
    # kRowGroup; the same, of 16 to 256 rows.
    "interpolate_backward_kernel": Kernel("2, {t}, {t}, 4", 8, ahead=0.5),
    "refine_forward_kernel": Kernel("{t}, {t}, {w}", 8),  # kWarpRows rows of two maps
    "refine_backward_kernel": Kernel("{t}, {t}, {w}", 2),  # a packet of two maps
    "sum_parts_kernel": Kernel("float, WriteTo<{t}>", 8),  # unrolled by 8
    "mean_loss_kernel": Kernel("float", 4),
}


@dataclass(frozen=True)
class Launch:
    """What one launch does: sums over all its blocks."""

    kernel: str
    blocks: int
    warps: int  # of a block
    shared: int  # bytes of a block
    loads: float  # requests to global memory
    load_bytes: float
    sectors: float  # of all requests
    sectors_written: float
    read: float  # distinct sectors of the launch
    written: float
    block_read: float  # distinct sectors of one block
    shared_loads: float
    wavefronts: float
    conflicts: float
    shuffles: float
    barriers: float


def launch_of(few: dict, more: dict) -> Launch:
    """A whole launch from two runs of it in which only some of its blocks ran."""
    blocks, ran = more["grid"][0] * more["grid"][1] * more["grid"][2], more["blocks_run"]
    share, space, fewer = blocks / ran, more["global"], few["global"]

    def distinct(name: str) -> tuple[float, float]:
        """Of the launch and of a block: some sectors are new to each block, others common."""
        both = fewer[name], space[name]
        new = (both[1] - both[0]) / max(ran - few["blocks_run"], 1)
        common = max(both[1] - new * ran, 0.0)
        return (common + new * blocks, common + new) if ran < blocks else (both[1], both[1] / ran)

    read, block_read = distinct("distinct_sectors_read")
    uses = [more["shared"]["read"], more["shared"]["written"]]
    kinds = [space["read"], space["written"], space["atomic"]]
    x, y, z = more["block"]
    return Launch(
        kernel=more["kernel"],
        blocks=blocks,
        warps=-(-x * y * z // 32),
        shared=more["dynamic_shared"] + more["declared_shared"],
        loads=share * space["read"]["requests"],
        load_bytes=share * space["read"]["bytes"],
        sectors=share * sum(kind["sectors"] for kind in kinds),
        sectors_written=share * space["written"]["sectors"],
        read=read,
        written=distinct("distinct_sectors_written")[0],
        block_read=block_read,
        shared_loads=share * more["shared"]["read"]["requests"],
        wavefronts=share * sum(use["wavefronts"] for use in uses),
        conflicts=share * sum(use["conflicts"] for use in uses),
        shuffles=share * more["shuffles"],
        barriers=share * more["barriers"],
    )


@dataclass(frozen=True)
class Prediction:
    """How a launch fills a device, and what each resource alone would take, in us."""

    launch: Launch
    resident: int  # blocks of a multiprocessor
    waves: int
    occupancy: float
    in_flight: float  # bytes waited for at once, by latency times bandwidth
    times: dict[str, float]

    @property
    def limit(self) -> str:
        """The resource that takes longest."""
        return max(self.times, key=self.times.__getitem__)

    @property
    def conflicts(self) -> float:
        """Passes of shared memory that bank conflicts add, by all."""
        return self.launch.conflicts / max(self.launch.wavefronts, 1.0)

    @property
    def time(self) -> float:
        """Of the launch, in us."""
        return self.times[self.limit] + LAUNCH_US


def predict(launch: Launch, registers: int, device: Device, flops: float = 0.0) -> Prediction:
    """The model: the slowest resource, all others hidden behind it."""
    kernel, count = KERNELS[launch.kernel], device.multiprocessors
    blocks, warps = launch.blocks, launch.warps
    per_warp = -(-registers * 32 // 256) * 256  # allocated by 256
    by_shared = device.shared // (launch.shared + RESERVED)
    resident = min(REGISTERS // (per_warp * warps), BLOCKS, WARPS // warps, by_shared)
    waves = -(-blocks // (resident * count))
    running = min(blocks, resident * count)

    misses = min(launch.read / max(launch.sectors - launch.sectors_written, 1.0), 1.0)
    rounds = misses / kernel.memory, (1 - misses) / kernel.caches  # of a request
    a_warp = 1 / (blocks * warps)
    far = a_warp * launch.loads * rounds[0] * MEMORY_NS * device.ghz
    near = a_warp * (
        launch.loads * rounds[1] * CACHE_CLOCKS
        + launch.shared_loads / kernel.shared * SHARED_CLOCKS
        + launch.shuffles / SHUFFLES_TOGETHER * SHUFFLE_CLOCKS
    )
    near += launch.barriers / blocks * BARRIER_CLOCKS
    clocks = (1 - kernel.ahead) * far + max(kernel.ahead * far, near)
    unit = launch.sectors / SECTORS_A_CLOCK + launch.wavefronts + launch.shuffles
    through_l2 = max(launch.block_read * blocks, launch.sectors_written) * SECTOR
    request = launch.load_bytes / max(launch.loads, 1.0)
    return Prediction(
        launch=launch,
        resident=resident,
        waves=waves,
        occupancy=min(resident, -(-blocks // count)) * warps / WARPS,
        in_flight=running * warps * kernel.memory * request / (MEMORY_NS * device.gb_per_s),
        times={
            "memory": (launch.read + launch.written) * SECTOR / (COPY * device.gb_per_s) / 1e3,
            "L2": through_l2 / (L2_BYTES_A_CLOCK * device.ghz) / 1e3,
            "load/store unit": unit / blocks * -(-blocks // count) / device.ghz / 1e3,
            "arithmetic": flops / (device.tflops * min(blocks / count, 1.0)) / 1e6,
            "latency": waves * clocks / device.ghz / 1e3,
        },
    )


@dataclass(frozen=True)
class Row:
    """A pass of an operator on a device."""

    case: Case
    name: str
    parts: list[Prediction]
    limit_us: float  # bytes that must move, at a copy's bandwidth

    @property
    def time(self) -> float:
        """Predicted, in us."""
        return sum(part.time for part in self.parts)

    @property
    def main(self) -> Prediction:
        """The launch that takes longest."""
        return max(self.parts, key=lambda part: part.time)

    def __str__(self) -> str:
        m = self.main
        rest = self.time - m.time
        return (
            f"| {self.case.op} | {self.case.shape.batch} | {str(self.case.dtype)[6:]} | "
            f"{self.name} | {m.launch.blocks} | {m.resident} | {m.waves} | {m.occupancy:.0%} | "
            f"{m.in_flight:.0%} | {m.conflicts:.0%} | "
            + " | ".join(f"{time:.1f}" for time in m.times.values())
            + f" | {rest:.1f} | {m.limit} | {self.time:.1f} | {self.limit_us / self.time:.0%} |"
        )


def registers_of(page: str, architecture: str) -> dict[str, int]:
    """Registers of each kernel of ptxas.md."""
    section = page.split(f"## sm_{architecture}:")[1].split("\n## ")[0]
    return {n: int(count) for n, count in re.findall(r"\| `([^`]+)` \| (\d+) \|", section)}


def rows(case: Case, counted: dict[str, list[Launch]], device: Device, page: str) -> Iterator[Row]:
    """Both passes of a case."""
    registers = registers_of(page, device.architecture)
    types = {
        "t": {torch.float32: "float", torch.bfloat16: "BFloat16"}[case.dtype],
        "w": 16 // case.dtype.itemsize,
    }
    for name in PASSES:
        must, parts = case.bytes_of(name), []
        for i, launch in enumerate(counted[name]):
            if i == 0:  # a sample does not show exactly what blocks share: what must move is known
                least = max(must / SECTOR - launch.written, 0.0)
                read = least if name == "forward" else max(launch.read, least)
                launch = replace(launch, read=read)
            instance = f"{launch.kernel}<{KERNELS[launch.kernel].types.format(**types)}>"
            flops = operations(case, name) if i == 0 else 0.0
            parts.append(predict(launch, registers[instance], device, flops))
        yield Row(case, name, parts, must / (COPY * device.gb_per_s) / 1e3)


def count(case: Case, programs: Path, device: Device) -> dict[str, list[Launch]]:
    """The launches of each pass, in order, as they are planned for a device."""
    work = {"global": "lookup"}.get(case.op, case.op)
    pair = "float.float" if case.dtype == torch.float32 else "BFloat16.BFloat16"

    def run(images: int, blocks: int) -> list[dict]:
        command = [programs / f"workloads.{pair}", work, f"images={images}", f"blocks={blocks}"]
        command += [f"multiprocessors={device.multiprocessors}"]
        command += [f"shared={(device.shared - RESERVED) // 1024}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    few, more = run(case.shape.batch, FEW), run(case.shape.batch, MORE)
    launches = [launch_of(f, m) for f, m in zip(few, more, strict=True)]
    found: dict[str, list[Launch]] = {name: [] for name in PASSES}
    for line, launch in zip(more, launches, strict=True):
        found[line["case"].split()[1].rstrip(",")].append(launch)
    return found


HEAD = f"""# Predicted times of the CUDA kernels

`python benchmarks/emulated.py`. **Nothing here is measured on a GPU**: times are predicted, from
what the emulator counts of the kernels (tests/emulate, `--count`) and the registers that the
compiler reports ([ptxas.md](ptxas.md)), at the paper's sizes: C = 216, 28 x 28, grids 8 x 8 and
4 x 4.

Each launch has the size and the plan of the row, but only {MORE} of its blocks are emulated; the
others do the same with other rows, and counters are scaled by blocks.

A launch takes as long as its slowest resource, and {LAUNCH_US} us to start; launches follow each
other.

- *memory*: distinct sectors, at {COPY:.0%} of the data sheet's bandwidth; of a forward pass, the
  bytes that must move
- *L2*: distinct sectors of each block, read or written, whichever are more
- *load/store unit*: sectors, passes of shared memory and shuffles, on the busiest multiprocessor
- *arithmetic*: the operations of [roofline.md](roofline.md), on multiprocessors that have a block
- *latency*: what a warp waits for, one after the other, times waves of blocks; how many of its
  requests wait together, and which while others are worked on, is read from the source;
  arithmetic between them takes no time

*In flight* are the bytes that are waited for at once, as a share of latency ({MEMORY_NS:.0f} ns)
times bandwidth, *conflicts* the passes of shared memory that bank conflicts add, by all. *Other*
are further launches: sums of parts, the mean. *Limit* is what the longest launch waits for, *share*
the time of the bytes that must move, at a copy's bandwidth, by the predicted time.
"""

TAIL = """
## What the model does not know

- Latencies under load, the time between launches and a copy's share of the data sheet are assumed.
- Resources overlap wholly: a kernel near two of its limits takes longer than said. Times of
  kernels limited by memory are the least that is possible.
- Instructions for addresses, conversions and control, and their issue, are not counted.
- Accesses are the host compiler's, which may read again what nvcc keeps in a register.
- What waits together is what the source lets wait together; nvcc may do more or less. Rows that are
  loaded ahead wait beside everything else; what a block does between two tiles (sorting the next
  one's rows) it is taken to do meanwhile, though nothing is in flight then but the first rows of h.
- An access of 16 bytes is a pass of shared memory for each 8 lanes, one of 8 bytes for each 16,
  also where all lanes read the same: the device may need fewer.
- L1 is taken to hold all that a block has read, and nothing of other blocks. L2 keeps nothing from
  one launch to the next, though sums of parts, just written, are mostly there.
- Clocks are the boost clocks; power may lower them.
- Rows lie in the cells that the workload's random values give: 256 rows of the local head in some
  60. A trained model's may lie in fewer, and its passes be faster.
- No launch here uses atomics; the model has no time for them.
"""


def document(counted: dict[Device, list[tuple[Case, dict[str, list[Launch]]]]], page: str) -> str:
    """The whole page."""
    lines = [HEAD]
    columns = ("operator", "B", "dtype", "pass", "blocks", "a multiprocessor", "waves")
    columns += (
        "occupancy",
        "in flight",
        "conflicts",
        *(f"{resource}, us" for resource in RESOURCES),
    )
    columns += ("other, us", "limit", "predicted, us", "predicted share")
    for device, launches in counted.items():
        lines += [
            f"## {device.name}: {device.gb_per_s:,.0f} GB/s, {device.multiprocessors} "
            f"multiprocessors, {device.ghz:g} GHz",
            "",
            f"| {' | '.join(columns)} |",
            "|---|---:|---|---|" + "---:|" * 12 + "---|---:|---:|",
            *(str(row) for case, found in launches for row in rows(case, found, device, page)),
            "",
        ]
    return "\n".join(lines) + TAIL


def main() -> int:
    """Count, predict and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--programs", type=Path, metavar="FOLDER", help="of run.sh --count, made before"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "emulated.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = options.programs or Path(folder)
        if options.programs is None:
            build = [ROOT / "tests" / "emulate" / "run.sh", "--count", folder]
            subprocess.run(build, check=True, env=os.environ)
        counted = {
            device: [(case, count(case, programs, device)) for case in cases()]
            for device in DEVICES
        }
    options.out.write_text(document(counted, (RESULTS / "ptxas.md").read_text()))
    print(f"wrote {options.out}")
    return 0
