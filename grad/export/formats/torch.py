"""PyTorch: an exported program that keeps GRAD's compiled operators, for Python with GRAD."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from grad.export.formats.base import Runner, as_arrays

FACTS = "grad.json"  # in the archive, for torch.export.load's extra_files


def write(program: ExportedProgram, path: Path, facts: dict[str, str]) -> list[Path]:
    """Write a program; ``facts`` are in the archive as the extra file ``grad.json``.

    Arguments as in :func:`grad.export.formats.onnx.write`.
    """
    with path.open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on tensors that share memory, as they do here
        torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})
    return [path]


def open_file(path: Path, threads: int = 0) -> Runner:
    """Run a file on the CPU, with the threads that torch has."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            return as_arrays(module(torch.from_numpy(images)))

    return run
