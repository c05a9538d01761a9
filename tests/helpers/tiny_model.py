"""A small model file for tests of what predicts, and pictures to show it."""

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from grad.detector.checkpoint import ModelInfo, save_checkpoint
from grad.detector.engine import Pipeline
from grad.features.backbone import load_backbone
from grad.model.grad import GRAD
from grad.score.thresholds import calibrate
from grad.system.run_folder import MODEL

BACKBONE = "test_resnet"  # a model of timm with 0.5 million parameters
SIZE = 32
CLASSES = ("nut", "screw")


def make_run(folder, *, calibrated=True, preset="grad-tiny"):
    """A run's folder with a model that has learned nothing, but has thresholds; returns it."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(timm.create_model(BACKBONE).state_dict(), folder / "weights.safetensors")
    backbone = load_backbone(BACKBONE, folder / "weights.safetensors")
    shape = (backbone.channels, *backbone.feature_size(SIZE))
    model = GRAD.from_preset(preset, *shape)
    with torch.no_grad():
        for _ in range(2):  # give batch normalisation statistics of its own
            model.train()(torch.randn(4, *shape))
    images = torch.stack([torch.from_numpy(pixels(seed)).permute(2, 0, 1) for seed in range(20)])
    with torch.inference_mode():
        maps, scores = Pipeline(backbone, model.eval(), SIZE)(images / 255)
    halves = {"nut": slice(0, 10), "screw": slice(10, 20)}
    calibration = calibrate(
        {name: scores[half].tolist() for name, half in halves.items()},
        {name: maps[half].amax(dim=(1, 2)).tolist() for name, half in halves.items()},
        dict.fromkeys(halves, "held out"),
        0.1,
    )
    info = ModelInfo.of(backbone, image_size=SIZE, classes=CLASSES, epochs=1)
    file = folder / MODEL
    save_checkpoint(file, model, backbone, info, calibration if calibrated else None)
    return folder


def pixels(seed=0, size=(SIZE, SIZE), top=255, dtype=np.uint8):
    """(h, w, 3) of smooth random colours from 0 to ``top``."""
    small = np.random.default_rng(seed).random((5, 7, 3), np.float32)
    bands = [Image.fromarray(small[:, :, band]).resize(size[::-1]) for band in range(3)]
    values = np.stack([np.asarray(band) for band in bands], axis=2).clip(0, 1) * top
    return (values.round() if np.dtype(dtype).kind == "u" else values).astype(dtype)


def picture(path, seed=0, size=(40, 60)):
    """The same as a PNG file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path)
    return path
