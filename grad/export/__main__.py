"""Write a model as a file for another runtime, verified on real images.

- ``python -m grad.export runs/NAME --format onnx``: ``runs/NAME/model.onnx``, for ONNX Runtime and
  TensorRT.
- ``python -m grad.export runs/NAME --format openvino``: ``model.xml`` and ``model.bin``.
- ``python -m grad.export runs/NAME --format torch``: ``model.pt2``, for ``torch.export.load``.
- ``python -m grad.export runs/NAME --format onnx --class-name bottle --images DIR``: verdicts on
  one class, verified on its images.
"""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from grad.score.rates import check_rate
from grad.system.command_line import argument, exit_code, option, parse_options
from grad.system.errors import GradError


@dataclass(frozen=True)
class ExportOptions:
    """The options of ``python -m grad.export``.

    Raises:
        GradError: options that contradict each other, or a value out of range.
    """

    model: Path = argument("Folder of a run, or its model.safetensors.")
    format: Literal["onnx", "openvino", "torch"] = option(
        "onnx", "onnx: for ONNX Runtime and TensorRT; openvino; torch: with the compiled operators."
    )
    out: Path | None = option(
        None, "File to write, .onnx, .xml or .pt2; none: beside the model, under its name."
    )
    class_name: str | None = option(
        None, "Class whose threshold the file has; none: verdicts for all classes and unknown ones."
    )
    false_alarm_rate: float | None = option(
        None, "Thresholds for this share of good images called anomalous; none: as they are."
    )
    resize: Literal["graph", "none"] = option(
        "graph",
        "graph: the file takes decoded images of any size; none: it takes them resized, as floats.",
    )
    batch: Literal["dynamic"] | int = option("dynamic", "Images in a batch; dynamic: any number.")
    opset: int | None = option(None, "Version of ONNX's operators; none: 18.")
    images: str | None = option(
        None, "Image, folder or pattern of images to verify with; none: those of the demo set."
    )

    def __post_init__(self) -> None:
        if self.false_alarm_rate is not None:
            check_rate(self.false_alarm_rate)
        if self.batch != "dynamic" and self.batch < 1:
            raise GradError(f"--batch {self.batch} is too small: give 1 or more, or dynamic.")
        if self.opset is not None and self.format != "onnx":
            raise GradError(f"--opset is a matter of --format onnx, not of {self.format}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""

    def work() -> None:
        description = "Write a model as a file for another runtime, verified on real images."
        options = parse_options(ExportOptions, "export", description, arguments)
        from grad.export.run import export_model

        export_model(options, Console())

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
