"""What was measured is kept: one JSON file for each row and seed, found again by its settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grad.data import Dataset
from grad.files import replacing

_FORMAT = "grad-row/1"  # part of every key: raise it when training or scoring changes its meaning


@dataclass(frozen=True)
class Result:
    """One row with one seed.

    Attributes:
        settings: everything that the accuracy depends on, and that the key is made of.
        summary: as in metrics.json: metrics of each class and their mean.
        epochs: as trained; more than asked for where few images are to get as many steps.
        parameters: trainable values of all models of the row.
        flops: of one image, without the backbone; None where it isn't counted.
        train_seconds, evaluate_seconds: wall clock.
        loss: mean of the last epoch, over the models; None where nothing is trained.
        facts: the machine.
    """

    settings: dict[str, Any]
    summary: dict[str, Any]
    epochs: int
    parameters: int
    flops: int | None
    train_seconds: float
    evaluate_seconds: float
    loss: float | None
    facts: dict[str, Any]

    def mean(self, metric: str) -> float | None:
        """The metric's mean over the classes, a fraction."""
        value: float | None = self.summary["mean"][metric]
        return value


class Store:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, settings: dict[str, Any]) -> Result | None:
        """The result with exactly these settings, None where there is none or it is damaged."""
        try:
            return Result(**json.loads(self._path(settings).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, result: Result) -> None:
        """Keep a result; its file is whole or not there."""
        with replacing(self._path(result.settings)) as temporary:
            temporary.write_text(json.dumps(asdict(result), indent=1) + "\n")

    def _path(self, settings: dict[str, Any]) -> Path:
        text = json.dumps([_FORMAT, settings], sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def data_digest(dataset: Dataset) -> str:
    """SHA-256 over every image and mask and what each is known to be."""
    digest = hashlib.sha256()
    for sample in dataset.train + dataset.test:
        digest.update(f"{sample.class_name}/{sample.split}/{sample.defect}".encode())
        for path in (sample.path, sample.mask):
            content = b"" if path is None else path.read_bytes()
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()
