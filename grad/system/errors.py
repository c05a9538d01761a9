"""The one exception type that a user can cause.

Command line entries print its text as one sentence and leave with exit code 2; everything else is a
defect of GRAD and keeps its traceback.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class GradError(Exception):
    """Something that was given to GRAD is wrong: the text says what, where, and what to do."""


class StoppedElsewhere(GradError):
    """Another process has reported what is wrong; this one has nothing to add."""

    def __str__(self) -> str:
        return ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to 200 letters, or else its kind; no full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")


def raise_once(function: Callable[[], T]) -> T:
    """Call, before processes have joined, a function that does the same in all of them.

    Raises:
        StoppedElsewhere: it raised a GradError, and this is not the main process.
    """
    try:
        return function()
    except GradError as error:
        if os.environ.get("RANK", "0") == "0":
            raise
        raise StoppedElsewhere from error
