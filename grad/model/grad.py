"""GRAD: two learned grids of normal features and the network that fuses them (paper, section 3).

The model sees tensors only: feature maps in, their normal version out. Inside, everything is rows x
channels: maps (B, C, H, W) in channels_last memory are the matrix (B*H*W, C) without a copy.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from grad import ops
from grad.model.branches import Branches
from grad.model.fusion import fusion_network
from grad.model.grids import GlobalPart, LocalPart
from grad.model.lookup import look_up
from grad.model.memory import MemoryPart
from grad.model.presets import PRESETS, Preset
from grad.model.rows import to_maps, to_rows
from grad.model.settings import ModelSettings
from grad.model.statistics import Statistics
from grad.ops import Jitter


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
        self.branches: Branches | None = None
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
        row = PRESETS[s.preset]
        local = None if s.parts == "global" else _local_part(s)
        global_ = None if s.parts == "local" else _global_part(s)
        inputs = 2 * s.rebuilt if s.parts == "local+global" else s.rebuilt
        model = cls(s, local, global_, fusion_network(inputs, s.rebuilt, row.blocks, row.width))
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
        features, _ = self._standardised(features)
        prediction, _ = self._predict(features, jitter_state)
        return prediction

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
            :meth:`grad.model.statistics.Statistics.distance`; of classes that were learned later
            by their own networks (:class:`grad.model.branches.Branches`).
        """
        features, context = self._standardised(features)
        batch, _, height, width = features.shape
        prediction, lookup_loss = self._predict(features, jitter_state)
        prediction = to_rows(prediction)
        rows = to_rows(features).to(prediction.dtype)
        mode = "none" if self.statistics is not None else self.settings.refine
        loss, score = ops.refine(rows, prediction, mode=mode)
        if self.statistics is not None and not self.training:
            shape = (batch, height, width, -1)
            score = self.statistics.distance(rows.view(shape), prediction.view(shape), context)
        score = score.view(batch, height, width)
        if self.branches is not None and not self.training:
            score = self.branches.rescored(features, score)
        return loss + lookup_loss, score

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
        """(B, C, H, W) -> what is rebuilt, (B, C - c, H, W), and context, (B, H, W, c)."""
        self._check_shape(features)
        if self.statistics is not None:
            features = self.statistics.standardise(features)
        if self.settings.context == 0:
            return features, features.new_empty(0, 0, 0, 0)
        rebuilt, context = features.split([self.settings.rebuilt, self.settings.context], dim=1)
        return rebuilt.contiguous(memory_format=torch.channels_last), context.permute(0, 2, 3, 1)

    def _predict(self, features: Tensor, jitter_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the normal version, and what the lookups add to the training loss."""
        jitter = self.jitter if self.training else None
        normal, lookup_loss = look_up(self.global_, self.local, features, jitter, jitter_state)
        prediction: Tensor = self.fusion(to_maps(normal, features))
        return prediction, lookup_loss

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Make the branches that the values to come are of."""
        start = f"{prefix}branches."
        names = [name.removeprefix(start) for name in state_dict if name.startswith(start)]
        if names:
            count = len({name.split(".")[1] for name in names if name.startswith("networks.")})
            with torch.random.fork_rng(devices=[]):
                networks = [GRAD.from_preset(**asdict(self.settings)) for _ in range(count)]
            self.branches = Branches(self.settings.channels, networks)
        super()._load_from_state_dict(state_dict, prefix, *rest)

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
    return MemoryPart(s.local, s.local_entries, s.rebuilt)


def _global_part(s: ModelSettings) -> GlobalPart | MemoryPart:
    pixels = s.height * s.width
    if s.global_ == "grid":
        return GlobalPart(s.rebuilt, pixels, s.global_dims, s.global_resolution)
    return MemoryPart(s.global_, s.global_entries, s.rebuilt, pixels)
