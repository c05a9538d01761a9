"""Train on good images, evaluate, report.

- ``python -m grad.train``: the demo set inside the package.
- ``python -m grad.train --data DIR``: a folder of images, one model for all classes.
- ``python -m grad.train --data DIR --classes a,b --separate``: one model a class.
- ``python -m grad.train --config runs/NAME/config.yaml``: as an earlier run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from grad.options import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        from grad.config import parse  # imports torch, which may be what is wrong
        from grad.experiment import run

        run(parse(arguments), Console())

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
