"""``grad export``: a model as a file for another runtime, verified before it is there."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.export.__main__ import main as run

    return run(arguments)
