"""``predict_all``: what ``grad predict`` does with its options."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from grad.data.sources import Item, count_items, find_items, is_live
from grad.detector.detector import Detector, Result
from grad.predict.options import PredictOptions
from grad.predict.outputs import Pictures, Tables, join_parts, tables
from grad.predict.tally import Tally, line_of, load_detector
from grad.system import distributed
from grad.system.devices import find_device
from grad.system.errors import GradError, raise_once
from grad.system.progress import Progress
from grad.system.run_folder import empty_folder
from grad.system.webhook import Webhook


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
    detector = distributed.main_first(lambda: load_detector(options, device))
    run = _Run(options, detector, console)
    tally = run.tally
    results = run.results(items if first is None else chain([first], items))
    with ExitStack() as stack:
        if options.out is not None:
            run.out = stack.enter_context(_Out(options, options.out))
        if options.webhook is not None:
            run.hook = stack.enter_context(Webhook(options.webhook, tally.warn))
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
        tally.add_other_processes()
    if tally.images and distributed.is_main():
        tally.report(None if run.out is None else run.out.folder)
    if stopped is not None:
        raise stopped
    if tally.skipped and not tally.images:
        if tally.skipped > 1 and distributed.is_main():  # of a single one the reason was said
            console.print(f"None of the {tally.skipped} images can be read.")
        return 2
    return tally.exit_code()


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

    def add(self, result: Result) -> dict[str, Any]:
        """Write a result; returns its row."""
        row = result.to_dict() | self._pictures.add(result)
        self._tables.add(row)
        self._tables.flush()
        return row


class _Run:
    """Judges images, and writes or prints what was found."""

    def __init__(self, options: PredictOptions, detector: Detector, console: Console) -> None:
        self.options, self.detector, self.console = options, detector, console
        self.tally = Tally(options, detector, console)
        self.out: _Out | None = None
        self.hook: Webhook | None = None
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

    def _add(self, result: Result) -> None:
        self.tally.add(result)
        row = result.to_dict()
        if self.out is None:
            print(line_of(result), file=self._stdout, flush=True)
        else:
            row = self.out.add(result)
        if self.hook is not None:
            self.hook.send(row)

    def _skip(self, error: GradError) -> None:
        self._progress.advance(1)
        self.tally.skip(error)
