"""A training killed with SIGKILL at many moments, resumed, and compared with one that was not.

    PYTHONPATH=.:tests python tests/helpers/kills.py [--kills 50] [--folder DIR]

Half of the moments are times, spread over the whole run; the others are file operations (a file
opened for writing, renamed, removed; a folder made), so that each state of the folder is met.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from grad.system.run_folder import CONFIG, EXAMPLES, HISTORY, METRICS, MODEL, RECORDS, REPORT, STATE
from grad.train.__main__ import main
from helpers.images import make_images

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_QUICK = "--backbone tf_efficientnet_lite0 --preset grad-plus --epochs 2 --batch-size 8"
_QUICK += " --image-size 32 --device cpu --precision float32 --workers 1"


@dataclass(frozen=True)
class Kill:
    """When a run is killed: after some seconds, or before its n-th operation on files."""

    seconds: float | None = None
    operation: int | None = None


class Runs:
    """Runs on a few images; each is a child of this process, which has imported all there is.

    Args:
        folder: where the images, caches and runs go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_images(folder / "data", classes=("one", "two"), train=6, test=2, size=32)
        torch.set_num_threads(1)
        start = time.perf_counter()
        code, self.operations = self.run("whole")
        self.seconds = time.perf_counter() - start
        assert code == 0, "the run that nobody kills fails"

    def moments(self, kills: int) -> list[Kill]:
        """So many, spread evenly."""
        times = kills // 2
        rest = kills - times
        return [Kill(seconds=self.seconds * (i + 0.5) / times) for i in range(times)] + [
            Kill(operation=round(1 + (self.operations - 1) * i / max(rest - 1, 1)))
            for i in range(rest)
        ]

    def run(self, name: str, *more: str, kill: Kill | None = None) -> tuple[int, int]:
        """Train in a folder of this name; the exit code (-9: killed) and operations on files."""
        places = {"data": "data", "cache": f"cache-{name}", "out": name}
        given = list(more) or _QUICK.split() + [
            word for key, value in places.items() for word in (f"--{key}", str(self.folder / value))
        ]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self._in_child(given, writer, kill)
        os.close(writer)
        timer = None
        if kill is not None and kill.seconds is not None:
            timer = threading.Timer(kill.seconds, os.kill, (child, signal.SIGKILL))
            timer.start()
        with os.fdopen(reader) as counts:
            text = counts.read()
        _, status = os.waitpid(child, 0)
        if timer is not None:
            timer.cancel()
        return os.waitstatus_to_exitcode(status), int(text or 0)

    def _in_child(self, given: list[str], writer: int, kill: Kill | None) -> None:
        count = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
            if (writes or event in _CHANGES) and str(self.folder) in str(arguments[0]):
                count += 1
                if kill is not None and count == kill.operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 70
        try:
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.addaudithook(watch)
            code = main(given)
            os.write(writer, str(count).encode())
        finally:
            sys.stdout.flush()
            os._exit(code)

    def kill_and_resume(self, name: str, kill: Kill) -> str:
        """What is wrong with a run that was killed and resumed; nothing where all is well."""
        run = self.folder / name
        code, _ = self.run(name, kill=kill)
        if code not in (0, -signal.SIGKILL):
            return f"the run that was to be killed ended with {code}"
        # Without options nothing was done yet, and the same command starts anew.
        again = ["--resume", str(run)] if (run / CONFIG).exists() else []
        code, _ = self.run(name, *again)
        if code != 0:
            return f"resuming ended with {code}, see {self.folder / 'log.txt'}"
        wrong = differences(self.folder / "whole", run)
        if not wrong:
            shutil.rmtree(run)
            shutil.rmtree(self.folder / f"cache-{name}")
        return wrong


def differences(whole: Path, run: Path) -> str:
    """The first thing in which two folders of results differ; nothing where they agree."""
    names = [sorted(_files(folder)) for folder in (whole, run)]
    if names[0] != names[1]:
        return f"other files: {sorted(set(names[0]) ^ set(names[1]))}"
    for name in (MODEL, STATE):
        one, other = load_file(whole / name), load_file(run / name)
        if one.keys() != other.keys() or any(not torch.equal(one[k], other[k]) for k in one):
            return f"other tensors in {name}"
    with safe_open(whole / MODEL, "pt") as one, safe_open(run / MODEL, "pt") as other:
        if one.metadata() != other.metadata():
            return f"another header in {MODEL}"
    if json.loads((whole / METRICS).read_text()) != json.loads((run / METRICS).read_text()):
        return f"other numbers in {METRICS}"
    losses = [json.loads((folder / HISTORY).read_text())["loss"] for folder in (whole, run)]
    if losses[0] != losses[1]:
        return f"other losses in {HISTORY}"
    for name in [RECORDS, *(n for n in names[0] if n.startswith(EXAMPLES))]:
        if (whole / name).read_bytes() != (run / name).read_bytes():
            return f"another {name}"
    sizes = [(folder / REPORT).stat().st_size for folder in (whole, run)]
    return "" if abs(sizes[0] - sizes[1]) < 2000 else f"another {REPORT}: {sizes}"


def _files(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)) for path in files}


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="kept; none: a temporary one")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = Runs(folder)
        print(f"the whole run: {runs.seconds:.1f} s, {runs.operations} operations on files")
        wrong = 0
        for number, kill in enumerate(runs.moments(given.kills)):
            found = runs.kill_and_resume(f"run-{number}", kill)
            wrong += bool(found)
            print(f"{kill}: {found or 'the same files'}", flush=True)
    print(f"{given.kills} kills, {wrong} with other files")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(command())
