"""``grad serve``: an inspection page and a REST end point.

``app`` puts the parts together, of one model: ``inspector`` goes from a request to its answer, for
which ``uploads`` reads and decodes, ``batching`` scores, and ``answers`` says what came out;
``teaching`` is what people give back, kept by ``feedback`` and written by ``model_file``. ``site``
has several models. ``access`` guards, ``prometheus`` counts, ``page`` is what a browser shows.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on these arguments, or on the process's; returns the exit code."""
    from grad.serve.__main__ import main as run

    return run(arguments)
