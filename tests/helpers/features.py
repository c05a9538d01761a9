"""Features that no backbone has made."""

from dataclasses import asdict
from pathlib import Path

import torch

from grad.data.samples import Sample
from grad.features.features import Features
from grad.model.branches import Branches
from grad.model.grad import GRAD
from grad.model.measure import measure_features, measure_residuals


def make_features(count=9, seed=0, *, shape=(6, 3, 3), broken=None, class_name="a"):
    """Features (C, H, W) that are one pattern with a little noise; NaN in one image if asked."""
    channels, *size = shape
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(1, *size, channels, generator=generator)
    maps = pattern + 0.1 * torch.randn(count, *size, channels, generator=generator)
    if broken is not None:
        maps[broken] = torch.nan
    samples = [Sample(Path(f"{i}.png"), class_name, "train") for i in range(count)]
    return Features.in_memory(samples, maps)


def add_branches(model, images):
    """Give a model two further networks: of three classes, like images (3, C, H, W), the last."""
    networks = [GRAD.from_preset(**asdict(model.settings)) for _ in range(2)]
    for network in networks:
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
        network.train()(images)
    model.branches = Branches(model.settings.channels, networks)
    means = images.float().mean(dim=(2, 3))
    model.branches.place([torch.stack([m - 1e-3, m + 1e-3]) for m in means], [0, 1, 2])
    return model.eval()


def measure_statistics(model, classes=("a", "b")):
    """Give a model with statistics those of random features, of another mean in each class."""
    s = model.settings
    generator = torch.Generator().manual_seed(0)
    maps, samples = [], []
    for number, name in enumerate(classes):
        mean = number + torch.randn(s.height, s.width, s.channels, generator=generator)
        for _ in range(9):
            maps.append(mean + torch.randn(mean.shape, generator=generator))
            samples.append(Sample(Path(f"{len(samples)}.png"), name, "train"))
    features = Features.in_memory(samples, torch.stack(maps))
    measure_features(model.eval().statistics, features)
    with torch.no_grad():
        measure_residuals(model.statistics, model, features)
