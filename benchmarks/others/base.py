"""What every peer offers, and how one is measured."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grad.data.images import load_image, load_mask
from grad.data.samples import Sample
from grad.model.presets import Preset
from grad.score.metrics.classes import ClassMetrics, ClassReport, summarize
from grad.system.errors import GradError

BATCH = 16  # images that are predicted at once


@dataclass(frozen=True)
class PeerOptions:
    """What the peers are given.

    Args:
        backbone, weights: as in ``python -m grad.train``.
        image_size: side of the images, in pixels (but for a preset with its own), and of the
            anomaly maps that are judged.
        preset, epochs, batch_size, seed: of our own models.
        coreset: share of the pixels that PatchCore keeps.
        seconds: after which the training of a peer's network ends; None for its own length.
        textures: folder of DRAEM's textures; None for plain noise.
        vit_weights: weights of Dinomaly's ViT, and ``vit`` timm's name of it.
        device: where everything runs.
    """

    backbone: str | None
    weights: Path | None
    image_size: int = 224
    preset: Preset = "grad-s"
    epochs: int = 100
    batch_size: int = 64
    seed: int = 0
    coreset: float = 0.1
    seconds: float | None = None
    textures: Path | None = None
    vit: str = "vit_base_patch14_reg4_dinov2"
    vit_weights: Path | None = None
    device: str = "cpu"


class Peer(Protocol):
    """A method that learns from good images; ``image_size`` is the side that it takes them at."""

    image_size: int

    def fit(self, samples: Sequence[Sample]) -> str:
        """Learn; returns what was done, in a few words."""
        ...

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) in [0, 1] -> anomaly maps (B, h, w) and image scores (B,)."""
        ...

    def module(self) -> nn.Module:
        """All that predicting needs, the frozen backbone included."""
        ...


class PeerUnavailable(GradError):
    """A peer can't be run with what was given; the message is for the table."""


def measure(
    make: Callable[[], Peer],
    train: Sequence[Sample],
    test: Sequence[Sample],
    models: Sequence[tuple[str, ...]],
    options: PeerOptions,
) -> dict[str, Any]:
    """Fit one model for each group of classes, judge it, and say what it cost.

    Returns:
        ``summary`` as in metrics.json; ``train_seconds``, summed over the models; ``images_per_s``
        from decoded images to anomaly maps; ``megabytes`` of all models; ``peak_megabytes`` of
        this process (on a GPU: of its tensors there); ``note``.
    """
    reports: dict[str, ClassReport] = {}
    train_seconds = predict_seconds = megabytes = 0.0
    notes: list[str] = []
    for classes in models:
        torch.manual_seed(options.seed)
        start = time.perf_counter()
        peer = make()
        note = peer.fit([s for s in train if s.class_name in classes])
        train_seconds += time.perf_counter() - start
        notes += [] if note in notes else [note]
        mine = [s for s in test if s.class_name in classes]
        found, seconds = _judge(peer, mine, classes, options)
        reports |= found
        predict_seconds += seconds
        megabytes += _bytes(peer.module()) / 1e6
    return {
        "summary": summarize(dict(sorted(reports.items()))),
        "train_seconds": train_seconds,
        "images_per_s": len(test) / predict_seconds,
        "megabytes": megabytes,
        "peak_megabytes": _peak_megabytes(options.device),
        "note": "; ".join(filter(None, notes)),
    }


def image_batches(
    samples: Sequence[Sample], image_size: int, batch: int = BATCH
) -> Iterator[tuple[Sequence[Sample], Tensor]]:
    """Samples and their images (B, 3, S, S) in [0, 1]."""
    for first in range(0, len(samples), batch):
        mine = samples[first : first + batch]
        yield mine, torch.stack([load_image(s.path, (image_size, image_size)) for s in mine])


def _judge(
    peer: Peer, samples: Sequence[Sample], classes: Sequence[str], options: PeerOptions
) -> tuple[dict[str, ClassReport], float]:
    size = (options.image_size, options.image_size)
    metrics = {name: ClassMetrics(name) for name in classes}
    seconds = 0.0
    for mine, images in image_batches(samples, peer.image_size):
        images = images.to(options.device)
        start = time.perf_counter()
        with torch.inference_mode():
            maps, scores = peer.predict(images)
            maps, scores = maps.float().cpu(), scores.float().cpu()
        seconds += time.perf_counter() - start
        if maps.shape[1:] != size:
            maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        for i, sample in enumerate(mine):
            mask = None if sample.mask is None else load_mask(sample.mask, size, sample.mask_rule)
            row = slice(i, i + 1)
            metrics[sample.class_name].update(maps[row], [mask], scores[row], [sample.anomalous])
    return {name: of_class.compute() for name, of_class in metrics.items()}, seconds


def _bytes(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _peak_megabytes(device: str) -> float:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
