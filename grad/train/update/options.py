"""The options of ``grad update``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grad.system.command_line import argument, check_lowest, option
from grad.system.errors import GradError
from grad.train.options import check_pattern


@dataclass(frozen=True)
class UpdateOptions:
    """The options of ``grad update``.

    Raises:
        GradError: options that contradict each other, or a value out of range.
    """

    model: Path = argument("Folder of a run, or its model.safetensors.")
    good: list[str] | None = option(
        None, "Good images to learn from, or folders or patterns of such.", count="+"
    )
    class_name: str | None = option(
        None,
        "Class of the images, which may be new, or of the region; none: the model's only one, and "
        "of a region all.",
    )
    defect: list[str] | None = option(
        None, "Defects to judge by the model as it is then; they train nothing.", count="+"
    )
    roi: Path | None = option(
        None,
        "Picture that is white where images are looked at from now on; white everywhere: at all.",
    )
    out: Path | None = option(
        None, "Folder for the new model, new or empty; none: in place of the old one."
    )
    undo: bool = option(False, "Go back to the model before its last update.")
    group: str | None = option(
        None,
        "Pattern (regular expression) of paths; images where it matches the same text, as "
        "of a roll or a day, are left out together.",
    )
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one.")
    cache: Path | None = option(
        None, "Folder for features, kept for later runs; none: grad/features in the user's cache."
    )
    workers: int | None = option(None, "Threads that decode images; none: one a core, at most 8.")
    strict: bool = option(False, "Stop at images that can't be read, not leave them out.")

    def __post_init__(self) -> None:
        given = self.good is not None or self.roi is not None
        if self.undo == given:
            raise GradError(
                "--undo stands alone: leave out --good and --roi."
                if self.undo
                else "Nothing to learn from: give good images with --good PATH, a region of "
                "interest with --roi FILE, or --undo."
            )
        if self.good is None and self.defect is not None:
            raise GradError("--defect judges what was learned: give good images with --good PATH.")
        if self.undo and self.out is not None:
            raise GradError("--undo works on the model itself: leave out --out.")
        check_lowest(self, workers=1)
        if self.group is not None:
            check_pattern(self.group)
