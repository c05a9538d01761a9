"""What shares of images can be asked for: false alarms, and images kept out of training."""

from __future__ import annotations

from typing import Literal

from grad.system.errors import GradError

Rate = float | Literal["auto"]
"""A false-alarm rate; ``"auto"``: what the good images of each class support."""

RATE_HELP = (
    "Share of good images that may be called anomalous; auto: what the images of a class support, "
    "0.01 to 0.05"
)
DEFAULT_RATE = 0.01  # false alarms, where a rate is stated
_FINEST, _COARSEST = 0.01, 0.05  # of automatic rates


def supported_rate(images: int) -> float:
    """The false-alarm rate that ``"auto"`` stands for.

    It is the finest that so many good images tell by rank, 1 / (images + 1), but none finer than
    1 %, which fewer defects would be found for, and none coarser than 5 %.
    """
    return min(max(_FINEST, 1 / (images + 1)), _COARSEST)


def check_rate(false_alarm_rate: Rate) -> None:
    """Raise a GradError for a rate that is none."""
    if false_alarm_rate != "auto" and not 0.0 < false_alarm_rate < 1.0:
        raise GradError(
            f"--false-alarm-rate {false_alarm_rate} must be between 0 and 1: 0.01 means that one "
            "good image in a hundred may be called anomalous."
        )


def check_share(share: float) -> None:
    """Raise a GradError for a share of the training images that can't be held out."""
    if not 0.0 <= share <= 0.5:
        raise GradError(
            f"--calibration-share {share} must be between 0 and 0.5: 0.1 keeps one training image "
            "in ten for thresholds, 0 trains on all and makes thresholds from folds of them."
        )
