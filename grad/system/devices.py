"""Where to compute, in which precision, and with how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from grad.system.distributed import local_device
from grad.system.errors import GradError, first_line

Precision = Literal["float32", "bfloat16"]

_MOST_WORKERS = 8


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name such as ``cpu``, ``cuda``, ``cuda:1``; ``auto``: CUDA where there is.

    Of several processes (:mod:`grad.system.distributed`) ``cuda`` gives each a GPU of its own.

    Raises:
        GradError: it is not there, or no device's name.
    """
    chosen = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = local_device(torch.device(chosen if name == "auto" else name))
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("GRAD runs on cpu and cuda")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise GradError(f"--device {name} can't be used ({reason}): try --device cpu.") from error
    return device


def choose_precision(device: torch.device) -> Precision:
    """bfloat16 where the hardware multiplies it natively, as emulation is many times slower.

    That is CUDA from compute capability 8.0, and CPUs with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def usable_cores() -> int:
    """The cores that this process may use, as far as the system tells; else those there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(device: torch.device | None = None) -> int:
    """One thread a core that this process may use, at most 8.

    Args:
        device: where the threads themselves compute; on a CPU they share torch's threads. None:
            they only read and decode.
    """
    on_cpu = device is not None and device.type == "cpu"
    cores = torch.get_num_threads() if on_cpu else usable_cores()
    return min(cores, _MOST_WORKERS)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms wherever there are some, for equal runs on equal machines."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # costs time, helps nobody here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
        settings.fill_uninitialized_memory = filled


@contextmanager
def plain_defaults() -> Iterator[None]:
    """What is made inside is float32 and on the CPU, whatever the program's own defaults are."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
