"""One model of a run: made, trained, saved, calibrated, judged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from grad.detector.checkpoint import ModelInfo, save_calibration, save_checkpoint
from grad.detector.exemplars import Exemplars, choose_exemplars, describe_exemplars
from grad.detector.training.folds import fold_scores
from grad.detector.training.loop import Fit, fit
from grad.detector.training.state import History
from grad.features.backbone import Backbone
from grad.features.features import Features
from grad.features.split import TrainingSplit
from grad.model.grad import GRAD
from grad.model.size import describe
from grad.report.results import Results
from grad.score.dataset import good_scores
from grad.score.rules import choose_thresholds
from grad.score.thresholds import Calibration, calibrate
from grad.system import distributed
from grad.system.progress import print_line
from grad.system.run_folder import MODEL
from grad.train.estimate import describe_training, training_seconds
from grad.train.log import RunLog
from grad.train.plan import TrainPlan


@dataclass(frozen=True)
class ModelTraining:
    """What all models of a run share."""

    plan: TrainPlan
    backbone: Backbone
    results: Results
    console: Console
    log: RunLog

    def run(self, split: TrainingSplit, test: Features, folder: Path) -> None:
        """Train one model and judge it.

        Args:
            split: features of good images of its classes.
            test: features of test images of these.
            folder: of its files.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the model as it is was written.
        """
        plan, classes, file = self.plan, split.classes, folder / MODEL
        torch.manual_seed(plan.options.seed)
        model = self._make_model().to(plan.device)
        self._announce(model, classes)
        tiles = split.training.tiles()
        if plan.options.resume is None:
            self._say_what_it_takes(model, tiles)
        result = self._fit(model, tiles, folder)
        if distributed.is_main():
            info, exemplars = self._info(split, result.epochs), self._exemplars(model, tiles)
            save_checkpoint(file, model, self.backbone, info, exemplars=exemplars)
        if result.interrupted:
            self._say_interrupted(result, file)
            raise KeyboardInterrupt
        calibration = self._calibrate(model, split)
        records = self.results.add(
            model,
            test,
            plan.image_size,
            classes,
            self.console,
            train=split.training.as_they_come(),
            history=dataclasses.asdict(result.history),
        )
        if distributed.is_main():
            calibration = choose_thresholds(calibration, records, plan.options.threshold)
            self.results.calibrations |= dict.fromkeys(classes, calibration)
            save_calibration(file, calibration)

    def _make_model(self) -> GRAD:
        height, width = self.backbone.feature_size(self.plan.image_size)
        return GRAD.from_preset(
            channels=self.backbone.channels,
            height=height,
            width=width,
            context=self.backbone.context,
            **self.plan.model_options(),
        )

    def _fit(self, model: GRAD, features: Features, folder: Path) -> Fit:
        plan, schedule = self.plan, self.plan.schedule()
        name = folder.name if plan.options.separate else ""

        def log(history: History) -> None:
            self.log.epochs(dataclasses.asdict(history), schedule.learning_rates, name)

        return fit(
            model,
            features,
            schedule,
            seed=plan.options.seed,
            precision=plan.precision,
            folder=folder,
            features_on_device=plan.options.features_on_device,
            sync_batch_norm=plan.options.sync_batch_norm,
            compile_step=plan.options.compile,
            console=self.console,
            on_epoch=log,
        )

    def _exemplars(self, model: GRAD, tiles: Features) -> Exemplars:
        """What the model keeps to learn on with; says so."""
        if model.statistics is not None or not self.plan.options.update:
            return {}
        exemplars = choose_exemplars(tiles)
        shapes = {name: tuple(maps.shape) for name, maps in exemplars.items()}
        told = f"For `grad update` the model keeps {describe_exemplars(shapes)}"
        print_line(f"{told}; --no-update leaves them out.", None, self.console)
        return exemplars

    def _calibrate(self, model: GRAD, split: TrainingSplit) -> Calibration:
        """Thresholds from images kept apart; of classes without any, from folds of all others.

        What the report shows of good images is the one kind or the other.
        """
        plan, options, observers = self.plan, self.plan.options, self.results.of_good()
        folded = [name for name, source in split.sources.items() if source in ("folds", "training")]
        apart = () if len(folded) == len(split.sources) else observers
        scores, maxima = good_scores(model, split.calibration, plan.image_size, self.console, apart)
        if folded:
            of_folds = fold_scores(
                model,
                split.training,
                plan.image_size,
                plan.schedule(),
                classes=split.classes,
                groups=options.group,
                seed=options.seed,
                precision=plan.precision,
                console=self.console,
                observers=() if apart else observers,
            )
            for found, more in zip((scores, maxima), of_folds, strict=True):
                found |= {name: more[name] for name in folded}
        self.results.set_good(scores, maxima)
        return calibrate(scores, maxima, split.sources, options.false_alarm_rate)

    def _info(self, split: TrainingSplit, epochs: int) -> ModelInfo:
        return ModelInfo.of(
            self.backbone,
            image_size=self.plan.image_size,
            classes=split.classes,
            epochs=epochs,
            tile=self.plan.options.tile,
            overlap=self.plan.options.overlap,
            white_level=split.training.samples[0].white_level,
            rois={s.class_name: s.roi for s in split.training.samples if s.roi is not None},
            min_area=self.plan.options.min_area,
            augment=self.plan.options.augmentations(),
        )

    def _announce(self, model: GRAD, classes: tuple[str, ...]) -> None:
        plan, console = self.plan, self.console
        if plan.options.separate:
            console.print(f"class {classes[0]}", style="bold", markup=False)
        console.print(
            f"{describe(model)}; {self.backbone.name}, {plan.precision} on {plan.device}",
            highlight=False,
            markup=False,
        )

    def _say_what_it_takes(self, model: GRAD, tiles: Features) -> None:
        seconds = training_seconds(model, tiles, self.plan)
        images = len(tiles.as_they_come())
        told = describe_training(self.plan, images, seconds, len(tiles) - images)
        print_line(told, None, self.console)

    def _say_interrupted(self, result: Fit, file: Path) -> None:
        out = file.parent.parent if self.plan.options.separate else file.parent
        self.console.print(
            f"Interrupted after {result.epochs} of {self.plan.epochs} epochs; the model as it is "
            f"now can be used: {file}; --resume {out} goes on.",
            markup=False,
            soft_wrap=True,
        )
