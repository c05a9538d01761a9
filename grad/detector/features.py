"""The features of images as a trained model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from grad.data.samples import Sample
from grad.data.tiling import tiling_of
from grad.detector.checkpoint import LoadedModel
from grad.features.compute import compute_features, default_cache
from grad.features.features import Features
from grad.system.devices import default_workers


def features_for(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    *,
    cache: Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    console: Console | None = None,
) -> Features:
    """Features by a model's backbone, of images of its size, tiles and white level.

    Args:
        loaded: the model; its device is where the backbone runs.
        samples: images, those of a class and split side by side.
        cache: folder of features; None: the user's.
        workers: threads that decode images; None: one a core, at most 8.
        strict, console: as of :func:`grad.features.compute.compute_features`.

    Raises:
        GradError: as :func:`grad.features.compute.compute_features`.
    """
    info = loaded.info
    return compute_features(
        [
            replace(
                s,
                white_level=info.white_level,
                roi=info.rois.get(s.class_name, s.roi),
                min_area=info.min_area,
            )
            for s in samples
        ],
        loaded.backbone,
        info.image_size,
        cache=cache or default_cache(),
        tiling=tiling_of(info.tile, info.overlap),
        device=next(loaded.model.parameters()).device,
        workers=workers or default_workers(),
        strict=strict,
        console=console,
    )
