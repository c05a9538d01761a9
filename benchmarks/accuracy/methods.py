"""What can be trained on features: GRAD, and rivals with the same two methods as it has.

Each function here makes a model, trains it on good images, and returns it with the mean loss of its
last epoch. The models turn feature maps into score maps (``loss_and_score``), and everything after
that, from the anomaly map to the metrics, is the same for all. ``context`` is how many channels of
the features are context (:attr:`grad.features.backbone.Backbone.context`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from others.memory_bank import MemoryBank
from others.uniad import UniAD
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from accuracy.rows import Method
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.model.grad import GRAD
from grad.train.plan import TrainPlan

BANK_ENTRIES = 4000  # of each class
UNIAD_RATE = 1e-4
UNIAD_DECAY = 1e-4

Trained = tuple[nn.Module, float | None]


def train_grad(
    plan: TrainPlan, features: Features, context: int, epochs: int, device: torch.device
) -> Trained:
    """GRAD or one of its variants, as ``python -m grad.train`` trains it."""
    _, channels, height, width = features.shape
    torch.manual_seed(plan.options.seed)
    model = GRAD.from_preset(
        channels=channels, height=height, width=width, context=context, **plan.model_options()
    )
    schedule = dataclasses.replace(plan.schedule(), epochs=epochs)
    return _fit(model, features, schedule, plan, device)


def train_uniad(
    plan: TrainPlan, features: Features, context: int, epochs: int, device: torch.device
) -> Trained:
    """UniAD with its paper's rate and weight decay; the rate drops after 80 % of the epochs."""
    _, channels, height, width = features.shape
    torch.manual_seed(plan.options.seed)
    model = UniAD(channels, height, width)
    schedule = Schedule(
        epochs=epochs,
        batch_size=plan.batch_size,
        drops=(epochs * 4 // 5,),
        learning_rate=UNIAD_RATE,
        weight_decay=UNIAD_DECAY,
    )
    return _fit(model, features, schedule, plan, device)


def fill_bank(
    plan: TrainPlan, features: Features, context: int, epochs: int, device: torch.device
) -> Trained:
    """Random pixels of each class, kept as they are."""
    bank = MemoryBank.from_features(features, BANK_ENTRIES, plan.options.seed)
    return bank.to(device), None


def _fit(
    model: Any, features: Features, schedule: Schedule, plan: TrainPlan, device: torch.device
) -> Trained:
    model.to(device)
    result = fit(model, features, schedule, seed=plan.options.seed, precision=plan.precision)
    if result.interrupted:
        raise KeyboardInterrupt
    return model, result.history.loss[-1]


def count_flops(model: nn.Module, features: Features) -> int:
    """FLOPs of scoring one image, from its features on (two for each multiply-add)."""
    device = next(model.parameters()).device
    image = features.batch([0]).to(device).float()
    # As matrix products, since the counter does not see into fused attention.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), plain:
        model.eval().loss_and_score(image)  # type: ignore[operator]
    return int(counter.get_total_flops())


METHODS: dict[Method, Callable[[TrainPlan, Features, int, int, torch.device], Trained]] = {
    "grad": train_grad,
    "uniad": train_uniad,
    "memory bank": fill_bank,
}
