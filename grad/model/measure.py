"""How a model's statistics are measured on the features of good images.

The one place where the model meets :class:`grad.features.features.Features`; all else sees tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from grad.features.features import Features
from grad.model.gaussians import Places, chosen, second_moment, whitening
from grad.model.rows import to_rows
from grad.model.statistics import Statistics

Predict = Callable[[Tensor], Tensor]
Values = Callable[[Features], Iterator[Tensor]]

_BATCH = 16  # images measured at once
_SMALLEST = 1e-6  # deviation below which a channel counts as constant


def measure_features(
    statistics: Statistics, features: Features, advance: Callable[[int], None] = lambda images: None
) -> None:
    """Set mean and deviation to those of good images; ``advance`` is told of those looked at."""

    def rows() -> Iterator[Tensor]:
        for maps in _batches(features, statistics.mean.device):
            yield to_rows(maps)
            advance(len(maps))

    mean, covariance = _moments(rows())
    statistics.mean.copy_(mean)
    statistics.deviation.copy_(covariance.diagonal().sqrt())
    statistics.deviation[statistics.deviation < _SMALLEST] = 1.0


def measure_residuals(statistics: Statistics, predict: Predict, features: Features) -> None:
    """Set everything else to what residuals and context of good images are like.

    Args:
        predict: feature maps to the normal version of the standardised ones; in evaluation
            mode.
        features: of good images.
    """
    _measure_classes(statistics, features)
    for places, values in _values_measured(statistics, predict):
        mean, covariance = _moments(to_rows(maps) for maps in values(features))
        classes = (_together(values(some)) for some in _some_of_each_class(features))
        places.measure((covariance + torch.outer(mean, mean)).float(), classes)


def leaving_out(
    statistics: Statistics,
    predict: Predict,
    features: Features,
    kind: int,
    folds: Sequence[Sequence[int]],
) -> Iterator[Sequence[int]]:
    """Measure a class without some of its images: one fold of them after the other.

    A Gaussian of few images knows these too well. With a fold left out it meets them as it would
    meet new ones. At the end everything is as it was before.

    Args:
        predict: as in :func:`measure_residuals`.
        features: of those images of the class that it was measured on.
        kind: which class, from 0 to G - 1.
        folds: parts of the images by index (:func:`grad.features.split.fold_images`).

    Yields:
        Which images, by index, the Gaussians of the class do not know until the next answer.
        A single fold can't be left out.
    """
    if len(folds) == 1:
        yield folds[0]
        return
    some = _some(features)
    measured = _measured_together(statistics, predict, some)
    before = _parts_of_class(measured, kind)
    try:
        for left in folds:
            rest = _others(some, features, left)
            for places, values in measured:
                places.measure_class(kind, values[rest])
            yield left
    finally:
        _put_back(measured, kind, before)


def extend_class(
    statistics: Statistics,
    predict: Predict,
    features: Features,
    kind: int,
    folds: Sequence[Sequence[int]],
) -> Iterator[Sequence[int]]:
    """Let the statistics of a class know further images, first without one fold after the other.

    Once all folds have been asked for, they know all of the images.

    Args:
        predict, kind, folds: as in :func:`leaving_out`.
        features: of the further images.

    Yields:
        Which images, by index, the Gaussians of the class do not know until the next answer.
    """
    some = _some(features)
    known = int(statistics.images[kind])
    measured = _measured_together(statistics, predict, some)
    before = _parts_of_class(measured, kind)

    def know(rest: Sequence[int]) -> None:
        _put_back(measured, kind, before)
        for places, values in measured:
            if rest:
                places.extend_class(kind, values[rest], known)

    for left in folds:
        know(_others(some, features, left))
        yield left
    know(range(len(some)))
    means = _means_over_images(statistics, some)
    statistics.centre[kind].lerp_(means.mean(dim=0), len(some) / (known + len(some)))
    _extend_spread(statistics, means - statistics.centre[kind])
    statistics.images[kind] += len(some)


def insert_class(statistics: Statistics, predict: Predict, features: Features, kind: int) -> None:
    """Measure a class that comes new, as number ``kind``; those from there on move up by one."""
    some = _some(features)
    for places, values in _measured_together(statistics, predict, some):
        places.insert_class(kind, values)
    means = _means_over_images(statistics, some)
    centre = means.mean(dim=0)
    _extend_spread(statistics, means - centre)
    before = statistics.centre, statistics.images
    for name, kept, value in zip(
        ("centre", "images"), before, (centre, torch.tensor(len(some))), strict=True
    ):
        value = value.to(kept)[None]
        setattr(statistics, name, torch.cat([kept[:kind], value, kept[kind:]]))


def _some(features: Features) -> Features:
    """Those images, or tiles, of a class that its Gaussians are measured on."""
    tiles = features.tiles()
    return tiles.subset(chosen(len(tiles)))


def _others(some: Features, features: Features, left: Sequence[int]) -> list[int]:
    """Which of some images or tiles are of none of the images left out, by index."""
    without = {features.samples[i].path for i in left}
    return [i for i, sample in enumerate(some.samples) if sample.path not in without]


def _measured_together(
    statistics: Statistics, predict: Predict, some: Features
) -> list[tuple[Places, Tensor]]:
    """Gaussians, and the values that they are measured on, of all images at once."""
    return [
        (places, _together(values(some)))
        for places, values in _values_measured(statistics, predict)
    ]


def _parts_of_class(measured: Sequence[tuple[Places, Tensor]], kind: int) -> list[list[Tensor]]:
    """Copies of the Gaussians of a class."""
    return [[part.clone() for part in places.of_class(kind)] for places, _ in measured]


def _put_back(
    measured: Sequence[tuple[Places, Tensor]], kind: int, before: Sequence[Sequence[Tensor]]
) -> None:
    """Give the Gaussians of a class the values of copies."""
    for (places, _), parts in zip(measured, before, strict=True):
        for kept, value in zip(places.of_class(kind), parts, strict=True):
            kept.copy_(value)


def _extend_spread(statistics: Statistics, within: Tensor) -> None:
    """Let the spread know how further images (m, C) lie about the centre of their class."""
    share = len(within) / (int(statistics.images.sum()) + len(within))
    known = second_moment(statistics.spread)
    statistics.spread.copy_(whitening(known.lerp(within.T @ within / len(within), share)))


def _values_measured(statistics: Statistics, predict: Predict) -> list[tuple[Places, Values]]:
    """Gaussians, and the values of features that they are measured on, batch by batch."""

    def residuals(some: Features) -> Iterator[Tensor]:
        for maps in _batches(some, statistics.mean.device):
            prediction = predict(maps).float()
            yield statistics.standardise(maps)[:, : prediction.shape[1]] - prediction

    def context(some: Features) -> Iterator[Tensor]:
        for maps in _batches(some, statistics.mean.device):
            yield statistics.standardise(maps)[:, len(statistics.residuals.whitening) :]

    found: list[tuple[Places, Values]] = [(statistics.residuals, residuals)]
    if statistics.context is not None:
        found.append((statistics.context, context))
    return found


def images_measured(features: Features) -> int:
    """How many images the Gaussians of all classes are measured on."""
    return sum(len(some) for some in _some_of_each_class(features))


def _measure_classes(statistics: Statistics, features: Features) -> None:
    """Where the images of each class lie, and in which directions they differ."""
    images = [_means_over_images(statistics, some) for some in _some_of_each_class(features)]
    statistics.images = torch.tensor([len(m) for m in images], device=statistics.centre.device)
    statistics.centre = torch.stack([means.mean(dim=0) for means in images])
    within = torch.cat([m - c for m, c in zip(images, statistics.centre, strict=True)])
    statistics.spread.copy_(whitening(within.T @ within / len(within)))


def _means_over_images(statistics: Statistics, features: Features) -> Tensor:
    """Standardised features' means over each image, (N, C)."""
    maps = _batches(features, statistics.mean.device)
    return torch.cat([statistics.standardise(m).mean(dim=(2, 3)) for m in maps])


def _together(maps: Iterator[Tensor]) -> Tensor:
    """(B, C, H, W) batch by batch -> (N, H, W, C) float16."""
    return torch.cat([batch.permute(0, 2, 3, 1).half() for batch in maps])


def _some_of_each_class(features: Features) -> Iterator[Features]:
    """Those that the Gaussians of a class are measured on, class by class."""
    for name in sorted({sample.class_name for sample in features.samples}):
        mine = features.of_classes([name])
        yield mine.subset(chosen(len(mine)))


def _batches(features: Features, device: torch.device) -> Iterator[Tensor]:
    """All feature maps in order, (B, C, H, W) float32."""
    with torch.no_grad():
        for first in range(0, len(features), _BATCH):
            indices = range(first, min(first + _BATCH, len(features)))
            yield features.batch(indices).to(device).float()


def _moments(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of the rows of all parts, float64."""
    count, total, products = 0, None, None
    for part in parts:
        rows = part.double()
        count += len(rows)
        total = rows.sum(dim=0) if total is None else total + rows.sum(dim=0)
        product = rows.T @ rows
        products = product if products is None else products + product
    assert total is not None and products is not None
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)
