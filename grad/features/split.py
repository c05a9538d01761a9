"""Which good images are learned from, and which ones thresholds are made from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from grad.data.samples import Sample, group_of, hold_out
from grad.features.features import Features

Source = Literal["folds", "held out", "validation", "training"]
"""Where the good images of a class that thresholds are made from came from.

``"folds"``: all were trained on, but each was scored by a model or by statistics that did not know
it; ``"training"``: the model knew them.
"""

_FOLDS = 5


@dataclass(frozen=True)
class TrainingSplit:
    """Features of good images by their use.

    Attributes:
        training: to learn from, images and their variants.
        calibration: images to make thresholds from; of a class without images apart, none.
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
        of_class = (s for s in self.training.samples if s.class_name == name)
        return sum(sample.variant is None for sample in of_class)

    def further_images(self, name: str) -> int:
        """How many images of a class serve for thresholds alone."""
        return sum(sample.class_name == name for sample in self.calibration.samples)

    def of_classes(self, names: Sequence[str]) -> TrainingSplit:
        """Those of some classes; nothing is copied."""
        return replace(
            self,
            training=self.training.of_classes(names),
            calibration=self.calibration.of_classes(names),
            sources={name: self.sources[name] for name in names},
        )


def split_training(
    train: Features, validation: Features, share: float, seed: int, groups: str | None = None
) -> TrainingSplit:
    """Decide what each good image is for.

    Args:
        train: training images.
        validation: further good images; of classes without any, folds make the thresholds.
        share: of each class's training images to hold out where there are no further ones; 0, and
            in classes with too few images (:func:`grad.data.samples.held_out_count`): all are
            learned from, and folds of them make the thresholds.
        seed: of the choice.
        groups: which images are left out together, see :func:`fold_images`.
    """
    names = sorted({sample.class_name for sample in train.samples})
    if len(validation):
        sources = fold_sources(train.samples, groups)
        sources |= {s.class_name: "validation" for s in validation.samples if s.class_name in names}
        return TrainingSplit(train, validation, sources)
    rest, held = hold_out(train.samples, share, seed)
    sources = fold_sources(train.samples, groups)
    sources |= dict.fromkeys((train.samples[i].class_name for i in held), "held out")
    return TrainingSplit(train.subset(rest), train.subset(held).as_they_come(), sources)


def fold_sources(samples: Sequence[Sample], groups: str | None = None) -> dict[str, Source]:
    """Of each class, "folds"; "training" where its images are a single one, or a single group."""
    by_class: dict[str, list[Sample]] = {}
    for sample in samples:
        by_class.setdefault(sample.class_name, []).append(sample)
    return {
        name: "folds" if len(fold_images(mine, groups)) > 1 else "training"
        for name, mine in by_class.items()
    }


def fold_images(
    samples: Sequence[Sample], groups: str | None = None, count: int = _FOLDS
) -> list[list[int]]:
    """Parts of the images of a class, which are left out one after the other.

    Args:
        samples: of one class, at least one.
        groups: a regular expression; paths in which it matches the same text (its first group,
            where it has one) are of one group, which is not divided. Each path where it matches
            nothing is a group of its own. None: what :func:`grad.data.samples.group_of` says.
        count: how many parts at most.

    Returns:
        Indices of each part, every index in one of them, all of about the same size; a single one
        where there is a single group.
    """
    members: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        of_sample = group_of(sample) if groups is None else _group(sample.path, groups)
        members.setdefault(of_sample, []).append(index)
    parts: list[list[int]] = [[] for _ in range(min(count, len(members)))]
    for together in sorted(members.values(), key=len, reverse=True):  # stable, so as they come
        min(parts, key=len).extend(together)
    return [sorted(part) for part in parts]


def _group(path: Path, groups: str) -> str:
    found = re.search(groups, path.as_posix())
    if found is None:
        return path.as_posix()
    return found[1] if found.re.groups and found[1] is not None else found[0]
