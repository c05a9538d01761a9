"""What a run of training does: its options with nothing left open."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grad.data.samples import Dataset
from grad.detector.training.schedule import Schedule
from grad.features.compute import default_cache
from grad.features.weights import BUILT_IN_BACKBONE
from grad.model.presets import PRESETS, Preset, PresetRow
from grad.model.settings import ModelSettings
from grad.system import distributed
from grad.system.devices import Precision, choose_precision, default_workers
from grad.train.options import TrainOptions

# What suits two CPU cores and, as it is small, the demo set; where there is a GPU, the paper's.
_CPU_PRESET: Preset = "grad-plus"
_CPU_STEPS, _CPU_EPOCHS, _CPU_BATCH = 400, 8, 16  # at least, at least, at most
_PAPER_PRESET: Preset = "grad"
_PAPER_EPOCHS, _PAPER_BATCH = 100, 64
_SMALLEST_BATCH, _STEPS_OF_AN_EPOCH = 8, 32  # a smaller set has smaller batches


@dataclass(frozen=True)
class TrainPlan:
    """What a run does.

    Attributes:
        options: as they were given; what they leave open is in the fields below.
        backbone: a model of timm; None: the default one, or the built-in one in its place.
        preset: of the model.
        epochs: how often each image is seen.
        batch_size: images in a step.
        image_size: side of the square that images are resized to, in pixels.
        device: where to compute.
        precision: of training.
        workers: threads that decode images.
        cache: folder of features.
        choice: which of preset and epochs were chosen here, and why, in words; "" where both were
            given.
    """

    options: TrainOptions
    backbone: str | None
    preset: Preset
    epochs: int
    batch_size: int
    image_size: int
    device: torch.device
    precision: Precision
    workers: int
    cache: Path
    choice: str = ""

    @property
    def row(self) -> PresetRow:
        """What the preset stands for."""
        return PRESETS[self.preset]

    def schedule(self) -> Schedule:
        """How a model is trained."""
        options = self.options
        drops = options.drop_epochs()
        by_preset = self.row.decay if drops is None else "steps"
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            decay=by_preset if options.decay == "auto" else options.decay,
            drops=drops,
            learning_rate=options.learning_rate,
            grid_learning_rate=options.grid_learning_rate,
            balance=self.row.balance if options.balance == "auto" else options.balance == "always",
        )

    def model_options(self) -> dict[str, Any]:
        """The options that are fields of :class:`grad.model.settings.ModelSettings`."""
        given = dataclasses.asdict(self.options) | {"preset": self.preset}
        fields = dataclasses.fields(ModelSettings)
        return {field.name: given[field.name] for field in fields if field.name in given}

    def run_name(self, dataset: Dataset) -> str:
        """What a run is called after: the data and the preset."""
        return f"{self.data_name(dataset)}-{self.preset}"

    def data_name(self, dataset: Dataset) -> str:
        """What the data are called."""
        return "demo" if self.options.data is None else dataset.root.resolve().name

    def models(self, classes: Sequence[str], out: Path) -> list[tuple[Path, tuple[str, ...]]]:
        """The folder and the classes of each model to train."""
        if self.options.separate:
            return [(out / name, (name,)) for name in classes]
        return [(out, tuple(classes))]

    def as_options(self, backbone: str, out: Path) -> TrainOptions:
        """Every option as it is used, so that config.yaml says what was done.

        Args:
            backbone: the name of the one that was loaded.
            out: the folder of results.
        """
        options = self.options
        several = distributed.size() > 1
        return dataclasses.replace(
            options,
            data=_absolute(options.data),
            validation=_absolute(options.validation),
            weights=_absolute(options.weights),
            leave_out=_absolute(options.leave_out),
            backbone=backbone,
            preset=self.preset,
            epochs=self.epochs,
            batch_size=self.batch_size,
            image_size=self.image_size,
            device=self.device.type if several else str(self.device),
            precision=self.precision,
            workers=self.workers,
            out=out,
        )


def make_plan(options: TrainOptions, device: torch.device, images: int | None = None) -> TrainPlan:
    """Decide what options leave open; what was given stays.

    A CPU, and the demo set anywhere, get a preset that learns in few epochs, and as many of these
    as give enough steps, so that small sets have more. A GPU gets the paper's preset and epochs;
    a preset that was given by name gets the latter.

    Args:
        options: as given.
        device: where to compute.
        images: good images to learn from; None: more than decide anything.
    """
    quick = device.type == "cpu" or options.data is None
    preset: Preset = options.preset or (_CPU_PRESET if quick else _PAPER_PRESET)
    batch_size = options.batch_size or _batch_size(images, _CPU_BATCH if quick else _PAPER_BATCH)
    open_epochs = _PAPER_EPOCHS
    if quick and options.preset is None:
        open_epochs = _quick_epochs(images, batch_size)
    # Weights alone mean the default backbone.
    built_in = options.data is None and options.weights is None
    return TrainPlan(
        options=options,
        backbone=options.backbone or (BUILT_IN_BACKBONE if built_in else None),
        preset=preset,
        epochs=options.epochs or open_epochs,
        batch_size=batch_size,
        image_size=options.image_size or PRESETS[preset].image_size,
        device=device,
        precision=choose_precision(device) if options.precision == "auto" else options.precision,
        workers=options.workers or default_workers(),
        cache=options.cache or default_cache(),
        choice=_choice(options, preset, device),
    )


def _batch_size(images: int | None, most: int) -> int:
    """A power of two that gives an epoch enough steps, as far as the smallest batch allows."""
    size = _SMALLEST_BATCH
    while 2 * size <= most and (images is None or 2 * size * _STEPS_OF_AN_EPOCH <= images):
        size *= 2
    return size


def _quick_epochs(images: int | None, batch_size: int) -> int:
    if images is None:
        return _CPU_EPOCHS
    needed = math.ceil(_CPU_STEPS / max(1, math.ceil(images / batch_size)))
    return min(max(needed, _CPU_EPOCHS), _PAPER_EPOCHS)


def _choice(options: TrainOptions, preset: Preset, device: torch.device) -> str:
    if options.preset is not None:
        return "" if options.epochs else "the paper's epochs"
    if preset == _PAPER_PRESET:
        return "the paper's preset, as there is a GPU"
    why = "as this is a CPU" if device.type == "cpu" else "for the demo set"
    return f"a preset that learns in few epochs, {why}"


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()
