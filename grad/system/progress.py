"""What people see while work goes on: lines, and a bar where there is a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from grad.system.names import printable


def cell(text: object) -> Text:
    """The same for a table, where brackets are brackets and no markup."""
    return Text(printable(text))


def print_line(text: str, style: str | None, console: Console) -> None:
    """A line with paths in it, which the terminal may wrap, but nothing may break."""
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


class _Speed(ProgressColumn):
    """Images a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s", style="cyan")


class Progress:
    """A bar over a number of images with images/s, time left and a note such as the loss.

    Args:
        console: where it is drawn; None, or not a terminal: nowhere.
        description: what is being done.
        total: number of images, None where it is not known.
    """

    def __init__(self, console: Console | None, description: str, total: int | None) -> None:
        shown = console is not None and console.is_terminal
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not shown,
        )
        self._task = self._bar.add_task(description, total=total, note="")

    def advance(self, images: int, note: str | None = None) -> None:
        """Go on by ``images``; a note stays until the next one."""
        if note is not None:
            self._bar.update(self._task, note=note)
        self._bar.update(self._task, advance=images)

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
