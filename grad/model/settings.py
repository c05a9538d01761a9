"""Everything that fixes a model's shape and behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from grad.model.presets import PRESETS, JitterMode, Lookup, Parts, Preset, Refine
from grad.ops import Jitter
from grad.system.errors import GradError


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
            images' statistics (:class:`grad.model.statistics.Statistics`). The loss is then the
            mean squared error, and ``refine`` has no effect. None: as the preset has it.

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
        if self.statistics is None:
            object.__setattr__(self, "statistics", PRESETS[self.preset].statistics)
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
