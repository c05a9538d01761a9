"""The options of ``grad predict``."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grad.score.rates import RATE_HELP, Rate
from grad.system.command_line import argument, check_lowest, flag, option
from grad.system.errors import GradError
from grad.system.webhook import SECRET_VARIABLE, check_webhook


@dataclass(frozen=True)
class PredictOptions:
    """The options of ``python -m grad.predict``.

    Raises:
        GradError: options that contradict each other, or a value out of range.
    """

    model: Path = argument("Folder of a run, or its model.safetensors.")
    paths: list[str] = argument(
        "Images, folders, glob patterns (quoted), videos, camera:0, addresses of network cameras; "
        "-: a path a line from standard input.",
        count="*",
    )
    out: Path | None = option(
        None,
        "Folder for predictions.csv, predictions.jsonl and pictures, new or empty; none: a line "
        "for each image on standard output. With --watch for a result file of each image; none: "
        "beside the image.",
    )
    watch: Path | None = option(
        None, "Folder to judge images in as they come, each once, until Ctrl-C or SIGTERM."
    )
    move_to: Path | None = option(
        None,
        "Folder to move images of --watch to once judged: good/, anomalous/, unreadable/; none: "
        "they stay.",
    )
    webhook: str | None = option(
        None,
        "Address (http or https) that each answer is posted to as JSON, signed with the secret in "
        f"the environment variable {SECRET_VARIABLE}, if any.",
    )
    overlays: bool = option(False, "Write each image under its heat map, in OUT/overlays.")
    maps: Literal["npy", "png16"] | None = option(
        None,
        "Write raw anomaly maps in OUT/maps: as float32 arrays, or as 16-bit PNG in which 65535 "
        "is the map's maximum; none: don't.",
    )
    masks: bool = option(False, "Write masks of what is marked, in the image's size, in OUT/masks.")
    spreadsheet: bool = option(
        False,
        "Write predictions.csv for spreadsheets with a decimal comma, as Excel in most of Europe: "
        "; between cells, UTF-8 with a mark.",
    )
    class_name: str | None = option(
        None, "Class of all images, for its threshold; none: that of a class not stated."
    )
    false_alarm_rate: Rate | None = option(None, f"{RATE_HELP}; none: as the model has it.")
    threshold: float | None = option(
        None, "Image score above which an image is anomalous; none: as the model has it."
    )
    fail_on_anomaly: bool = option(
        False, "Exit with code 1 if any image is anomalous, 2 if one can't be judged."
    )
    tile: int | None = option(
        None, "Cut images into tiles of so many pixels; none: as in training; 0: whole images."
    )
    overlap: int | None = option(
        None, "Pixels that neighbouring tiles share; none: a quarter of --tile."
    )
    limit: int | None = option(None, "Stop after so many images; none: at the end.")
    batch_size: int | None = option(
        None, "Images that the network takes at once; none: what suits the device, 1 for cameras."
    )
    workers: int | None = option(None, "Threads that decode images; none: one a core, at most 8.")
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Of the networks; auto: float32, as thresholds are made; bfloat16 is quicker."
    )
    strict: bool = option(False, "Stop at images that can't be read, not leave them out.")

    def __post_init__(self) -> None:
        if bool(self.paths) == (self.watch is not None):
            raise GradError(
                "--watch stands in the place of other paths: give one of them."
                if self.paths
                else "Nothing to judge: give paths of images, or a folder with --watch."
            )
        if self.watch is None and self.move_to is not None:
            raise GradError("--move-to needs --watch DIR, whose images it moves.")
        if self.watch is not None and self.spreadsheet:
            raise GradError("--spreadsheet is for a table, which --watch does not write.")
        if self.webhook is not None:
            check_webhook(self.webhook)
        check_lowest(self, limit=1, batch_size=1, workers=1)
        if self.out is None:
            for name in ("overlays", "maps", "masks", "spreadsheet"):
                if getattr(self, name):
                    raise GradError(f"{flag(name)} needs --out DIR, where they are written.")
        if self.threshold is not None and self.false_alarm_rate is not None:
            raise GradError(
                "--false-alarm-rate and --threshold are two ways to choose a threshold: give one "
                "of them."
            )
