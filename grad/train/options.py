"""Every option of training, with its default and its line of help."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by option)
from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from grad.data.samples import (
    FULL_WHITE,
    Augmentation,
    MaskRule,
    WhiteLevel,
    check_white_level,
)
from grad.data.tiling import Tiling, tiling_of
from grad.model.presets import JitterMode, Lookup, Parts, Preset, Refine
from grad.score.rates import RATE_HELP, Rate, check_rate, check_share
from grad.system.command_line import (
    check_lowest,
    class_list,
    flag,
    given_options,
    key,
    option,
    parse_options,
)
from grad.system.errors import GradError, raise_once
from grad.system.files import replacing
from grad.train.resume import allowed_changes, find_options

Log = Literal["csv", "tensorboard", "mlflow"]
"""Where a run is logged to: see :mod:`grad.train.log`."""


@dataclass(frozen=True)
class TrainOptions:
    """The options of ``python -m grad.train``, as given.

    What is None or ``auto`` is decided by :func:`grad.train.plan.make_plan`.

    Raises:
        GradError: if a value is out of range.
    """

    data: Path | None = option(
        None,
        "Folder of images, whose layout is recognised, or a table of them (.csv, .jsonl); none: "
        "the demo set.",
    )
    classes: str | None = option(None, "Classes to take, as NAME,NAME; none: all of them.")
    leave_out: Path | None = option(
        None,
        "List of training images to leave out, such as the oddest.txt of an earlier run, looked "
        "through; none: all train.",
    )
    separate: bool = option(False, "Train one model a class, not one for all.")
    few_shot: int | None = option(None, "Training images to take of each class; none: all.")
    backbone: str | None = option(
        None, "timm model; none: tf_efficientnet_b4, or the built-in one where that can't be had."
    )
    weights: Path | None = option(
        None, "File with the backbone's weights (safetensors or a state dict)."
    )
    preset: Preset | None = option(
        None, "What kind of model; none: grad, on a CPU and for the demo set grad-plus."
    )
    epochs: int | None = option(
        None,
        "How often each image is seen; none: 100, where grad-plus was chosen 8, or more for 400 "
        "steps in all.",
    )
    batch_size: int | None = option(
        None, "Images in a training step; none: 8 to 64, on a CPU to 16, by the number of images."
    )
    balance: Literal["auto", "always", "never"] = option(
        "auto",
        "Draw images so that all classes are seen equally often, however many images each has; "
        "auto: with grad-plus.",
    )
    decay: Literal["auto", "steps", "cosine"] = option(
        "auto",
        "How the learning rates fall: to a tenth at --drops, or along a cosine to nothing; "
        "auto: steps, with grad-plus cosine unless --drops is given.",
    )
    drops: str | None = option(
        None,
        "Epochs after which the learning rates drop to a tenth, as 40,80; "
        "none: after 40 % and 80 % of all.",
    )
    learning_rate: float = option(1e-3, "Learning rate of the networks.")
    grid_learning_rate: float = option(1e-1, "Learning rate of the grids.")
    seed: int = option(0, "Seed of weights, order, jitter and the choice of few shots.")
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Of training; auto: bfloat16 where the hardware has it."
    )
    compile: bool = option(False, "Let torch compile the network, which takes a minute or two.")
    features_on_device: Literal["auto", "always", "never"] = option(
        "auto", "Keep all features on the device; auto: on a GPU if half its free memory is enough."
    )
    sync_batch_norm: bool = option(
        True, "Several processes: batch statistics over all of them, as in one process."
    )
    image_size: int | None = option(
        None,
        "Side of the square that images are resized to, in pixels; none: 224, with grad-plus 320.",
    )
    white_level: WhiteLevel = option(
        "auto",
        "Value of 16-bit images that counts as white, as 4095 of 12 bits; auto: 1023, 4095 or "
        "16383 where the brightest training value uses the highest of so many bits, else 65535.",
    )
    tile: int | None = option(
        None,
        "Learn from and judge tiles of so many pixels, not whole images, for small defects in "
        "large images; none: whole images.",
    )
    overlap: int | None = option(
        None, "Pixels that neighbouring tiles share; none: a quarter of --tile."
    )
    roi: Path | None = option(
        None,
        "Picture that is white where images are looked at, for classes without a roi.png in their "
        "folder; none: the whole image.",
    )
    augment: str | None = option(
        None,
        "Ways in which good images stay good, to learn from such variants too, as light,shift: "
        "light (brightness, contrast, gamma), shift, rotate90 (quarter turns), flip; none: images "
        "as they come.",
    )
    min_area: int = option(
        1, "Pixels, of an image as it is, of the smallest region that makes it anomalous."
    )
    out: Path | None = option(
        None, "Folder for the results, new or empty; none: a free name in runs/."
    )
    resume: Path | None = option(
        None, "Folder of a run that stopped: go on with it, with its options; --epochs may be more."
    )
    cache: Path | None = option(
        None, "Folder for features, kept for later runs; none: grad/features in the user's cache."
    )
    workers: int | None = option(None, "Threads that decode images; none: one a core, at most 8.")
    calibration_share: float = option(
        0.0,
        "Share of each class's good training images kept out of training, for thresholds; 0: all "
        "train, and thresholds come from folds of them.",
    )
    validation: Path | None = option(
        None,
        "Folder of further good images for thresholds, DIR/CLASS; none: what --data has for "
        "validation, else the share above.",
    )
    group: str | None = option(
        None,
        "Regular expression on image paths: images for which it matches the same text, such as a "
        "roll or a day, are of one fold; none: as --data has groups, else each may be of any.",
    )
    false_alarm_rate: Rate = option("auto", f"{RATE_HELP}.")
    threshold: Literal["good", "f1"] = option(
        "good", "Thresholds from good images, or where F1 of the test images is largest."
    )
    mask_rule: MaskRule = option(
        "any",
        "Pixels of a mask that mark a defect: any above zero, or those above half of the mask's "
        "brightest, for masks in JPEG or with soft edges.",
    )
    update: bool = option(
        True,
        "Keep what `grad update` needs in the model: of presets without statistics the features "
        "of up to 16 images a class, 64 MiB at most.",
    )
    exact_metrics: bool = option(
        False, "Keep the score of every pixel, 4 bytes each, however many there are."
    )
    log: Log | None = option(
        None,
        "Losses, rates, metrics and pictures for tools that compare runs: csv, tensorboard or "
        "mlflow; none: the report alone.",
    )
    strict: bool = option(False, "Stop at unreadable images and odd files, not leave them out.")
    parts: Parts = option("local+global", "Which perspectives the model has.")
    refine: Refine = option("combined", "How prediction and features are mixed.")
    jitter: JitterMode = option(
        "pixel", "Noise on local coordinates: a coin for each pixel, for the batch, or off."
    )
    local: Lookup = option(
        "grid", "What answers each pixel: the grid, or vq or attention over --local-entries."
    )
    local_dims: int = option(2, "Axes of the local grid, 1 to 4.")
    local_resolution: int = option(8, "Cells along each axis of the local grid.")
    local_entries: int = option(64, "Entries of the local vq or attention.")
    global_: Lookup = option(
        "grid", "What answers each image: the grid, or vq or attention over --global-entries."
    )
    global_dims: int = option(2, "Axes of the global grid, 1 to 4.")
    global_resolution: int = option(4, "Cells along each axis of the global grid.")
    global_entries: int = option(16, "Entries of the global vq or attention.")

    def __post_init__(self) -> None:
        check_lowest(self, few_shot=1, epochs=1, batch_size=1, image_size=16, workers=1, seed=0)
        check_lowest(self, min_area=1)
        check_lowest(self, local_resolution=1, global_resolution=1)
        check_lowest(self, local_entries=1, global_entries=1)
        if self.seed >= 2**63:
            raise GradError(f"--seed {self.seed} is too large: give less than 2^63.")
        for name in ("local_dims", "global_dims"):
            if getattr(self, name) not in (1, 2, 3, 4):
                raise GradError(f"{flag(name)} must be 1, 2, 3 or 4, not {getattr(self, name)}.")
        for name in ("learning_rate", "grid_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise GradError(f"{flag(name)} must be above 0, not {getattr(self, name)}.")
        check_share(self.calibration_share)
        check_rate(self.false_alarm_rate)
        check_white_level(self.white_level)
        self.class_names()
        self.tiling()
        if self.group is not None:
            check_pattern(self.group)
        self.augmentations()
        self.drop_epochs()
        if self.drops is not None and self.decay == "cosine":
            raise GradError("--drops is for --decay steps: leave one of them out.")

    def class_names(self) -> tuple[str, ...] | None:
        """``--classes`` as names."""
        return class_list(self.classes)

    def augmentations(self) -> tuple[Augmentation, ...]:
        """``--augment`` as names, each once."""
        if self.augment is None:
            return ()
        given = [name.strip() for name in self.augment.split(",") if name.strip()]
        known: tuple[Augmentation, ...] = typing.get_args(Augmentation)
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            what = f"names {', '.join(unknown)}" if unknown else "names nothing"
            raise GradError(f"--augment {what}: choose among {', '.join(known)}.")
        return tuple(name for name in known if name in given)

    def drop_epochs(self) -> tuple[int, ...] | None:
        """``--drops`` as numbers."""
        if self.drops is None:
            return None
        try:
            return tuple(int(part) for part in str(self.drops).split(",") if part.strip())
        except ValueError:
            raise GradError(f"--drops {self.drops!r} is no list of epochs: give 40,80.") from None

    def tiling(self) -> Tiling | None:
        """``--tile`` and ``--overlap``; None for whole images."""
        return tiling_of(self.tile, self.overlap)


def check_pattern(group: str) -> None:
    """Raise a GradError for a regular expression that is none."""
    try:
        re.compile(group)
    except re.error as error:
        raise GradError(
            f"--group {group!r} is no regular expression ({error}): give one such as 'roll-[0-9]+'."
        ) from None


def parse(arguments: Sequence[str] | None = None) -> TrainOptions:
    """Options from the command line and ``--config FILE``; what comes later wins.

    With ``--resume RUN`` they are those of that run.

    Raises:
        GradError: an unknown option, a wrong value, a file that can't be read; an option that
            contradicts those of the run.
    """
    return raise_once(lambda: _parse_both(arguments))


def _parse_both(arguments: Sequence[str] | None) -> TrainOptions:
    options = _parse(arguments)
    if options.resume is None:
        return options
    stored = _parse(["--config", str(find_options(options.resume))])
    given = given_options(TrainOptions, arguments, config_file=True)
    if stored.white_level == "auto":  # a run from before it was known
        stored = dataclasses.replace(stored, white_level=FULL_WHITE)
    changed = allowed_changes(options.resume, dataclasses.asdict(stored), given)
    return dataclasses.replace(stored, out=options.resume, **changed)


def _parse(arguments: Sequence[str] | None) -> TrainOptions:
    return parse_options(
        TrainOptions,
        "train",
        "Train on good images, evaluate on test images, write a model and a report.",
        arguments,
        config_file=True,
    )


def write_options(path: Path, options: TrainOptions) -> None:
    """Write options as YAML that ``--config`` reads back, but for the folder of the run."""
    values = {
        key(name): str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(options).items()
        if name not in ("out", "resume")
    }
    with replacing(path) as temporary:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
