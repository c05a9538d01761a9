"""Whether an exported file computes what the detector does, on real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grad.data.picture import Picture, as_floats, collate
from grad.data.sources import Item
from grad.export.formats.base import Runner
from grad.export.graph import Resize
from grad.score.thresholds import Threshold
from grad.system.errors import GradError

BATCH = 8  # images at once where a file takes any number

# (B, 3, S, S) in [0, 1] -> anomaly maps (B, S, S) and image scores (B,), as Detector.score_batch.
ScoreBatch = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from the detector.

    Attributes:
        anomaly_map: of the smallest pixel threshold.
        score: of the smallest image threshold.
        value: of the whole scale of calibrated values, from 0 to 1.
        decisions: share of them that may be others.
    """

    anomaly_map: float
    score: float
    value: float
    decisions: float


EXACT = Tolerance(anomaly_map=1e-3, score=1e-3, value=1e-3, decisions=0.0)
EIGHT_BITS = Tolerance(anomaly_map=0.2, score=0.05, value=0.1, decisions=0.01)


@dataclass(frozen=True)
class Batch:
    """Images of one size.

    Attributes:
        names: what people know them by; may be fewer than ``pictures``, which then repeat the last.
        pictures: decoded.
    """

    names: tuple[str, ...]
    pictures: tuple[Picture, ...]

    def pixels(self) -> NDArray[np.uint8]:
        """(B, h, w, 3), as a graph with a resize takes them."""
        return np.stack([np.asarray(picture.rgb()) for picture in self.pictures])

    def as_input(self, size: int, resize: Resize) -> NDArray[Any]:
        """The images as a graph takes them."""
        return self.pixels() if resize == "graph" else self.resized(size).numpy()

    def resized(self, size: int) -> Tensor:
        """(B, 3, size, size) float32, as the detector and a graph without a resize take them."""
        pictures = [picture.resize((size, size)).tensor() for picture in self.pictures]
        return as_floats(collate(pictures)).contiguous()


def batches(items: Iterable[Item], length: int | None) -> Iterator[Batch]:
    """Decode images; one of another size than the one before begins a new batch.

    Args:
        items: images with 8 bits a channel.
        length: of each batch, the last image repeated where there are fewer; None: any.

    Raises:
        GradError: an image can't be read, or has more than 8 bits a channel.
    """
    waiting: list[tuple[str, Picture]] = []
    for item in items:
        picture = item.picture()
        if picture.bands[0].mode != "RGB":
            raise GradError(
                f"The image {item.name} has more than 8 bits a channel, which exported files don't "
                "take: leave it out."
            )
        full = len(waiting) == (length or BATCH)
        if waiting and (full or picture.size != waiting[0][1].size):
            yield _batch(waiting, length)
            waiting = []
        waiting.append((item.name, picture))
    if waiting:
        yield _batch(waiting, length)


def _batch(members: Sequence[tuple[str, Picture]], length: int | None) -> Batch:
    names, pictures = zip(*members, strict=True)
    return Batch(names, pictures + pictures[-1:] * ((length or 0) - len(pictures)))


@dataclass
class Difference:
    """How far the numbers of two runtimes are apart."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """The mean of the differences."""
        return self.total / max(self.count, 1)

    def add(
        self, expected: NDArray[Any], actual: NDArray[Any], unit: float, tolerance: float
    ) -> bool:
        """Take up some numbers; says whether they are within a tolerance, which NaN is not."""
        if expected.shape != actual.shape:
            raise ValueError(f"expected the shape {expected.shape}, got {actual.shape}")
        differences = np.nan_to_num(np.abs(expected - actual, dtype=np.float64) / unit, nan=np.inf)
        largest = float(differences.max())
        self.largest = max(self.largest, largest)
        self.total += float(differences.sum())
        self.count += differences.size
        return largest <= tolerance


@dataclass
class Parity:
    """An exported file beside the detector, on some images.

    Attributes:
        anomaly_map, score: differences, as shares of the smallest pixel and image threshold.
        value: differences of the calibrated values.
        images: how many were compared.
        decisions, different: verdicts, one for each image and threshold, and how many are not the
            detector's.
        bad: images that the file fails on.
        seconds, detector_seconds: what all batches took from decoded images on, the first left out
            where there are others.
        timed: images in those batches.
        tolerance: what is allowed.
    """

    tolerance: Tolerance = EXACT
    anomaly_map: Difference = field(default_factory=Difference)
    score: Difference = field(default_factory=Difference)
    value: Difference = field(default_factory=Difference)
    images: int = 0
    decisions: int = 0
    different: int = 0
    bad: list[str] = field(default_factory=list)
    seconds: float = 0.0
    detector_seconds: float = 0.0
    timed: int = 0

    def check(self) -> None:
        """Raise a GradError where the file is not as good as the detector."""
        allowed = self.tolerance
        if self.bad or self.different > allowed.decisions * self.decisions:
            first = f", such as {self.bad[0]}" if self.bad else ""
            raise GradError(
                f"The exported file does not compute what the model does on {len(self.bad)} of "
                f"{self.images} images{first}: maps differ by up to "
                f"{self.anomaly_map.largest:.1e} of the threshold ({allowed.anomaly_map:.0e} is "
                f"allowed), scores by {self.score.largest:.1e} ({allowed.score:.0e}), values by "
                f"{self.value.largest:.1e} ({allowed.value:.0e}), {self.different} of "
                f"{self.decisions} decisions are others; nothing was written, please report it."
            )


def verify(
    run: Runner,
    score_batch: ScoreBatch,
    thresholds: Sequence[Threshold],
    image_size: int,
    resize: Resize,
    images: Iterable[Batch],
    tolerance: Tolerance = EXACT,
) -> Parity:
    """Compare a file with the detector.

    Args:
        run: the file in its runtime.
        score_batch: the detector, in float32.
        thresholds: those in the file, in the order of its columns.
        image_size: side of the square that images are resized to, in pixels.
        resize: whether the file does it.
        images: at least one batch.
        tolerance: how far the file may be from the detector.
    """
    parity = Parity(tolerance)
    for number, batch in enumerate(images):
        pixels = batch.pixels()
        start = time.perf_counter()
        resized = batch.resized(image_size)
        maps, scores = score_batch(resized)
        middle = time.perf_counter()
        outputs = run(pixels if resize == "graph" else resized.numpy())
        end = time.perf_counter()
        if number <= 1:  # a first batch is slow, but may be the only one
            parity.detector_seconds = parity.seconds = parity.timed = 0
        parity.detector_seconds += middle - start
        parity.seconds += end - middle
        parity.timed += len(batch.pictures)
        _compare(parity, batch.names, maps.numpy(), scores, outputs, thresholds)
    return parity


def _compare(
    parity: Parity,
    names: Sequence[str],
    maps: NDArray[Any],
    scores: Tensor,
    outputs: Sequence[NDArray[Any]],
    thresholds: Sequence[Threshold],
) -> None:
    """Take up the detector's maps and scores, and a file's outputs, for the images of a batch."""
    pixel_unit = min(threshold.pixel for threshold in thresholds)
    image_unit = min(threshold.image for threshold in thresholds)
    pairs = list(zip(scores.tolist(), maps.max(axis=(1, 2)).tolist(), strict=True))
    values = np.array([[t.value(*pair) for t in thresholds] for pair in pairs], np.float32)
    decisions = np.array([[t.is_anomalous(*pair) for t in thresholds] for pair in pairs])
    expected = (maps, scores.numpy(), values, decisions)
    for index, name in enumerate(names):
        (m, s, v, d), (m_, s_, v_, d_) = ([o[index] for o in each] for each in (expected, outputs))
        different = int((d != d_).sum())
        allowed = parity.tolerance
        equal = parity.anomaly_map.add(m, m_, pixel_unit, allowed.anomaly_map)
        equal = parity.score.add(s, s_, image_unit, allowed.score) and equal
        equal = parity.value.add(v, v_, 1.0, allowed.value) and equal
        parity.images += 1
        parity.decisions += d.size
        parity.different += different
        if (different and not allowed.decisions) or not equal:
            parity.bad.append(name)
