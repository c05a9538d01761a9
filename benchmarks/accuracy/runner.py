"""From a row and a seed to its result: trained and judged, or read where that was done before."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import machine_facts
from rich.console import Console

from accuracy.methods import METHODS, count_flops
from accuracy.rows import Row
from accuracy.store import Result, Store, data_digest
from grad.data.layouts import find_dataset
from grad.data.samples import Dataset, few_shot
from grad.features.backbone import Backbone, load_backbone
from grad.features.compute import Features, compute_features, default_cache
from grad.model.settings import ModelSettings
from grad.model.size import count_parameters
from grad.score.dataset import evaluate
from grad.score.metrics.classes import summarize
from grad.system.devices import choose_precision, find_device
from grad.train.options import TrainConfig


@dataclass(frozen=True)
class Inputs:
    """What models of one image size see, with the same of the backbone's maps."""

    backbone: Backbone
    train: Features
    test: Features


class Runner:
    """Everything that the rows share: the images and the cache of their features.

    Args:
        config: the command line's options; a row overrides some of them.
        out: folder of results; those of single rows lie in ``rows/``.
        console: where progress goes.
    """

    def __init__(self, config: TrainConfig, out: Path, console: Console) -> None:
        assert config.data is not None
        self.device = find_device(config.device)
        if config.precision == "auto":
            config = dataclasses.replace(config, precision=choose_precision(self.device))
        self.given = config
        self.config = config.resolved()
        self.console = console
        self.store = Store(out / "rows")
        self.dataset: Dataset = find_dataset(config.data, config.class_names())
        self.digest = data_digest(self.dataset)
        self._backbones: dict[bool, Backbone] = {}
        self._inputs: dict[tuple[bool, int], Inputs] = {}
        note = self.backbone(self.config).note
        if note:
            console.print(note, style="yellow", markup=False)

    def result(self, row: Row, seed: int) -> Result:
        """The row's result: read, or made and kept.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was finished before is kept.
        """
        config = dataclasses.replace(self.given, **row.overrides, seed=seed).resolved()
        settings = self.settings(row, config)
        found = self.store.get(settings)
        if found is not None:
            return Result(**found)
        result = self._run(row, config, settings)
        self.store.put(dataclasses.asdict(result))
        return result

    def backbone(self, config: TrainConfig) -> Backbone:
        """That of resolved options."""
        context = config.context()
        if context not in self._backbones:
            backbone = load_backbone(config.backbone, config.weights, context=context)
            self._backbones[context] = backbone.to(self.device)
        return self._backbones[context]

    def _run(self, row: Row, config: TrainConfig, settings: dict[str, Any]) -> Result:
        method = METHODS[row.method]
        inputs = self._inputs_of(config)
        train = self._training_features(config, inputs)
        epochs = self._epochs(row, config, len(train), len(inputs.train))
        reports, parameters, losses, seconds = {}, 0, [], [0.0, 0.0]
        flops = None
        for classes in self._models(config):
            mine = train.of_classes(classes)
            start = time.perf_counter()
            model, loss = method(config, mine, inputs.backbone.context, epochs, self.device)
            trained = time.perf_counter()
            test = inputs.test.of_classes(classes)
            reports |= evaluate(model, test, config.side(), (), classes=classes)
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

    def settings(self, row: Row, config: TrainConfig) -> dict[str, Any]:
        """What the row's accuracy depends on."""
        used = {
            "method": row.method,
            "data": self.digest,
            "backbone": self.backbone(config).fingerprint,
            "image_size": config.side(),
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
            schedule = config.schedule()
            used |= {"balance": True} if schedule.balance else {}
            used |= {"decay": schedule.decay} if schedule.decay != "steps" else {}
        return used

    def _training_features(self, config: TrainConfig, inputs: Inputs) -> Features:
        if config.few_shot is None:
            return inputs.train
        chosen = {s.path for s in few_shot(self.dataset, config.few_shot, config.seed).train}
        samples = inputs.train.samples
        return inputs.train.subset([i for i, s in enumerate(samples) if s.path in chosen])

    @staticmethod
    def _epochs(row: Row, config: TrainConfig, images: int, all_images: int) -> int:
        assert config.epochs is not None and config.batch_size is not None
        if not row.equal_steps:
            return config.epochs
        steps = math.ceil(all_images / config.batch_size)
        return math.ceil(config.epochs * steps / math.ceil(images / config.batch_size))

    def _models(self, config: TrainConfig) -> Sequence[tuple[str, ...]]:
        classes = self.dataset.classes
        return [(name,) for name in classes] if config.separate else [classes]

    def _inputs_of(self, config: TrainConfig) -> Inputs:
        place = (config.context(), config.side())
        if place not in self._inputs:
            backbone = self.backbone(config)
            train, test = (
                compute_features(
                    samples,
                    backbone,
                    config.side(),
                    cache=config.cache or default_cache(),
                    device=self.device,
                    workers=config.workers or 1,
                    console=self.console,
                )
                for samples in (self.dataset.train, self.dataset.test)
            )
            self._inputs[place] = Inputs(backbone, train, test)
        return self._inputs[place]
