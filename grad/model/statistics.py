"""What the training images' features and residuals are like, and distances measured by it.

The paper compares features as they come: channels of large values decide, and directions in which
good images vary a lot count as much as those in which they never vary. :class:`Statistics`
standardises each channel before the model, and measures residuals after it by the Gaussian that
belongs to a pixel's place and its image's class. It does the same with features that are context
and not rebuilt. All its values are buffers, so that they lie in the model's file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grad import ops
from grad.model.gaussians import Places, nearest_centre

_SMALLEST = 1e-6  # plain distance below which there is no direction


class Statistics(nn.Module):
    """Mean and deviation of each channel, and what residuals and context of good images are like.

    Until it has measured something it changes nothing: mean 0, deviation 1, plain distances.

    Args:
        channels: C.
        context: c, how many of them, the last ones, are not rebuilt.

    Attributes:
        mean, deviation: (C,) of the features.
        centre: (G, C), where the images of each class lie: standardised features' means over the
            image.
        spread: (C, C), directions in which images of one class differ, as a whitening.
        images: (G,) int64, how many images (or tiles) of each class the Gaussians come from; 0
            where an earlier version did not count them.
        residuals: the Gaussians of residuals, C - c channels.
        context: the Gaussians of standardised features, c channels; None where there is none.
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    spread: Tensor
    images: Tensor

    def __init__(self, channels: int, context: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("centre", torch.zeros(0, channels))
        self.register_buffer("spread", torch.eye(channels))
        self.register_buffer("images", torch.zeros(0, dtype=torch.int64))
        self.residuals = Places(channels - context)
        self.context = Places(context) if context else None

    def standardise(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same with mean 0 and deviation 1 in each channel; dtype kept."""
        scale = 1 / self.deviation[:, None, None]
        shift = -self.mean[:, None, None] * scale
        return torch.addcmul(shift, features, scale).to(features.dtype)

    def distance(self, features: Tensor, prediction: Tensor, context: Tensor) -> Tensor:
        """How far standardised features are from their normal version.

        A product of three lengths: the Mahalanobis distances of the residual and of the context,
        by the Gaussians of the class that the image looks most like, so that nobody has to name
        the class; and sqrt(1 - cosine similarity), the chord between the directions of features
        and prediction, over sqrt(2).

        Args:
            features, prediction: (B, H, W, C - c), any floating dtype.
            context: (B, H, W, c).

        Returns:
            (B, H, W) float32.
        """
        kind = self.nearest(features, context)
        features = features.to(prediction.dtype)
        rows, normal = features.flatten(0, 2), prediction.flatten(0, 2)
        _, plain = ops.refine(rows, normal, mode="none")
        _, turned = ops.refine(rows, normal, mode="cosine")  # (1 - cosine) times the plain one
        chord = (turned / plain.clamp_min(_SMALLEST)).sqrt().view(features.shape[:3])
        with torch.autocast(features.device.type, enabled=False):
            distance = self.residuals.distance(features - prediction, kind) * chord
            if self.context is not None:
                context = context.to(prediction.dtype)
                distance = distance * self.context.distance(context, kind)
        return distance

    def nearest(self, features: Tensor, context: Tensor) -> Tensor:
        """The class that each image looks most like: the nearest centre, Mahalanobis.

        Args:
            features, context: as in :meth:`distance`.

        Returns:
            (B,) int64, from 0 to G - 1; 0 where nothing was measured.
        """
        if len(self.centre) == 0:
            return torch.zeros(len(features), dtype=torch.int64, device=features.device)
        means = [part.float().mean(dim=(1, 2)) for part in (features, context) if part.numel()]
        with torch.autocast(features.device.type, enabled=False):
            return nearest_centre(torch.cat(means, dim=1), self.centre, self.spread)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Take the number of classes from the values that come."""
        if prefix + "centre" in state_dict:
            centre = state_dict[prefix + "centre"]
            self.centre = self.centre.new_zeros(centre.shape)
            self.images = self.images.new_zeros(len(centre))
            state_dict.setdefault(prefix + "images", self.images)
        super()._load_from_state_dict(state_dict, prefix, *rest)
