"""What shares of images can be asked for: false alarms, and images kept out of training."""

from __future__ import annotations

from grad.system.errors import GradError

DEFAULT_RATE = 0.01  # false alarms


def check_rate(false_alarm_rate: float) -> None:
    """Raise a GradError for a rate that is none."""
    if not 0.0 < false_alarm_rate < 1.0:
        raise GradError(
            f"--false-alarm-rate {false_alarm_rate} must be between 0 and 1: 0.01 means that one "
            "good image in a hundred may be called anomalous."
        )


def check_share(share: float) -> None:
    """Raise a GradError for a share of the training images that can't be held out."""
    if not 0.0 <= share <= 0.5:
        raise GradError(
            f"--calibration-share {share} must be between 0 and 0.5: 0.1 keeps one training image "
            "in ten for thresholds."
        )
