"""What values at feature pixels are like in good images, place by place and class by class.

What a model leaves over of a good image is not the same everywhere: at an edge it is larger than on
a plain surface, and it points in other directions. :class:`Places` keeps a Gaussian for each class
and each block of 4 x 4 feature pixels, and measures by it how unusual a value is there.

A Gaussian's covariance is drawn towards that of all values together, the more the fewer images it
comes from (as the posterior mean under an inverse-Wishart prior), and is then kept as its largest
variances with their directions, and one variance for all other directions (probabilistic principal
components; Tipping and Bishop, 1999). That is a fraction of the whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4  # feature pixels along each side of a place
RANK = 64  # directions kept of each Gaussian
IMAGES = 400  # of a class that are measured at most
_PRIOR = 60.0  # images that the covariance of all values counts as much as
_RIDGE = 0.1  # share of the mean variance added to each variance of all values
_SMALLEST = 1e-6  # mean variance below which there is none
_NONE = 1e-18  # entry of a second moment below which it is 0
_LEAST_PRECISION = 1e-3  # of a direction, as a share of v's, that bfloat16 tells from none
_OVERSAMPLED = 8  # directions tried beyond those kept, which makes these exacter
_ROUNDS = 5  # of the search for directions


class Places(nn.Module):
    """A whitening of all values, and Gaussians of whitened ones for each of G classes, P places.

    Until it has measured something it changes nothing: no whitening, and G is 0.

    Args:
        channels: C.

    Attributes:
        whitening: (C, C); values (1, C) times it have about unit variance in each direction.
        mean: (G, P, C) bfloat16, of whitened values.
        directions: (G, P, C, R) bfloat16; a value's squared lengths along them are what is usual
            there, and are taken from
        precision: (G, P) times its squared length.
    """

    whitening: Tensor
    mean: Tensor
    directions: Tensor
    precision: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("whitening", torch.eye(channels))
        self.register_buffer("mean", torch.zeros(0, 0, channels, dtype=torch.bfloat16))
        self.register_buffer("directions", torch.zeros(0, 0, channels, 0, dtype=torch.bfloat16))
        self.register_buffer("precision", torch.zeros(0, 0))

    def distance(self, values: Tensor, kind: Tensor) -> Tensor:
        """Mahalanobis distance under the Gaussian of class and place, divided by sqrt(C).

        Args:
            values: (B, H, W, C); products are in its dtype, their sums float32.
            kind: (B,) int64, the class of each image, from 0 to G - 1.

        Returns:
            (B, H, W) float32.
        """
        whitened = values @ self.whitening.to(values.dtype)
        if len(self.mean) == 0:
            return (_squares(whitened) / values.shape[3]).sqrt()
        # index_select copies each class's values in one go, plain indexing one by one.
        mean, directions = (
            of_classes.index_select(0, kind).to(values.dtype)
            for of_classes in (self.mean, self.directions)
        )
        centred = _split(whitened) - mean[:, :, None]  # (B, P, 16, C)
        along = centred @ directions  # (B, P, 16, R)
        square = _squares(centred) * self.precision[kind][:, :, None] - _squares(along)
        return _join((square / values.shape[3]).clamp_min(0).sqrt(), *values.shape[1:3])

    def measure(self, second_moment: Tensor, classes: Iterable[Tensor]) -> None:
        """Set everything to what good images are like.

        Args:
            second_moment: (C, C) of all values, about 0.
            classes: of each class the values of some images, (n, H, W, C), any float dtype; read
                one by one.
        """
        self.whitening.copy_(whitening(second_moment))
        gaussians = [_gaussians(values, self.whitening) for values in classes]
        self.mean, self.directions, self.precision = (
            torch.stack([gaussian[part] for gaussian in gaussians]) for part in range(3)
        )

    def of_class(self, kind: int) -> list[Tensor]:
        """Mean (P, C), directions (P, C, R) and precision (P,) of a class; views."""
        return [self.mean[kind], self.directions[kind], self.precision[kind]]

    def measure_class(self, kind: int, values: Tensor) -> None:
        """Set the Gaussians of one class, from 0 to G - 1, to what some of its values are like.

        Args:
            kind: which class.
            values: (n, H, W, C), as for :meth:`measure`.
        """
        for kept, found in zip(
            self.of_class(kind), _gaussians(values, self.whitening), strict=True
        ):
            kept.copy_(found)

    def extend_class(self, kind: int, values: Tensor, known: int) -> None:
        """Let the Gaussians of a class know further images, as if all had been measured at once.

        What they know already is read off them, so it is as exact as they are: their directions
        are bfloat16, and beyond those kept there is one variance.

        Args:
            kind: which class.
            values: (m, H, W, C) of the further images, as for :meth:`measure`.
            known: images that the Gaussians come from, at least one.
        """
        mean, directions, precision = self.of_class(kind)
        before = _moments_of_gaussian(mean.float(), directions.float(), precision, _own(known))
        further = _moments_by_place(values, self.whitening)
        share = len(values) / (known + len(values))
        mean, second = (torch.lerp(a, b, share) for a, b in zip(before, further, strict=True))
        found = _gaussian_of_moments(mean, second, _own(known + len(values)))
        for kept, value in zip(self.of_class(kind), found, strict=True):
            kept.copy_(value)

    def insert_class(self, kind: int, values: Tensor) -> None:
        """Make room for a further class, the new number ``kind``, and measure it.

        Args:
            kind: from 0 to G; classes from there on move up by one.
            values: (n, H, W, C), as for :meth:`measure`.
        """
        found = _gaussians(values, self.whitening)
        for name, value in zip(("mean", "directions", "precision"), found, strict=True):
            kept = getattr(self, name)
            setattr(self, name, torch.cat([kept[:kind], value[None], kept[kind:]]))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Take the number of classes and places from the values that come."""
        for name in ("mean", "directions", "precision"):
            if prefix + name in state_dict:
                coming = state_dict[prefix + name]
                setattr(self, name, getattr(self, name).new_zeros(coming.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def whitening(second_moment: Tensor) -> Tensor:
    """(C, C) times which values have about unit variance; directions without any stay small."""
    # Rounding errors of values that are all alike underflow in the search for directions.
    variances, directions = torch.linalg.eigh(second_moment.where(second_moment.abs() > _NONE, 0))
    floor = _RIDGE * variances.mean().clamp_min(_SMALLEST)
    found: Tensor = directions / (variances.clamp_min(0) + floor).sqrt()
    return found


def nearest_centre(values: Tensor, centres: Tensor, whitening: Tensor) -> Tensor:
    """Of (B, C) the nearest of centres (G, C) each, Mahalanobis by a whitening: (B,) int64."""
    values, centres = values @ whitening, centres @ whitening
    # |x - c|^2 without |x|^2, which is the same for all classes.
    return (centres.square().sum(dim=1) - 2 * values @ centres.T).argmin(dim=1)


def second_moment(whitening: Tensor) -> Tensor:
    """What a :func:`whitening` was made of, (C, C) -> (C, C).

    Its columns are directions over sqrt(variance + floor), so their lengths tell variance + floor,
    and as the floor is a share r of the mean variance m, the mean of those is m + r m.
    """
    raised = 1 / whitening.square().sum(dim=0)
    floor = _RIDGE * raised.mean() / (1 + _RIDGE)
    directions = whitening * raised.sqrt()
    return (directions * (raised - floor)) @ directions.T


def chosen(count: int) -> Sequence[int]:
    """Which of a class's images are measured: all, or :data:`IMAGES` of them, evenly spaced."""
    images = min(count, IMAGES)
    return [i * count // images for i in range(images)]


def _own(images: int) -> float:
    """The share of a Gaussian that its own images make, the rest is what all values are like."""
    return images / (images + _PRIOR)


def _gaussians(values: Tensor, whitening: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of (n, H, W, C) mean (P, C), directions (P, C, R) and precision (P,) as in Places."""
    return _gaussian_of_moments(*_moments_by_place(values, whitening), _own(len(values)))


def _moments_by_place(values: Tensor, whitening: Tensor) -> tuple[Tensor, Tensor]:
    """Of (n, H, W, C), whitened: means (P, C) and second moments about 0 (P, C, C)."""
    rows = []
    for band in values.split(BLOCK, dim=1):  # (n, 4, W, C), a row of places
        whitened = band.to(whitening.dtype) @ whitening
        places = _split(whitened).transpose(0, 1).flatten(1, 2)  # (P, 16 n, C)
        second = places.transpose(1, 2) @ places / places.shape[1]
        rows.append((places.mean(dim=1), second))
    mean, second = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return mean, second


def _gaussian_of_moments(mean: Tensor, second: Tensor, own: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (P, C), directions (P, C, R) and precision (P,) as in Places.

    With the share w of the places' own covariance S and the rest of the unit one, the eigenvalues
    of w S + (1 - w) are l_i = w s_i + 1 - w with the directions u_i of S. The R largest are kept
    and the others are one variance v, their mean. Then

        r' (sum_i l_i u_i u_i' + v (1 - sum_i u_i u_i'))^-1 r
            = |r|^2 / v - sum_i (1 / v - 1 / l_i) (u_i' r)^2,

    so the directions are sqrt(1 / v - 1 / l_i) u_i and the precision is 1 / v. The mean is drawn
    towards 0 by the same share, and S is about it.
    """
    channels = mean.shape[1]
    centre = own * mean
    covariance = second - _about(centre, mean)
    kept = min(RANK, channels)
    variances, vectors = _largest(covariance, kept)
    others = covariance.diagonal(dim1=1, dim2=2).sum(dim=1) - variances.sum(dim=1)
    smallest = own * others.clamp_min(0) / max(channels - kept, 1) + 1 - own  # v, (P,)
    largest = own * variances + 1 - own
    gain = (1 / smallest[:, None] - 1 / largest).clamp_min(0).sqrt()
    directions = F.pad(vectors * gain[:, None], (0, RANK - kept))
    return centre.bfloat16(), directions.bfloat16(), 1 / smallest


def _moments_of_gaussian(
    centre: Tensor, directions: Tensor, precision: Tensor, own: float
) -> tuple[Tensor, Tensor]:
    """The opposite of :func:`_gaussian_of_moments`: l_i = 1 / (1 / v - |direction_i|^2)."""
    gain = directions.square().sum(dim=1)  # (P, R)
    smallest = 1 / precision
    inverse = (precision[:, None] - gain).clamp_min(_LEAST_PRECISION * precision[:, None])
    stretched = (1 / inverse - smallest[:, None]) / gain.clamp_min(_SMALLEST)
    shrunk = (directions * stretched[:, None]) @ directions.transpose(1, 2)
    shrunk.diagonal(dim1=1, dim2=2).add_(smallest[:, None] - (1 - own))
    mean = centre / own
    return mean, shrunk / own + _about(centre, mean)


def _about(centre: Tensor, mean: Tensor) -> Tensor:
    """What second moments about 0 have more than those about a centre: (P, C) -> (P, C, C)."""
    mixed = centre[:, :, None] * mean[:, None]
    return mixed + mixed.transpose(1, 2) - centre[:, :, None] * centre[:, None]


def _largest(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (P, count), and their vectors (P, C, count), of (P, C, C).

    By orthogonal iteration from a fixed start and a Rayleigh-Ritz step, as only a part is wanted.
    """
    channels = covariance.shape[2]
    tried = min(count + _OVERSAMPLED, channels)
    start = torch.randn(channels, tried, generator=torch.Generator().manual_seed(0))
    basis = start.to(covariance).expand(len(covariance), -1, -1)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(covariance @ basis).Q
    variances, rotation = torch.linalg.eigh(basis.transpose(1, 2) @ covariance @ basis)
    vectors = basis @ rotation
    return variances[:, -count:].clamp_min(0), vectors[:, :, -count:]


def _squares(values: Tensor) -> Tensor:
    """Squared length along the last axis, summed in float32."""
    lengths: Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)
    return lengths.square()


def _split(rows: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, P, 16, C): pixels by place; where a side ends its last pixel repeats."""
    batch, height, width, channels = rows.shape
    if height % BLOCK or width % BLOCK:
        maps = rows.permute(0, 3, 1, 2)
        margins = (0, -width % BLOCK, 0, -height % BLOCK)
        rows = F.pad(maps, margins, mode="replicate").permute(0, 2, 3, 1)
    tall, wide = -(-height // BLOCK), -(-width // BLOCK)
    places = rows.reshape(batch, tall, BLOCK, wide, BLOCK, channels).transpose(2, 3)
    return places.reshape(batch, tall * wide, BLOCK * BLOCK, channels)


def _join(places: Tensor, height: int, width: int) -> Tensor:
    """(B, P, 16) -> (B, H, W), the inverse of :func:`_split`."""
    tall, wide = -(-height // BLOCK), -(-width // BLOCK)
    maps = places.view(-1, tall, wide, BLOCK, BLOCK).transpose(2, 3)
    return maps.reshape(-1, tall * BLOCK, wide * BLOCK)[:, :height, :width]
