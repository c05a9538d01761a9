"""Let a model learn from further good images, or give it a region of interest.

- ``grad update runs/NAME --good DIR --class-name NAME``: more good images, or false alarms.
- ``grad update runs/NAME --good DIR --class-name NEW``: one more class.
- ``grad update runs/NAME --roi FILE``: look at a part of the images from now on.
- ``grad update runs/NAME --undo``: back to what the model was before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.system.command_line import parse_options, run_command
from grad.train.update.options import UpdateOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        options = parse_options(
            UpdateOptions,
            "update",
            "Let a model learn from further good images, or from false alarms; no old image is "
            "needed.",
            arguments,
        )
        from rich.console import Console

        from grad.train.update.run import undo, update

        (undo if options.undo else update)(options, Console())

    return run_command(work, "Interrupted; the model is as it was.")


if __name__ == "__main__":
    sys.exit(main())
