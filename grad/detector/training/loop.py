"""``fit``: the training loop over cached features (paper, section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.optim import AdamW

from grad.detector.training.loss_watch import LossWatch
from grad.detector.training.schedule import Schedule
from grad.detector.training.state import History, TrainingState
from grad.detector.training.step import TrainingStep
from grad.features.batches import Loader, OnDevice, balanced_batches, batches
from grad.features.features import Features
from grad.model.grad import GRAD
from grad.model.grids import Grid
from grad.model.measure import images_measured, measure_features, measure_residuals
from grad.model.memory import Memory
from grad.system import distributed
from grad.system.devices import Precision
from grad.system.progress import Progress

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Fit:
    """What became of a training run.

    Attributes:
        history: loss, learning rate and seconds of each completed epoch.
        interrupted: whether Ctrl-C ended it early.
    """

    history: History
    interrupted: bool

    @property
    def epochs(self) -> int:
        """Completed epochs."""
        return self.history.epochs


def fit(
    model: GRAD,
    features: Features,
    schedule: Schedule,
    *,
    seed: int = 0,
    precision: Precision = "float32",
    folder: Path | None = None,
    features_on_device: OnDevice = "auto",
    sync_batch_norm: bool = True,
    compile_step: bool = False,
    console: Console | None = None,
    description: str = "training",
    on_epoch: Callable[[History], None] = lambda history: None,
) -> Fit:
    """Train a model in place, on the device where it is; the last epoch is the result.

    Seeds torch's global generator, which the coordinate jitter draws from. Ctrl-C ends training
    and leaves the model with what it has learned so far. Several processes share each batch
    (:mod:`grad.system.distributed`), and all end with the same model.

    Args:
        model: freshly made.
        features: of good images.
        schedule: epochs, rates and so on.
        seed: of the order of images and of the jitter.
        precision: of the fusion network and the heads; bfloat16 by autocast.
        folder: keeps the state of training after each epoch; where it holds one already, training
            goes on from there and ends as if it had never stopped. None: nothing is kept.
        features_on_device: see :class:`grad.features.batches.Loader`.
        sync_batch_norm: whether batch statistics are those of all processes' images, as they would
            be in one process, or each process has its own.
        compile_step: whether torch compiles the network.
        console: where progress goes; None for silence.
        description: what it calls the training.
        on_epoch: is called with the history after each epoch, and once before the first.

    Raises:
        GradError: the loss is NaN or infinite, the message names the files of the batch; the state
            can't be written, or belongs to another training.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, schedule)
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    belongs_to = {"seed": seed, "data": features.digest(), "model": asdict(model.settings)}
    with TrainingState(folder, model, optimizer, order, belongs_to) as state:
        history = state.restore()
        on_epoch(history)
        if model.statistics is not None and history.epochs == 0:
            with Progress(console, "measuring", len(features)) as progress:
                measure_features(model.statistics, features, progress.advance)
        if history.epochs < schedule.epochs:
            _report_start(console, history.epochs, schedule)
        loader = Loader(features, device, _DTYPES[precision], features_on_device)
        step = TrainingStep(
            model,
            optimizer,
            clip=schedule.clip,
            autocast=precision == "bfloat16",
            sync_batch_norm=sync_batch_norm,
            compiled_for=schedule.batch_size if compile_step else None,
        )
        model.train()
        left = schedule.epochs - history.epochs
        first = f"epoch {history.epochs + 1}/{schedule.epochs}"
        interrupted = False
        try:
            with Progress(console, description, left * len(features), first) as progress:
                for epoch in range(history.epochs, schedule.epochs):
                    start = time.perf_counter()
                    rates = _set_learning_rates(optimizer, schedule, epoch)
                    watch = LossWatch(device, features, epoch, schedule.epochs)
                    loss = _train_epoch(
                        step,
                        loader,
                        _order_epoch(features, schedule, order),
                        watch,
                        progress,
                    )
                    history = history.followed_by(loss, rates[0], time.perf_counter() - start)
                    state.save(history)
                    on_epoch(history)
                    progress.advance(0, watch.note())
        except KeyboardInterrupt:
            interrupted = True
        finally:
            model.eval()
    _measure_residuals(model, features, console)
    return Fit(history, interrupted)


def _measure_residuals(model: GRAD, features: Features, console: Console | None) -> None:
    """Measure what a trained model with statistics leaves over of good images."""
    if model.statistics is None:
        return
    with Progress(console, "measuring", len(features) + images_measured(features)) as progress:
        measure_residuals(model.statistics, progress.counting(model), features)


def _order_epoch(features: Features, schedule: Schedule, order: torch.Generator) -> list[list[int]]:
    if not schedule.balance:
        return batches(len(features), schedule.batch_size, order)
    classes = [sample.class_name for sample in features.samples]
    return balanced_batches(classes, schedule.batch_size, order)


def _train_epoch(
    step: TrainingStep,
    loader: Loader,
    whole: Sequence[Sequence[int]],
    watch: LossWatch,
    progress: Progress,
) -> float:
    """Train on all batches, each process on its part of them; returns the mean loss."""
    parts = [distributed.shard(batch) for batch in whole]
    try:
        with closing(loader.load(parts)) as loaded:  # at once, also where a step fails
            for batch, images in zip(whole, loaded, strict=True):
                progress.advance(len(batch), watch.add(step(images, len(batch)), batch))
    except KeyboardInterrupt:
        watch.check()
        raise
    step.finish_epoch()
    return watch.mean()


def make_optimizer(model: nn.Module, schedule: Schedule) -> AdamW:
    """AdamW with a group for grids and memories (by type) and one for everything else."""
    stores = (Grid, Memory)
    grids = [p for m in model.modules() if isinstance(m, stores) for p in m.parameters()]
    in_grid = {id(p) for p in grids}
    networks = [p for p in model.parameters() if id(p) not in in_grid]
    groups = [
        {"params": networks, "lr": schedule.learning_rate},
        {"params": grids, "lr": schedule.grid_learning_rate},
    ]
    return AdamW(groups, weight_decay=schedule.weight_decay, fused=True)


def _set_learning_rates(optimizer: AdamW, schedule: Schedule, epoch: int) -> tuple[float, float]:
    """Returns them: of the networks, of the grids."""
    rates = schedule.learning_rates(epoch)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return rates


def _report_start(console: Console | None, completed: int, schedule: Schedule) -> None:
    if console is not None and completed:
        console.print(
            f"Training goes on: {completed} of {schedule.epochs} epochs are completed.",
            highlight=False,
        )
