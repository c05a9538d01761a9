"""``show``: what this GRAD was built for, what it runs on, and whether it computes."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

import grad
from grad.system.errors import GradError

if TYPE_CHECKING:
    from grad.info.self_check import Outcome

Facts = list[tuple[str, str]]

CPP_STANDARDS = {201703: "C++17", 202002: "C++20", 202302: "C++23"}


def machine_facts() -> Facts:
    """Names and values: versions, threads and devices."""
    rows = [
        ("grad", f"{grad.__version__} in {Path(grad.__file__).parent}"),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"),
        ("threads", str(torch.get_num_threads())),
        ("CPU capability", torch.backends.cpu.get_cpu_capability()),
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        rows.append((f"cuda:{index}", f"{properties.name}, {capability}, {memory}"))
    return rows


def library_facts() -> Facts:
    """Names and values: what the compiled operators were built for.

    Raises:
        GradError: if they do not load.
    """
    from grad.ops import library  # loads them

    if library.is_reference_forced():
        return [("operators", "plain PyTorch, as GRAD_REFERENCE=1 asks")]
    module = library.load()
    info = module.build_info()
    cuda = f"CUDA {info['cuda']} for {info['architectures']}" if info["cuda"] else "no CUDA"
    standard = CPP_STANDARDS.get(info["cpp_standard"], str(info["cpp_standard"]))
    return [
        ("operators", str(module.__file__)),
        ("built for", f"torch {info['torch']}, {cuda}"),
        ("built with", f"{info['compiler']}, {standard}"),
    ]


def check_operators() -> list[Outcome]:
    """The self-check on every device that the operators are built for."""
    from grad.info.self_check import devices, self_check

    return [outcome for device in devices() for outcome in self_check(device)]


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """The self-check, one operator and device a row."""
    table = Table("operator", "device", "forward", "backward", "", title="Errors by operator")
    for outcome in outcomes:
        backward = "" if outcome.backward is None else f"{outcome.backward:.1e}"
        verdict = "ok" if outcome.passed else f"FAILED {outcome.problem}"
        table.add_row(outcome.name, outcome.device, f"{outcome.forward:.1e}", backward, verdict)
    return table


def show(console: Console) -> int:
    """Print the facts and the self-check; 1 where something is wrong, else 0."""
    _print(console, machine_facts())
    try:
        _print(console, library_facts())
    except GradError as error:
        print(error, file=sys.stderr)
        return 1
    outcomes = check_operators()
    console.print(outcome_table(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _print(console: Console, facts: Facts) -> None:
    for name, value in facts:
        console.print(f"{name:<15} {value}", highlight=False, markup=False, soft_wrap=True)
