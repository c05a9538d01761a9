"""``grad evaluate``: a model judged on other images, or by other thresholds."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.evaluate.__main__ import main as run

    return run(arguments)
