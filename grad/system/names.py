"""Names that come from outside: how they are shown."""

from __future__ import annotations

import textwrap


def printable(text: object) -> str:
    """A name from outside as people may see it: control characters and half letters as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most so many letters, but for longer words, which stay whole."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
