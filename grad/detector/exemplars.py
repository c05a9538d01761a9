"""The few images of each class that a model keeps, as features, to learn later without forgetting.

A model without statistics learns by further steps of training, in which these stand for all images
that it was trained on (replay). They lie in its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from grad.data.samples import Roi, Sample
from grad.features.features import Features

Exemplars: TypeAlias = Mapping[str, Tensor]
"""Of each class feature maps (n, H, W, C) float16."""

_IMAGES = 16  # of a class at most
_BYTES = 64 * 2**20  # of all classes at most


def choose_exemplars(features: Features) -> Exemplars:
    """Some images of each class, evenly spaced.

    Args:
        features: of good images, none cut into tiles.
    """
    names = sorted({sample.class_name for sample in features.samples})
    most = _most(len(names), features.shape)
    chosen = {}
    for name in names:
        mine = features.of_classes([name])
        chosen[name] = _maps(mine.subset(_spaced(len(mine), most)))
    return chosen


def with_further(exemplars: Exemplars, features: Features, known: int) -> Exemplars:
    """The exemplars of a model that has learned from further images of a class, or of a new one.

    Each image of the class, known or further, is as likely among them, but one further one is.

    Args:
        exemplars: of the model before.
        features: of the further images, none cut into tiles, at least one.
        known: images of the class that the model had learned from.
    """
    name = features.samples[0].class_name
    before = exemplars.get(name)
    most = _most(len({*exemplars, name}), features.shape)
    held = 0 if before is None else len(before)
    count = min(most, held + len(features))
    fresh = max(1, count - held, round(count * len(features) / (known + len(features))))
    fresh = min(fresh, len(features))
    maps = _maps(features.subset(_spaced(len(features), fresh)))
    if before is not None:
        maps = torch.cat([before[_spaced(held, min(held, count - fresh))], maps])
    found = {**exemplars, name: maps}
    return {name: maps[_spaced(len(maps), most)] for name, maps in sorted(found.items())}


def features_of(exemplars: Exemplars, rois: Mapping[str, Roi]) -> Features:
    """They as what a model is trained on, class by class.

    Args:
        exemplars: at least one.
        rois: regions of interest by class, as far as there are any.
    """
    samples = [
        Sample(Path(name, f"exemplar {number}"), name, "train", roi=rois.get(name))
        for name, maps in exemplars.items()
        for number in range(len(maps))
    ]
    return Features.in_memory(samples, torch.cat([*exemplars.values()]))


def describe_exemplars(exemplars: Mapping[str, tuple[int, ...]]) -> str:
    """How many they are and what they take, of their shapes by class."""
    counts = {shape[0] for shape in exemplars.values()}
    numbers = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    size = sum(2 * torch.Size(shape).numel() for shape in exemplars.values())
    return f"features of {numbers} images a class, {size / 2**20:.1f} MiB"


def _most(classes: int, shape: tuple[int, int, int, int]) -> int:
    """How many images of a class fit."""
    of_image = 2 * torch.Size(shape[1:]).numel()
    return max(1, min(_IMAGES, _BYTES // (classes * of_image)))


def _spaced(count: int, wanted: int) -> list[int]:
    """Of so many those wanted, evenly spaced; all where they are fewer."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


def _maps(features: Features) -> Tensor:
    """(n, H, W, C) float16."""
    return features.batch(range(len(features))).permute(0, 2, 3, 1).contiguous()
