"""``watch``: what ``grad predict --watch`` does with its options."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from types import FrameType
from typing import Any

from rich.console import Console

from grad.data.sources import Item
from grad.detector.detector import Detector, Result
from grad.predict.hot_folder import Arrival, HotFolder
from grad.predict.options import PredictOptions
from grad.predict.outputs import Pictures
from grad.predict.tally import Tally, line_of, load_detector
from grad.system.clock import utc_time
from grad.system.devices import find_device
from grad.system.errors import GradError
from grad.system.files import claimed
from grad.system.names import printable
from grad.system.webhook import Webhook


def watch(options: PredictOptions) -> int:
    """Judge images as they come into a folder, until Ctrl-C or SIGTERM.

    Returns:
        As :meth:`grad.predict.tally.Tally.exit_code`.

    Raises:
        GradError: something that was given is wrong, or a result can't be written.
    """
    console = Console(stderr=True)
    assert options.watch is not None
    watched = options.watch.expanduser()
    if not watched.is_dir():
        raise GradError(f"There is no folder --watch {options.watch}: make it, or check the path.")
    out, move_to = (path and path.expanduser() for path in (options.out, options.move_to))
    for name, place in (("out", out), ("move-to", move_to)):
        if place is not None and watched.resolve().is_relative_to(place.resolve()):
            raise GradError(
                f"--{name} {place} is or holds the folder that is watched, so that what goes "
                "there would come again: choose another."
            )
    detector = load_detector(options, find_device(options.device))
    detector.warm_up()
    tally = Tally(options, detector, console)
    folder = HotFolder(watched, out, move_to, tally.warn)
    with ExitStack() as stack:
        # Not the folder that is watched where it need not be written to.
        if not stack.enter_context(claimed(folder.results / "watch", wait=False)):
            raise GradError(f"Another process has its results in {folder.results}: end that one.")
        hook = options.webhook and stack.enter_context(Webhook(options.webhook, tally.warn))
        work = _Work(options, detector, folder, tally, hook or None)
        stop = stack.enter_context(_stopped_by_signals())
        console.print(
            printable(f"Watching {watched} (Ctrl-C ends it)"), markup=False, highlight=False
        )
        judged = (arrival for arrival in folder.arrivals(stop) if work.judge(arrival))
        for _ in islice(judged, options.limit):
            pass
    tally.report(folder.results)
    return tally.exit_code()


class _Work:
    """From an image to its result."""

    def __init__(
        self,
        options: PredictOptions,
        detector: Detector,
        folder: HotFolder,
        tally: Tally,
        hook: Webhook | None,
    ) -> None:
        self._options, self._detector = options, detector
        self._folder, self._tally, self._hook = folder, tally, hook

    def judge(self, arrival: Arrival) -> bool:
        """Judge an image and write what was found; whether it is done.

        It is not where it changed meanwhile, or can't be read and may still be being written.

        Raises:
            GradError: the result can't be written, or, with ``--strict``, the image not be read.
        """
        try:
            result = self._result(arrival)
        except GradError as error:
            if not (arrival.is_there() and self._folder.is_final(arrival)):
                return False
            if self._options.strict:
                raise
            self._tally.skip(error)
            self._finish(arrival, self._failure(arrival, error))
            return True
        if not arrival.is_there():
            return False
        self._tally.add(result)
        print(line_of(result), flush=True)
        self._finish(arrival, result.to_dict() | self._pictures(result))
        return True

    def _result(self, arrival: Arrival) -> Result:
        options = self._options
        item = Item(str(arrival.path), arrival.name, arrival.path)
        (result,) = self._detector.stream(
            [item],
            class_name=options.class_name,
            tile=options.tile,
            overlap=options.overlap,
            workers=options.workers,
            keep_images=options.overlays,
        )
        return result

    def _failure(self, arrival: Arrival, error: GradError) -> dict[str, Any]:
        origin = self._detector.origin
        return {
            "name": str(arrival.path),
            "class_name": self._options.class_name,
            "error": str(error),
            "time": utc_time(),
            "model": None if origin is None else origin.name,
            "model_version": None if origin is None else origin.version,
        }

    def _pictures(self, result: Result) -> dict[str, str]:
        """The pictures that are asked for, which lie there before the result that names them."""
        options = self._options
        if options.out is None:
            return {}
        pictures = Pictures(
            options.out.expanduser(),
            overlays=options.overlays,
            maps=options.maps,
            masks=options.masks,
            workers=1,
        )
        written = pictures.add(result)
        pictures.close()
        return written

    def _finish(self, arrival: Arrival, row: dict[str, Any]) -> None:
        self._folder.finish(arrival, row)
        if self._hook is not None:
            self._hook.send(row)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second signal works as it did before."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, end)
    try:
        yield stop
    finally:
        restore()
