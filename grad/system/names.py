"""Names that come from outside: how they are shown."""

from __future__ import annotations


def printable(text: object) -> str:
    """A name from outside as people may see it: control characters and half letters as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )
