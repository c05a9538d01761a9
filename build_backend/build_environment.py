"""What GRAD is built with: the torch that it has to fit, and the CUDA compiler.

Used by the build backend, which asks before anything is installed, and by setup.py. Needs nothing
but the standard library, and imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

MINIMUM_TORCH = (2, 10)
FIRST_CUDA_ON_PYPI = 13  # the nvcc wheels of CUDA 12 hold no nvcc

# Includes what the kernels and c10/cuda include. ATen/cuda would need cuBLAS and others as well, so
# csrc does without it.
PROBE = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
__global__ void probe(float* x) { x[threadIdx.x] += __half2float(__float2half(1.0f)); }
"""


@dataclass(frozen=True)
class Torch:
    """An installed torch."""

    version: str  # as the package index knows it, such as "2.11.0" or "2.13.0+cpu"
    cuda: str  # such as "13.0", empty for a CPU-only torch
    folder: Path  # its site-packages

    @property
    def requirement(self) -> str:
        """Every torch that a library built with this one can run with."""
        major, minor = major_minor(self.version)
        return f"torch=={major}.{minor}.*"


@dataclass(frozen=True)
class Toolkit:
    """A CUDA compiler that was seen to work."""

    home: Path
    version: str  # of its nvcc, such as "13.2"


def major_minor(version: str) -> tuple[int, int]:
    """(2, 11) of "2.11.0+cu130"."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def find_torch() -> Torch | None:
    """The torch that GRAD will run with: the importable one, or the environment's.

    An isolated build does not see the site-packages of the environment it builds for, but runs that
    environment's interpreter, which knows where they are.

    Returns:
        None where there is no torch, or one too old for GRAD.
    """
    folders = [*sys.path, *site.getsitepackages()]
    if sys.prefix == sys.base_prefix:  # virtual environments have no user site-packages
        folders.append(site.getusersitepackages())
    for distribution in metadata.distributions(name="torch", path=folders):
        folder = Path(str(distribution.locate_file("")))
        version_file = folder / "torch" / "version.py"
        if version_file.is_file():
            cuda = re.search(
                r"^cuda\b.*'([\d.]+)'", version_file.read_text(encoding="utf-8"), re.MULTILINE
            )
            torch = Torch(distribution.version, cuda[1] if cuda else "", folder)
            return torch if major_minor(torch.version) >= MINIMUM_TORCH else None
    return None


def cuda_choice() -> bool | None:
    """GRAD_CUDA: True and False for 1 and 0, None where CUDA is built if it can be."""
    value = os.environ.get("GRAD_CUDA", "")
    if value not in ("", "0", "1"):
        raise SystemExit(
            f"GRAD_CUDA is {value!r}: set it to 0 (C++ only) or 1 (CUDA or fail), or unset it."
        )
    return {"": None, "0": False, "1": True}[value]


def find_toolkit(cuda: str) -> tuple[Toolkit | None, list[str]]:
    """Look for a CUDA compiler: CUDA_HOME, the wheels from PyPI, then the machine's own.

    Args:
        cuda: the CUDA version of torch; the major versions must agree.

    Returns:
        The first that compiles a small kernel, and why those before it do not.
    """
    reasons: list[str] = []
    for home in _candidates(cuda):
        found = check_toolkit(home, cuda)
        if isinstance(found, Toolkit):
            return found, reasons
        reasons.append(found)
    return None, reasons or [f"no CUDA {cuda.split('.')[0]} compiler was found"]


def _candidates(cuda: str) -> Iterator[Path]:
    if os.environ.get("CUDA_HOME"):
        yield Path(os.environ["CUDA_HOME"])
    homes = [Path(folder, "nvidia", f"cu{cuda.split('.')[0]}") for folder in sys.path]
    nvcc = shutil.which("nvcc")
    homes += [Path(nvcc).resolve().parents[1]] if nvcc else []
    homes.append(Path("/usr/local/cuda"))
    seen: set[Path] = set()
    for home in homes:
        if (home / "bin" / "nvcc").is_file() and home.resolve() not in seen:
            seen.add(home.resolve())
            yield home


def check_toolkit(home: Path, cuda: str) -> Toolkit | str:
    """The toolkit in ``home``, or why it can't build for torch's ``cuda`` version."""
    nvcc = home / "bin" / "nvcc"
    code, output = _run([nvcc, "--version"])
    version = re.search(r"release (\d+\.\d+)", output)
    if code != 0 or version is None:
        return f"{nvcc} does not run"
    if version[1].split(".")[0] != cuda.split(".")[0]:
        return f"{home} is CUDA {version[1]}, but torch was built with CUDA {cuda}"
    if runtime_library(home) is None:
        return f"{home} has no libcudart"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.write_text(PROBE, encoding="utf-8")
        compiler = ["-ccbin", os.environ["CC"]] if os.environ.get("CC") else []  # as torch does
        code, output = _run([nvcc, *compiler, "-c", source, "-o", source.with_suffix(".o")])
    if code != 0:
        lines = [line.strip() for line in output.splitlines() if "error" in line.lower()]
        return f"{nvcc} can't compile: {lines[0] if lines else f'exit code {code}'}"
    return Toolkit(home, version[1])


def runtime_library(home: Path) -> Path | None:
    """The toolkit's libcudart: libcudart.so, or with a version where there is only that."""
    folders = (home / "lib64", home / "lib")
    libraries = (library for folder in folders for library in folder.glob("libcudart.so*"))
    return min(libraries, key=lambda library: len(library.name), default=None)


def one_front_end(architectures: list[str]) -> str:
    """nvcc's flag that makes PTX of the first architecture, keeps it, and assembles it for all."""
    numbers = [architecture.replace(".", "") for architecture in architectures]
    code = ",".join([f"compute_{numbers[0]}", *(f"sm_{number}" for number in numbers)])
    return f"-gencode=arch=compute_{numbers[0]},code=[{code}]"


@dataclass(frozen=True)
class HostFlags:
    """How the C++ files are compiled and linked.

    Attributes:
        compile: flags for each file.
        system_include: the flag before a folder of headers that give no warnings.
        link: flags of the library.
    """

    compile: tuple[str, ...]
    system_include: str
    link: tuple[str, ...]


def host_flags(system: str, torch: Path) -> HostFlags:
    """Flags for the compiler of a system: gcc or clang, Apple's clang, on Windows clang-cl.

    torch's parallel_for is serial without OpenMP. It is no link flag, so that the threads are those
    of the OpenMP runtime that torch brings, and torch.set_num_threads governs them. Apple's clang
    has no header of OpenMP, torch's wheels bring one; for clang-cl there is none, so that the
    kernels have one thread on Windows.

    Args:
        system: as sys.platform.
        torch: the folder of its package.
    """
    if system == "win32":
        return HostFlags(("/O2", "/W3", "/clang:-fno-math-errno"), "/imsvc", ())
    flags = ("-O3", "-g0", "-fno-math-errno", "-Wall", "-Wextra")
    if system == "darwin":
        threads = (torch / "include" / "omp.h").is_file()
        return HostFlags(flags + ("-Xclang", "-fopenmp") * threads, "-isystem", ())
    return HostFlags((*flags, "-fopenmp"), "-isystem", ("-s",))


def define(name: str, text: str, system: str) -> str:
    """A compiler flag that defines a macro as a string literal."""
    literal = json.dumps(text)
    return f"-D{name}={json.dumps(literal)[1:-1] if system == 'win32' else literal}"


def limit_of_jobs(memory_per_job: int) -> int:
    """How many files to compile at once: one a core, but not into swap.

    Args:
        memory_per_job: bytes.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows does not say
        return max(1, cores // 2)
    return max(1, min(cores, memory // memory_per_job))


def kernels_first(sources: list[str]) -> list[str]:
    """In the order to compile them: kernels take longest, and no core should wait at the end."""
    return sorted(sources, key=lambda source: not Path(source).stem.endswith(("_cpu", "_cuda")))


def _run(command: list[str | Path]) -> tuple[int, str]:
    try:
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        return 1, str(error)
    return result.returncode, result.stdout
