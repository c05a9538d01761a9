"""How long a training takes, measured on a few of its steps; what is said before it starts."""

from __future__ import annotations

import copy
import math
import time

import torch

from grad.detector.training.loop import make_optimizer
from grad.detector.training.step import TrainingStep
from grad.features.features import Features
from grad.model.grad import GRAD
from grad.system import distributed
from grad.system.progress import describe_seconds
from grad.train.plan import TrainPlan

_STEPS = 3  # the first prepares what the others use, and is not counted


def training_seconds(model: GRAD, features: Features, plan: TrainPlan) -> float | None:
    """Seconds that all steps will take, by some on a copy of the model; None for several processes.

    Args:
        model: as it will be trained; it stays as it is.
        features: to train on.
        plan: of the training.
    """
    if distributed.size() > 1:
        return None
    schedule, count = plan.schedule(), min(plan.batch_size, len(features))
    with torch.random.fork_rng(devices=[]):
        model = copy.deepcopy(model).train()
        step = TrainingStep(
            model,
            make_optimizer(model, schedule),
            clip=schedule.clip,
            autocast=plan.precision == "bfloat16",
        )
        images = features.batch(range(count)).to(plan.device).float()
        step(images, count).item()
        start = time.perf_counter()
        for _ in range(_STEPS - 1):
            step(images, count).item()
    return steps_of(plan, len(features)) * (time.perf_counter() - start) / (_STEPS - 1)


def steps_of(plan: TrainPlan, images: int) -> int:
    """Steps of a training on so many images."""
    return plan.epochs * math.ceil(images / plan.batch_size)


def describe_training(
    plan: TrainPlan, images: int, seconds: float | None, variants: int = 0
) -> str:
    """One line: what was chosen and why, how long it takes, what a better or quicker choice is.

    Args:
        plan: of the training.
        images: to train on.
        seconds: that all steps take; None where that isn't known.
        variants: of images, to train on too.
    """
    why = f" ({plan.choice})" if plan.choice else ""
    more = f" and {variants} variants" if variants else ""
    told = (
        f"{plan.preset}{why}: {plan.epochs} epochs of {images} images{more} in batches of "
        f"{plan.batch_size} are {steps_of(plan, images + variants)} steps"
    )
    if seconds is not None:
        told += f", about {describe_seconds(seconds)}; then thresholds and evaluation"
    told += "."
    if plan.choice and plan.options.preset is None and plan.device.type == "cpu":
        told += (
            f" Better, in twice the time: --epochs {2 * plan.epochs}; best on a GPU: --preset grad "
            "--epochs 100. Quicker: --image-size 224."
        )
    elif plan.device.type == "cpu" and seconds is not None and seconds > _LONG:
        told += " Quicker on a CPU: leave out --preset and --epochs."
    return told


_LONG = 3600.0  # seconds
