"""``--log``: losses, rates, metrics and pictures of a run, for tools that compare runs.

Each backend is a function here. What it gets twice, as a run that was resumed says all of its
epochs again, it has once.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from grad.system import distributed
from grad.system.errors import GradError, first_line
from grad.system.files import replacing
from grad.system.progress import print_line
from grad.system.run_folder import EXAMPLES, METRICS
from grad.train.options import Log

LOG_TABLE = "log.csv"
LOG_FOLDER = "tensorboard"
LOG_RUN = "mlflow.txt"  # the run's id
_PICTURES = 12  # at most


class _Backend(NamedTuple):
    """What takes values by name, and pictures, each at a step."""

    values: Callable[[Mapping[str, float], int], None]
    picture: Callable[[str, Path, int], None]


class RunLog:
    """Takes what is to be logged; where that fails, it says so once, and the run goes on.

    Args:
        backend: where all goes to; None: nowhere.
        console: where it is said.
    """

    def __init__(self, backend: _Backend | None, console: Console) -> None:
        self._backend, self._console = backend, console
        self._epochs: dict[str, int] = {}  # of each model, that were logged

    def epochs(
        self,
        history: Mapping[str, Sequence[float]],
        rates: Callable[[int], tuple[float, float]],
        model: str = "",
    ) -> None:
        """Log the epochs that were not yet.

        Args:
            history: a value an epoch of ``"loss"`` and ``"seconds"``.
            rates: gives the learning rates of networks and grids in an epoch, counted from 0.
            model: its name, of several.
        """
        place = f"train/{model}/" if model else "train/"
        done = len(history["loss"])
        for epoch in range(self._epochs.get(model, 0), done):
            values = {name: history[name][epoch] for name in ("loss", "seconds")}
            values["learning_rate"], values["grid_learning_rate"] = rates(epoch)
            self._send({place + name: value for name, value in values.items()}, epoch + 1)
        self._epochs[model] = done

    def results(self, run: Path) -> None:
        """Log the metrics and a few pictures of a run that is complete.

        Args:
            run: its folder.
        """
        step = max(self._epochs.values(), default=0)
        summary = json.loads((run / METRICS).read_text(encoding="utf-8"))
        found = {f"metrics/{key}": value for key, value in summary["mean"].items()}
        for name, values in summary["classes"].items():
            found |= {f"metrics/{name}/{key}": value for key, value in values.items()}
        self._send({name: value for name, value in found.items() if value is not None}, step)
        for path in _few_pictures(run / EXAMPLES):
            name = path.relative_to(run).with_suffix("").as_posix()
            if self._backend is not None:
                self._attempt(partial(self._backend.picture, name, path, step))

    def _send(self, values: Mapping[str, float], step: int) -> None:
        if self._backend is not None:
            self._attempt(partial(self._backend.values, values, step))

    def _attempt(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # of a server that is gone, of a disk that is full
            self._backend = None
            reason = first_line(error)
            print_line(f"Logging has ended, training goes on: {reason}", "yellow", self._console)


def check_log(log: Log | None) -> None:
    """Raise a GradError for ``--log`` where what it needs is not installed."""
    if log in ("tensorboard", "mlflow") and find_spec(log) is None:
        raise GradError(
            f"--log {log} needs {log}, which is not installed: "
            f'pip install "grad-anomaly[{log}]", or leave it out.'
        )


@contextmanager
def open_log(
    log: Log | None, out: Path, options: Mapping[str, Any], console: Console
) -> Iterator[RunLog]:
    """A run's log; of several processes only the main one's goes anywhere.

    Args:
        log: the backend; None: nothing is logged.
        out: the folder of results, which keeps the log, or knows where it is.
        options: of the run.
        console: where is said what fails.

    Raises:
        GradError: it can't be begun.
    """
    if log is None or not distributed.is_main():
        yield RunLog(None, console)
        return
    backend = _BACKENDS[log](out, options)
    try:
        opened = backend.__enter__()
    except Exception as error:
        raise GradError(f"--log {log} can't begin ({first_line(error)}).") from error
    failed: BaseException | None = None
    try:
        yield RunLog(opened, console)
    except BaseException as error:
        failed = error
        raise
    finally:
        try:
            backend.__exit__(type(failed) if failed else None, failed, None)
        except Exception as error:
            if error is not failed:
                print_line(f"The log is not whole: {first_line(error)}", "yellow", console)


@contextmanager
def _csv(out: Path, options: Mapping[str, Any]) -> Iterator[_Backend]:
    """``log.csv``: a line a value, with its step and its name."""
    found: dict[tuple[str, int], float] = {}

    def add(values: Mapping[str, float], step: int) -> None:
        found.update({(name, step): value for name, value in values.items()})
        with (
            replacing(out / LOG_TABLE) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            rows = ((step, name, value) for (name, step), value in found.items())
            csv.writer(file).writerows([("step", "name", "value"), *rows])

    yield _Backend(add, lambda name, path, step: None)


@contextmanager
def _tensorboard(out: Path, options: Mapping[str, Any]) -> Iterator[_Backend]:
    """Event files in the folder of results; what an earlier part of the run wrote is replaced."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / LOG_FOLDER), purge_step=1) as writer:
        writer.add_text("options", _as_table(options), 0)

        def add(values: Mapping[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        def picture(name: str, path: Path, step: int) -> None:
            with Image.open(path) as image:
                writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            writer.flush()

        yield _Backend(add, picture)


@contextmanager
def _mlflow(out: Path, options: Mapping[str, Any]) -> Iterator[_Backend]:
    """A run of MLflow, where its own variables say: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client, file = MlflowClient(), out / LOG_RUN
    if file.is_file():
        run = file.read_text(encoding="utf-8").strip()
        client.update_run(run, "RUNNING")
    else:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "grad")
        experiment = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if experiment is None else experiment.experiment_id
        run = client.create_run(number, run_name=out.name).info.run_id
        with replacing(file) as temporary:
            temporary.write_text(run, encoding="utf-8")
        params = [Param(key, str(value)[:500]) for key, value in options.items()]
        client.log_batch(run, params=params)
    known: dict[str, set[int]] = {}

    def add(values: Mapping[str, float], step: int) -> None:
        new = []
        for name, value in values.items():
            key = re.sub(r"[^/\w.\- ]", "_", name)  # what MLflow allows
            if key not in known:
                known[key] = {metric.step for metric in client.get_metric_history(run, key)}
            if step not in known[key]:
                new.append(Metric(key, value, round(1000 * time.time()), step))
                known[key].add(step)
        client.log_batch(run, metrics=new)

    def picture(name: str, path: Path, step: int) -> None:
        client.log_artifact(run, str(path), str(Path(name).parent))

    try:
        yield _Backend(add, picture)
    except KeyboardInterrupt:
        client.set_terminated(run, "KILLED")
        raise
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED")


_BACKENDS: dict[Log, Callable[[Path, Mapping[str, Any]], AbstractContextManager[_Backend]]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
}


def _as_table(options: Mapping[str, Any]) -> str:
    """As Markdown."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in options.items())
    return f"| option | value |\n|---|---|\n{rows}"


def _few_pictures(folder: Path) -> list[Path]:
    """The best and worst of each class first, as far as there is room."""
    pictures = sorted(folder.rglob("*.png"), key=lambda path: (path.stem[-1:], str(path)))
    return pictures[:_PICTURES]
