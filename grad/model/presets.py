"""What can be chosen of a model by name: its presets, and each of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preset = Literal["grad", "grad-s", "grad-432", "grad-tiny", "grad-plus"]
Parts = Literal["local+global", "local", "global"]
Lookup = Literal["grid", "vq", "attention"]
Refine = Literal["combined", "mse", "cosine", "none"]
JitterMode = Literal["pixel", "batch", "off"]
Decay = Literal["steps", "cosine"]


@dataclass(frozen=True)
class PresetRow:
    """What a preset stands for.

    Args:
        blocks: residual blocks of the fusion network.
        width: channels of each.
        statistics: whether features are standardised and scores measured by the training images'
            statistics (:class:`grad.model.statistics.Statistics`).
        context: whether the backbone gives more maps, which are measured and not rebuilt.
        image_size: side of the square images where none is given, in pixels.
        decay: how learning rates fall where nothing else is asked.
        balance: whether classes are seen equally often where nothing else is asked.
    """

    blocks: int
    width: int
    statistics: bool = False
    context: bool = False
    image_size: int = 224
    decay: Decay = "steps"
    balance: bool = False


PRESETS: dict[Preset, PresetRow] = {
    "grad": PresetRow(7, 288),  # the paper's 13.8 M parameters and 17.4 GFLOP
    "grad-s": PresetRow(7, 144),  # half the width
    "grad-432": PresetRow(7, 432),  # the released code
    "grad-tiny": PresetRow(4, 64),  # for CPUs
    "grad-plus": PresetRow(  # docs/experiments.md
        7, 144, statistics=True, context=True, image_size=320, decay="cosine", balance=True
    ),
}
