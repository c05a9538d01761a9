"""The options of ``grad export``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grad.export.formats.base import FORMATS
from grad.score.rates import RATE_HELP, Rate, check_rate
from grad.system.command_line import argument, flag, option
from grad.system.errors import GradError


@dataclass(frozen=True)
class ExportOptions:
    """The options of ``python -m grad.export``.

    Raises:
        GradError: options that contradict each other, or a value out of range.
    """

    model: Path = argument("Folder of a run, or its model.safetensors.")
    format: str = option(
        "onnx", "; ".join(f"{name}: {row.purpose}" for name, row in FORMATS.items()) + "."
    )
    out: Path | None = option(
        None, "File to write, .onnx, .xml or .pt2; none: beside the model, under its name."
    )
    class_name: str | None = option(
        None, "Class whose threshold the file has; none: of all classes and of none stated."
    )
    false_alarm_rate: Rate | None = option(None, f"{RATE_HELP}; none: as the model has it.")
    resize: Literal["graph", "none"] = option(
        "graph",
        "graph: the file takes decoded images of any size; none: it takes them resized, as floats.",
    )
    batch: Literal["dynamic"] | int = option("dynamic", "Images in a batch; dynamic: any number.")
    opset: int | None = option(None, "Version of ONNX's operators; none: 18.")
    int8: Path | None = option(
        None,
        "Folder of good images, as for training, to set 8-bit arithmetic up with, which is up to "
        "twice as fast; none: float32.",
    )
    images: str | None = option(
        None, "Image, folder or pattern of images to verify with; none: those of the demo set."
    )

    def __post_init__(self) -> None:
        if self.false_alarm_rate is not None:
            check_rate(self.false_alarm_rate)
        if self.batch != "dynamic" and self.batch < 1:
            raise GradError(f"--batch {self.batch} is too small: give 1 or more, or dynamic.")
        if self.format not in FORMATS:
            raise GradError(f"--format {self.format} is none of {', '.join(FORMATS)}.")
        for name, row in FORMATS.items():
            for other in row.options:
                if getattr(self, other) is not None and other not in FORMATS[self.format].options:
                    raise GradError(
                        f"{flag(other)} is a matter of --format {name}, not of {self.format}."
                    )

    def format_options(self) -> dict[str, Any]:
        """The options of the chosen format alone that were given, but ``int8``."""
        given = {name: getattr(self, name) for name in FORMATS[self.format].options}
        return {n: value for n, value in given.items() if value is not None and n != "int8"}
