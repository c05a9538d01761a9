"""Scores of the images that a model was trained on, as if it had not known them.

Thresholds need scores of good images that the model did not know. All images train, and are then
left out in folds. A model with statistics is measured again without each fold. Any other is copied,
and each copy goes on training without one fold. That changes the level of all scores, so what
counts is how much higher images score in the copy that goes on without them than in those that go
on with them; the trained model's scores are raised by as much, class by class. What that costs and
how near it comes is in benchmarks/results/thresholds.md.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console

from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.features.split import fold_images
from grad.model.grad import GRAD
from grad.score.dataset import Observer, good_scores, left_out_scores
from grad.system.devices import Precision

_FOLDS = 3  # each costs a part of a training
_SHARE = 0.1  # of the epochs, for which a copy goes on

ByClass = dict[str, list[float]]


def fold_scores(
    model: GRAD,
    features: Features,
    image_size: int,
    schedule: Schedule,
    *,
    classes: Sequence[str],
    groups: str | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    console: Console | None = None,
    observers: Sequence[Observer] = (),
) -> tuple[ByClass, ByClass]:
    """Image scores and largest map values of images trained on, by models that do not know them.

    Args:
        model: as it was trained; it stays as it is.
        features: of all images that it was trained on.
        image_size: side of the anomaly maps, in pixels.
        schedule: that it was trained by.
        classes: all that it was trained on.
        groups: which images belong together (:func:`grad.features.split.fold_images`).
        seed, precision: of training.
        console: where progress goes; None for silence.
        observers: see maps and scores, those before they are raised, in the order of what is
            returned.
    """
    if model.statistics is not None:
        return left_out_scores(model, features, image_size, classes, groups, console, observers)
    goes_on = replace(
        schedule, epochs=max(1, round(_SHARE * schedule.epochs)), decay="cosine", drops=None
    )
    (found,) = raised_scores(
        model,
        [features],
        image_size,
        goes_on,
        groups=groups,
        seed=seed,
        precision=precision,
        console=console,
        observers=observers,
    )
    return found


def raised_scores(
    model: GRAD,
    parts: Sequence[Features],
    image_size: int,
    goes_on: Schedule,
    *,
    groups: str | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    console: Console | None = None,
    observers: Sequence[Observer] = (),
) -> list[tuple[ByClass, ByClass]]:
    """:func:`fold_scores` of a model without statistics, of several parts of its images.

    Args:
        parts: together all that copies go on with; each class of each part is raised by itself.
        goes_on: how copies go on.
    """
    trained = [good_scores(model, part, image_size, observers=observers) for part in parts]
    folds = [_folds_of_all(part, groups) for part in parts]
    seeds = itertools.count(seed)
    copies = [
        [good_scores(without, part, image_size) for part in parts]
        for without in _copies_without(model, parts, folds, goes_on, seeds, precision, console)
    ]
    return [
        _raised_part(trained[i], [of_copy[i] for of_copy in copies], _homes(part, folds[i]))
        for i, part in enumerate(parts)
    ]


def held_out_scores(
    start: GRAD,
    trained: GRAD,
    parts: Sequence[Features],
    image_size: int,
    schedule: Schedule,
    *,
    groups: str | None = None,
    precision: Precision = "float32",
    console: Console | None = None,
) -> list[tuple[list[float], list[float]]]:
    """Image scores and largest map values of images, each by a copy trained without its fold.

    That costs a training for each fold, and shows all that it is worth to have known an image.

    Args:
        start: what the copies are before they are trained.
        trained: on all images; scores those that can't be left out.
        parts: of one class, together all that it was trained on.
        schedule: that it was trained by.
    """
    found = [_of_one_class(good_scores(trained, part, image_size)) for part in parts]
    folds = [_folds_of_all(part, groups) for part in parts]
    copies = _copies_without(start, parts, folds, schedule, itertools.repeat(0), precision, console)
    for number, without in enumerate(copies):
        for part, of_part, known in zip(parts, folds, found, strict=True):
            left = of_part[number] if number < len(of_part) else []
            if left:
                scored = _of_one_class(good_scores(without, part.subset(left), image_size))
                for index, score, maximum in zip(left, *scored, strict=True):
                    known[0][index], known[1][index] = score, maximum
    return found


def _copies_without(
    start: GRAD,
    parts: Sequence[Features],
    folds: Sequence[Sequence[Sequence[int]]],
    schedule: Schedule,
    seeds: Iterable[int],
    precision: Precision,
    console: Console | None,
) -> Iterator[GRAD]:
    """Copies of a model, each trained on without one fold of the images, one after the other."""
    count = max(map(len, folds))
    for number, seed in zip(range(count), seeds, strict=False):
        without = copy.deepcopy(start)
        fit(
            without,
            _without_fold(parts, folds, number),
            schedule,
            seed=seed,
            precision=precision,
            console=console,
            description=f"thresholds {number + 1}/{count}",
        )
        yield without


def _of_one_class(found: tuple[ByClass, ByClass]) -> tuple[list[float], list[float]]:
    (scores,), (maxima,) = (part.values() for part in found)
    return scores, maxima


def _without_fold(
    parts: Sequence[Features], folds: Sequence[Sequence[Sequence[int]]], number: int
) -> Features:
    """What a copy goes on with: all parts but a fold of each that has so many."""
    rests = []
    for part, of_part in zip(parts, folds, strict=True):
        left = set(of_part[number] if number < len(of_part) else ())
        rests.append(part.subset([i for i in range(len(part)) if i not in left]).tiles())
    return functools.reduce(Features.joined, rests)


def _raised_part(
    trained: tuple[ByClass, ByClass],
    copies: Sequence[tuple[ByClass, ByClass]],
    homes: Mapping[str, Sequence[int | None]],
) -> tuple[ByClass, ByClass]:
    scores, maxima = (
        {
            name: _raised(values, [of_copy[kind][name] for of_copy in copies], homes[name])
            for name, values in trained[kind].items()
        }
        for kind in range(2)
    )
    return scores, maxima


def _homes(features: Features, folds: Sequence[Sequence[int]]) -> dict[str, list[int | None]]:
    """Of each class, in which fold its images are; None for those that are in none."""
    home = {index: number for number, fold in enumerate(folds) for index in fold}
    homes: dict[str, list[int | None]] = {}
    for index, sample in enumerate(features.samples):
        if sample.variant is None:
            homes.setdefault(sample.class_name, []).append(home.get(index))
    return homes


def _raised(
    scores: Sequence[float], of_copies: Sequence[Sequence[float]], homes: Sequence[int | None]
) -> list[float]:
    """Scores of a class, raised by what it is worth to have known an image, as a factor.

    That is the median over its images of what each scores in the copy without it over what it does
    in the others. A factor for each image would add the noise of the copies to the spread.
    """
    logs = np.log(np.maximum(np.array([scores, *of_copies]), np.finfo(np.float32).tiny))
    found, copies = logs[0], logs[1:]
    gaps = [
        copies[home, image] - np.delete(copies[:, image], home).mean()
        for image, home in enumerate(homes)
        if home is not None and len(copies) > 1
    ]
    raised: list[float] = np.exp(found + max(0.0, float(np.median(gaps)) if gaps else 0.0)).tolist()
    return raised


def _folds_of_all(features: Features, groups: str | None) -> list[list[int]]:
    """Folds that each leave out a part of every class that has several."""
    folds: list[list[int]] = [[] for _ in range(_FOLDS)]
    for name in sorted({sample.class_name for sample in features.samples}):
        mine = [i for i, sample in enumerate(features.samples) if sample.class_name == name]
        parts = fold_images([features.samples[i] for i in mine], groups, _FOLDS)
        for fold, part in zip(folds, parts if len(parts) > 1 else (), strict=False):
            fold += [mine[i] for i in part]
    return [sorted(fold) for fold in folds if fold]
