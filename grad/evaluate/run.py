"""``assess`` judges trained models on a folder of test images; ``rejudge`` their stored records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from grad.data.augment import with_variants
from grad.data.layouts import find_dataset
from grad.data.roi import with_rois
from grad.data.samples import Dataset, Sample
from grad.data.summary import show_dataset
from grad.data.survey import check_masks
from grad.data.white_level import with_white_level
from grad.detector.checkpoint import (
    LoadedModel,
    ModelInfo,
    load_calibration,
    load_checkpoint,
    model_files,
    save_calibration,
)
from grad.detector.features import features_for
from grad.evaluate.options import EvaluateOptions
from grad.features.features import Features
from grad.features.split import fold_sources
from grad.report.console import show_verdicts
from grad.report.contents import About
from grad.report.results import Results, test_settings, write_metrics
from grad.report.write import update_report
from grad.score.dataset import good_scores, left_out_scores
from grad.score.records import ImageRecord, read_records
from grad.score.rules import choose_thresholds
from grad.score.thresholds import Calibration, calibrate, no_thresholds
from grad.score.verdicts import judge_all
from grad.system.devices import default_workers, find_device
from grad.system.errors import GradError, first_line
from grad.system.files import replacing_together
from grad.system.progress import print_line
from grad.system.run_folder import METRICS, RECORDS, REPORT, output_folder


def assess(options: EvaluateOptions, console: Console) -> Path:
    """Score test images with a model, or with one a class, and write results to a new folder.

    Args:
        options: ``data`` is given.
        console: where progress and results are shown.

    Returns:
        The folder of results.

    Raises:
        GradError: something that was given is wrong; nothing half-written is left.
    """
    assert options.data is not None
    files = model_files(options.model)
    device = find_device(options.device)
    names = options.class_names()
    dataset = find_dataset(options.data, names, strict=options.strict, training=False)
    dataset = dataset.with_mask_rule(options.mask_rule)
    if not dataset.test:
        raise GradError(
            f"--data {options.data} has no test images: put good ones in CLASS/test/good and "
            "defective ones in CLASS/test/DEFECT."
        )
    models = [load_checkpoint(file, device) for file in files]
    shares = _shares(models, dataset)
    check_masks(dataset)
    dataset, _ = with_rois(dataset, {n: roi for m in models for n, roi in m.info.rois.items()})
    dataset, _ = with_white_level(dataset, models[0].info.white_level, _workers(options))
    show_dataset(dataset, console)
    with output_folder(options.out, f"{dataset.root.resolve().name}-evaluation") as out:
        test = _features(dataset.test, models[0], options, console)
        image_size = models[0].info.image_size
        results = Results(exact=options.exact_metrics)
        changed: dict[Path, Calibration] = {}
        for file, loaded, classes in zip(files, models, shares, strict=True):
            mine = test.of_classes(classes)
            records = results.add(loaded.model, mine, image_size, classes, console)
            calibration = loaded.calibration or _calibrate(loaded, dataset, options, console)
            calibration = choose_thresholds(
                calibration, records, options.threshold, options.false_alarm_rate
            )
            results.calibrations |= dict.fromkeys(classes, calibration)
            changed[file] = calibration
        settings = {
            "models": [str(file.absolute()) for file in files],
            "backbone": models[0].info.backbone,
            "white_level": models[0].info.white_level,
            **test_settings(test, image_size, None),
        }
        results.write(
            out, settings, _about(options, dataset, models), console, workers=_workers(options)
        )
        if options.save:
            _save(_run_folder(options.model), changed)
        console.print(f"Results are in {out}", markup=False, highlight=False, soft_wrap=True)
    return out


def rejudge(options: EvaluateOptions, console: Console) -> None:
    """Judge the stored records of a run by other thresholds; no network runs.

    Nothing is written but with ``save``: the models of the run, its metrics.json and report.

    Args:
        options: ``data`` is not given.
        console: where the results are shown.

    Raises:
        GradError: the run has no records or no thresholds; a file can't be written.
    """
    run = _run_folder(options.model)
    summary, records = _read_metrics(run / METRICS), read_records(run / RECORDS)
    changed = {}
    for file, classes in _files(run, summary).items():
        info, calibration = load_calibration(file)
        if "models" not in summary["settings"]:  # as in an evaluation, of the model as it is
            _say_learned(file, info, console)
        if calibration is None:
            advice = "give --data DIR with good training images to make some."
            raise GradError(no_thresholds(f"The model {file}", advice))
        mine = [record for record in records if record.class_name in classes]
        changed[file] = choose_thresholds(
            calibration, mine, options.threshold, options.false_alarm_rate
        )
    if options.save:
        _save(run, changed)
    show_verdicts(_judged(run, summary, records, changed), console)


def _say_learned(file: Path, info: ModelInfo, console: Console) -> None:
    """Say where stored scores are of a model before it learned on."""
    names = {update.class_name for update in info.updates if update.images}
    done = [f"learned {', '.join(sorted(filter(None, names)))}"] if names else []
    if any(update.region for update in info.updates):
        done.append("got a region of interest")
    if done:
        print_line(
            f"The model {file} has {' and '.join(done)} since these images were scored: give "
            "--data DIR to score them by the model as it is.",
            "yellow",
            console,
        )


def _save(run: Path, changed: Mapping[Path, Calibration]) -> None:
    """Give models other thresholds, and what their run says of its own test images, at once."""
    with replacing_together(run):
        for file, calibration in changed.items():
            save_calibration(file, calibration)
        if (run / METRICS).is_file():
            summary = _read_metrics(run / METRICS)
            summary |= _judged(run, summary, read_records(run / RECORDS), changed)
            write_metrics(run / METRICS, summary)
            _update_report(run, summary)


def _update_report(run: Path, summary: Mapping[str, Any]) -> None:
    try:
        update_report(run / REPORT, summary)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise GradError(
            f"{run / METRICS} or {REPORT} beside it is damaged ({first_line(error)}): evaluate "
            "again with --data DIR."
        ) from error


def _judged(
    run: Path,
    summary: Mapping[str, Any],
    records: Sequence[ImageRecord],
    changed: Mapping[Path, Calibration],
) -> dict[str, Any]:
    """The sections of a run's metrics.json that depend on thresholds."""
    return judge_all(
        {
            name: changed[file]
            for file, classes in _files(run, summary).items()
            for name in classes
            if name in summary["classes"]
        },
        records,
    )


def _shares(models: Sequence[LoadedModel], dataset: Dataset) -> list[tuple[str, ...]]:
    """The classes that each model is tested on; a single model is tested on all.

    Raises:
        GradError: the models do not belong together, or none knows one of the classes.
    """
    if len(models) == 1:
        return [dataset.classes]
    infos = [loaded.info for loaded in models]
    if len({(i.backbone_fingerprint, i.image_size, i.white_level) for i in infos}) > 1:
        raise GradError(
            "The models differ in backbone, image size or white level: evaluate one after the "
            "other."
        )
    known = {name for loaded in models for name in loaded.info.classes}
    unknown = [name for name in dataset.classes if name not in known]
    if unknown:
        raise GradError(
            f"No model was trained on class {unknown[0]} of {dataset.root}, only on "
            f"{', '.join(sorted(known))}: choose with --classes."
        )
    return [tuple(n for n in loaded.info.classes if n in dataset.classes) for loaded in models]


def _features(
    samples: Sequence[Sample], loaded: LoadedModel, options: EvaluateOptions, console: Console
) -> Features:
    return features_for(
        loaded,
        samples,
        cache=options.cache,
        workers=options.workers,
        strict=options.strict,
        console=console,
    )


def _workers(options: EvaluateOptions) -> int:
    return options.workers or default_workers()


def _about(options: EvaluateOptions, dataset: Dataset, models: Sequence[LoadedModel]) -> About:
    """What the report says of the evaluation."""
    info = models[0].info
    return About(
        f"{dataset.root.resolve().name}, evaluation",
        {
            "data": f"{dataset.root} ({dataset.layout} layout)",
            "model from": str(options.model),
            "trained on": ", ".join(name for loaded in models for name in loaded.info.classes),
            "epochs": str(info.epochs),
            "backbone": f"{info.backbone}, images at {info.image_size} x {info.image_size}",
        },
        dataclasses.asdict(options),
        dataset.notes,
    )


def _calibrate(
    loaded: LoadedModel, dataset: Dataset, options: EvaluateOptions, console: Console
) -> Calibration:
    """Thresholds for a model that has none, from the folder's good training images."""
    good = [sample for sample in dataset.train if sample.class_name in loaded.info.classes]
    if not good:
        advice = f"--data {options.data} needs good training images of its classes to make some."
        raise GradError(no_thresholds(f"The model {options.model}", advice))
    features = _features(with_variants(good, loaded.info.augment), loaded, options, console)
    model, info = loaded.model, loaded.info
    if model.statistics is None:
        scores, maxima = good_scores(model, features, info.image_size, console)
        return calibrate(scores, maxima, dict.fromkeys(scores, "training"), "auto")
    scores, maxima = left_out_scores(
        model, features, info.image_size, info.classes, console=console
    )
    return calibrate(scores, maxima, fold_sources(features.samples), "auto")


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(summary, allow_nan=False)  # 1e999 would be written as infinite
        if not (summary["classes"] and summary["settings"]):
            raise ValueError("it has no classes")
    except FileNotFoundError:
        raise GradError(
            f"{path} does not exist: the run was not evaluated; give --data DIR to do so."
        ) from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise GradError(
            f"{path} can't be read ({error}): evaluate again with --data DIR."
        ) from None
    return summary


def _run_folder(model: Path) -> Path:
    """The folder of the run that a model, or the folder itself, is of."""
    model = model.expanduser()
    return model if model.is_dir() else model_files(model)[0].parent


def _files(run: Path, summary: Mapping[str, Any]) -> dict[Path, tuple[str, ...]]:
    """The models of a run, each with the classes that it judges; of the results of an evaluation
    those that were evaluated.
    """
    evaluated = summary.get("settings", {}).get("models", [])
    files = [Path(file) for file in evaluated] or model_files(run)
    if len(files) == 1:
        return {files[0]: tuple(summary["classes"])}
    return {file: load_calibration(file)[0].classes for file in files}
