"""Find defects in images, folders, videos and camera pictures.

- ``python -m grad.predict runs/NAME part.png``: a line with score and verdict.
- ``python -m grad.predict runs/NAME parts/ --out DIR --overlays``: tables and heat maps.
- ``python -m grad.predict runs/NAME 'parts/**/*.png' --fail-on-anomaly``: exit code 1 for defects.
- ``python -m grad.predict runs/NAME clip.mp4`` or ``camera:0``: every picture of a video or camera.
- ``find parts -name '*.png' | python -m grad.predict runs/NAME -``: the files of a list.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.predict.options import PredictOptions
from grad.system.command_line import parse_options, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 with --fail-on-anomaly, 2, 130."""

    def work() -> int:
        options = parse_options(
            PredictOptions,
            "predict",
            "Find defects in images, folders, videos and camera pictures.",
            arguments,
        )
        if options.watch is not None:
            from grad.predict.watch import watch

            return watch(options)
        from grad.predict.run import predict_all

        return predict_all(options)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
