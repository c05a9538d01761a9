"""What was measured is kept: one JSON file for each row and seed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grad.data.samples import Dataset
from grad.system.files import replacing

_FORMAT = "grad-row/2"  # part of every key: raise it when training or scoring changes its meaning


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
    """A folder of records, each found again by the settings that it was made with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The record with exactly these settings, None where there is none or it is damaged."""
        try:
            record: dict[str, Any] = json.loads(self.path(settings).read_text())
        except (OSError, ValueError):
            return None
        return record if record.get("settings") == settings else None

    def put(self, record: dict[str, Any]) -> None:
        """Keep a record, which holds its ``settings``; its file is whole or not there."""
        with replacing(self.path(record["settings"])) as temporary:
            temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")

    def path(self, settings: dict[str, Any]) -> Path:
        """Where the record with these settings lies."""
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
