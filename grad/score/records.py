"""``records.jsonl``: what a run found in each test image, a line an image.

With it thresholds can change, and reports be made again, without running the network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from grad.data.samples import Sample
from grad.system.errors import GradError
from grad.system.files import replacing


@dataclass(frozen=True)
class ImageRecord:
    """A test image and its scores.

    Attributes:
        path: the image file, absolute.
        class_name: the class that it belongs to.
        anomalous: whether it shows a defect.
        defect: the kind of defect, ``"good"`` for good images.
        mask: the ground truth file, absolute; None for good images and where there is none.
        score: its image score.
        map_maximum: the largest value of its anomaly map.
    """

    path: str
    class_name: str
    anomalous: bool
    defect: str
    mask: str | None
    score: float
    map_maximum: float


class Recorder:
    """Observes an evaluation and keeps a record of each image.

    Attributes:
        records: in the order of the images.
    """

    def __init__(self) -> None:
        self.records: list[ImageRecord] = []

    def add(self, samples: Sequence[Sample], image_scores: Tensor, anomaly_maps: Tensor) -> None:
        """Takes a batch.

        Args:
            samples: B samples.
            image_scores: (B,).
            anomaly_maps: (B, h, w).
        """
        maxima = anomaly_maps.amax(dim=(1, 2))
        for sample, score, maximum in zip(
            samples, image_scores.tolist(), maxima.tolist(), strict=True
        ):
            self.records.append(
                ImageRecord(
                    path=str(sample.path.absolute()),
                    class_name=sample.class_name,
                    anomalous=sample.anomalous,
                    defect=sample.defect,
                    mask=None if sample.mask is None else str(sample.mask.absolute()),
                    score=score,
                    map_maximum=maximum,
                )
            )

    def merge(self, other: Recorder) -> None:
        """Takes the records of another, such as another process's."""
        self.records += other.records


def write_records(path: Path, records: Iterable[ImageRecord]) -> None:
    """Write records; the file is whole or not there.

    Raises:
        GradError: the file can't be written.
    """
    lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records]
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_records(path: Path) -> list[ImageRecord]:
    """Read records.

    Raises:
        GradError: no such file, or a line that is no record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GradError(
            f"{path} does not exist: the run was not evaluated; give --data DIR to do so."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise GradError(
            f"{path} can't be read ({error}): evaluate again with --data DIR."
        ) from None
    lines = text.split("\n")[: -1 if text.endswith("\n") else None] if text else []
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _record(line: str, where: str) -> ImageRecord:
    try:
        record = ImageRecord(**json.loads(line))
        for name, kind in (("path", str), ("class_name", str), ("anomalous", bool)):
            if not isinstance(getattr(record, name), kind):
                raise TypeError(f"{name} is {getattr(record, name)!r}")
        return replace(record, score=_number(record.score), map_maximum=_number(record.map_maximum))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise GradError(
            f"{where} is no record of an image ({error}): evaluate again with --data DIR."
        ) from None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no score")
    return float(value)
