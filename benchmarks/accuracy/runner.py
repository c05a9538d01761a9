"""From a row and a seed to its result: trained and judged, or read where that was done before."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.facts import machine_facts
from rich.console import Console

from accuracy.methods import METHODS, count_flops
from accuracy.rows import Row
from accuracy.store import Result, Store, data_digest
from grad.data.layouts import find_dataset
from grad.data.samples import Dataset, few_shot
from grad.features.backbone import Backbone, load_backbone
from grad.features.compute import compute_features
from grad.features.features import Features
from grad.model.settings import ModelSettings
from grad.model.size import count_parameters
from grad.score.dataset import evaluate
from grad.score.metrics.classes import summarize
from grad.system.devices import find_device
from grad.train.options import TrainOptions
from grad.train.plan import TrainPlan, make_plan


@dataclass(frozen=True)
class Inputs:
    """What models of one image size see, with the same of the backbone's maps."""

    backbone: Backbone
    train: Features
    test: Features


class Runner:
    """Everything that the rows share: the images and the cache of their features.

    Args:
        options: the command line's; a row overrides some of them.
        out: folder of results; those of single rows lie in ``rows/``.
        console: where progress goes.
    """

    def __init__(self, options: TrainOptions, out: Path, console: Console) -> None:
        assert options.data is not None
        self.options = options
        self.plan = make_plan(options, find_device(options.device))
        self.console = console
        self.store = Store(out / "rows")
        self.dataset: Dataset = find_dataset(options.data, options.class_names())
        self.digest = data_digest(self.dataset)
        self._backbones: dict[bool, Backbone] = {}
        self._inputs: dict[tuple[bool, int], Inputs] = {}
        note = self.backbone(self.plan).note
        if note:
            console.print(note, style="yellow", markup=False)

    def result(self, row: Row, seed: int) -> Result:
        """The row's result: read, or made and kept.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was finished before is kept.
        """
        options = dataclasses.replace(self.options, **row.overrides, seed=seed)
        plan = make_plan(options, self.plan.device)
        settings = self.settings(row, plan)
        found = self.store.get(settings)
        if found is not None:
            return Result(**found)
        result = self._run(row, plan, settings)
        self.store.put(dataclasses.asdict(result))
        return result

    def backbone(self, plan: TrainPlan) -> Backbone:
        """That of a plan."""
        context = plan.row.context
        if context not in self._backbones:
            backbone = load_backbone(plan.backbone, plan.options.weights, context=context)
            self._backbones[context] = backbone.to(self.plan.device)
        return self._backbones[context]

    def _run(self, row: Row, plan: TrainPlan, settings: dict[str, Any]) -> Result:
        method = METHODS[row.method]
        inputs = self._inputs_of(plan)
        train = self._training_features(plan, inputs)
        epochs = self._epochs(row, plan, len(train), len(inputs.train))
        reports, parameters, losses, seconds = {}, 0, [], [0.0, 0.0]
        flops = None
        for classes in self._models(plan):
            mine = train.of_classes(classes)
            start = time.perf_counter()
            model, loss = method(plan, mine, inputs.backbone.context, epochs, self.plan.device)
            trained = time.perf_counter()
            test = inputs.test.of_classes(classes)
            reports |= evaluate(model, test, plan.image_size, (), classes=classes)
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
            facts=machine_facts(self.plan.device),
        )

    def settings(self, row: Row, plan: TrainPlan) -> dict[str, Any]:
        """What the row's accuracy depends on."""
        used = {
            "method": row.method,
            "data": self.digest,
            "backbone": self.backbone(plan).fingerprint,
            "image_size": plan.image_size,
            "separate": plan.options.separate,
            "few_shot": plan.options.few_shot,
            "seed": plan.options.seed,
        }
        if row.method == "memory bank":
            return used
        used |= {
            "epochs": plan.epochs,
            "equal_steps": row.equal_steps,
            "batch_size": plan.batch_size,
            "precision": plan.precision,
            "device": self.plan.device.type,
        }
        if row.method == "grad":
            names = ("drops", "learning_rate", "grid_learning_rate")
            used |= {name: getattr(plan.options, name) for name in names}
            # Defaults are left out, so that an option that is added later changes no key.
            defaults = {field.name: field.default for field in dataclasses.fields(ModelSettings)}
            options = plan.model_options().items()
            used |= {name: value for name, value in options if value != defaults[name]}
            schedule = plan.schedule()
            used |= {"balance": True} if schedule.balance else {}
            used |= {"decay": schedule.decay} if schedule.decay != "steps" else {}
        return used

    def _training_features(self, plan: TrainPlan, inputs: Inputs) -> Features:
        if plan.options.few_shot is None:
            return inputs.train
        chosen = {
            s.path for s in few_shot(self.dataset, plan.options.few_shot, plan.options.seed).train
        }
        samples = inputs.train.samples
        return inputs.train.subset([i for i, s in enumerate(samples) if s.path in chosen])

    @staticmethod
    def _epochs(row: Row, plan: TrainPlan, images: int, all_images: int) -> int:
        if not row.equal_steps:
            return plan.epochs
        steps = math.ceil(all_images / plan.batch_size)
        return math.ceil(plan.epochs * steps / math.ceil(images / plan.batch_size))

    def _models(self, plan: TrainPlan) -> Sequence[tuple[str, ...]]:
        classes = self.dataset.classes
        return [(name,) for name in classes] if plan.options.separate else [classes]

    def _inputs_of(self, plan: TrainPlan) -> Inputs:
        place = (plan.row.context, plan.image_size)
        if place not in self._inputs:
            backbone = self.backbone(plan)
            train, test = (
                compute_features(
                    samples,
                    backbone,
                    plan.image_size,
                    cache=plan.cache,
                    device=self.plan.device,
                    workers=plan.workers,
                    console=self.console,
                )
                for samples in (self.dataset.train, self.dataset.test)
            )
            self._inputs[place] = Inputs(backbone, train, test)
        return self._inputs[place]
