"""``--resume RUN``: the options of a run that stopped, and whether it has anything left to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from grad.system.command_line import flag
from grad.system.errors import GradError
from grad.system.run_folder import CONFIG, METRICS, REPORT, STATE

# What may change between the parts of a run: what its result does not depend on, and its end.
# That data at another path are the same is seen by their features.
_FREE = {"resume", "epochs", "data", "cache", "workers", "features_on_device", "compile", "log"}


def find_options(run: Path) -> Path:
    """The file with a run's options.

    Raises:
        GradError: there is no such run.
    """
    file = run.expanduser() / CONFIG
    if not file.is_file():
        raise GradError(
            f"--resume {run} is no run that can go on, as it holds no {CONFIG}: give the folder of "
            "results of a run that stopped, or start a new one."
        )
    return file


def allowed_changes(
    run: Path, stored: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Of the options given with ``--resume``, those that change something that may be changed.

    Args:
        run: its folder.
        stored: its options.
        given: those that were given, by name.

    Raises:
        GradError: an option contradicts the run's; the message names it.
    """
    known = {**stored, "out": run}
    other = [
        f"{flag(name)} {value} (was {known[name]})"
        for name, value in given.items()
        if name not in _FREE and not _agree(name, known[name], value)
    ]
    if other:
        raise GradError(
            f"--resume {run} goes on with the options of that run, but {', '.join(other)} "
            f"{'contradicts' if len(other) == 1 else 'contradict'} them: leave "
            f"{'it' if len(other) == 1 else 'them'} out, or start a new run."
        )
    if given.get("epochs", stored["epochs"]) < stored["epochs"]:
        raise GradError(
            f"--epochs {given['epochs']} is fewer than the {stored['epochs']} of --resume {run}: "
            f"give {stored['epochs']} or more."
        )
    return {name: value for name, value in given.items() if name in _FREE}


def _agree(name: str, stored: Any, given: Any) -> bool:
    if given == "auto":
        return True
    if isinstance(given, Path) or isinstance(stored, Path):
        return stored is not None and Path(stored).absolute() == Path(given).absolute()
    if name == "device":
        return str(stored).split(":")[0] == str(given).split(":")[0]  # which one does not matter
    return bool(stored == given)


def is_complete(run: Path, epochs: int) -> bool:
    """Whether a run has all its epochs and its results.

    Raises:
        GradError: it is to have more epochs, but what training goes on from is gone.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # of other JSON
        done = json.loads((run / METRICS).read_text(encoding="utf-8"))["settings"]["epochs"]
        if done == epochs:
            return (run / REPORT).is_file()
        if not any(run.rglob(STATE)):
            raise GradError(
                f"--resume {run} has {done} epochs, and without {STATE} there is nothing to go on "
                "from: start a new run."
            )
    return False


def remove_results(run: Path) -> None:
    """Remove what says that a run is complete, as its training goes on, and half-written files."""
    (run / METRICS).unlink(missing_ok=True)
    for pattern in (".*.tmp", ".tmp*"):  # ours, and those of safetensors
        for leftover in run.rglob(pattern):
            leftover.unlink(missing_ok=True)
