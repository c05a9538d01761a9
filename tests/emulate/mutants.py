"""Shows that the emulator finds what is wrong with a kernel: each mutant of csrc must be reported.

    python mutants.py CSRC BUILD JOBS

BUILD is where run.sh has built the kernels of one pair of types, and left how it did. A mutant is
one text of a source exchanged for another; the text must occur exactly once, so that none goes
stale unseen. It is found where the program ends with a fault or a wrong result; a mutant that runs
on for too long is not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import translate

TIMEOUT = 300
CORNERS = "interpolate/corners.cuh"
INTERPOLATE = "interpolate/interpolate_cuda.cu"
PROJECT = "project/project_cuda.cu"
REFINE = "refine/refine_cuda.cu"


@dataclass(frozen=True)
class Mutant:
    title: str
    file: str
    old: str
    new: str
    expected: str  # how its report begins


MUTANTS = (
    Mutant(
        "no barrier between the ranks and their use",
        CORNERS,
        "key[rank] = static_cast<int>(cell_key(its_cell, lattice));\n    }\n    __syncthreads();",
        "key[rank] = static_cast<int>(cell_key(its_cell, lattice));\n    }",
        "fault: ",
    ),
    Mutant(
        "no barrier between the keys and their ranks",
        CORNERS,
        "    }\n    __syncthreads();\n    for (int t = threadIdx.x; t < rows; t += blockDim.x) {\n"
        "      const unsigned own",
        "    }\n    for (int t = threadIdx.x; t < rows; t += blockDim.x) {\n"
        "      const unsigned own",
        "fault: ",
    ),
    Mutant(
        "no barrier before the groups' sums are added",
        PROJECT,
        "__syncthreads();  // the groups' sums are there",
        "",
        "fault: ",
    ),
    Mutant(
        "no barrier before the head's gradients are overwritten",
        PROJECT,
        "__syncthreads();   // dots are there, the last tile's gradients are done with",
        "",
        "fault: ",
    ),
    Mutant(
        "no barrier between the head's gradients and their use",
        PROJECT,
        "    }\n    __syncthreads();\n\n    // dh",
        "    }\n\n    // dh",
        "fault: ",
    ),
    Mutant(
        "no barrier before the sum of a block's warps",
        REFINE,
        "  __syncthreads();\n  if (threadIdx.x == 0) {",
        "  if (threadIdx.x == 0) {",
        "fault: ",
    ),
    Mutant(
        "a barrier that one warp leaves out",
        REFINE,
        "  __syncthreads();\n  if (threadIdx.x == 0) {",
        "  if (warp != 1) __syncthreads();\n  if (threadIdx.x == 0) {",
        "fault: barrier not met by all",
    ),
    Mutant(
        "no barrier between the shares of a sum",
        "common/reduce.cuh",
        "  __syncthreads();\n  if (threadIdx.y == 0",
        "  if (threadIdx.y == 0",
        "fault: ",
    ),
    Mutant(
        "a row too many",
        PROJECT,
        "if (j < D && row < rows && owner_of",
        "if (j < D && row <= rows && owner_of",
        "fault: out of bounds",
    ),
    Mutant(
        "a packet of columns too many",
        INTERPOLATE,
        "* kWidth < block_columns && column < args.columns;",
        "* kWidth < block_columns + kWidth && column < args.columns + kWidth;",
        "fault: ",
    ),
    Mutant(
        "a mask of half a warp",
        "common/reduce.cuh",
        "constexpr unsigned kAllLanes = 0xFFFFFFFFu;",
        "constexpr unsigned kAllLanes = 0x0000FFFFu;",
        "fault: warp exchange",
    ),
    Mutant(
        "an exchange in a branch",
        REFINE,
        "  warp_sum<1>(total);",
        "  if (lane < 16) warp_sum<1>(total);",
        "fault: ",
    ),
    Mutant(
        "the stride of another row",
        PROJECT,
        "args.hidden + row_at(p) * args.hidden_stride + column",
        "args.hidden + row_at(p) * args.hidden_columns + column",
        "",
    ),
    Mutant(
        "the pitch of a block instead of the grid's",
        INTERPOLATE,
        "const int64_t place = cell * args.columns + column;",
        "const int64_t place = cell * int64_t{block_columns} + column;",
        "",
    ),
    Mutant(
        "packets from any place",
        "common/vec.cuh",
        "return reinterpret_cast<uintptr_t>(start) % alignment == 0 && stride % width == 0;",
        "return true || (start && stride && alignment);",
        "fault: misaligned",
    ),
    Mutant(
        "room for the products of one warp too few",
        CORNERS,
        "size_t{1} * warps * rows",
        "size_t{1} * (warps - 1) * rows",
        "fault: ",
    ),
    Mutant(
        "an addition that is not atomic",
        INTERPOLATE,
        "atomicAdd(sums + index * args.columns + c, corner_weight(cell, k) * g)",
        "sums[index * args.columns + c] += corner_weight(cell, k) * g",
        "fault: race",
    ),
    Mutant(
        "sums that are not set to zero",
        INTERPOLATE,
        "store_packet<Cache::kShared>(sums + cell * block_columns, Packet<A, kWidth>{});",
        "",
        "fault: uninitialised",
    ),
    Mutant(
        "the slope's sign",
        "common/lattice.h",
        "? cell.slope[axis] : -cell.slope[axis]",
        "? -cell.slope[axis] : cell.slope[axis]",
        "wrong result",
    ),
    Mutant(
        "shared memory that is not asked for",
        "common/device.cuh",
        "if (bytes > 48 * 1024)",
        "if (bytes > 1024 * 1024)",
        "fault: launch",
    ),
    Mutant(
        "arrays of shared memory not rounded up",
        "common/device.cuh",
        "used += (count * sizeof(X) + 15) / 16 * 16;",
        "used += count * sizeof(X);",
        "fault: misaligned",
    ),
    Mutant(
        "a row that two groups take",
        PROJECT,
        "min(begin + share, size);",
        "min(begin + share + 1, size);",
        "fault: race",
    ),
    Mutant(
        "no threads without columns",
        PROJECT,
        "std::max<int64_t>(divide_up<int64_t>(columns, plan.width * kWarpSize), 1)",
        "divide_up<int64_t>(columns, plan.width * kWarpSize)",
        "fault: ",
    ),
    Mutant(
        "no slice without columns",
        INTERPOLATE,
        "std::max<int64_t>(divide_up<int64_t>(args.columns, std::max(plan.columns, 1)), 1)",
        "divide_up<int64_t>(args.columns, std::max(plan.columns, 1))",
        "fault: ",
    ),
    Mutant(
        "a pixel's sums in a packet from any place",
        REFINE,
        "load_values<Cache::kStream, A, kSums>(sums + n * kSums)",
        "load_packet<Cache::kStream, A, kSums>(sums + n * kSums)",
        "fault: misaligned",
    ),
)


def reads(kernel: Path, file: str) -> bool:
    """Whether the compiler read this file for an object."""
    return bool(re.search(rf"/{re.escape(file)}\b", kernel.with_suffix(".d").read_text()))


def run(
    command: list[str | Path], *, check: bool = False, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, timeout=timeout, capture_output=True, text=True)


def verdict(mutant: Mutant, csrc: Path, build: Path, folder: Path) -> tuple[bool, str]:
    translate.translate(csrc, folder / "csrc", (mutant.file, mutant.old, mutant.new))
    compiler = (build / "compile").read_text().split("\n")[:-1]
    linker = (build / "link").read_text().split("\n")[:-1]
    objects = []
    for original in sorted((build / "kernels").glob("*.o")):
        if not reads(original, mutant.file):
            objects.append(original)
            continue
        (source,) = (folder / "csrc").rglob(original.stem)
        objects.append(folder / original.name)
        include = f"-I{folder / 'csrc'}"
        run([*compiler, include, "-c", source, "-o", objects[-1]], check=True)
    run([*linker, *objects, "-o", folder / "program"], check=True)
    try:
        done = run([folder / "program", "1", "3", "0"], timeout=TIMEOUT)  # as run.sh does
    except subprocess.TimeoutExpired:
        return False, f"still running after {TIMEOUT} s"
    lines = done.stdout.splitlines()
    report = next((line for line in lines if line.startswith(("fault: ", "wrong result: "))), "")
    place = next((line for line in lines if line.startswith("  in ")), "")
    found = done.returncode == 1 and report != "" and report.startswith(mutant.expected)
    return (
        found,
        f"{report[:110]}{place[1:]}" if report else f"no report, exit {done.returncode}",
    )


def main() -> int:
    csrc, build, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    missed = 0
    with ThreadPoolExecutor(jobs) as pool:
        work = [
            pool.submit(verdict, mutant, csrc, build, build / f"mutant{i}")
            for i, mutant in enumerate(MUTANTS)
        ]
        for mutant, result in zip(MUTANTS, work, strict=True):
            found, report = result.result()
            missed += not found
            print(
                f"mutant: {mutant.title}: {'found' if found else 'MISSED'}: {report}",
                flush=True,
            )
    print(f"emulator: {len(MUTANTS)} mutants of the kernels, {missed} missed")
    return missed > 0


if __name__ == "__main__":
    raise SystemExit(main())
