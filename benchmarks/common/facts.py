"""What results say about the machine, and how they are written."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from grad.system.errors import GradError

ROOT = Path(__file__).resolve().parents[2]


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on besides the sizes."""
    facts: dict[str, Any] = {"torch": torch.__version__}
    if device.type == "cuda":
        facts |= {
            "device_name": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        }
    else:
        facts |= {
            "device_name": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        }
    if os.environ.get("GRAD_REFERENCE") == "1":
        facts["operators"] = "plain PyTorch (GRAD_REFERENCE=1)"
    return facts | {"commit": _commit()}


def write_json(path: Path, records: list[dict[str, Any]]) -> None:
    """Write a list with one object a row, complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(records, indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise GradError(f"--json {path} can't be written: {error.strerror}.") from None


def _commit() -> str:
    """GRAD_COMMIT, or what git says of this clone."""
    if os.environ.get("GRAD_COMMIT"):
        return os.environ["GRAD_COMMIT"]
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
