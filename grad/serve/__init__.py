"""``grad serve``: an inspection page and a REST end point.

``app`` puts the parts together: ``uploads`` reads and decodes, ``batching`` scores, ``answers``
says what came out, ``access`` guards, ``prometheus`` counts, ``page`` is what a browser shows.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.serve.__main__ import main as run

    return run(arguments)
