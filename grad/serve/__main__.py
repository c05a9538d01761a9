"""Serve a model: an inspection page and a REST end point.

- ``python -m grad.serve runs/demo-grad-plus``: at http://127.0.0.1:8000/, for this machine alone.
- ``GRAD_TOKEN=WORD python -m grad.serve MODEL --host 0.0.0.0``: for the network, with a token.
- ``curl --data-binary @part.png http://127.0.0.1:8000/predict``: the verdict as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.serve.options import ServeOptions
from grad.system.command_line import parse_options, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        options = parse_options(
            ServeOptions,
            "serve",
            "Serve a model: an inspection page and a REST end point.",
            arguments,
        )
        from rich.console import Console

        from grad.serve.run import run

        run(options, Console())

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
