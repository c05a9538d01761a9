"""The options of ``grad export``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grad.score.rates import check_rate
from grad.system.command_line import argument, option
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
