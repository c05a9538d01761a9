"""GRAD: two learned grids of normal features and the network that fuses them (paper, section 3).

The model sees tensors only: feature maps in, their normal version out. It is read from top to
bottom: settings, the fusion network, and ``GRAD`` which puts it together with the grids of
:mod:`grad.grids`, or their rivals in :mod:`grad.memory`. Inside, everything is rows x channels:
feature maps (B, C, H, W) in channels_last memory are the matrix (B*H*W, C) without a copy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from grad import ops
from grad.errors import GradError
from grad.grids import GlobalPart, LocalPart, lookup_both
from grad.memory import Lookup, MemoryPart
from grad.ops import Jitter
from grad.statistics import Statistics

Preset = Literal["grad", "grad-s", "grad-432", "grad-tiny", "grad-plus"]
Parts = Literal["local+global", "local", "global"]
Refine = Literal["combined", "mse", "cosine", "none"]
JitterMode = Literal["pixel", "batch", "off"]

# The fusion network of each preset: (residual blocks, channels of each).
PRESETS: dict[Preset, tuple[int, int]] = {
    "grad": (7, 288),  # the paper's 13.8 M parameters and 17.4 GFLOP
    "grad-s": (7, 144),  # half the width
    "grad-432": (7, 432),  # the released code
    "grad-tiny": (4, 64),  # for CPUs
    "grad-plus": (7, 144),  # with statistics and context, classes balanced: docs/experiments.md
}


@dataclass(frozen=True)
class ModelSettings:
    """Everything that fixes a model's shape and behaviour; stored in its checkpoint.

    Args:
        preset: size of the fusion network, a key of ``PRESETS``.
        channels, height, width: C, H and W of the feature maps.
        context: how many of the channels, the last ones, are not rebuilt but only measured (with
            statistics).
        parts: which perspectives there are, local and global.
        local, global_: how each looks up: in a grid, or in a memory of K entries.
        local_dims, local_resolution: the local grid's number of axes (1 to 4) and cells along each.
        global_dims, global_resolution: the same of the global grid.
        local_entries, global_entries: K of the memories.
        refine: how prediction and features are mixed (see :func:`grad.ops.refine`).
        jitter: whether a coin is tossed for each pixel, for the batch, or no noise is added.
        jitter_probability, jitter_std: see :class:`grad.ops.Jitter`.
        statistics: whether features are standardised and residuals whitened by the training
            images' statistics (:class:`grad.statistics.Statistics`). The loss is then the mean
            squared error, and ``refine`` has no effect. None: with the preset ``grad-plus``.

    Raises:
        GradError: if a value is unknown or out of range.
    """

    preset: Preset
    channels: int
    height: int
    width: int
    context: int = 0
    parts: Parts = "local+global"
    local_dims: int = 2
    local_resolution: int = 8
    global_dims: int = 2
    global_resolution: int = 4
    refine: Refine = "combined"
    jitter: JitterMode = "pixel"
    jitter_probability: float = 0.5
    jitter_std: float = 0.05
    statistics: bool | None = None
    local: Lookup = "grid"
    local_entries: int = 64
    global_: Lookup = "grid"
    global_entries: int = 16

    def __post_init__(self) -> None:
        if self.statistics is None:
            object.__setattr__(self, "statistics", self.preset == "grad-plus")
        choices = {
            "preset": Preset,
            "parts": Parts,
            "local": Lookup,
            "global_": Lookup,
            "refine": Refine,
            "jitter": JitterMode,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                known = ", ".join(get_args(allowed))
                raise GradError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        for name in ("local_dims", "global_dims"):
            if getattr(self, name) not in (1, 2, 3, 4):
                raise GradError(f"{name} must be 1, 2, 3 or 4; got {getattr(self, name)}")
        counts = ("local_resolution", "local_entries", "global_resolution", "global_entries")
        for name in ("channels", "height", "width", *counts):
            if getattr(self, name) < 1:
                raise GradError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.context < self.channels:
            raise GradError(
                f"context must be below {self.channels} channels, and not below 0; "
                f"got {self.context}"
            )
        if self.context and not self.statistics:
            raise GradError("context needs statistics; without them it must be 0")
        try:
            Jitter(self.jitter_probability, self.jitter_std)
        except ValueError as error:
            raise GradError(str(error)) from None

    @property
    def rebuilt(self) -> int:
        """Channels of which the model gives the normal version."""
        return self.channels - self.context


class ResidualBlock(nn.Module):
    """3x3 convolution, BN, ReLU, 3x3 convolution, BN, added to the shortcut, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def fusion_network(inputs: int, channels: int, blocks: int, width: int) -> nn.Sequential:
    """Residual blocks, then a 1x1 convolution: (B, inputs, H, W) -> (B, channels, H, W)."""
    widths = [inputs] + [width] * blocks
    trunk = [ResidualBlock(i, o) for i, o in itertools.pairwise(widths)]
    return nn.Sequential(*trunk, nn.Conv2d(width, channels, 1, bias=False))


class GRAD(nn.Module):
    """The normal version of feature maps, and how far they are from it (paper, Figure 2).

    Args:
        settings: what the parts were made from.
        local: the local part, a grid's or a memory's, or None.
        global_: the global part, likewise, or None (not both None).
        fusion: (B, 2C, H, W) -> (B, C, H, W) in the order [global, local]; C inputs with one part.

    Use :meth:`from_preset` to make the parts.
    """

    def __init__(
        self,
        settings: ModelSettings,
        local: LocalPart | MemoryPart | None,
        global_: GlobalPart | MemoryPart | None,
        fusion: nn.Module,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.local = local
        self.global_ = global_
        self.fusion = fusion
        s = settings
        self.statistics = Statistics(s.channels, s.context) if s.statistics else None
        self.jitter = (
            None if s.jitter == "off" else Jitter(s.jitter_probability, s.jitter_std, s.jitter)
        )

    @classmethod
    def from_preset(
        cls, preset: Preset, channels: int, height: int, width: int, **options: object
    ) -> GRAD:
        """Make the model for feature maps of (channels, height, width), freshly initialised.

        Weights come from torch's global generator. ``options`` are the other fields of
        :class:`ModelSettings`. The convolutions are in channels_last memory.

        Raises:
            GradError: if a setting is unknown or out of range.
        """
        s = ModelSettings(preset, channels, height, width, **options)  # type: ignore[arg-type]
        local = None if s.parts == "global" else _local_part(s)
        global_ = None if s.parts == "local" else _global_part(s)
        inputs = 2 * s.rebuilt if s.parts == "local+global" else s.rebuilt
        model = cls(s, local, global_, fusion_network(inputs, s.rebuilt, *PRESETS[preset]))
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        model.fusion.to(memory_format=torch.channels_last)  # grids keep their own layout
        return model

    def forward(self, features: Tensor, jitter_state: Tensor | None = None) -> Tensor:
        """The normal version of feature maps, before refinement.

        Args:
            features: (B, C, H, W), channels_last memory best (any other is converted once).
            jitter_state: what the noise in training comes from, as :func:`grad.ops.jitter_noise`
                takes it; None draws one from torch's generator.

        Returns:
            (B, C, H, W), channels_last; in the autocast dtype under autocast. Of the standardised
            features where the model has statistics, without those that are context.

        Raises:
            ValueError: if C, H, W are not those that the model was made for.
        """
        self._check_shape(features)
        return self._predict(self._standardised(features)[0], jitter_state)[0]

    def loss_and_score(
        self, features: Tensor, jitter_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Training loss and score map of the refined prediction (paper, equations 5 to 8).

        The codebook loss of a vector quantisation is part of the loss.

        Args:
            features: (B, C, H, W).
            jitter_state: as in :meth:`forward`.

        Returns:
            loss, scalar float32; score, (B, H, W) float32: the distance of each pixel from normal;
            with statistics the plain distance in training, and afterwards
            :meth:`grad.statistics.Statistics.distance`.
        """
        self._check_shape(features)
        batch, _, height, width = features.shape
        features, context = self._standardised(features)
        prediction, lookup_loss = self._predict(features, jitter_state)
        prediction = to_rows(prediction)
        rows = to_rows(features).to(prediction.dtype)
        mode = "none" if self.statistics is not None else self.settings.refine
        loss, score = ops.refine(rows, prediction, mode=mode)
        if self.statistics is not None and not self.training:
            shape = (batch, height, width, -1)
            score = self.statistics.distance(rows.view(shape), prediction.view(shape), context)
        return loss + lookup_loss, score.view(batch, height, width)

    def coordinates(self, features: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where the grids are asked for these features: the lookups' coordinates, without jitter.

        Args:
            features: (B, C, H, W).

        Returns:
            local, (B, H, W, D), and global, (B, D), in [-1, 1]; None for a part that is not
            there, or has no grid.

        Raises:
            ValueError: if C, H, W are not those that the model was made for.
        """
        self._check_shape(features)
        features, _ = self._standardised(features)
        local = global_ = None
        if isinstance(self.local, LocalPart):
            hidden = self.local.hidden(to_rows(features))  # (B*H*W, C)
            coords = torch.tanh(self.local.coords(hidden))  # (B*H*W, D)
            local = coords.view(features.shape[0], *features.shape[2:], -1)
        if isinstance(self.global_, GlobalPart):
            global_ = self.global_.coords(features)
        return local, global_

    def _standardised(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> what is rebuilt, and context, (B, H, W, c)."""
        if self.statistics is not None:
            features = self.statistics.standardise(features)
        if self.settings.context == 0:
            return features, features.new_empty(0, 0, 0, 0)
        rebuilt, context = features.split([self.settings.rebuilt, self.settings.context], dim=1)
        return rebuilt.contiguous(memory_format=torch.channels_last), context.permute(0, 2, 3, 1)

    def _predict(self, features: Tensor, jitter_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the normal version, and what the lookups add to the training loss."""
        normal, loss = self._normal(features, jitter_state)
        prediction: Tensor = self.fusion(to_maps(normal, features))
        return prediction, loss

    def _normal(self, features: Tensor, jitter_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the parts answer, (B*H*W, 2C) as [global, local] or (B*H*W, C), and their loss."""
        local, global_ = self.local, self.global_
        rows = to_rows(features)  # (B*H*W, C)
        jitter = self.jitter if self.training else None
        loss = rows.new_zeros((), dtype=torch.float32)
        if isinstance(local, LocalPart) and isinstance(global_, GlobalPart):
            return lookup_both(local, global_, features, rows, jitter, jitter_state), loss
        answers = []
        if isinstance(global_, GlobalPart):
            answers.append(global_(features))
        elif isinstance(global_, MemoryPart):
            values, more = global_(features.mean(dim=(2, 3), dtype=torch.float32))
            answers.append(values.view(rows.shape))
            loss = loss + more
        if isinstance(local, LocalPart):
            answers.append(local(rows, jitter, jitter_state))
        elif isinstance(local, MemoryPart):
            values, more = local(rows)
            answers.append(values)
            loss = loss + more
        return answers[0] if len(answers) == 1 else torch.cat(answers, dim=1), loss

    def _check_shape(self, features: Tensor) -> None:
        s = self.settings
        expected = (s.channels, s.height, s.width)
        if features.dim() != 4 or tuple(features.shape[1:]) != expected:
            raise ValueError(
                f"features must be (B, {s.channels}, {s.height}, {s.width}), "
                f"got {tuple(features.shape)}"
            )


def _local_part(s: ModelSettings) -> LocalPart | MemoryPart:
    if s.local == "grid":
        return LocalPart(s.rebuilt, s.local_dims, s.local_resolution)
    return MemoryPart(s.local, s.local_entries, s.rebuilt, s.rebuilt)


def _global_part(s: ModelSettings) -> GlobalPart | MemoryPart:
    pixels = s.height * s.width
    if s.global_ == "grid":
        return GlobalPart(s.rebuilt, pixels, s.global_dims, s.global_resolution)
    return MemoryPart(s.global_, s.global_entries, s.rebuilt, pixels * s.rebuilt)


def to_rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C), a view of channels_last memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def to_maps(rows: Tensor, like: Tensor) -> Tensor:
    """(B*H*W, C) -> (B, C, H, W) in channels_last memory, with B, H and W of ``like``."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values, grids included."""
    return sum(p.numel() for p in model.parameters())


def describe(model: GRAD) -> str:
    """A model's size in words."""
    return (
        f"{model.settings.preset}: {count_parameters(model) / 1e6:.1f} M parameters, "
        f"{count_flops(model) / 1e9:.1f} GFLOP an image without the backbone"
    )


def count_flops(model: GRAD) -> int:
    """FLOPs of convolutions and linear layers for one image (two for each multiply-add)."""
    s, device = model.settings, next(model.parameters()).device
    training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, s.channels, s.height, s.width, device=device))
    model.train(training)
    return int(counter.get_total_flops())
