"""Scores of the images that a model was trained on, as if it had not known them.

Thresholds need scores of good images that the model did not know. All images train, and are then
left out in folds. A model with statistics is measured again without each fold. Any other forgets
it: a copy goes on training without the fold, from the first learning rate down to none. What that
costs and how near it comes is in benchmarks/results/thresholds.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from grad.features.features import Features
from grad.features.split import fold_images
from grad.model.grad import GRAD
from grad.score.dataset import good_scores, left_out_scores
from grad.system.devices import Precision
from grad.system.progress import print_line
from grad.train.loop import fit
from grad.train.schedule import Schedule

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
    """
    if model.statistics is not None:
        return left_out_scores(model, features, image_size, classes, groups, console)
    folds = _folds_of_all(features, classes, groups)
    whole = sorted(set(range(len(features))).difference(*folds))
    scores, maxima = good_scores(model, features.subset(whole), image_size)
    goes_on = replace(
        schedule, epochs=max(1, round(_SHARE * schedule.epochs)), decay="cosine", drops=None
    )
    for number, left in enumerate(folds):
        if console is not None:
            print_line(f"thresholds: fold {number + 1} of {len(folds)}", None, console)
        rest = sorted(set(range(len(features))) - set(left))
        without, known = copy.deepcopy(model), features.subset(rest).tiles()
        fit(without, known, goes_on, seed=seed + number, precision=precision)
        found = good_scores(without, features.subset(left), image_size)
        for all_of, of_fold in zip((scores, maxima), found, strict=True):
            _extend(all_of, of_fold)
    return scores, maxima


def _folds_of_all(
    features: Features, classes: Sequence[str], groups: str | None
) -> list[list[int]]:
    """Folds that each leave out a part of every class that has several."""
    folds: list[list[int]] = [[] for _ in range(_FOLDS)]
    for name in classes:
        mine = [i for i, sample in enumerate(features.samples) if sample.class_name == name]
        parts = fold_images([features.samples[i] for i in mine], groups, _FOLDS)
        for fold, part in zip(folds, parts if len(parts) > 1 else (), strict=False):
            fold += [mine[i] for i in part]
    return [sorted(fold) for fold in folds if fold]


def _extend(all_of: ByClass, more: Mapping[str, list[float]]) -> None:
    for name, values in more.items():
        all_of.setdefault(name, []).extend(values)
