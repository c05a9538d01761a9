"""What a model without statistics learns from further good images, by a few steps of training.

The class of the images gets a network of its own (:mod:`grad.model.branches`): a copy of the one
that judged it, trained on the images and on the exemplars of the class, if the model knows it. So
nothing changes for other classes, and none is forgotten.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from grad.detector.training.folds import held_out_scores, raised_scores
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.model.branches import Branches
from grad.model.grad import GRAD
from grad.score.dataset import good_scores
from grad.system.devices import choose_precision

_SCHEDULE = Schedule(batch_size=16, decay="cosine")
_STEPS = 60
_FOLD_STEPS = 8  # of each copy that tells how much higher images score that it does not know
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Continuation:
    """A model that has learned on.

    Attributes:
        model: it.
        scores, maxima: image scores and largest map values of the further images, as if it had not
            known them.
        shift: the factors by which both changed of images that it knew of the class; 1 of a class
            that comes new.
    """

    model: GRAD
    scores: list[float]
    maxima: list[float]
    shift: tuple[float, float]


def go_on(
    trained: GRAD,
    exemplars: Features,
    further: Features,
    image_size: int,
    groups: str | None = None,
    console: Console | None = None,
) -> Continuation:
    """Train a network for the class of further good images.

    Of a class that the model knows few images are at hand, which the network then knows too well:
    how it scores others is seen by training again without a part of them.

    Args:
        trained: without statistics; stays as it is.
        exemplars: of all classes that it knows, not cut into tiles.
        further: of one class.
        image_size: side of the anomaly maps, in pixels.
        groups: which further images belong together
            (:func:`grad.features.split.fold_images`).
        console: where progress goes; None for silence.
    """
    name = further.samples[0].class_name
    precision = choose_precision(_device(trained))
    mine = exemplars.of_classes([name])
    together = further.tiles().joined(mine)
    network = _network_of(trained, name, exemplars)
    schedule = _for_steps(_STEPS, together)
    start = copy.deepcopy(network)
    with torch.random.fork_rng():  # the program around has its own random numbers
        fit(network, together, schedule, precision=precision, console=console)
        if len(mine):
            found = held_out_scores(
                start,
                network,
                [further, mine],
                image_size,
                schedule,
                groups=groups,
                precision=precision,
                console=console,
            )
            before = good_scores(trained, mine, image_size)
            shift = (_shift(before[0][name], found[1][0]), _shift(before[1][name], found[1][1]))
        else:
            ((of_images, of_maxima),) = raised_scores(
                network,
                [further],
                image_size,
                _for_steps(_FOLD_STEPS, together),
                groups=groups,
                precision=precision,
                console=console,
            )
            found, shift = [(of_images[name], of_maxima[name])], (1.0, 1.0)
    model = _with_network(trained, network, exemplars, further.tiles(), name)
    return Continuation(model, *found[0], shift)


def _network_of(trained: GRAD, name: str, exemplars: Features) -> GRAD:
    """A copy of the network that images of a class go to; the model's own for a new class."""
    index = _networks(trained, exemplars).get(name, 0)
    if index == 0 or trained.branches is None:
        network = copy.deepcopy(trained)
        network.branches = None
        return network
    found = copy.deepcopy(trained.branches.networks[index - 1])
    assert isinstance(found, GRAD)
    return found


def _networks(trained: GRAD, exemplars: Features) -> dict[str, int]:
    """Of each class that a model knows the number of its network, 0 for the model's own."""
    classes = sorted({sample.class_name for sample in exemplars.samples})
    if trained.branches is None:
        return dict.fromkeys(classes, 0)
    return dict(zip(classes, trained.branches.network.tolist(), strict=True))


def _with_network(
    trained: GRAD, network: GRAD, exemplars: Features, further: Features, name: str
) -> GRAD:
    """A model in which images of a class go to a network of its own."""
    model = copy.deepcopy(trained)
    branches = model.branches or Branches(model.settings.channels).to(_device(model))
    numbers, known = _networks(trained, exemplars), exemplars.joined(further)
    if numbers.get(name, 0):
        branches.networks[numbers[name] - 1] = network
    else:
        branches.networks.append(network)
        numbers[name] = len(branches.networks)
    classes = sorted(numbers)
    means = [_means(known.of_classes([one])).to(_device(model)) for one in classes]
    branches.place(means, [numbers[one] for one in classes])
    model.branches = branches
    return model.eval()


def _means(features: Features) -> Tensor:
    """Means over each image, (N, C) float32."""
    return torch.cat([features.batch([i]).float().mean(dim=(2, 3)) for i in range(len(features))])


def _device(model: GRAD) -> torch.device:
    return next(model.parameters()).device


def _for_steps(steps: int, features: Features) -> Schedule:
    """Whole epochs that are about so many steps."""
    return replace(_SCHEDULE, epochs=max(1, round(steps * _SCHEDULE.batch_size / len(features))))


def _shift(before: Sequence[float], after: Sequence[float]) -> float:
    """The factor by which scores of the same images changed, their median."""
    logs = [np.log(np.maximum(values, _SMALLEST)) for values in (before, after)]
    return math.exp(float(np.median(logs[1] - logs[0])))
