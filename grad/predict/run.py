"""``predict_all``: what ``grad predict`` does with its options."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path

import torch
from rich.console import Console

from grad.data.sources import Item, count_items, find_items, is_live
from grad.detector.detector import Detector, Result
from grad.predict.options import PredictOptions
from grad.predict.outputs import Pictures, Tables, join_parts, tables
from grad.score.drift import DRIFT, DriftWatch
from grad.score.thresholds import no_thresholds
from grad.system import distributed
from grad.system.devices import find_device
from grad.system.errors import GradError, raise_once
from grad.system.names import printable
from grad.system.progress import Progress, print_line
from grad.system.run_folder import empty_folder


def predict_all(options: PredictOptions) -> int:
    """Judge all images and write or print what was found.

    Results go to standard output or into ``--out``, everything else to standard error.

    Returns:
        With ``--fail-on-anomaly`` 1 where an image is anomalous, else 2 where one could not be
        judged; 2 where no image can be read; else 0.

    Raises:
        GradError: something that was given is wrong; what was predicted until then is written.
        KeyboardInterrupt: likewise.

    Of several processes (torchrun) each judges a part of the images, and the main one joins the
    tables.
    """
    device = raise_once(lambda: find_device(options.device))
    with distributed.joined(device):
        return _predict_all(options, device)


def _predict_all(options: PredictOptions, device: torch.device) -> int:
    console = Console(stderr=True)
    items = _items(options)
    first = next(items, None)  # so that a wrong path is said before a model is loaded
    if first is None and distributed.size() == 1:
        raise GradError("Standard input names no image: give a path in each line.")
    detector = distributed.main_first(lambda: _load(options, device))
    run = _Run(options, detector, console)
    results = run.results(items if first is None else chain([first], items))
    with ExitStack() as stack:
        if options.out is not None:
            run.out = stack.enter_context(_Out(options, options.out))
        stopped: BaseException | None = None
        try:
            run.through(results)
        except (GradError, KeyboardInterrupt) as error:
            stopped = error  # the tables are closed and renamed before it goes on
        except BrokenPipeError:  # nobody reads the lines any more, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if stopped is None and options.out is not None and distributed.size() > 1:
        distributed.barrier()
        distributed.from_main(lambda: join_parts(run.folder, distributed.size()))
    if stopped is None:
        run.add_other_processes()
    if run.images and distributed.is_main():
        run.report()
    if stopped is not None:
        raise stopped
    if run.skipped and not run.images:
        if run.skipped > 1 and distributed.is_main():  # of a single one the reason was said
            console.print(f"None of the {run.skipped} images can be read.")
        return 2
    if not options.fail_on_anomaly:
        return 0
    return 1 if run.anomalous else 2 if run.skipped else 0


def _items(options: PredictOptions) -> Iterator[Item]:
    """The images, or this process's part of them."""
    items = find_items(options.paths, sys.stdin)
    if distributed.size() == 1:
        return items
    count = distributed.from_main(lambda: count_items(options.paths))
    if count is None:
        raise GradError("Several processes share files and folders, no lists, videos or cameras.")
    count = count if options.limit is None else min(count, options.limit)
    first = distributed.shard_start(count)
    return islice(items, first, first + len(distributed.shard(range(count))))


def _load(options: PredictOptions, device: torch.device) -> Detector:
    detector = Detector.load(
        options.model,
        device=device,
        precision=options.precision,
        false_alarm_rate=options.false_alarm_rate,
    )
    if options.threshold is not None:
        detector = detector.with_threshold(options.threshold)
    for name, given in (("masks", options.masks), ("fail-on-anomaly", options.fail_on_anomaly)):
        if given and detector.calibration is None:
            raise GradError(no_thresholds(f"The model {options.model}, for --{name},"))
    return detector


class _Out:
    """The folder of results: tables and pictures."""

    def __init__(self, options: PredictOptions, folder: Path) -> None:
        self.folder = distributed.from_main(lambda: empty_folder(folder))
        self._pictures = Pictures(
            self.folder,
            overlays=options.overlays,
            maps=options.maps,
            masks=options.masks,
            workers=options.workers or 2,
        )
        self._spreadsheet = options.spreadsheet
        self._stack = ExitStack()

    def __enter__(self) -> _Out:
        columns = self._pictures.columns
        part = distributed.rank() if distributed.size() > 1 else None
        opened = tables(self.folder, columns, part, spreadsheet=self._spreadsheet)
        self._tables: Tables = self._stack.enter_context(opened)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._pictures.close()
        finally:
            self._stack.close()

    def add(self, result: Result) -> None:
        """Write a result."""
        self._tables.add(result.to_dict() | self._pictures.add(result))
        self._tables.flush()


class _Run:
    """Counts what was found, and shows it."""

    def __init__(self, options: PredictOptions, detector: Detector, console: Console) -> None:
        self.options, self.detector, self.console = options, detector, console
        self.out: _Out | None = None
        self.images = self.anomalous = self.skipped = self.clipped = 0
        known = detector.calibration
        self._watch = None if known is None else DriftWatch(known.good(options.class_name))
        self._stdout = sys.stdout  # not what a progress bar puts in its place

    def results(self, items: Iterator[Item]) -> Generator[Result, None, None]:
        """The results of all items; what is wrong with the options is said here already."""
        options = self.options
        live = any(is_live(path) for path in options.paths)
        return self.detector.stream(
            items,
            class_name=options.class_name,
            tile=options.tile,
            overlap=options.overlap,
            batch_size=options.batch_size or (1 if live else None),
            workers=options.workers,
            keep_images=options.overlays,
            on_error=None if options.strict else self._skip,
        )

    def through(self, results: Generator[Result, None, None]) -> None:
        """Write or print results as they come."""
        # Lines on a terminal are a progress of their own, and a bar would be drawn into them.
        lines = self.out is None and sys.stdout.isatty()
        bar = None if lines or not distributed.is_main() else self.console
        total = self.options.limit
        if total is None and bar is not None and bar.is_terminal:
            total = count_items(self.options.paths)
        with closing(results), Progress(bar, "predicting", total) as progress:
            self._progress = progress
            for result in islice(results, self.options.limit):
                self._add(result)
                progress.advance(1)

    @property
    def folder(self) -> Path:
        """``--out``, which was given."""
        assert self.out is not None
        return self.out.folder

    def add_other_processes(self) -> None:
        """Count what all processes have seen."""
        mine = (self.images, self.anomalous, self.skipped, self.clipped)
        counts = map(sum, zip(*distributed.shared(mine), strict=True))
        self.images, self.anomalous, self.skipped, self.clipped = counts

    def report(self) -> None:
        """Say in a line what was found."""
        parts = [f"{self.images:,} image{'' if self.images == 1 else 's'}"]
        if self.detector.calibration is None:
            parts.append("not judged, as the model has no thresholds")
        else:
            parts.append(f"{self.anomalous:,} anomalous")
        if self.skipped:
            parts.append(f"{self.skipped:,} left out, as they can't be read")
        if self.clipped:
            level = self.detector.info.white_level
            parts.append(f"{self.clipped:,} with values above {level}, which count as white")
        if self.out is not None:
            parts.append(f"results in {self.out.folder}")
        print_line("; ".join(parts), None, self.console)

    def _add(self, result: Result) -> None:
        self.images += 1
        self.clipped += result.clipped
        self.anomalous += result.limit is not None and result.is_anomalous
        if self._watch is not None and self._watch.add(result.score, result.map_maximum):
            print_line(f"{printable(result.name)}: {DRIFT}", "yellow", self.console)
        if self.out is None:
            print(_line(result), file=self._stdout, flush=True)
        else:
            self.out.add(result)

    def _skip(self, error: GradError) -> None:
        self.skipped += 1
        self._progress.advance(1)
        print_line(str(error), "yellow", self.console)


def _line(result: Result) -> str:
    """A result as a line: verdict, calibrated value, score, name."""
    name = printable(result.name)
    if result.limit is None:
        return f"{result.score:.4g}\t{name}"
    verdict = "anomalous" if result.is_anomalous else "good"
    return f"{verdict}\t{result.value:.3f}\t{result.score:.4g}\t{name}"
