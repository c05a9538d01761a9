"""From a row and a seed to its result: trained and judged, or read where that was done before."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from report import machine_facts
from rich.console import Console

from accuracy.methods import METHODS, count_flops
from accuracy.rows import Row
from accuracy.store import Result, Store, data_digest
from grad.backbone import Backbone, load_backbone
from grad.config import TrainConfig
from grad.data import Dataset, few_shot, find_dataset
from grad.evaluation import evaluate
from grad.features import Features, compute_features, default_cache
from grad.metrics import summarize
from grad.model import ModelSettings, count_parameters
from grad.training import choose_precision


class Runner:
    """Everything that the rows share: the images, the backbone and one cache of features.

    Args:
        config: the command line's options; a row overrides some of them.
        out: folder of results; those of single rows lie in ``rows/``.
        console: where progress goes.
    """

    def __init__(self, config: TrainConfig, out: Path, console: Console) -> None:
        config = config.resolved()
        assert config.data is not None
        self.device = config.torch_device()
        if config.precision == "auto":
            config = dataclasses.replace(config, precision=choose_precision(self.device))
        self.config = config
        self.console = console
        self.store = Store(out / "rows")
        self.dataset: Dataset = find_dataset(config.data, config.class_names())
        self.digest = data_digest(self.dataset)
        self.backbone: Backbone = load_backbone(config.backbone, config.weights).to(self.device)
        if self.backbone.note:
            console.print(self.backbone.note, style="yellow", markup=False)

    def result(self, row: Row, seed: int) -> Result:
        """The row's result: read, or made and kept.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was finished before is kept.
        """
        config = dataclasses.replace(self.config, **row.overrides, seed=seed)
        settings = self._settings(row, config)
        found = self.store.get(settings)
        if found is not None:
            return Result(**found)
        result = self._run(row, config, settings)
        self.store.put(dataclasses.asdict(result))
        return result

    def _run(self, row: Row, config: TrainConfig, settings: dict[str, Any]) -> Result:
        method = METHODS[row.method]
        train = self._training_features(config)
        epochs = self._epochs(row, config, len(train))
        reports, parameters, losses, seconds = {}, 0, [], [0.0, 0.0]
        flops = None
        for classes in self._models(config):
            mine = train.of_classes(classes)
            start = time.perf_counter()
            model, loss = method(config, mine, epochs, self.device)
            trained = time.perf_counter()
            test = self.test.of_classes(classes)
            reports |= evaluate(model, test, config.image_size, (), classes=classes)
            seconds[0] += trained - start
            seconds[1] += time.perf_counter() - trained
            parameters += count_parameters(model)
            flops = count_flops(model, mine)
            losses += [] if loss is None else [loss]
        return Result(
            settings=settings,
            summary=summarize(reports),
            epochs=epochs if losses else 0,
            parameters=parameters,
            flops=flops,
            train_seconds=seconds[0],
            evaluate_seconds=seconds[1],
            loss=math.fsum(losses) / len(losses) if losses else None,
            facts=machine_facts(self.device),
        )

    def _settings(self, row: Row, config: TrainConfig) -> dict[str, Any]:
        """What the row's accuracy depends on."""
        used = {
            "method": row.method,
            "data": self.digest,
            "backbone": self.backbone.fingerprint,
            "image_size": config.image_size,
            "separate": config.separate,
            "few_shot": config.few_shot,
            "seed": config.seed,
        }
        if row.method == "memory bank":
            return used
        used |= {
            "epochs": config.epochs,
            "equal_steps": row.equal_steps,
            "batch_size": config.batch_size,
            "precision": config.precision,
            "device": self.device.type,
        }
        if row.method == "grad":
            names = ("drops", "learning_rate", "grid_learning_rate")
            used |= {name: getattr(config, name) for name in names}
            # Defaults are left out, so that an option that is added later changes no key.
            defaults = {field.name: field.default for field in dataclasses.fields(ModelSettings)}
            options = config.model_options().items()
            used |= {name: value for name, value in options if value != defaults[name]}
        return used

    def _training_features(self, config: TrainConfig) -> Features:
        if config.few_shot is None:
            return self.train
        chosen = {s.path for s in few_shot(self.dataset, config.few_shot, config.seed).train}
        return self.train.subset([i for i, s in enumerate(self.train.samples) if s.path in chosen])

    def _epochs(self, row: Row, config: TrainConfig, images: int) -> int:
        assert config.epochs is not None and config.batch_size is not None
        if not row.equal_steps:
            return config.epochs
        steps = math.ceil(len(self.train) / config.batch_size)
        return math.ceil(config.epochs * steps / math.ceil(images / config.batch_size))

    def _models(self, config: TrainConfig) -> Sequence[tuple[str, ...]]:
        classes = self.dataset.classes
        return [(name,) for name in classes] if config.separate else [classes]

    @cached_property
    def train(self) -> Features:
        """Features of all training images."""
        return self._features(self.dataset.train)

    @cached_property
    def test(self) -> Features:
        """Features of all test images."""
        return self._features(self.dataset.test)

    def _features(self, samples: Sequence[Any]) -> Features:
        config = self.config
        return compute_features(
            samples,
            self.backbone,
            config.image_size,
            cache=config.cache or default_cache(),
            device=self.device,
            workers=config.workers or 1,
            console=self.console,
        )
