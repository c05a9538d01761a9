"""Write a model as a file for another runtime, verified on real images.

- ``python -m grad.export runs/NAME --format onnx``: ``runs/NAME/model.onnx``, for ONNX Runtime and
  TensorRT.
- ``python -m grad.export runs/NAME --format openvino``: ``model.xml`` and ``model.bin``.
- ``python -m grad.export runs/NAME --format torch``: ``model.pt2``, for ``torch.export.load``.
- ``python -m grad.export runs/NAME --format onnx --class-name bottle --images DIR``: verdicts on
  one class, verified on its images.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grad.export.options import ExportOptions
from grad.system.command_line import parse_options, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        options = parse_options(
            ExportOptions,
            "export",
            "Write a model as a file for another runtime, verified on real images.",
            arguments,
        )
        from rich.console import Console

        from grad.export.run import export_model

        export_model(options, Console())

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
