"""Judge a model on test images, or choose other thresholds.

- ``python -m grad.evaluate runs/NAME --data DIR``: metrics, records and tables of other images.
- ``python -m grad.evaluate runs/NAME --false-alarm-rate 0.005``: other thresholds from what the run
  has stored, without running the network again; with ``--save`` the model takes them over.
- ``python -m grad.evaluate runs/NAME --threshold f1``: thresholds from test images with defects.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.evaluate.options import EvaluateOptions
from grad.system.command_line import parse_options, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        options = parse_options(
            EvaluateOptions,
            "evaluate",
            "Judge a model on test images, or choose other thresholds.",
            arguments,
        )
        from rich.console import Console

        from grad.evaluate.run import assess, rejudge

        (rejudge if options.data is None else assess)(options, Console())

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
