"""Which good images are learned from, and which ones thresholds are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from grad.data.samples import hold_out
from grad.features.features import Features

Source = Literal["held out", "validation", "training"]
"""Where the good images of a class that thresholds are made from came from."""


@dataclass(frozen=True)
class TrainingSplit:
    """Features of good images by their use.

    Attributes:
        training: to learn from.
        calibration: to make thresholds from; of a class with few images those that are learned from
            as well.
        sources: where the images of each class for thresholds came from.
    """

    training: Features
    calibration: Features
    sources: dict[str, Source]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted(self.sources))

    @property
    def skipped(self) -> tuple[Path, ...]:
        """Images that could not be read."""
        return tuple(dict.fromkeys(self.training.skipped + self.calibration.skipped))

    def training_images(self, name: str) -> int:
        """How many images of a class are learned from."""
        return sum(sample.class_name == name for sample in self.training.samples)

    def further_images(self, name: str) -> int:
        """How many images of a class serve for thresholds alone."""
        if self.sources[name] == "training":
            return 0
        return sum(sample.class_name == name for sample in self.calibration.samples)

    def of_classes(self, names: Sequence[str]) -> TrainingSplit:
        """Those of some classes; nothing is copied."""
        return replace(
            self,
            training=self.training.of_classes(names),
            calibration=self.calibration.of_classes(names),
            sources={name: self.sources[name] for name in names},
        )


def split_training(train: Features, validation: Features, share: float, seed: int) -> TrainingSplit:
    """Decide what each good image is for.

    Args:
        train: training images.
        validation: further good images of every class, or none at all.
        share: of each class's training images to hold out where there are no further ones; classes
            with too few images (:func:`grad.data.samples.held_out_count`) use the training images.
        seed: of the choice.
    """
    names = sorted({sample.class_name for sample in train.samples})
    if len(validation):
        return TrainingSplit(train, validation, dict.fromkeys(names, "validation"))
    rest, held = hold_out(train.samples, share, seed)
    sources: dict[str, Source] = dict.fromkeys(names, "training")
    sources |= dict.fromkeys((train.samples[i].class_name for i in held), "held out")
    again = [i for i in rest if sources[train.samples[i].class_name] == "training"]
    return TrainingSplit(train.subset(rest), train.subset(sorted(held + again)), sources)
