"""``fit``: the training loop over cached features (paper, section 4.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from grad.errors import GradError
from grad.features import Features
from grad.model import GRAD, Grid
from grad.progress import Progress

Precision = Literal["float32", "bfloat16"]

_CHECK_SECONDS = 1.0  # how often the loss is looked at, which waits for the device


@dataclass(frozen=True)
class Schedule:
    """How a model is trained; the defaults are the paper's.

    Args:
        epochs: how often each image is seen.
        batch_size: images in a step.
        drops: epochs after which both learning rates are divided by ten; None for 40 % and 80 %
            of all epochs, rounded down.
        learning_rate: of the networks.
        grid_learning_rate: of the grids.
        weight_decay: of all parameters.
        clip: largest norm of the gradient of all parameters together.
    """

    epochs: int = 100
    batch_size: int = 64
    drops: tuple[int, ...] | None = None
    learning_rate: float = 1e-3
    grid_learning_rate: float = 1e-1
    weight_decay: float = 1e-2
    clip: float = 0.1

    @property
    def milestones(self) -> list[int]:
        """The epochs after which the learning rates drop."""
        drops = (self.epochs * 2 // 5, self.epochs * 4 // 5) if self.drops is None else self.drops
        return sorted(epoch for epoch in drops if epoch > 0)


@dataclass(frozen=True)
class Fit:
    """What became of a training run.

    Attributes:
        epochs: completed epochs.
        interrupted: whether Ctrl-C ended it early.
        losses: mean loss of each completed epoch.
    """

    epochs: int
    interrupted: bool
    losses: tuple[float, ...]


def fit(
    model: GRAD,
    features: Features,
    schedule: Schedule,
    *,
    seed: int = 0,
    precision: Precision = "float32",
    console: Console | None = None,
) -> Fit:
    """Train a model in place, on the device where it is; the last epoch is the result.

    Seeds torch's global generator, which the coordinate jitter draws from. Ctrl-C ends training
    and leaves the model with what it has learned so far.

    Args:
        model: freshly made.
        features: of good images.
        schedule: epochs, rates and so on.
        seed: of the order of images and of the jitter.
        precision: of the fusion network and the heads; bfloat16 by autocast.
        console: where progress goes; None for silence.

    Raises:
        GradError: the loss is NaN or infinite; the message names the files of the batch.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, schedule)
    scheduler = MultiStepLR(optimizer, schedule.milestones, gamma=0.1)
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    losses: list[float] = []
    watch = _LossWatch(device, features, epoch=0)
    model.train()
    try:
        with Progress(console, "training", schedule.epochs * len(features)) as progress:
            for epoch in range(schedule.epochs):
                watch = _LossWatch(device, features, epoch)
                start = time.perf_counter()
                for batch in batches(len(features), schedule.batch_size, order):
                    images = load_batch(features, batch, device, precision)
                    with torch.autocast(
                        device.type, torch.bfloat16, enabled=precision == "bfloat16"
                    ):
                        loss, _ = model.loss_and_score(images)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
                    optimizer.step()
                    progress.advance(len(batch), watch.add(loss, batch))
                scheduler.step()
                losses.append(watch.mean())
                _report_epoch(console, epoch, schedule, losses[-1], len(features), start)
    except KeyboardInterrupt:
        watch.check()
        return Fit(len(losses), True, tuple(losses))
    finally:
        model.eval()
    return Fit(len(losses), False, tuple(losses))


def make_optimizer(model: nn.Module, schedule: Schedule) -> AdamW:
    """AdamW with a group for the grids (by type) and one for everything else."""
    grids = [p for m in model.modules() if isinstance(m, Grid) for p in m.parameters()]
    in_grid = {id(p) for p in grids}
    networks = [p for p in model.parameters() if id(p) not in in_grid]
    groups = [
        {"params": networks, "lr": schedule.learning_rate},
        {"params": grids, "lr": schedule.grid_learning_rate},
    ]
    return AdamW(groups, weight_decay=schedule.weight_decay, fused=True)


def batches(count: int, size: int, order: torch.Generator) -> list[list[int]]:
    """All indices in random order, in batches.

    The last, incomplete batch is kept; but a single image left over joins the batch before, as
    batch normalisation would learn from one image alone.
    """
    split = [b.tolist() for b in torch.randperm(count, generator=order).split(size)]
    if len(split) > 1 and len(split[-1]) == 1:
        split[-2:] = [split[-2] + split[-1]]
    return split


def load_batch(
    features: Features, indices: Sequence[int], device: torch.device, precision: Precision
) -> Tensor:
    """(B, C, H, W) channels_last on the device, in the dtype that the network computes in."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    stored = features.batch(indices)
    if device.type == "cuda":
        stored = stored.pin_memory()
    return stored.to(device, non_blocking=True).to(dtype)


def choose_precision(device: torch.device) -> Precision:
    """bfloat16 where the hardware multiplies it natively, as emulation is many times slower.

    That is CUDA from compute capability 8.0, and CPUs with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


class _LossWatch:
    """The loss of an epoch, gathered on the device and looked at now and then."""

    def __init__(self, device: torch.device, features: Features, epoch: int) -> None:
        self._features, self._epoch = features, epoch
        self._sum = torch.zeros((), device=device, dtype=torch.float64)
        self._first_bad = torch.full((), math.inf, device=device)
        self._batches: list[list[int]] = []
        self._images = 0
        self._looked = time.perf_counter()

    def add(self, loss: Tensor, batch: list[int]) -> str | None:
        """Take in a step's loss; a text for the progress bar when it was looked at."""
        loss = loss.detach()
        bad = torch.where(loss.isfinite(), math.inf, float(len(self._batches)))
        self._first_bad = torch.minimum(self._first_bad, bad)
        self._sum += loss * len(batch)
        self._batches.append(batch)
        self._images += len(batch)
        if time.perf_counter() - self._looked < _CHECK_SECONDS:
            return None
        self._looked = time.perf_counter()
        return f"epoch {self._epoch + 1}, loss {self.mean():.4g}"

    def mean(self) -> float:
        """Mean loss so far, an image's weight being one; checked."""
        self.check()
        return float(self._sum.item() / self._images)

    def check(self) -> None:
        """Look for a loss that is no number.

        Raises:
            GradError: there is one; the files of its batch are named.
        """
        first_bad = self._first_bad.item()
        if math.isfinite(first_bad):
            step = int(first_bad)
            files = ", ".join(str(self._features.samples[i].path) for i in self._batches[step])
            raise GradError(
                f"The loss became NaN or infinite in epoch {self._epoch + 1}, step {step + 1}, "
                f"with the images {files}: look for a broken one among them, or train with a "
                "lower --learning-rate or --precision float32."
            )


def _report_epoch(
    console: Console | None, epoch: int, schedule: Schedule, loss: float, images: int, start: float
) -> None:
    """A line an epoch where no bar can be drawn."""
    if console is None or console.is_terminal:
        return
    speed = images / (time.perf_counter() - start)
    console.print(
        f"epoch {epoch + 1}/{schedule.epochs}: loss {loss:.4g}, {speed:,.0f} images/s",
        highlight=False,
    )
