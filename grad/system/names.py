"""Names that come from outside: how they are shown."""

from __future__ import annotations

import sys
import textwrap

from grad.system.errors import GradError


def printable(text: object) -> str:
    """A name from outside as people may see it: control characters and half letters as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most so many letters, but for longer words, which stay whole."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def check_text(path: object) -> None:
    """Refuse a path with bytes that are no letters in this process's encoding.

    Such a name can't be written to the files of a run, nor read back from them.

    Raises:
        GradError: it has some.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise GradError(
            f"{printable(path)} is no text in {sys.getfilesystemencoding()}, this process's "
            "encoding of file names: set PYTHONUTF8=1 where the name is UTF-8, else rename it."
        ) from None
