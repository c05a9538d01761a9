"""``grad update``: a trained model learns on from further good images."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.train.update.__main__ import main as run

    return run(arguments)
