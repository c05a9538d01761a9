"""What is seen while work goes on, on a terminal and in a log."""

import io
import re

import pytest
from rich.console import Console

from grad.system import progress as module
from grad.system.names import wrapped
from grad.system.progress import Progress, print_line


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, for the lines and for the bar's own estimates."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def log(clock=None):
    return Console(file=io.StringIO(), width=80, get_time=clock and clock.monotonic)


def test_a_log_hears_every_ten_seconds_how_far_work_is(clock):
    console = log(clock)
    with Progress(console, "thresholds", 100) as progress:
        for _ in range(50):
            clock.now += 1
            progress.advance(2)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 6, "five and the end"
    assert lines[1] == "thresholds: 40/100 images, 2 images/s, 30 s left"
    assert lines[-1].startswith("thresholds: 100/100 images")


def test_of_training_a_log_hears_epochs_and_time_left_at_once(clock):
    console = log(clock)
    with Progress(console, "training", 300, "epoch 1/3") as progress:
        for step in range(30):
            clock.now += 4
            progress.advance(10, f"epoch {1 + step // 10}/3, loss 0.5")
    lines = console.file.getvalue().splitlines()
    assert re.fullmatch(r"training: epoch 2/3, loss 0.5, \d images/s, \d+ s left", lines[5])
    assert lines[-1].startswith("training: epoch 3/3, loss 0.5")


def test_quick_and_failed_work_leaves_nothing_in_a_log(clock):
    console = log(clock)
    with Progress(console, "features", 5) as progress:
        progress.advance(5)
    with pytest.raises(ValueError), Progress(console, "features", 5):
        clock.now += 5
        raise ValueError
    with Progress(console, "features", 0):
        clock.now += 5
    assert console.file.getvalue() == ""


def test_on_a_terminal_of_80_columns_a_bar_shows_everything_in_one_line():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Progress(console, "training", 3000, "epoch 1/24") as progress:
        for _ in range(3):
            progress.advance(500, "epoch 12/24, loss 0.3084")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    (last,) = [line for line in re.split(r"[\r\n]+", text) if line.strip()][-1:]
    assert last.startswith("training ") and "epoch 12/24, loss 0.3084" in last
    assert len(last) <= 80


def test_a_terminal_breaks_lines_between_words_and_leaves_paths_whole():
    text = "Results of a run, with a long sentence about it, and then some, lie in " + "/x" * 50
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    print_line(text, None, console)
    lines = console.file.getvalue().splitlines()
    assert lines[-1] == "/x" * 50 and all(len(line) <= 80 for line in lines[:-1])
    assert " ".join(lines) == text == " ".join(wrapped(text, 40).split())
    file = log()
    print_line(text, None, file)
    assert file.file.getvalue() == text + "\n", "a log has a line a line"
