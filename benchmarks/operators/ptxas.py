"""Registers, spills, shared memory and occupancy of every CUDA kernel, from the compiler's report.

    python benchmarks/ptxas.py [--architectures 80 90] [--out benchmarks/results/ptxas.md]

Needs nvcc (CUDA_HOME, or the wheels of PyPI's cuda-toolkit in this environment), no GPU.
"""

from __future__ import annotations

import argparse
import re
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = runpy.run_path(str(ROOT / "build_backend" / "build_environment.py"))

# Of one multiprocessor: 32-bit registers, warps, blocks (CUDA C++ Programming Guide, compute
# capabilities). Dynamic shared memory depends on the sizes at run time and is not in the report.
REGISTERS, BLOCKS, WARPS = 65536, 32, 64
THREADS = {"interpolate_backward_kernel": 128, "sum_parts_kernel": 1024}  # others: 256

ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\S+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel."""

    name: str
    registers: int
    spill: int
    stack: int
    shared: int

    @property
    def threads(self) -> int:
        """Most threads of a block, as the launch bounds say."""
        one_column = r"project_backward_kernel<[12], (?!double)\w+, \w+, 1,"
        return 512 if re.match(one_column, self.name) else THREADS.get(self.name.split("<")[0], 256)

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's warps that registers allow at full blocks."""
        warps = self.threads // 32
        per_warp = -(-self.registers * 32 // 256) * 256  # allocated by 256
        blocks = min(REGISTERS // (per_warp * warps), BLOCKS, WARPS // warps)
        return blocks * warps / WARPS


def compile_report(nvcc: Path, source: Path, architecture: str) -> list[Kernel]:
    """Compile one file and read what the assembler says of its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-DGRAD_WITH_CUDA", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
        command += [f"-arch=sm_{architecture}", f"-I{ROOT / 'csrc'}", "-c", source]
        command += ["-o", Path(folder, "out.o")]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"{source.name} does not compile for sm_{architecture}:\n{done.stdout}")
    entries = list(ENTRY.finditer(done.stdout))
    symbols = "\n".join(entry["symbol"] for entry in entries)
    names = subprocess.run(["c++filt"], input=symbols, capture_output=True, text=True, check=True)
    return [
        Kernel(
            name=_short(name),
            registers=int(entry["registers"]),
            spill=int(entry["stores"]) + int(entry["loads"]),
            stack=int(entry["stack"]),
            shared=int((re.search(r"(\d+) bytes smem", entry["rest"]) or [0, 0])[1]),
        )
        for name, entry in zip(names.stdout.splitlines(), entries, strict=True)
    ]


def _short(name: str) -> str:
    """``void grad::(anonymous namespace)::kernel<2, float>(...)`` -> ``kernel<2, float>``."""
    name = name.replace("grad::", "").replace("(anonymous namespace)::", "").replace("> >", ">>")
    return re.sub(r"^void ", "", name).split(">(")[0].split("(")[0] + (
        "" if "<" not in name else ">"
    )


def report(architectures: list[str], nvcc: Path, version: str) -> str:
    """All kernels as Markdown, one table an architecture."""
    sources = sorted((ROOT / "csrc").glob("*/*_cuda.cu"))
    lines = [
        "# What the CUDA compiler says of the kernels",
        "",
        f"`python benchmarks/ptxas.py`, nvcc {version}. Shared memory is what a kernel declares;",
        "the backward kernels ask for more at run time (the private copy of the grid's gradient).",
        "Occupancy is what registers allow at the largest block; shared memory may allow less.",
        "Type arguments: values, then grid (or features, then prediction).",
    ]
    for architecture in architectures:
        kernels = [k for source in sources for k in compile_report(nvcc, source, architecture)]
        spilling = sum(kernel.spill > 0 for kernel in kernels)
        lines += [
            "",
            f"## sm_{architecture}: {len(kernels)} kernels, {spilling} with spills",
            "",
            "| kernel | registers | spills, bytes | stack, bytes | shared, bytes | occupancy |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| `{k.name}` | {k.registers} | {k.spill} | {k.stack} | {k.shared} | "
            f"{k.occupancy:.0%} |"
            for k in sorted(kernels, key=lambda k: k.name)
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the report and say how many kernels spill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=["80", "90"], metavar="N")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ptxas.md")
    options = parser.parse_args()
    toolkit, reasons = BUILD["find_toolkit"]("13")
    if toolkit is None:
        print(f"No CUDA compiler: {'; '.join(reasons)}.", file=sys.stderr)
        return 2
    text = report(options.architectures, toolkit.home / "bin" / "nvcc", toolkit.version)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.out.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(options.out)
    print("\n".join(line for line in text.splitlines() if line.startswith("## ")))
    return 0
