"""The frozen backbone: images to feature maps, on any timm model (paper, section 4).

Two maps are taken, at stride 8 and 16; the second is resized to the first, and both are
concatenated. With context a map at stride 32 follows, and of an EfficientNet the inner stages at
stride 16 are taken too; all are then resized to a grid between strides 8 and 16. Stages behind the
last map used are removed. Its weights come from :mod:`grad.features.weights`.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grad.features.weights import (
    BUILT_IN_BACKBONE,
    DEFAULT_BACKBONE,
    WeightsUnavailable,
    create_model,
    download_model,
    fill_weights,
    find_package_weights,
    read_weights,
)
from grad.system.errors import GradError, first_line


class Backbone(nn.Module):
    """A frozen timm model that returns one feature map; always in evaluation mode.

    Attributes:
        name: timm's name of the model.
        channels: C of the feature map.
        context: how many of these, the last ones, are of the coarsest of three strides.
        stride: image pixels per feature pixel; with context, of the finest map.
        fingerprint: SHA-256 (hex) over the name, the normalisation, all weights in use and which
            maps are used, where they are not the usual ones; equal fingerprints mean equal
            features.
        note: a sentence where the backbone is not the one that would have been taken first.
        maps: which of timm's feature maps are used, by index, ascending.
        inner: whether these count every stage of an EfficientNet, its stem first (timm's
            ``extra_blocks``), not only the last stage at each stride.
        mean, std: (1, 3, 1, 1) buffers, the normalisation that the model was trained with.
        dtype: of the model's weights and of the feature map; the normalisation stays float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        model: Any,
        maps: Sequence[int],
        *,
        inner: bool = False,
        note: str | None = None,
    ) -> None:
        """Freeze a timm model."""
        super().__init__()
        of_stages = _stages(model) if inner else _feature_info(model)
        info = [of_stages[index] for index in maps]
        self.name = name
        self.note = note
        self.channels: int = sum(entry["num_chs"] for entry in info)
        strides = [entry["reduction"] for entry in info]
        # Without context all get the size of the finest that is at most twice as fine as the last.
        several = len(set(strides)) > 2
        self.stride: int = min(s for s in strides if several or 2 * s >= max(strides))
        self.context: int = sum(
            entry["num_chs"] for entry in info if several and entry["reduction"] == max(strides)
        )
        self._base = strides.index(self.stride)
        self.maps = list(maps)
        self.inner = inner
        self.dtype = torch.float32
        self.model = model.requires_grad_(False).to(memory_format=torch.channels_last)
        for statistic in ("mean", "std"):
            values = torch.tensor(model.pretrained_cfg[statistic], dtype=torch.float32)
            self.register_buffer(statistic, values.reshape(1, 3, 1, 1))
        self.fingerprint = self._digest()
        self._feature_sizes: dict[int, tuple[int, int]] = {}
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def _digest(self) -> str:
        """The fingerprint."""
        digest = hashlib.sha256(self.name.encode())
        for key, tensor in sorted(self.state_dict().items()):
            if tensor.is_floating_point():  # not the counts of batches seen
                digest.update(f"\0{key}{tuple(tensor.shape)}{tensor.dtype}\0".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        if self.inner or self.context:
            digest.update(f"\0maps {self.maps} {self.inner}".encode())
        return digest.hexdigest()

    def feature_size(self, image_size: int) -> tuple[int, int]:
        """(H, W) of the feature map of square images, such as (28, 28) for 224 at stride 8.

        With context it is the size that a stride between those of the two finest maps would give
        (8 times the root of 2), such as (28, 28) for 320.

        Raises:
            GradError: the model can't take images of that size.
        """
        if image_size not in self._feature_sizes:
            images = self.mean.new_zeros(1, 3, image_size, image_size)
            try:
                with torch.no_grad():
                    height, width = self(images).shape[-2:]
            except (AssertionError, RuntimeError, ValueError) as error:
                own = self.model.pretrained_cfg["input_size"][-1]
                raise GradError(
                    f"--image-size {image_size} does not suit the backbone {self.name} "
                    f"({first_line(error)}): choose another, {own} is the backbone's own."
                ) from error
            self._feature_sizes[image_size] = (height, width)
        return self._feature_sizes[image_size]

    def forward(self, images: Tensor) -> Tensor:
        """Feature map of images.

        Args:
            images: (B, 3, H, W), floating point in [0, 1]; normalised here.

        Returns:
            (B, C, H', W') in channels_last memory, C the channels of the first map, then those of
            the second, and so on; H' and W' as of :meth:`feature_size`.
        """
        images = (images - self.mean) / self.std
        images = images.to(self.dtype, memory_format=torch.channels_last)
        maps: list[Tensor] = self.model.forward_intermediates(
            images,
            indices=self.maps,
            output_fmt="NCHW",
            intermediates_only=True,
            **_inner_option(self.inner),
        )
        height, width = maps[self._base].shape[-2:]
        if self.context:
            height, width = (max(1, round(side / math.sqrt(2))) for side in (height, width))
        maps = [_resized(m, height, width) for m in maps]
        return torch.cat(maps, dim=1).contiguous(memory_format=torch.channels_last)


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Means of areas where a map becomes half as large or smaller, else bilinear."""
    if maps.shape[-2:] == (height, width):
        return maps
    if maps.shape[-2] >= 2 * height:
        return F.adaptive_avg_pool2d(maps, (height, width))
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=True)


def load_backbone(
    name: str | None = None, weights: Path | None = None, *, context: bool = False
) -> Backbone:
    """A backbone with trained weights.

    Weights are taken from ``weights``; else from an installed package (``tf_efficientnet_lite2``
    is always there, lite0 and lite1 where their packages are); else from timm's hub or its cache.
    Without a name the default is ``tf_efficientnet_b4``, and the built-in
    ``tf_efficientnet_lite2`` where its weights can't be had; ``note`` then says so.

    The maps used are the last at stride 8 and the last at stride 16; with ``context`` the first at
    stride 32 too, and of an EfficientNet all stages at stride 16. Models without a map at stride
    8 give the last map at the finest stride above 8 and at the next; models of a single scale, such
    as vision transformers, the output of their last block.

    Args:
        name: a timm model; may carry a tag (``resnet18.a1_in1k``). ``tf_efficientnet_b4`` without
            one means the paper's weights, ``aa_in1k``.
        weights: a safetensors file or a PyTorch state dict (loaded without running any code) under
            timm's names, with or without the classifier; an EfficientNet may also have the names of
            the original port (``efficientnet-b4-6ed6700e.pth``). float16 is widened.
        context: whether to use more maps, of what lies around a pixel.

    Raises:
        GradError: an unknown model or one without feature maps; weights that can't be had, don't
            fit, or are no weights.
    """
    if name is not None or weights is not None:
        return _load(DEFAULT_BACKBONE if name is None else name, weights, context, note=None)
    try:
        return _load(DEFAULT_BACKBONE, None, context, note=None)
    except WeightsUnavailable as error:
        note = (
            f"The backbone is the built-in {BUILT_IN_BACKBONE}, because the weights of "
            f"{DEFAULT_BACKBONE} can't be had ({error.reason}); --weights FILE gives them."
        )
        return _load(BUILT_IN_BACKBONE, None, context, note)


def restore_backbone(
    name: str, maps: Sequence[int], state: Mapping[str, Tensor], *, inner: bool = False
) -> Backbone:
    """The backbone of a model file, made without a download.

    Args:
        name: as in :attr:`Backbone.name`.
        maps, inner: as in :class:`Backbone`.
        state: the ``state_dict`` of the backbone that was saved.

    Raises:
        GradError: the installed timm does not know the model.
        RuntimeError: ``state`` does not fit the model.
    """
    if not timm.is_model(name):
        raise GradError(
            f"The model's backbone {name} is none of timm {timm.__version__}: install the version "
            "of timm that it was trained with, or a newer one."
        )
    model = create_model(name, pretrained=False)
    backbone = Backbone(name, model, _prune(model, maps, inner), inner=inner)
    backbone.load_state_dict(dict(state))  # the normalisation too
    backbone.fingerprint = backbone._digest()
    return backbone


def _load(name: str, weights: Path | None, context: bool, note: str | None) -> Backbone:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them."
        raise GradError(f"--backbone {name} is no model of timm {timm.__version__}; {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the part behind the dot is unknown
        raise GradError(
            f"--backbone {name} has no such weights in timm: {first_line(error)}."
        ) from error
    file = find_package_weights(name) if weights is None else Path(weights).expanduser()
    tensors = None if file is None else read_weights(file)
    model = download_model(name) if tensors is None else create_model(name, pretrained=False)
    chosen, counts_stages = _choose_maps(name, model, context)
    maps = _prune(model, chosen, counts_stages)
    if tensors is not None:
        fill_weights(
            model, tensors, name, f"--weights {weights}" if weights else f"The file {file}"
        )
    return Backbone(name, model, maps, inner=counts_stages, note=note)


def _feature_info(model: Any) -> list[dict[str, Any]]:
    """Stride ("reduction") and channels ("num_chs") of each of a timm model's feature maps."""
    info = getattr(model, "feature_info", None) or []
    return list(info) if isinstance(info, list) else [info[index] for index in range(len(info))]


def _stages(model: Any) -> list[dict[str, Any]]:
    """The same of an EfficientNet's stem and each of its stages."""
    info = _feature_info(model)
    strides = [
        next(e["reduction"] for e in info if e["stage"] > i) for i in range(len(model.blocks))
    ]
    return [{"reduction": 2, "num_chs": model.conv_stem.out_channels}] + [
        {"reduction": stride} | stage[-1].feature_info("bottleneck")
        for stride, stage in zip(strides, model.blocks, strict=True)
    ]


def _choose_maps(name: str, model: Any, context: bool) -> tuple[list[int], bool]:
    """The last map at each of the two finest strides from 8 on.

    With context also at the third; of an EfficientNet from the last stage at stride 8 to the first
    at stride 32, and the second value then says that stages are counted.
    """
    last = {entry["reduction"]: index for index, entry in enumerate(_feature_info(model))}
    strides = sorted(stride for stride in last if stride >= 8)[: 3 if context else 2]
    if not strides or not hasattr(model, "forward_intermediates"):
        raise GradError(f"--backbone {name} has no feature maps that timm gives out: take another.")
    counts_stages = "extra_blocks" in inspect.signature(model.forward_intermediates).parameters
    if strides == [8, 16, 32] and counts_stages:
        at = [entry["reduction"] for entry in _stages(model)]
        return list(range(at.index(16) - 1, at.index(32) + 1)), True
    return [last[stride] for stride in strides], False


def _prune(model: Any, maps: Sequence[int], inner: bool) -> list[int]:
    """Remove all behind the last map, so that only what is used is run, loaded and hashed."""
    kept: list[int] = model.prune_intermediate_layers(
        list(maps), prune_norm=True, **_inner_option(inner)
    )
    return kept


def _inner_option(inner: bool) -> dict[str, bool]:
    return {"extra_blocks": True} if inner else {}
