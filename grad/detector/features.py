"""The features of images as a trained model takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from grad.data.picture import as_floats, collate
from grad.data.roi import inside, paint_outside
from grad.data.samples import Sample
from grad.data.sources import Item, One, items_of
from grad.data.tiling import tiling_of
from grad.detector.checkpoint import LoadedModel
from grad.features.compute import compute_features, default_cache
from grad.features.features import Features
from grad.system.devices import default_workers
from grad.system.errors import GradError

_BATCH = 16  # images that the backbone takes at once


def features_of_images(
    loaded: LoadedModel, images: One | Iterable[One | Item], class_name: str
) -> Features:
    """Features of good images of a class, in files or in memory; those of files are kept on disk.

    Raises:
        GradError: an image that can't be used; images in memory for a model that needs their files.
    """
    items = [replace(item, white_level=loaded.info.white_level) for item in items_of(images)]
    if not items:
        raise GradError("There is no image to learn from: give some.")
    samples = [
        Sample(
            item.content if isinstance(item.content, Path) else Path(item.name), class_name, "train"
        )
        for item in items
    ]
    if all(isinstance(item.content, Path) for item in items):
        return features_for(loaded, samples, strict=True)
    info, device = loaded.info, next(loaded.model.parameters()).device
    if info.tile is not None or info.min_area > 1:
        raise GradError(
            "A model of tiles, or with a smallest region that counts, learns from image files "
            "alone: give their paths."
        )
    size, roi = (info.image_size, info.image_size), info.rois.get(class_name)
    samples = [replace(sample, roi=roi) for sample in samples]
    looked_at = None if roi is None else inside(roi, size)
    maps = []
    for first in range(0, len(items), _BATCH):
        pictures = [item.picture() for item in items[first : first + _BATCH]]
        batch = collate([picture.resize(size).tensor() for picture in pictures])
        with torch.inference_mode():
            found = loaded.backbone(as_floats(paint_outside(batch, roi, looked_at)).to(device))
        maps.append(found.permute(0, 2, 3, 1).half().cpu())
    return Features.in_memory(samples, torch.cat(maps))


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
