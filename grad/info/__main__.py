"""``python -m grad.info``: what this GRAD was built for, what it runs on, and whether it computes.

``python -m grad.info MODEL``: what a model was trained on, its thresholds, what it learned since.

Exit code 1 where an operator disagrees with the reference or the operators can't be loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.info.options import InfoOptions
from grad.system.command_line import parse_options, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 where something is wrong, 2, 130."""

    def work() -> int:
        options = parse_options(
            InfoOptions,
            "info",
            "Print versions, devices and architectures, and check every operator; or what is in a "
            "model.",
            arguments,
        )
        from rich.console import Console

        if options.model is not None:
            from grad.info.model import show_model

            return show_model(options.model, Console())

        from grad.info.run import show

        return show(Console())

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
