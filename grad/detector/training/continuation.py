"""What a trained network learns from further good images, by a few more steps of training.

Beside the further images it is trained on exemplars, which stand for all that it learned before
(:mod:`grad.detector.exemplars`). Scores change by that, also those of the images that thresholds
were made from, and these images are not at hand. How far is measured on the exemplars.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from grad.detector.training.folds import raised_scores
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.model.grad import GRAD
from grad.score.dataset import good_scores
from grad.system.devices import choose_precision

_STEPS, _BATCH = 40, 16
_SMALLEST = float(np.finfo(np.float32).tiny)
_FOLD_STEPS = 10  # of each copy that tells how much higher images score that it does not know
_SCHEDULE = Schedule(batch_size=_BATCH, decay="cosine")


@dataclass(frozen=True)
class Continuation:
    """A network that was trained on.

    Attributes:
        model: it.
        scores, maxima: image scores and largest map values of the further images, as if it had not
            known them.
        shifts: of each class that it knew, the factors by which both changed.
    """

    model: GRAD
    scores: list[float]
    maxima: list[float]
    shifts: dict[str, tuple[float, float]]


def go_on(
    trained: GRAD,
    exemplars: Features,
    further: Features,
    image_size: int,
    groups: str | None = None,
    console: Console | None = None,
) -> Continuation:
    """Train a network on further good images of one class, and on exemplars of all that it knows.

    Args:
        trained: stays as it is.
        exemplars: not cut into tiles.
        further: of one class.
        image_size: side of the anomaly maps, in pixels.
        groups: which further images belong together
            (:func:`grad.features.split.fold_images`).
        console: where progress goes; None for silence.
    """
    name = further.samples[0].class_name
    precision = choose_precision(next(trained.parameters()).device)
    together = exemplars.joined(further.tiles())
    model = copy.deepcopy(trained)
    fit(model, together, _for_steps(_STEPS, len(together)), precision=precision, console=console)
    of_exemplars, found = raised_scores(
        model,
        [exemplars, further],
        image_size,
        _for_steps(_FOLD_STEPS, len(together)),
        groups=groups,
        precision=precision,
        console=console,
    )
    before = good_scores(trained, exemplars, image_size)
    shifts = {
        known: (
            _shift(before[0][known], of_exemplars[0][known]),
            _shift(before[1][known], of_exemplars[1][known]),
        )
        for known in before[0]
    }
    return Continuation(model, found[0][name], found[1][name], shifts)


def _for_steps(steps: int, images: int) -> Schedule:
    """Whole epochs of so many images that are about so many steps."""
    return replace(_SCHEDULE, epochs=max(1, round(steps * _BATCH / images)))


def _shift(before: Sequence[float], after: Sequence[float]) -> float:
    """The factor by which scores of the same images changed, their median."""
    logs = [np.log(np.maximum(values, _SMALLEST)) for values in (before, after)]
    return math.exp(float(np.median(logs[1] - logs[0])))
