"""Training images that look like another class: in a wrong folder, perhaps."""

from __future__ import annotations

import torch
from torch import Tensor

from grad.data.samples import Sample
from grad.features.features import Features


def find_strays(features: Features) -> list[tuple[Sample, str]]:
    """Images that are nearer to another class than to the others of their own.

    An image is the mean of its features over all places, in units of their deviation within
    classes; a class is the mean of its images, but the one that is asked for.

    Args:
        features: of training images, of one class or several; of images in tiles, each by all.

    Returns:
        the images with the names of the classes that they look like, in the order of ``features``.
    """
    names = sorted({sample.class_name for sample in features.samples})
    kinds = torch.tensor([names.index(sample.class_name) for sample in features.samples])
    counts = torch.bincount(kinds)
    if len(names) < 2 or counts.min() < 2:
        return []
    images = _means(features)
    centres = torch.stack([images[kinds == kind].mean(dim=0) for kind in range(len(names))])
    deviation = (images - centres[kinds]).square().mean(dim=0).sqrt().clamp_min(1e-6)
    distances = torch.cdist(images / deviation, centres / deviation)
    rows = torch.arange(len(images))
    # x - (n c - x) / (n - 1) = (x - c) n / (n - 1): the centre of the others.
    own = distances[rows, kinds] * (counts / (counts - 1))[kinds]
    distances[rows, kinds] = torch.inf
    other = distances.min(dim=1)
    return [
        (features.samples[i], names[int(other.indices[i])])
        for i in torch.nonzero(own > other.values).flatten().tolist()
    ]


def _means(features: Features) -> Tensor:
    """(N, C) float32, the mean of each image's features over all places."""
    return torch.stack(
        [
            torch.cat(list(features.tiles_of(index))).float().mean(dim=(0, 2, 3))
            for index in range(len(features))
        ]
    )
