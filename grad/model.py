"""GRAD: two learned grids of normal features and the network that fuses them (paper, section 3).

The model sees tensors only: feature maps in, their normal version out. It is read from top to
bottom: settings, the two grids and their heads, the fusion network, and ``GRAD`` which puts them
together. Inside, everything is rows x channels: feature maps (B, C, H, W) in channels_last memory
are the matrix (B*H*W, C) without a copy.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from grad import ops
from grad.errors import GradError
from grad.ops import Jitter

Preset = Literal["grad", "grad-s", "grad-432", "grad-tiny"]
Parts = Literal["local+global", "local", "global"]
Refine = Literal["combined", "mse", "cosine", "none"]
JitterMode = Literal["pixel", "batch", "off"]

# The fusion network of each preset: (residual blocks, channels of each).
PRESETS: dict[Preset, tuple[int, int]] = {
    "grad": (7, 288),  # the paper's 13.8 M parameters and 17.4 GFLOP
    "grad-s": (7, 144),  # half the width
    "grad-432": (7, 432),  # the released code
    "grad-tiny": (4, 64),  # for CPUs
}


@dataclass(frozen=True)
class ModelSettings:
    """Everything that fixes a model's shape and behaviour; stored in its checkpoint.

    Args:
        preset: size of the fusion network, a key of ``PRESETS``.
        channels, height, width: C, H and W of the feature maps.
        parts: which grids there are.
        local_dims, local_resolution: the local grid's number of axes (1 to 4) and cells along each.
        global_dims, global_resolution: the same of the global grid.
        refine: how prediction and features are mixed (see :func:`grad.ops.refine`).
        jitter: whether a coin is tossed for each pixel, for the batch, or no noise is added.
        jitter_probability, jitter_std: see :class:`grad.ops.Jitter`.

    Raises:
        GradError: if a value is unknown or out of range.
    """

    preset: Preset
    channels: int
    height: int
    width: int
    parts: Parts = "local+global"
    local_dims: int = 2
    local_resolution: int = 8
    global_dims: int = 2
    global_resolution: int = 4
    refine: Refine = "combined"
    jitter: JitterMode = "pixel"
    jitter_probability: float = 0.5
    jitter_std: float = 0.05

    def __post_init__(self) -> None:
        choices = {"preset": Preset, "parts": Parts, "refine": Refine, "jitter": JitterMode}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                known = ", ".join(get_args(allowed))
                raise GradError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        for name in ("local_dims", "global_dims"):
            if getattr(self, name) not in (1, 2, 3, 4):
                raise GradError(f"{name} must be 1, 2, 3 or 4; got {getattr(self, name)}")
        for name in ("channels", "height", "width", "local_resolution", "global_resolution"):
            if getattr(self, name) < 1:
                raise GradError(f"{name} must be at least 1; got {getattr(self, name)}")
        try:
            Jitter(self.jitter_probability, self.jitter_std)
        except ValueError as error:
            raise GradError(str(error)) from None


class Grid(nn.Module):
    """Learned values on a regular grid, looked up by interpolation (paper, equation 3).

    The parameter ``values`` is (R, ..., R, C): ``dims`` axes of ``resolution`` cells of C values.
    """

    def __init__(self, dims: int, resolution: int, channels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(*[resolution] * dims, channels))
        cells = resolution**dims
        # Xavier normal, with the fans that the grid has as a (1, C, R, ..., R) tensor.
        nn.init.normal_(self.values, std=math.sqrt(2.0 / (channels * cells + cells)))


class LocalPart(nn.Module):
    """Local head and grid: each pixel asks for its normal value (paper, section 3.2).

    The head is C -> C tanh -> D tanh; its last layer is evaluated together with the lookup, so
    ``hidden`` is the layer before, and ``coords`` holds the last layer's weight and bias.
    """

    def __init__(self, channels: int, dims: int, resolution: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(channels, channels), nn.Tanh())
        self.coords = nn.Linear(channels, dims)
        self.grid = Grid(dims, resolution, channels)


class GlobalPart(nn.Module):
    """Global head and grid: each image asks for its whole normal map at once (paper, section 3.2).

    A cell of the grid holds H*W*C values, pixel after pixel: the rows of one feature map.
    """

    def __init__(self, channels: int, pixels: int, dims: int, resolution: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, dims), nn.Tanh()
        )
        self.grid = Grid(dims, resolution, pixels * channels)

    def coords(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), in the parameters' precision even under autocast."""
        mean = features.mean(dim=(2, 3), dtype=self.grid.values.dtype)
        with torch.autocast(features.device.type, enabled=False):
            coords: Tensor = self.head(mean)
        return coords


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
        local: the local part, or None.
        global_: the global part, or None (not both None).
        fusion: (B, 2C, H, W) -> (B, C, H, W) in the order [global, local]; C inputs with one part.

    Use :meth:`from_preset` to make the parts.
    """

    def __init__(
        self,
        settings: ModelSettings,
        local: LocalPart | None,
        global_: GlobalPart | None,
        fusion: nn.Module,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.local = local
        self.global_ = global_
        self.fusion = fusion
        s = settings
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
        local = global_ = None
        if s.parts != "global":
            local = LocalPart(channels, s.local_dims, s.local_resolution)
        if s.parts != "local":
            global_ = GlobalPart(channels, height * width, s.global_dims, s.global_resolution)
        inputs = 2 * channels if s.parts == "local+global" else channels
        model = cls(s, local, global_, fusion_network(inputs, channels, *PRESETS[preset]))
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
            (B, C, H, W), channels_last; in the autocast dtype under autocast.

        Raises:
            ValueError: if C, H, W are not those that the model was made for.
        """
        self._check_shape(features)
        rows = to_rows(features)  # (B*H*W, C)
        if self.local is None:
            normal = self._global_values(features)  # (B*H*W, C)
        elif self.global_ is None:
            normal = self._local_values(rows, jitter_state)  # (B*H*W, C)
        else:
            normal = self._both_values(features, rows, jitter_state)  # (B*H*W, 2C), [global, local]
        prediction: Tensor = self.fusion(to_maps(normal, features))
        return prediction

    def loss_and_score(
        self, features: Tensor, jitter_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Training loss and score map of the refined prediction (paper, equations 5 to 8).

        Args:
            features: (B, C, H, W).
            jitter_state: as in :meth:`forward`.

        Returns:
            loss, scalar float32; score, (B, H, W) float32: the distance of each pixel from normal.
        """
        batch, _, height, width = features.shape
        prediction = to_rows(self(features, jitter_state))
        rows = to_rows(features).to(prediction.dtype)
        loss, score = ops.refine(rows, prediction, mode=self.settings.refine)
        return loss, score.view(batch, height, width)

    def coordinates(self, features: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where the grids are asked for these features: the lookups' coordinates, without jitter.

        Args:
            features: (B, C, H, W).

        Returns:
            local, (B, H, W, D), and global, (B, D), in [-1, 1]; None for a part that is not there.

        Raises:
            ValueError: if C, H, W are not those that the model was made for.
        """
        self._check_shape(features)
        local = global_ = None
        if self.local is not None:
            hidden = self.local.hidden(to_rows(features))  # (B*H*W, C)
            coords = torch.tanh(self.local.coords(hidden))  # (B*H*W, D)
            local = coords.view(features.shape[0], *features.shape[2:], -1)
        if self.global_ is not None:
            global_ = self.global_.coords(features)
        return local, global_

    def _both_values(self, features: Tensor, rows: Tensor, jitter_state: Tensor | None) -> Tensor:
        assert self.local is not None and self.global_ is not None
        return ops.lookup(
            self.global_.coords(features),
            self.global_.grid.values,
            self.local.hidden(rows),
            self.local.coords.weight,
            self.local.coords.bias,
            self.local.grid.values,
            jitter=self.jitter if self.training else None,
            jitter_state=jitter_state,
        )

    def _local_values(self, rows: Tensor, jitter_state: Tensor | None) -> Tensor:
        assert self.local is not None
        return ops.project(
            self.local.hidden(rows),
            self.local.coords.weight,
            self.local.coords.bias,
            self.local.grid.values,
            jitter=self.jitter if self.training else None,
            jitter_state=jitter_state,
        )

    def _global_values(self, features: Tensor) -> Tensor:
        assert self.global_ is not None
        values = ops.interpolate(self.global_.coords(features), self.global_.grid.values)
        return values.view(-1, features.shape[1])

    def _check_shape(self, features: Tensor) -> None:
        s = self.settings
        expected = (s.channels, s.height, s.width)
        if features.dim() != 4 or tuple(features.shape[1:]) != expected:
            raise ValueError(
                f"features must be (B, {s.channels}, {s.height}, {s.width}), "
                f"got {tuple(features.shape)}"
            )


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
