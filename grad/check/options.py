"""The options of ``grad check``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grad.data.samples import WhiteLevel, check_white_level
from grad.score.rates import RATE_HELP, Rate, check_rate, check_share
from grad.system.command_line import argument, check_lowest, class_list, option


@dataclass(frozen=True)
class CheckOptions:
    """The options of ``python -m grad.check``: those of training that matter for the images.

    Raises:
        GradError: if a value is out of range.
    """

    data: Path = argument("Folder of images, or a table of them (.csv, .jsonl).")
    classes: str | None = option(None, "Classes to take, as NAME,NAME; none: all of them.")
    image_size: int = option(224, "Side of the square that images are resized to, in pixels.")
    white_level: WhiteLevel = option(
        "auto", "Value of 16-bit images that counts as white; auto: what training takes."
    )
    roi: Path | None = option(
        None, "Picture that is white where images are looked at; none: CLASS/roi.png, or all."
    )
    calibration_share: float = option(
        0.0,
        "Share of each class's good training images kept out of training, for thresholds; 0: all "
        "train, and thresholds are made from them in folds.",
    )
    validation: Path | None = option(
        None,
        "Folder of further good images for thresholds, DIR/CLASS; none: what --data has for "
        "validation, else the share above.",
    )
    false_alarm_rate: Rate = option("auto", f"{RATE_HELP}.")
    workers: int | None = option(None, "Threads that decode images; none: one a core, at most 8.")

    def __post_init__(self) -> None:
        check_lowest(self, image_size=16, workers=1)
        check_white_level(self.white_level)
        check_share(self.calibration_share)
        check_rate(self.false_alarm_rate)
        self.class_names()

    def class_names(self) -> tuple[str, ...] | None:
        """``--classes`` as names."""
        return class_list(self.classes)
