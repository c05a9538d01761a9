"""Good images for ``--int8``: they set the 8 bits up, and tell what these change of the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grad.data.layouts import find_dataset
from grad.data.sources import items_of
from grad.export.formats.base import Runner
from grad.export.graph import Column, Resize
from grad.export.verify import Batch, batches
from grad.system.errors import GradError

_IMAGES = 16  # of a class, spread evenly

Good = Mapping[str, Sequence[Batch]]
"""Batches of images by class."""


def read_good_images(folder: Path, classes: Sequence[str], length: int | None) -> Good:
    """Good images of each class.

    Args:
        folder: as for training; images of other classes are left out.
        classes: that are needed.
        length: images in each batch; None: any number.

    Raises:
        GradError: a class has none; one can't be read, or has more than 8 bits a channel.
    """
    train = find_dataset(folder, training=False).train
    found = {}
    for name in classes:
        paths = [sample.path for sample in train if sample.class_name == name]
        if not paths:
            raise GradError(
                f"--int8 {folder} holds no good images of class {name}: give a folder of images as "
                "for training."
            )
        places = np.unique(np.linspace(0, len(paths) - 1, _IMAGES).round().astype(int))
        found[name] = list(batches(items_of([paths[i] for i in places]), length))
    return found


def graph_inputs(good: Good, image_size: int, resize: Resize) -> list[NDArray[Any]]:
    """All batches as the graph takes them."""
    return [batch.as_input(image_size, resize) for of_class in good.values() for batch in of_class]


def rescale_thresholds(
    columns: Sequence[Column],
    run: Runner,
    score_batch: Callable[[Tensor, str], tuple[Tensor, Tensor]],
    good: Good,
    image_size: int,
    resize: Resize,
) -> tuple[Column, ...]:
    """Thresholds moved by as much as the scores of good images are in a file.

    The scores that a model's thresholds were made from are of statistics, or copies of the network,
    that did not know the images; those are not in the file. So they are raised or lowered as the
    scores of images that the model knows are: by the median of the ratios, class by class.

    Args:
        columns: thresholds for the detector's scores.
        run: the file in its runtime.
        score_batch: the detector, given a class.
        good: of each class among ``columns``.
    """
    ratios: dict[str, list[tuple[float, float]]] = {}
    for name, of_class in good.items():
        for batch in of_class:
            maps, scores = score_batch(batch.resized(image_size), name)
            found_maps, found_scores, *_ = run(batch.as_input(image_size, resize))
            maxima, found = maps.amax(dim=(1, 2)).numpy(), found_maps.max(axis=(1, 2))
            pairs = zip(found_scores / scores.numpy(), found / maxima, strict=True)
            ratios.setdefault(name, []).extend(pairs)
    everything = [pair for pairs in ratios.values() for pair in pairs]
    moved = []
    for column in columns:
        image, pixel = np.median(ratios.get(column.name, everything), axis=0).tolist()
        limit = column.threshold
        limit = replace(
            limit,
            image=_float32(image * limit.image),
            image_typical=_float32(image * limit.image_typical),
            pixel=_float32(pixel * limit.pixel),
            pixel_typical=_float32(pixel * limit.pixel_typical),
        )
        moved.append(replace(column, threshold=limit))
    return tuple(moved)


def _float32(value: float) -> float:
    return float(np.float32(value))
