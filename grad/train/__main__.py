"""Train on good images, evaluate, report.

- ``python -m grad.train``: the demo set inside the package.
- ``python -m grad.train --data DIR``: a folder of images, one model for all classes.
- ``python -m grad.train --data DIR --classes a,b --separate``: one model a class.
- ``python -m grad.train --config runs/NAME/config.yaml``: as an earlier run.
- ``python -m grad.train --resume runs/NAME``: a run that stopped goes on.
- ``torchrun --nproc-per-node 2 -m grad.train --data DIR``: on two GPUs, or in two processes.
- ``torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500
  -m grad.train --data DIR``, on each of two machines: on their 16 GPUs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.system.command_line import run_command
from grad.train.options import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        options = parse(arguments)
        from rich.console import Console

        from grad.train.run import run

        run(options, Console())

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
