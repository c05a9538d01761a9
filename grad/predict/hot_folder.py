"""A hot folder: images that come into it, a result file for each, and where they go then.

The result files are the only memory: an image is judged if there is one that names its size and
time, whatever happened since. They are written whole before an image is moved, so that a process
that is killed in between moves it at its next start, and judges nothing twice.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grad.data.sources import walk_images
from grad.system.errors import GradError
from grad.system.files import replacing

_LOOK = 0.25  # seconds between two looks, at least
_SETTLED = 0.5  # seconds that an image must not have changed
_PATIENCE = 10.0  # the same for one that can't be read, which may still be being written
_RESULT, _FILE = ".json", "file"  # the ending of result files, and what they tell a file by
VERDICTS = ("good", "anomalous", "unjudged", "unreadable")
"""Folders of images that were moved; ``unjudged`` by a model without thresholds."""


@dataclass(frozen=True)
class Arrival:
    """A file as it was found: one that changes is another.

    Attributes:
        name: its path below the folder, with slashes.
        path: where it is.
        size: in bytes.
        modified_ns: when it was changed, in nanoseconds.
    """

    name: str
    path: Path
    size: int
    modified_ns: int

    def is_there(self) -> bool:
        """Whether it lies there unchanged."""
        return _arrival(self.path, self.name) == self

    @property
    def facts(self) -> dict[str, int]:
        """What its result file tells it by."""
        return {"bytes": self.size, "modified_ns": self.modified_ns}


class HotFolder:
    """Images as they come into a folder and below it, oldest first.

    Args:
        folder: is there.
        out: where result files go, named as the images; None: beside the images.
        move_to: where images go, into a folder of their verdict; None: they stay.
        say: shows a sentence to people.
    """

    def __init__(
        self, folder: Path, out: Path | None, move_to: Path | None, say: Callable[[str], None]
    ) -> None:
        self._folder, self._out, self._move_to, self._say = folder, out, move_to, say
        self._done: dict[str, Arrival] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._is_lost = False

    @property
    def results(self) -> Path:
        """The folder that all results are in."""
        return self._out or self._move_to or self._folder

    def arrivals(self, stop: threading.Event) -> Iterator[Arrival]:
        """Images to be judged, until ``stop``; each is followed by :meth:`finish` or not counted.

        Raises:
            GradError: one that was judged before can't be moved.
        """
        while not stop.is_set():
            start = time.monotonic()
            found = self._look()
            took = time.monotonic() - start  # long on a slow drive, which is left in peace as long
            for arrival in found:
                if stop.is_set():
                    return
                if self._has_settled(arrival) and not self._was_judged(arrival):
                    yield arrival
            stop.wait(max(_LOOK, took))

    def is_final(self, arrival: Arrival) -> bool:
        """Whether an image that can't be read will not become better by waiting."""
        waiting = self._waiting[arrival.name]
        if waiting.seconds < _PATIENCE:
            waiting.seconds = _PATIENCE
            return False
        return True

    def finish(self, arrival: Arrival, row: dict[str, Any]) -> None:
        """Write the result of an image, and move the image where that is asked for.

        Args:
            arrival: the image.
            row: what is known of it; ``is_anomalous`` or ``error`` say where it goes.

        Raises:
            GradError: the result can't be written, or the image not be moved.
        """
        image, result = self._targets(arrival, _verdict(row))
        with replacing(result) as temporary:
            temporary.write_text(json.dumps(row | {_FILE: arrival.facts}) + "\n", encoding="utf-8")
        self._settle(arrival, image)

    def _look(self) -> list[Arrival]:
        """What lies in the folder now; nothing while it can't be read, as a drive that is away."""
        leave_out = {path for path in (self._out, self._move_to) if path is not None}
        found = []
        try:
            for path in walk_images(self._folder, leave_out):
                name = path.relative_to(self._folder).as_posix()
                arrival = _arrival(path, name)
                if arrival is not None:
                    found.append(arrival)
        except GradError as error:
            if not self._is_lost:
                self._say(f"{error} It is looked for again and again.")
            self._is_lost = True
            return []
        self._is_lost = False
        names = {arrival.name for arrival in found}
        self._done = {name: one for name, one in self._done.items() if name in names}
        self._waiting = {name: one for name, one in self._waiting.items() if name in names}
        return sorted(found, key=lambda one: (one.modified_ns, one.name))

    def _has_settled(self, arrival: Arrival) -> bool:
        if self._done.get(arrival.name) == arrival:
            return False
        waiting = self._waiting.get(arrival.name)
        if waiting is None or waiting.arrival != arrival:
            self._waiting[arrival.name] = _Waiting(arrival, time.monotonic())
            return False
        settled = time.monotonic() - waiting.since >= waiting.seconds
        # A look may have been long ago, where many images came at once.
        return settled and arrival.is_there()

    def _was_judged(self, arrival: Arrival) -> bool:
        """Whether an earlier process has judged an image, which is moved now where it did not."""
        for verdict in VERDICTS:
            for image, result in self._possible(arrival, verdict):
                row = _read(result)
                if row.get(_FILE) == arrival.facts and _verdict(row) == verdict:
                    self._settle(arrival, image)
                    return True
        return False

    def _targets(self, arrival: Arrival, verdict: str) -> tuple[Path, Path]:
        """Where an image and its result go; nothing of another image lies there."""
        possible = self._possible(arrival, verdict)
        for image, result in possible:
            if not os.path.lexists(result) and (
                self._move_to is None or not os.path.lexists(image)
            ):
                return image, result
        image, result = possible[-1]
        if _FILE not in _read(result):
            raise GradError(
                f"{result} is there and no result of GRAD's: move it, or give another --out."
            )
        return image, result

    def _possible(self, arrival: Arrival, verdict: str) -> list[tuple[Path, Path]]:
        """Where an image and its result may go, the first choice first.

        An image that is moved has its time in its name where that is taken.
        """
        if self._move_to is None:
            result = self._folder if self._out is None else self._out
            return [(arrival.path, _beside(result / arrival.name))]
        path = Path(arrival.name)
        stamped = path.with_name(f"{path.stem}-{arrival.modified_ns}{path.suffix}")
        home = self._move_to / verdict
        return [(home / p, _beside((self._out or home) / p)) for p in (path, stamped)]

    def _settle(self, arrival: Arrival, image: Path) -> None:
        """Bring an image to its place, and remember that it is done."""
        if self._move_to is not None:
            _move(arrival.path, image)
        self._done[arrival.name] = arrival
        self._waiting.pop(arrival.name, None)


@dataclass
class _Waiting:
    """Since when a file has not changed, and for how long it must not."""

    arrival: Arrival
    since: float
    seconds: float = _SETTLED


def _arrival(path: Path, name: str) -> Arrival | None:
    """A file as it is now; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Arrival(name, path, found.st_size, found.st_mtime_ns)


def _verdict(row: dict[str, Any]) -> str:
    if "error" in row:
        return "unreadable"
    return {None: "unjudged", True: "anomalous", False: "good"}[row.get("is_anomalous")]


def _beside(image: Path) -> Path:
    return image.with_name(image.name + _RESULT)


def _read(result: Path) -> dict[str, Any]:
    """What a result file says; nothing where there is none, or where it is no result."""
    try:
        row = json.loads(result.read_bytes())
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def _move(path: Path, target: Path) -> None:
    """Move a file, to another drive too; one that is gone by now is somebody else's matter."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with replacing(target) as temporary:
                shutil.copy2(path, temporary)
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise GradError(
            f"{path} can't be moved to {target} ({error.strerror}): allow it, or leave out "
            "--move-to; its result is written."
        ) from error
