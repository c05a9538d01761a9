"""Peers from the anomalib package, trained by its own modules and judged by our metrics.

PatchCore, PaDiM and Reverse Distillation see the same frozen features as ours: their extractor is
exchanged for one on our backbone. anomalib is an optional extra (``pip install ".[peers]"``).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from grad.data.images import load_image
from grad.data.samples import Sample
from grad.features.backbone import Backbone, load_backbone
from others.base import PeerOptions, PeerUnavailable

PADIM_CHANNELS = 100  # kept at random, as the paper keeps of a ResNet-18
LAYERS = ("blocks.1", "blocks.2", "blocks.4")  # names only; which maps they are, Stages knows
_RD_CHANNELS = (64, 128, 256)  # that a ResNet-18 has at strides 4, 8 and 16


class Stages(nn.Module):
    """In the place of anomalib's feature extractor: maps of our frozen backbone by layer name.

    Args:
        backbone: ours.
        count: how many maps: 1 or 2, those that GRAD uses; 3 with the one before them.
        channels: C of each map as it is given out, by a fixed isometry into more channels, which
            leaves distances and cosines as they are; None for the backbone's own.
    """

    def __init__(
        self, backbone: Backbone, count: int, channels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.model = backbone.model
        first = backbone.maps[0]
        self.maps = list(range(first - count + len(backbone.maps), first)) + backbone.maps
        self.names = LAYERS[-count:]
        self.isometries = nn.ParameterList()
        if channels is None:
            return
        sizes = [m.shape[1] for m in self._maps(torch.zeros(1, 3, 64, 64))]
        if any(size > wide for size, wide in zip(sizes, channels, strict=True)):
            raise PeerUnavailable(
                f"not run: the backbone's maps have {sizes} channels, a ResNet-18's {channels}"
            )
        for size, wide in zip(sizes, channels, strict=True):
            matrix = torch.linalg.qr(torch.randn(wide, size)).Q  # (wide, size), orthonormal columns
            self.isometries.append(nn.Parameter(matrix[:, :, None, None], requires_grad=False))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) -> a map for each layer name."""
        with torch.no_grad():
            maps = self._maps(images)
            if len(self.isometries):
                pairs = zip(maps, self.isometries, strict=True)
                maps = [torch.conv2d(m, isometry) for m, isometry in pairs]
        return dict(zip(self.names, [m.contiguous() for m in maps], strict=True))

    def _maps(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            maps: list[Tensor] = self.model.forward_intermediates(
                images, indices=self.maps, output_fmt="NCHW", intermediates_only=True
            )
        return maps


class FromAnomalib:
    """A Lightning module of anomalib behind the interface of a peer."""

    def __init__(self, module: Any, options: PeerOptions, epochs: int, batch_size: int) -> None:
        self.lightning = module
        self.options = options
        self.image_size = options.image_size
        self.epochs = epochs
        self.batch_size = batch_size

    def fit(self, samples: Sequence[Sample]) -> str:
        """Its own optimiser, loss and number of epochs; the time limit may end it early."""
        from lightning.pytorch import LightningDataModule, Trainer

        trainer = Trainer(
            **{"max_epochs": self.epochs, **self.lightning.trainer_arguments},
            max_time=None if self.options.seconds is None else {"seconds": self.options.seconds},
            accelerator="gpu" if self.options.device.startswith("cuda") else "cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(
            _Images(samples, self.options.image_size),
            self.batch_size,
            shuffle=True,
            drop_last=self.epochs > 1 and len(samples) > self.batch_size,
            collate_fn=_collate,
        )
        data = LightningDataModule()  # Dinomaly asks it for the number of steps
        data.train_dataloader = lambda: loader
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of workers and of deprecations
            trainer.fit(self.lightning, datamodule=data)
        self.lightning.eval().to(self.options.device)
        if self.epochs == 1:
            return ""
        steps = f"{trainer.global_step} of {self.epochs * len(loader)} steps"
        return f"{steps} in batches of {self.batch_size}"

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps and scores as anomalib gives them, before any normalisation."""
        found = self.lightning(images)
        return found.anomaly_map.flatten(0, -3), found.pred_score.flatten()

    def module(self) -> nn.Module:
        """The torch model inside."""
        model: nn.Module = self.lightning.model
        return model


def patchcore(options: PeerOptions) -> FromAnomalib:
    """PatchCore with the paper's 3 x 3 means, greedy coreset and re-weighted image score."""
    backbone = load_backbone(options.backbone, options.weights)
    layers = LAYERS[-len(backbone.maps) :]
    with _without_weights():
        module = _models().Patchcore(
            backbone=_STAND_IN,
            layers=_STAND_IN_LAYERS[: len(layers)],
            pre_trained=False,
            coreset_sampling_ratio=options.coreset,
            pre_processor=_processor(options, backbone),
            **_BARE,
        )
    module.model.layers = layers
    module.model.feature_extractor = Stages(backbone, len(layers))
    return FromAnomalib(module, options, epochs=1, batch_size=32)


def padim(options: PeerOptions) -> FromAnomalib:
    """PaDiM: a Gaussian for each pixel, of 100 channels chosen at random."""
    backbone = load_backbone(options.backbone, options.weights)
    layers = LAYERS[-len(backbone.maps) :]
    kept = min(PADIM_CHANNELS, backbone.channels)
    with _without_weights():
        module = _models().Padim(
            backbone=_STAND_IN,
            layers=list(_STAND_IN_LAYERS),
            pre_trained=False,
            n_features=kept,
            pre_processor=_processor(options, backbone),
            **_BARE,
        )
    module.model.layers = list(layers)
    module.model.feature_extractor = Stages(backbone, len(layers))
    module.model.idx = torch.randperm(backbone.channels)[:kept]
    return FromAnomalib(module, options, epochs=1, batch_size=32)


def reverse_distillation(options: PeerOptions) -> FromAnomalib:
    """Reverse Distillation, with the bottleneck and decoder that it has for a ResNet-18."""
    backbone = load_backbone(options.backbone, options.weights)
    if len(backbone.maps) < 2:
        raise PeerUnavailable("not run: needs a backbone with maps at strides 4, 8 and 16")
    with _without_weights():
        module = _models().ReverseDistillation(
            backbone=_STAND_IN,
            layers=list(_STAND_IN_LAYERS),
            pre_trained=False,
            pre_processor=_processor(options, backbone),
            **_BARE,
        )
    module.model.encoder = Stages(backbone, 3, _RD_CHANNELS)
    return FromAnomalib(module, options, epochs=200, batch_size=16)


def draem(options: PeerOptions) -> FromAnomalib:
    """DRAEM: two U-Nets trained from nothing on synthetic defects; it takes no backbone."""
    perlin = importlib.import_module("anomalib.data.utils.generators.perlin")
    folder = options.textures or Path(__file__).parent  # without images: plain noise
    module = _models().Draem(dtd_dir=folder, pre_processor=_processor(options, None), **_BARE)
    if options.textures is None:
        module.augmenter = perlin.PerlinAnomalyGenerator(None, blend_factor=(0.1, 1.0))
    return FromAnomalib(module, options, epochs=700, batch_size=8)


def dinomaly(options: PeerOptions) -> FromAnomalib:
    """Dinomaly on a ViT whose weights are in a file."""
    if options.vit_weights is None:
        raise PeerUnavailable("not run: needs --vit-weights FILE")
    weights = safetensors.torch.load_file(options.vit_weights)
    with _with_weights(weights):
        module = _models().Dinomaly(
            encoder_name=options.vit,
            pre_processor=_processor(options, None, imagenet=True),
            **_BARE,
        )
    return FromAnomalib(module, options, epochs=100, batch_size=16)


PEERS = {
    "PatchCore": patchcore,
    "PaDiM": padim,
    "Reverse Distillation": reverse_distillation,
    "DRAEM": draem,
    "Dinomaly": dinomaly,
}

_BARE = {"post_processor": False, "evaluator": False, "visualizer": False}
# What the modules are made with before their extractor is exchanged.
_STAND_IN = "resnet18"
_STAND_IN_LAYERS = ("layer1", "layer2", "layer3")


class _Images(torch.utils.data.Dataset[Tensor]):
    def __init__(self, samples: Sequence[Sample], image_size: int) -> None:
        self.samples = samples
        self.size = (image_size, image_size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return load_image(self.samples[index].path, self.size)


def _collate(images: Sequence[Tensor]) -> Any:
    data = importlib.import_module("anomalib.data")
    return data.ImageBatch(image=torch.stack(list(images)))


def _models() -> Any:
    try:
        return importlib.import_module("anomalib.models")
    except ImportError as error:
        raise PeerUnavailable(
            f'not run: anomalib is not installed ({error}): pip install "grad-anomaly[peers]"'
        ) from error


def _processor(options: PeerOptions, backbone: Backbone | None, imagenet: bool = False) -> Any:
    """Images come in the right size and in [0, 1]; what is left is the normalisation."""
    size = (options.image_size, options.image_size)
    steps: list[Any] = [v2.Resize(size, antialias=True)]
    if backbone is not None:
        mean, std = (t.flatten().tolist() for t in (backbone.mean, backbone.std))
        steps.append(v2.Normalize(mean, std))
    elif imagenet:
        steps.append(v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    processing = importlib.import_module("anomalib.pre_processing")
    return processing.PreProcessor(transform=v2.Compose(steps))


def _without_weights() -> Any:
    """The stand-in's weights are not asked for."""
    return _create_model_by(
        lambda name, **rest: _create_model(name, **rest | {"pretrained": False})
    )


def _with_weights(weights: Mapping[str, Tensor]) -> Any:
    """timm's models get these weights, not those of its hub."""

    def create(name: str, **rest: Any) -> nn.Module:
        model: nn.Module = _create_model(name, **rest | {"pretrained": False})
        model.load_state_dict({key: value.float() for key, value in weights.items()})
        return model

    return _create_model_by(create)


_create_model = timm.create_model


def _create_model_by(function: Any) -> Any:
    return patch.object(timm, "create_model", function)
