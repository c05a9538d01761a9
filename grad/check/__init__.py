"""``grad check``: a folder of images, looked at before anything is trained."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.check.__main__ import main as run

    return run(arguments)
