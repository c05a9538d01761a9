"""Every option of training, with its default and its line of help."""

# ruff: noqa: RUF009  (an option's default is a dataclass field, made by _option)
from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser, Namespace

from grad.backbone import BUILT_IN_BACKBONE
from grad.errors import GradError
from grad.files import replacing
from grad.model import JitterMode, Parts, Preset, Refine

# Without --data: what suits the demo set and two CPU cores. Options that were given win.
DEMO_DEFAULTS: dict[str, Any] = {
    "backbone": BUILT_IN_BACKBONE,
    "preset": "grad-tiny",
    "epochs": 40,
    "batch_size": 8,
}
DEFAULTS: dict[str, Any] = {"preset": "grad", "epochs": 100, "batch_size": 64}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """The options of ``python -m grad.train``, as given; :meth:`resolved` fills in what is None.

    Raises:
        GradError: if a value is out of range.
    """

    data: Path | None = _option(
        None, "Folder of images: MVTec AD or VisA layout, or good images only; none: the demo set."
    )
    classes: str | None = _option(None, "Classes to take, as NAME,NAME; none: all of them.")
    separate: bool = _option(False, "Train one model a class, not one for all.")
    few_shot: int | None = _option(None, "Training images to take of each class; none: all.")
    backbone: str | None = _option(
        None, "timm model; none: tf_efficientnet_b4, or the built-in one where that can't be had."
    )
    weights: Path | None = _option(
        None, "File with the backbone's weights (safetensors or a state dict)."
    )
    preset: Preset | None = _option(
        None, "Size of the fusion network; none: grad, for the demo set grad-tiny."
    )
    epochs: int | None = _option(None, "How often each image is seen; none: 100, demo 40.")
    batch_size: int | None = _option(None, "Images in a training step; none: 64, demo 8.")
    drops: str | None = _option(
        None,
        "Epochs after which the learning rates drop to a tenth, as 40,80; "
        "none: after 40 % and 80 % of all.",
    )
    learning_rate: float = _option(1e-3, "Learning rate of the networks.")
    grid_learning_rate: float = _option(1e-1, "Learning rate of the grids.")
    seed: int = _option(0, "Seed of weights, order, jitter and the choice of few shots.")
    device: str = _option("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = _option(
        "auto", "Of training; auto: bfloat16 where the hardware has it."
    )
    image_size: int = _option(224, "Side of the square that images are resized to, in pixels.")
    out: Path | None = _option(
        None, "Folder for the results, new or empty; none: a free name in runs/."
    )
    cache: Path | None = _option(
        None, "Folder for features, kept for later runs; none: grad/features in the user's cache."
    )
    workers: int | None = _option(None, "Threads that decode images; none: one a core, at most 8.")
    strict: bool = _option(False, "Stop at unreadable images and odd files, not leave them out.")
    parts: Parts = _option("local+global", "Which grids the model has.")
    refine: Refine = _option("combined", "How prediction and features are mixed.")
    jitter: JitterMode = _option(
        "pixel", "Noise on local coordinates: a coin for each pixel, for the batch, or off."
    )
    local_dims: int = _option(2, "Axes of the local grid, 1 to 4.")
    local_resolution: int = _option(8, "Cells along each axis of the local grid.")
    global_dims: int = _option(2, "Axes of the global grid, 1 to 4.")
    global_resolution: int = _option(4, "Cells along each axis of the global grid.")

    def __post_init__(self) -> None:
        lowest = {
            "few_shot": 1,
            "epochs": 1,
            "batch_size": 1,
            "image_size": 16,
            "workers": 1,
            "seed": 0,
            "local_resolution": 1,
            "global_resolution": 1,
        }
        for name, limit in lowest.items():
            value = getattr(self, name)
            if value is not None and value < limit:
                raise GradError(f"{_flag(name)} {value} is too small: give {limit} or more.")
        if self.seed >= 2**63:
            raise GradError(f"--seed {self.seed} is too large: give less than 2^63.")
        for name in ("local_dims", "global_dims"):
            if getattr(self, name) not in (1, 2, 3, 4):
                raise GradError(f"{_flag(name)} must be 1, 2, 3 or 4, not {getattr(self, name)}.")
        for name in ("learning_rate", "grid_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise GradError(f"{_flag(name)} must be above 0, not {getattr(self, name)}.")
        self.class_names()
        self.drop_epochs()

    def class_names(self) -> tuple[str, ...] | None:
        """``--classes`` as names."""
        if self.classes is None:
            return None
        names = tuple(name.strip() for name in self.classes.split(",") if name.strip())
        if not names:
            raise GradError("--classes names no class: give NAME,NAME.")
        return names

    def drop_epochs(self) -> tuple[int, ...] | None:
        """``--drops`` as numbers."""
        if self.drops is None:
            return None
        try:
            return tuple(int(part) for part in str(self.drops).split(",") if part.strip())
        except ValueError:
            raise GradError(f"--drops {self.drops!r} is no list of epochs: give 40,80.") from None

    def resolved(self) -> TrainConfig:
        """The same with the defaults that depend on whether data were given."""
        defaults = DEFAULTS if self.data is not None else DEMO_DEFAULTS
        if self.data is None and self.weights is not None:
            defaults = {**defaults, "backbone": None}  # weights alone mean the default backbone
        missing = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **missing)

    def torch_device(self) -> torch.device:
        """``--device`` as a device that is there.

        Raises:
            GradError: it is not there, or no device's name.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise GradError(
                f"--device {self.device} can't be used ({reason}): try --device cpu."
            ) from error
        return device


def parse(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Options from the command line and ``--config FILE``; what comes later wins.

    Raises:
        GradError: an unknown option, a wrong value, a file that can't be read.
    """
    parser = _parser()
    try:
        namespace = parser.parse_args(arguments)
    except (ArgumentError, TypeError, ValueError, OSError) as error:
        raise GradError(_one_sentence(str(error))) from None
    return TrainConfig(**_values(namespace))


def write_config(path: Path, config: TrainConfig) -> None:
    """Write options as YAML that ``--config`` reads back; not ``out``, as each run has its own."""
    values = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(config).items()
        if key != "out"
    }
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


_PLAIN = (  # the parser's words, and ours
    (r'^Parser key "(\w+)":?', r"\1:"),
    (r"^argument (--\S+?):", r"\1:"),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"Does not validate .*? Subtypes: \[(.*), NoneType\] .* value: ", r"expected \1, got "),
    (r"Expected an? (.*)\. Got value:", r"expected \1, got"),
    (r"typing\.Literal(\[.*?\])", r"one of \1"),
)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m grad.train",
        description="Train on good images, evaluate on test images, write a model and a report.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with options, named as below.")
    types = typing.get_type_hints(TrainConfig)
    for option in dataclasses.fields(TrainConfig):
        kind: dict[str, Any] = {"type": types[option.name]}
        if types[option.name] is bool:
            kind = {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}
        parser.add_argument(
            _flag(option.name), default=option.default, help=option.metadata["help"], **kind
        )
    return parser


def _values(namespace: Namespace) -> dict[str, Any]:
    return {f.name: namespace[f.name] for f in dataclasses.fields(TrainConfig)}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_sentence(message: str) -> str:
    """The parser's message on one line, in the words of this package."""
    text = " ".join(message.split())
    for pattern, plain in _PLAIN:
        text = re.sub(pattern, plain, text)
    key = re.match(r"[a-z_]+(?=: (?:expected|File) )", text)
    if key:
        text = _flag(key[0]) + text[key.end() :]
    return f"{text.rstrip('.')}; --help lists all options."
