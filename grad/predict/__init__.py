"""``grad predict``: defects found in images, folders, videos and cameras."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.predict.__main__ import main as run

    return run(arguments)
