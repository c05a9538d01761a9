"""What people see while work goes on: lines, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from grad.system.names import printable, wrapped

_EVERY = 10.0  # seconds between two lines where no bar can be drawn
_QUICK = 1.0  # seconds, within which nothing but training is told of there


def cell(text: object) -> Text:
    """The same for a table, where brackets are brackets and no markup."""
    return Text(printable(text))


def print_line(text: str, style: str | None, console: Console) -> None:
    """A line with names and paths in it, broken on a terminal between words only."""
    text = printable(text)
    if console.is_terminal:
        text = wrapped(text, console.width)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def describe_seconds(seconds: float) -> str:
    """A duration for people."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


class Progress:
    """How far work on a number of images is, how quick and for how long.

    A bar on a terminal; elsewhere, as in a log, a line every ten seconds and at the end.

    Args:
        console: where it is shown; None: nowhere.
        description: what is being done.
        total: number of images, None where it is not known; 0 shows nothing.
        note: what is shown in place of the number, such as the epoch.
    """

    def __init__(
        self, console: Console | None, description: str, total: int | None, note: str = ""
    ) -> None:
        shown = console is not None and total != 0
        self._log = console if shown and console and not console.is_terminal else None
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            _Column(_done),
            _Column(_speed, "cyan"),
            _Column(_time),
            console=console,
            disable=not shown or self._log is not None,
        )
        self._number = self._bar.add_task(description, total=total, note=note)
        self._said = time.monotonic()

    def advance(self, images: int, note: str | None = None) -> None:
        """Go on by ``images``; a note stays until the next one."""
        if note is not None:
            self._bar.update(self._number, note=note)
        self._bar.update(self._number, advance=images)
        if time.monotonic() - self._said >= _EVERY:
            self._say()

    def counting(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``work`` on batches, whose images count when it is done with them."""

        def counted(batch: Any) -> Any:
            done = work(batch)
            self.advance(len(batch))
            return done

        return counted

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        (task,) = self._bar.tasks
        if error is None and (task.fields["note"] or (task.elapsed or 0) > _QUICK):
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        if self._log is not None:
            (task,) = self._bar.tasks
            told = filter(None, (_done(task), _speed(task), _time(task)))
            print_line(f"{task.description}: {', '.join(told)}", None, self._log)


class _Column(ProgressColumn):
    """A text about a task."""

    def __init__(self, text: Callable[[Task], str], style: str = "") -> None:
        self._text, self._style = text, style
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        return Text(self._text(task), self._style)


def _done(task: Task) -> str:
    count = f"{task.completed:,.0f}"
    if task.total is not None:
        count += f"/{task.total:,.0f}"
    return task.fields["note"] or f"{count} images"


def _speed(task: Task) -> str:
    """Over the last half minute."""
    speed = task.finished_speed or task.speed
    return "" if speed is None else f"{speed:,.0f} images/s"


def _time(task: Task) -> str:
    if task.finished:
        return describe_seconds(task.finished_time or 0.0)
    left = task.time_remaining
    return "" if left is None else f"{describe_seconds(left)} left"
