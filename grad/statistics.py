"""What the training images' features and residuals are like, and distances measured by it.

The paper compares features as they come: channels of large values decide, and directions in which
good images vary a lot count as much as those in which they never vary. :class:`Statistics`
standardises each channel before the model, and measures residuals after it by the Gaussian that
belongs to a pixel's place and its image's class. It does the same with features that are context
and not rebuilt. All its values are buffers, so that they lie in the model's file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from grad import ops
from grad.features import Features
from grad.places import Places, chosen, whitening

Predict = Callable[[Tensor], Tensor]
Values = Callable[[Features], Iterator[Tensor]]

_BATCH = 16  # images measured at once
_PARTS = 5  # of a class's images, that are left out one after the other
_SMALLEST = 1e-6  # deviation below which a channel counts as constant


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
        residuals: the Gaussians of residuals, C - c channels.
        context: the Gaussians of standardised features, c channels; None where there is none.
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, channels: int, context: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("centre", torch.zeros(0, channels))
        self.register_buffer("spread", torch.eye(channels))
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
            images, centres = torch.cat(means, dim=1) @ self.spread, self.centre @ self.spread
            # |x - c|^2 without |x|^2, which is the same for all classes.
            return (centres.square().sum(dim=1) - 2 * images @ centres.T).argmin(dim=1)

    def measure_features(self, features: Features) -> None:
        """Set mean and deviation to those of good images."""
        rows = (_rows(maps) for maps in _batches(features, self.mean.device))
        mean, covariance = _moments(rows)
        self.mean.copy_(mean)
        self.deviation.copy_(covariance.diagonal().sqrt())
        self.deviation[self.deviation < _SMALLEST] = 1.0

    def measure_residuals(self, predict: Predict, features: Features) -> None:
        """Set everything else to what residuals and context of good images are like.

        Args:
            predict: feature maps to the normal version of the standardised ones; in evaluation
                mode.
            features: of good images.
        """
        self._measure_classes(features)
        for places, values in self._measured(predict):
            mean, covariance = _moments(_rows(maps) for maps in values(features))
            classes = (_together(values(some)) for some in _some_of_each_class(features))
            places.measure((covariance + torch.outer(mean, mean)).float(), classes)

    def leaving_out(
        self, predict: Predict, features: Features, kind: int
    ) -> Iterator[Sequence[int]]:
        """Measure a class without some of its images: a fifth of them after the other.

        A Gaussian of few images knows these too well. With the fifth left out it meets them as it
        would meet new ones. At the end everything is as it was before.

        Args:
            predict: as in :meth:`measure_residuals`.
            features: of those images of the class that it was measured on.
            kind: which class, from 0 to G - 1.

        Yields:
            Which images, by index, the Gaussians of the class do not know until the next answer.
            A single image can't be left out.
        """
        images = range(len(features))
        parts = min(_PARTS, len(images))
        if parts == 1:
            yield images
            return
        tiles = features.tiles()
        some = tiles.subset(chosen(len(tiles)))
        measured = [(places, _together(values(some))) for places, values in self._measured(predict)]
        before = [[part.clone() for part in places.of_class(kind)] for places, _ in measured]
        try:
            for part in range(parts):
                left = images[part::parts]
                without = {features.samples[i].path for i in left}
                rest = [i for i, sample in enumerate(some.samples) if sample.path not in without]
                for places, values in measured:
                    places.measure_class(kind, values[rest])
                yield left
        finally:
            for (places, _), parts_before in zip(measured, before, strict=True):
                for kept, value in zip(places.of_class(kind), parts_before, strict=True):
                    kept.copy_(value)

    def _measured(self, predict: Predict) -> list[tuple[Places, Values]]:
        """Gaussians, and the values of features that they are measured on, batch by batch."""

        def residuals(some: Features) -> Iterator[Tensor]:
            for maps in _batches(some, self.mean.device):
                prediction = predict(maps).float()
                yield self.standardise(maps)[:, : prediction.shape[1]] - prediction

        def context(some: Features) -> Iterator[Tensor]:
            for maps in _batches(some, self.mean.device):
                yield self.standardise(maps)[:, len(self.residuals.whitening) :]

        found: list[tuple[Places, Values]] = [(self.residuals, residuals)]
        if self.context is not None:
            found.append((self.context, context))
        return found

    def images_measured(self, features: Features) -> int:
        """How many images :meth:`measure_residuals` predicts: all, and some of each class again."""
        return len(features) + sum(len(some) for some in _some_of_each_class(features))

    def _measure_classes(self, features: Features) -> None:
        """Where the images of each class lie, and in which directions they differ."""
        images = [
            torch.cat(
                [self.standardise(m).mean(dim=(2, 3)) for m in _batches(some, self.mean.device)]
            )
            for some in _some_of_each_class(features)
        ]
        self.centre = torch.stack([means.mean(dim=0) for means in images])
        within = torch.cat([m - c for m, c in zip(images, self.centre, strict=True)])
        self.spread.copy_(whitening(within.T @ within / len(within)))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Take the number of classes from the values that come."""
        if prefix + "centre" in state_dict:
            self.centre = self.centre.new_zeros(state_dict[prefix + "centre"].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _together(maps: Iterator[Tensor]) -> Tensor:
    """(B, C, H, W) batch by batch -> (N, H, W, C) float16."""
    return torch.cat([batch.permute(0, 2, 3, 1).half() for batch in maps])


def _some_of_each_class(features: Features) -> Iterator[Features]:
    """Those that the Gaussians of a class are measured on, class by class."""
    for name in sorted({sample.class_name for sample in features.samples}):
        mine = features.of_classes([name])
        yield mine.subset(chosen(len(mine)))


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
