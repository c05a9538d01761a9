"""Where to compute: a device that is there, by name."""

from __future__ import annotations

import torch

from grad.distributed import local_device
from grad.errors import GradError


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name such as ``cpu``, ``cuda``, ``cuda:1``; ``auto``: CUDA where there is.

    Of several processes (:mod:`grad.distributed`) ``cuda`` gives each a GPU of its own.

    Raises:
        GradError: it is not there, or no device's name.
    """
    chosen = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = local_device(torch.device(chosen if name == "auto" else name))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise GradError(f"--device {name} can't be used ({reason}): try --device cpu.") from error
    return device
