"""``run``: from a folder of good images to a judged model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from grad.data.demo import demo_dataset
from grad.data.layouts import find_dataset
from grad.data.samples import Dataset, Sample, few_shot
from grad.data.summary import show_dataset
from grad.data.survey import check_masks
from grad.data.validation import find_validation
from grad.detector.checkpoint import ModelInfo, save_calibration, save_checkpoint
from grad.features.backbone import Backbone, load_backbone
from grad.features.compute import Features, compute_features, default_cache
from grad.features.split import TrainingSplit, split_training
from grad.model.grad import GRAD
from grad.model.size import describe
from grad.report.contents import About
from grad.report.results import Results, test_settings
from grad.score.dataset import good_scores, trained_scores
from grad.score.thresholds import Calibration, calibrate
from grad.score.verdicts import choose_thresholds
from grad.system import distributed
from grad.system.devices import choose_precision, default_workers, find_device
from grad.system.run_folder import CONFIG, MODEL, new_folder
from grad.train.loop import fit
from grad.train.options import TrainConfig, write_config
from grad.train.resume import is_complete


@dataclass(frozen=True)
class _Run:
    """What all models of a run share."""

    config: TrainConfig
    device: torch.device
    backbone: Backbone
    console: Console
    results: Results


def run(config: TrainConfig, console: Console) -> Path:
    """Train, evaluate and write everything; see the README for what lies where.

    Ctrl-C during training writes the model as it is.

    Args:
        config: the options, as given.
        console: where progress and results are shown.

    Returns:
        The folder of results.

    Raises:
        GradError: something that was given is wrong; nothing half-written is left.
        KeyboardInterrupt: Ctrl-C, after what could be saved was saved and announced.
    """
    config = config.resolved()
    device = distributed.said_once(lambda: find_device(config.device))
    with distributed.joined(device):
        return _run(config, device, console if distributed.is_main() else Console(quiet=True))


def _run(config: TrainConfig, device: torch.device, console: Console) -> Path:
    """``run`` in each of several processes, or in the only one."""
    if config.resume is not None and distributed.from_main(lambda: _is_complete(config, console)):
        return config.resume
    dataset, validation = distributed.from_main(lambda: _find(config))
    show_dataset(dataset, console)
    with _run_folder(config, dataset) as out, _deterministic(device):
        backbone = distributed.main_first(
            lambda: load_backbone(config.backbone, config.weights, context=config.context())
        )
        backbone = backbone.to(device)
        if backbone.note:
            console.print(backbone.note, style="yellow", markup=False)
        config = _complete(config, backbone, device, out)
        if distributed.is_main():
            write_config(out / CONFIG, config)
        train, test, further = (
            _features(samples, config, backbone, device, console)
            for samples in (dataset.train, dataset.test, validation)
        )
        job = _Run(config, device, backbone, console, Results(exact=config.exact_metrics))
        split = split_training(train, further, config.calibration_share, config.seed)
        for folder, classes in _models(config, dataset.classes, out):
            _train_and_evaluate(job, split.of_classes(classes), test.of_classes(classes), folder)
        if distributed.is_main():
            settings, about = _settings(config, split, test), _about(config, dataset, backbone)
            job.results.write(out, settings, about, console, workers=config.workers or 1)
        console.print(f"Results are in {out}", markup=False, highlight=False, soft_wrap=True)
    return out


def _is_complete(config: TrainConfig, console: Console) -> bool:
    """Whether nothing is left to do for ``--resume``; says so."""
    assert config.resume is not None and config.epochs is not None
    if not is_complete(config.resume.expanduser(), config.epochs):
        return False
    console.print(
        f"{config.resume} is complete: all {config.epochs} epochs are trained and evaluated. "
        "More --epochs would go on.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return True


@contextmanager
def _run_folder(config: TrainConfig, dataset: Dataset) -> Iterator[Path]:
    """The folder of results; removed where nothing came to lie in it but the options."""
    if config.resume is not None:
        out = config.resume.expanduser()
    else:
        out = distributed.from_main(lambda: new_folder(config.out, _name(config, dataset)))
    try:
        with distributed.advising(f"--resume {out} goes on from the last completed epoch"):
            yield out
    finally:
        if distributed.is_main() and config.resume is None:
            with suppress(OSError):
                if [path.name for path in out.iterdir()] == [CONFIG]:
                    (out / CONFIG).unlink()
                out.rmdir()  # only goes where it is empty


def _find(config: TrainConfig) -> tuple[Dataset, tuple[Sample, ...]]:
    """The images of a run, and further ones for thresholds; all masks can be read."""
    dataset = _find_dataset(config)
    validation = _find_validation(config, dataset)
    check_masks(dataset)
    return dataset, validation


def _find_dataset(config: TrainConfig) -> Dataset:
    names = config.class_names()
    if config.data is None:
        dataset = demo_dataset() if names is None else demo_dataset().select(names)
    else:
        dataset = find_dataset(config.data, names, strict=config.strict)
    if config.few_shot is not None:
        dataset = few_shot(dataset, config.few_shot, config.seed)
    return dataset


def _name(config: TrainConfig, dataset: Dataset) -> str:
    """What a run is called after: the data and the preset."""
    data = "demo" if config.data is None else dataset.root.resolve().name
    return f"{data}-{config.preset}"


def _find_validation(config: TrainConfig, dataset: Dataset) -> tuple[Sample, ...]:
    if config.validation is None:
        return ()
    return find_validation(config.validation, dataset.classes, dataset.train)


def _features(
    samples: Sequence[Sample],
    config: TrainConfig,
    backbone: Backbone,
    device: torch.device,
    console: Console,
) -> Features:
    return compute_features(
        samples,
        backbone,
        config.side(),
        cache=config.cache or default_cache(),
        tiling=config.tiling(),
        device=device,
        workers=config.workers or 1,
        strict=config.strict,
        console=console,
    )


def _models(
    config: TrainConfig, classes: Sequence[str], out: Path
) -> list[tuple[Path, tuple[str, ...]]]:
    """The folder and the classes of each model to train."""
    if config.separate:
        return [(out / name, (name,)) for name in classes]
    return [(out, tuple(classes))]


def _train_and_evaluate(job: _Run, split: TrainingSplit, test: Features, folder: Path) -> None:
    """One model: trained, saved, calibrated, judged."""
    classes = split.classes
    config, console = job.config, job.console
    torch.manual_seed(config.seed)
    model = _make_model(job).to(job.device)
    if config.separate:
        console.print(f"class {classes[0]}", style="bold", markup=False)
    _show_model(model, config, console)
    result = fit(
        model,
        split.training.tiles(),
        config.schedule(),
        seed=config.seed,
        precision=config.precision,  # type: ignore[arg-type]  # "auto" is resolved
        folder=folder,
        features_on_device=config.features_on_device,
        sync_batch_norm=config.sync_batch_norm,
        compile_step=config.compile,
        console=console,
    )
    file = folder / MODEL
    if distributed.is_main():
        save_checkpoint(file, model, job.backbone, _info(job, classes, result.epochs))
    if result.interrupted:
        console.print(
            f"Interrupted after {result.epochs} of {config.epochs} epochs; the model as it is now "
            f"can be used: {file}; --resume {config.out} goes on.",
            markup=False,
            soft_wrap=True,
        )
        raise KeyboardInterrupt
    calibration = _calibrate(job, model, split)
    records = job.results.add(
        model,
        test,
        config.side(),
        classes,
        console,
        train=split.training,
        history=dataclasses.asdict(result.history),
    )
    if not distributed.is_main():
        return
    calibration = choose_thresholds(calibration, records, config.threshold)
    job.results.calibrations |= dict.fromkeys(classes, calibration)
    save_calibration(file, calibration)


def _calibrate(job: _Run, model: GRAD, split: TrainingSplit) -> Calibration:
    """Thresholds; of classes that have no images for them alone from those trained on."""
    config, console = job.config, job.console
    apart = [name for name, source in split.sources.items() if source != "training"]
    calibration = split.calibration.of_classes(apart)
    trained = trained_scores(model, split.training, config.side(), split.classes, console)
    good = good_scores(model, calibration, config.side(), console)
    scores, maxima = (own | new for own, new in zip(trained, good, strict=True))
    return calibrate(scores, maxima, split.sources, config.false_alarm_rate, trained)


def _make_model(job: _Run) -> GRAD:
    config = job.config
    height, width = job.backbone.feature_size(config.side())
    return GRAD.from_preset(
        channels=job.backbone.channels,
        height=height,
        width=width,
        context=job.backbone.context,
        **config.model_options(),
    )


def _info(job: _Run, classes: tuple[str, ...], epochs: int) -> ModelInfo:
    return ModelInfo.of(
        job.backbone,
        image_size=job.config.side(),
        classes=classes,
        epochs=epochs,
        tile=job.config.tile,
        overlap=job.config.overlap,
    )


def _complete(
    config: TrainConfig, backbone: Backbone, device: torch.device, out: Path
) -> TrainConfig:
    """Every option as it is used, so that config.yaml says what was done."""
    return dataclasses.replace(
        config,
        backbone=backbone.name,
        data=_absolute(config.data),
        validation=_absolute(config.validation),
        weights=_absolute(config.weights),
        device=device.type if distributed.size() > 1 else str(device),
        precision=choose_precision(device) if config.precision == "auto" else config.precision,
        workers=config.workers or default_workers(),
        out=out,
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def _settings(config: TrainConfig, split: TrainingSplit, test: Features) -> dict[str, Any]:
    """What the metrics depend on, for metrics.json."""
    return {
        "seed": config.seed,
        "separate": config.separate,
        "few_shot": config.few_shot,
        "preset": config.preset,
        "epochs": config.epochs,
        "backbone": config.backbone,
        "tile": config.tile,
        "overlap": config.overlap,
        "calibration_share": None if config.validation else config.calibration_share,
        **test_settings(test, config.side(), split),
    }


def _about(config: TrainConfig, dataset: Dataset, backbone: Backbone) -> About:
    """What the report says of the run, beside what it gets from the models."""
    data = "demo set" if config.data is None else dataset.root.resolve().name
    local, whole = (
        " x ".join([str(cells)] * dims) + " cells"
        for cells, dims in (
            (config.local_resolution, config.local_dims),
            (config.global_resolution, config.global_dims),
        )
    )
    grids = {"local+global": f"local {local}, global {whole}", "local": local, "global": whole}
    return About(
        f"{data}, {config.preset}",
        {
            "data": f"{dataset.root} ({dataset.layout} layout)",
            "backbone": f"{backbone.name}, images at {config.side()} x {config.side()}",
            "grids": grids[config.parts],
            "training": f"{config.epochs} epochs, batches of {config.batch_size}, "
            f"{config.precision} on {config.device}",
            "seed": str(config.seed),
        },
        dataclasses.asdict(config),
        (*([backbone.note] if backbone.note else []), *dataset.notes),
    )


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms wherever there are some, for equal runs on equal machines."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # costs time, helps nobody here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
        settings.fill_uninitialized_memory = filled


def _show_model(model: GRAD, config: TrainConfig, console: Console) -> None:
    console.print(
        f"{describe(model)}; {config.backbone}, {config.precision} on {config.device}",
        highlight=False,
        markup=False,
    )
