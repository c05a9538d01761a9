"""What the training images' features and residuals are like, and distances measured by it.

The paper compares features as they come: channels of large values decide, and directions in which
good images vary a lot count as much as those in which they never vary. :class:`Statistics`
standardises each channel before the model and measures residuals by the Mahalanobis distance after
it. Its values are buffers, so that they lie in the model's file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grad.features import Features

_BATCH = 16  # images measured at once
_RIDGE = 0.1  # share of the mean variance added to each variance of the residuals
_SMALLEST = 1e-6  # deviation below which a channel counts as constant


class Statistics(nn.Module):
    """Mean and deviation of each channel, and a whitening of the residuals of good images.

    Until it has measured something it changes nothing: mean 0, deviation 1, no whitening.

    Args:
        channels: C.

    Attributes:
        mean, deviation: (C,) of the features.
        whitening: (C, C); a residual (1, C) times it has about unit variance in each direction.
    """

    mean: Tensor
    deviation: Tensor
    whitening: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("whitening", torch.eye(channels))

    def standardise(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same with mean 0 and deviation 1 in each channel; dtype kept."""
        mean, deviation = self.mean[:, None, None], self.deviation[:, None, None]
        return ((features.float() - mean) / deviation).to(features.dtype)

    def distance(self, features: Tensor, prediction: Tensor) -> Tensor:
        """How far standardised features are from their normal version.

        The Mahalanobis distance of the residual, divided by sqrt(C), times 1 - cosine similarity.

        Args:
            features, prediction: (N, C), any floating dtype.

        Returns:
            (N,) float32.
        """
        features, prediction = features.float(), prediction.float()
        with torch.autocast(features.device.type, enabled=False):
            whitened = (features - prediction) @ self.whitening
        different = 1 - F.cosine_similarity(features, prediction, dim=1)
        return whitened.square().mean(dim=1).sqrt() * different

    def measure_features(self, features: Features) -> None:
        """Set mean and deviation to those of good images."""
        rows = (_rows(maps) for maps in _batches(features, self.mean.device))
        mean, covariance = _moments(rows)
        self.mean.copy_(mean)
        self.deviation.copy_(covariance.diagonal().sqrt())
        self.deviation[self.deviation < _SMALLEST] = 1.0

    def measure_residuals(self, predict: Callable[[Tensor], Tensor], features: Features) -> None:
        """Set the whitening to that of the residuals of good images.

        Args:
            predict: feature maps to the normal version of the standardised ones; in evaluation
                mode.
            features: of good images.
        """

        def residuals() -> Iterator[Tensor]:
            for maps in _batches(features, self.mean.device):
                yield _rows(self.standardise(maps) - predict(maps).float())

        mean, covariance = _moments(residuals())
        second = covariance + torch.outer(mean, mean)  # about 0, where a perfect prediction is
        variances, directions = torch.linalg.eigh(second)
        floor = _RIDGE * variances.mean().clamp_min(_SMALLEST)
        self.whitening.copy_(directions / (variances.clamp_min(0) + floor).sqrt())


def _batches(features: Features, device: torch.device) -> Iterator[Tensor]:
    """All feature maps in order, (B, C, H, W) float32."""
    with torch.no_grad():
        for first in range(0, len(features), _BATCH):
            indices = range(first, min(first + _BATCH, len(features)))
            yield features.batch(indices).to(device).float()


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _moments(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of the rows of all parts, float64."""
    count, total, products = 0, None, None
    for part in parts:
        rows = part.double()
        count += len(rows)
        total = rows.sum(dim=0) if total is None else total + rows.sum(dim=0)
        product = rows.T @ rows
        products = product if products is None else products + product
    assert total is not None and products is not None
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)
