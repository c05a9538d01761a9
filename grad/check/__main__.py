"""Say what a folder of images holds, what would be trained, and what is wrong with it.

- ``python -m grad.check DIR``: exit code 0 where it can be trained, 2 where it can't.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.check.options import CheckOptions
from grad.system.command_line import parse_options, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        options = parse_options(
            CheckOptions,
            "check",
            "Say what a folder of images holds, and what is wrong with it.",
            arguments,
        )
        from rich.console import Console

        from grad.check.run import check

        check(options, Console())

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
