"""A small model with thresholds, and images, for tests of exported files."""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from grad.detector.checkpoint import LoadedModel, ModelInfo, save_checkpoint
from grad.detector.engine import Pipeline
from grad.export.graph import ExportGraph, columns
from grad.features.backbone import Backbone
from grad.model.grad import GRAD
from grad.score.thresholds import calibrate
from helpers.features import measure_statistics

BACKBONE = "test_efficientnet"  # a model of timm with 0.4 million parameters
SIZE = 64


def make_backbone() -> Backbone:
    torch.manual_seed(0)
    model = timm.create_model(BACKBONE)
    maps = [2, 3]  # at stride 8 and 16
    return Backbone(BACKBONE, model, model.prune_intermediate_layers(maps, prune_norm=True))


def make_model(backbone: Backbone, classes=("bottle", "Schraube ä"), **options) -> LoadedModel:
    """A random model whose thresholds lie between the scores of :func:`noise`."""
    torch.manual_seed(0)
    shape = (backbone.channels, *backbone.feature_size(SIZE))
    model = GRAD.from_preset("grad-tiny", *shape, **options)
    for _ in range(2):  # give batch normalisation statistics of its own
        model.train()(torch.randn(4, *shape))
    if model.statistics is not None:
        measure_statistics(model)
    images = torch.from_numpy(noise(8, SIZE, SIZE)).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        maps, scores = Pipeline(backbone, model, SIZE)(images)
    order = scores.argsort()[:4]
    lowest, maxima = scores[order], maps.amax(dim=(1, 2))[order]
    factors = {name: 1.0 - 0.3 * number for number, name in enumerate(classes)}
    calibration = calibrate(
        {name: (factor * lowest).tolist() for name, factor in factors.items()},
        {name: (factor * maxima).tolist() for name, factor in factors.items()},
        {name: "held out" for name in classes},
        0.3,
    )
    info = ModelInfo.of(backbone, image_size=SIZE, classes=classes, epochs=3)
    return LoadedModel(model.eval(), backbone, info, calibration)


def make_graph(loaded: LoadedModel, **options) -> ExportGraph:
    chosen = columns(loaded.calibration, None)
    return ExportGraph(loaded.backbone, loaded.model, SIZE, chosen, **options)


def save(loaded: LoadedModel, path: Path) -> Path:
    save_checkpoint(path, loaded.model, loaded.backbone, loaded.info, loaded.calibration)
    return path


def noise(images: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(images, height, width, 3) uint8, each with another contrast."""
    rng = np.random.default_rng(seed)
    contrast = np.linspace(20, 100, images)[:, None, None, None]
    values = 128 + contrast * rng.standard_normal((images, height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


def write_images(folder: Path, sizes=((90, 70), (90, 70), (64, 64))) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        Image.fromarray(noise(1, *size, seed=number)[0]).save(folder / f"{number}.png")
    return folder
