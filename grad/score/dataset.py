"""Test images to metrics and examples."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor

from grad.data.images import image_size, load_mask
from grad.data.mosaic import Mosaic
from grad.data.roi import inside
from grad.data.samples import MaskRule, Sample
from grad.data.tiling import Tiling
from grad.features.features import Features
from grad.features.split import fold_images
from grad.model.grad import GRAD
from grad.model.measure import extend_class, images_measured, leaving_out
from grad.score.anomaly_map import anomaly_map, finish_blended, image_score, upsample
from grad.score.metrics.classes import ClassMetrics, ClassReport
from grad.score.metrics.pixels import exact_pixels
from grad.score.regions import cut_small_peaks, map_pixels
from grad.system import distributed
from grad.system.progress import Progress

_BATCH = 16  # images scored at once

MASK_RULES: dict[MaskRule, str] = {
    "any": "pixels above zero, resized to the anomaly map by nearest neighbour",
    "half": "pixels above half of the mask's brightest, resized to the anomaly map by nearest "
    "neighbour",
}


class Observer(Protocol):
    """What wants to see the results of an evaluation."""

    def add(self, samples: Sequence[Sample], image_scores: Tensor, anomaly_maps: Tensor) -> None:
        """Takes a batch of B samples, their scores (B,) and maps (B, h, w)."""
        ...

    def merge(self, other: Any) -> None:
        """Takes what another of its kind has seen, in another process."""
        ...


def evaluate(
    model: GRAD,
    features: Features,
    image_size: int,
    observers: Sequence[Observer],
    *,
    classes: Sequence[str],
    exact: bool = False,
    console: Console | None = None,
) -> dict[str, ClassReport]:
    """Score test images and measure, in float32 and class by class.

    Anomaly maps and masks are compared at the size that images have for the backbone; those of
    images that are cut into tiles at their own size. Several processes score a part of the images
    each, and the main one gets to see all results.

    Args:
        model: on any device.
        features: of test images.
        image_size: side of the anomaly maps, in pixels.
        observers: are offered every result; among several processes, those of the main one.
        classes: what to report on; one without test images has a reason instead of metrics.
        exact: whether pixel metrics are exact for any number of pixels, which are then all kept.
        console: where progress goes; None for silence.

    Returns:
        The report of each class.

    Raises:
        GradError: scores are NaN; a mask can't be read.
    """
    limit = None if exact else exact_pixels(len(classes))
    seen = observers if distributed.is_main() else copy.deepcopy(observers)
    metrics = {name: ClassMetrics(name, exact_pixels=limit) for name in sorted(classes)}
    mine = features.subset(distributed.shard(range(len(features))))
    with Progress(console, "evaluation", len(mine)) as progress:
        for samples, scores, maps in scored(model, mine, image_size):
            for name, rows in _rows_by_class(samples).items():
                of_class = [samples[row] for row in rows]
                size = (maps.shape[1], maps.shape[2])
                masks = [_mask(sample, size) for sample in of_class]
                labels = [sample.anomalous for sample in of_class]
                looked_at = _looked_at(of_class, size)
                parts = [sample.part for sample in of_class]
                metrics[name].update(maps[rows], masks, scores[rows], labels, looked_at, parts)
                for observer in seen:
                    observer.add(of_class, scores[rows], maps[rows])
            progress.advance(len(samples))
    _merge_processes(metrics, seen)
    return distributed.from_main(lambda: {name: m.compute() for name, m in metrics.items()})


def _merge_processes(metrics: Mapping[str, ClassMetrics], observers: Sequence[Observer]) -> None:
    """Give the main process's metrics and observers what the others' have seen."""
    parts = distributed.gathered(None if distributed.is_main() else (metrics, observers))
    for other_metrics, other_observers in filter(None, parts or ()):
        for name, of_class in metrics.items():
            of_class.merge(other_metrics[name])
        for observer, other in zip(observers, other_observers, strict=True):
            observer.merge(other)


def scored(
    model: GRAD, features: Features, image_size: int
) -> Iterator[tuple[list[Sample], Tensor, Tensor]]:
    """Samples, image scores (B,) and anomaly maps (B, image_size, image_size), batch by batch.

    Of images that are cut into tiles (1, h, w) in the image's own size, one by one. In float32 on
    the model's device; results are on the CPU.
    """
    device = next(model.parameters()).device
    model.eval()
    if features.tiling is not None:
        yield from _scored_by_tiles(model, features, image_size, features.tiling)
        return
    for first in range(0, len(features), _BATCH):
        indices = range(first, min(first + _BATCH, len(features)))
        samples = [features.samples[i] for i in indices]
        size = (image_size, image_size)
        looked_at = _looked_at(samples, size)
        with torch.inference_mode():
            _, score = model.loss_and_score(features.batch(indices).to(device).float())
            maps = anomaly_map(score, size, None if looked_at is None else looked_at.to(device))
            scores = image_score(maps)
        yield samples, scores.cpu(), _without_small_peaks(maps.cpu(), samples)


def _scored_by_tiles(
    model: GRAD, features: Features, side: int, tiling: Tiling
) -> Iterator[tuple[list[Sample], Tensor, Tensor]]:
    device = next(model.parameters()).device
    for index, sample in enumerate(features.samples):
        size = image_size(sample.path)

        def maps(index: int = index) -> Iterator[Tensor]:
            for tiles in features.tiles_of(index):
                with torch.inference_mode():
                    _, score = model.loss_and_score(tiles.to(device).float())
                    yield from upsample(score, (side, side)).cpu()

        blended = Mosaic.of_image(tiling, size, side).blend(maps())
        anomaly_map, score = finish_blended(blended, size, sample.roi)
        yield [sample], torch.tensor([score]), _without_small_peaks(anomaly_map[None], [sample])


def good_scores(
    model: GRAD,
    features: Features,
    image_size: int,
    console: Console | None = None,
    observers: Sequence[Observer] = (),
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Image scores, and the largest values of the anomaly maps, of good images by class.

    Of images as they come; their variants (:mod:`grad.data.augment`) don't count. Several processes
    score a part of the images each, and all get to know all; observers as of :func:`evaluate`.
    """
    features = features.as_they_come()
    with Progress(console, "thresholds", len(features)) as progress:
        return _by_class(_good_scores(model, features, image_size, progress, observers))


def left_out_scores(
    model: GRAD,
    features: Features,
    image_size: int,
    classes: Sequence[str],
    groups: str | None = None,
    console: Console | None = None,
    observers: Sequence[Observer] = (),
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """:func:`good_scores` of images trained on, each by statistics that were measured without it.

    So each image scores much as a new one would (:func:`grad.model.measure.leaving_out`).

    Args:
        model: as it was trained, with statistics.
        features: of images that it was trained on.
        image_size: side of the anomaly maps, in pixels.
        classes: all that it was trained on.
        groups: which images belong together (:func:`grad.features.split.fold_images`).
        console: where progress goes; None for silence.
        observers: are offered every result, in the order of what is returned.
    """
    assert model.statistics is not None
    model.eval()
    found: list[tuple[str, float, float]] = []
    total = images_measured(features.tiles()) + len(features.as_they_come())
    with Progress(console, "thresholds", total) as progress:
        predict = progress.counting(model)
        for kind, name in enumerate(sorted(classes)):
            mine = features.of_classes([name])
            if not len(mine):
                continue
            folds = fold_images(mine.samples, groups)
            for left in leaving_out(model.statistics, predict, mine, kind, folds):
                some = mine.subset(left).as_they_come()
                found += _good_scores(model, some, image_size, progress, observers)
    return _by_class(found)


def further_scores(
    model: GRAD,
    features: Features,
    image_size: int,
    kind: int,
    groups: str | None = None,
    console: Console | None = None,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """:func:`left_out_scores` of further images of a class, which the statistics know afterwards.

    Args:
        model: with statistics, which change (:func:`grad.model.measure.extend_class`).
        features: of further good images of one class.
        image_size, groups, console: as in :func:`left_out_scores`.
        kind: which class, from 0 to G - 1.
    """
    assert model.statistics is not None
    model.eval()
    found: list[tuple[str, float, float]] = []
    folds = fold_images(features.samples, groups)
    with Progress(console, "thresholds", len(features)) as progress:
        for left in extend_class(model.statistics, model, features, kind, folds):
            found += _good_scores(model, features.subset(left), image_size, progress, ())
    order = [index for fold in folds for index in fold]
    return _by_class([one for _, one in sorted(zip(order, found, strict=True))])


def _good_scores(
    model: GRAD,
    features: Features,
    image_size: int,
    progress: Progress,
    observers: Sequence[Observer],
) -> list[tuple[str, float, float]]:
    """Class, image score and largest value of the anomaly map of each image."""
    found: list[tuple[str, float, float]] = []
    seen = observers if distributed.is_main() else copy.deepcopy(observers)
    mine = features.subset(distributed.shard(range(len(features))))
    for samples, of_images, maps in scored(model, mine, image_size):
        for observer in seen:
            observer.add(samples, of_images, maps)
        names = [sample.class_name for sample in samples]
        largest = maps.amax(dim=(1, 2))
        found += zip(names, of_images.tolist(), largest.tolist(), strict=True)
        progress.advance(len(samples))
    _merge_processes({}, seen)
    return [of_image for part in distributed.shared(found) for of_image in part]


def _by_class(
    found: Sequence[tuple[str, float, float]],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    scores: dict[str, list[float]] = {}
    maxima: dict[str, list[float]] = {}
    for name, score, maximum in found:
        scores.setdefault(name, []).append(score)
        maxima.setdefault(name, []).append(maximum)
    return scores, maxima


def _rows_by_class(samples: list[Sample]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows.setdefault(sample.class_name, []).append(row)
    return rows


def _looked_at(samples: Sequence[Sample], size: tuple[int, int]) -> Tensor | None:
    """The regions of interest of some samples, (B, h, w) bool; None where all look at all."""
    if all(sample.roi is None for sample in samples):
        return None
    whole = torch.ones(size, dtype=torch.bool)
    return torch.stack([whole if s.roi is None else inside(s.roi, size) for s in samples])


def _without_small_peaks(maps: Tensor, samples: Sequence[Sample]) -> Tensor:
    """(B, h, w) -> the same with the smallest region that counts in each image."""
    if all(sample.min_area <= 1 for sample in samples):
        return maps
    size = (maps.shape[1], maps.shape[2])
    return torch.stack(
        [
            cut_small_peaks(one, map_pixels(s.min_area, image_size(s.path), size))
            for one, s in zip(maps, samples, strict=True)
        ]
    )


def _mask(sample: Sample, size: tuple[int, int]) -> Tensor | None:
    if sample.mask is None:
        return None
    return load_mask(sample.mask, size, sample.mask_rule)
