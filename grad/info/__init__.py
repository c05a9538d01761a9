"""``grad info``: what this GRAD was built for, and whether it computes right."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.info.__main__ import main as run

    return run(arguments)
