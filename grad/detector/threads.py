"""Work on a stream in threads: in order, lazily, and with bounded memory.

A thread takes a group of items from the first step to the last. On a CPU each has its share of the
cores: one thread a core, each with a batch of its own, makes more images a second than all cores
on one batch and decoding beside it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import torch

from grad.system.errors import GradError

T = TypeVar("T")
R = TypeVar("R")

_NAME = "grad-work"


def work_in_threads(
    items: Iterator[T], work: Callable[[list[T]], list[R]], *, size: int, workers: int
) -> Generator[R, None, None]:
    """What ``work`` makes of groups of items, one after the other.

    A single item is worked on right here, with all cores.

    Args:
        items: read in this thread, as far ahead as there are workers that want some.
        work: from a group to results; called in threads.
        size: most items in a group; where there are few items, they are spread evenly.
        workers: number of threads.

    Raises:
        GradError: from ``items``, after the results of those before; from ``work``.
    """
    items = _Ended(items)
    full = max(2, size * workers)
    start = list(islice(items, full))
    if len(start) > 1:
        if len(start) < full:
            size = -(-len(start) // workers)
        yield from _in_pool(_groups(chain(start, items), size), work, workers)
    elif start:
        yield from work(start)
    if items.error is not None:
        raise items.error


class _Ended(Iterator[T]):
    """An iterator that ends where another one raises a GradError, and keeps the error."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self.error: GradError | None = None

    def __next__(self) -> T:
        if self.error is not None:
            raise StopIteration
        try:
            return next(self._items)
        except GradError as error:
            self.error = error
            raise StopIteration from None


def _groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(islice(items, size)):
        yield group


def _in_pool(
    groups: Iterator[list[T]], work: Callable[[list[T]], list[R]], workers: int
) -> Iterator[R]:
    """In order; a result that is there goes out before another group is read."""
    pool = _pool(workers)
    waiting: deque[Future[list[R]]] = deque()
    try:
        for group in groups:
            waiting.append(pool.submit(work, group))
            while waiting and (len(waiting) > workers or waiting[0].done()):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        # Garbage is collected by any thread, by one of these too, which cannot wait for itself.
        own = threading.current_thread().name.startswith(_NAME)
        pool.shutdown(wait=not own, cancel_futures=True)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that share torch's CPU threads; those of this and of other threads stay."""
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # torch now takes this thread's number as set
        torch.set_num_threads(share)  # of this thread, and of threads that are made later
        started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix=_NAME, initializer=start)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)
    return pool
