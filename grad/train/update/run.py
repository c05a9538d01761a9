"""``update``: a model and good images, or a region, to a model with them; ``undo``: back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from grad.data.roi import looked_at_share, read_roi
from grad.data.samples import Roi, Sample, check_class_name
from grad.data.sources import find_items
from grad.detector.checkpoint import (
    LoadedModel,
    ModelInfo,
    Update,
    load_calibration,
    load_checkpoint,
    model_file,
    save_checkpoint,
)
from grad.detector.features import features_for
from grad.detector.learning import (
    UNSURE,
    check_can_learn,
    judge_defects,
    learn,
    without_known_images,
)
from grad.detector.region import describe_thresholds, in_region, with_region
from grad.detector.updating import claimed_update, save_update
from grad.features.features import Features
from grad.report.write import note_learned
from grad.system.devices import find_device
from grad.system.errors import GradError
from grad.system.names import printable
from grad.system.progress import print_line
from grad.system.run_folder import METRICS, MODEL, PREVIOUS, REPORT, empty_folder
from grad.train.update.options import UpdateOptions


def update(options: UpdateOptions, console: Console) -> Path:
    """Let a model learn from good images, look at a region of interest, or both.

    Args:
        options: ``good`` or ``roi`` is given.
        console: where progress and results are shown.

    Returns:
        The file of the new model.

    Raises:
        GradError: something that was given is wrong, or the model can't learn; it is as it was.
    """
    file = model_file(options.model)
    roi = None if options.roi is None else read_roi(options.roi, painted=False)
    good, defects = _files(options.good or ()), _files(options.defect or ())
    with claimed_update(file):
        loaded = load_checkpoint(file, find_device(options.device))
        if options.good is None:
            changed = with_region(loaded, roi, options.class_name)
            _say(_describe_region(changed.info, roi), console)
            _say(describe_thresholds(changed.info), console)
        else:
            changed = _learn(options, loaded, roi, (good, defects), console)
        target = _save(changed, file, options.out)
        if options.out is None:
            _note_report(file, learned=True)
    _say(f"The model is in {target}", console)
    return target


def _learn(
    options: UpdateOptions,
    loaded: LoadedModel,
    roi: Roi | None,
    files: tuple[list[Path], list[Path]],
    console: Console,
) -> LoadedModel:
    """The model that knows good images, judged by defects; ``files`` are those of both."""
    good, defects = files
    check_can_learn(loaded)
    name = _class_name(options, loaded)
    if options.roi is not None:
        loaded = in_region(loaded, roi, name)
    work = _Work(options, loaded, console, name)
    features = without_known_images(loaded, work.features(good, anomalous=False))
    known = len(good) - len(features)
    if not len(features):
        raise GradError(
            f"The model learned from {_count(len(good), 'image')} given before, and there is "
            "no other: give new ones with --good."
        )
    learned = learn(loaded, features, options.group, console, anew=options.roi is not None)
    missed: list[tuple[Path, float]] = []
    if defects:
        learned, missed = judge_defects(learned, work.features(defects, anomalous=True))
    if options.roi is not None:
        _say(_describe_region(learned.info, roi), console)
    update = learned.info.updates[-1]
    _show_update(update, known, missed, console)
    if update.unsure:
        print_line(f"{update.class_name}: {UNSURE}", "yellow", console)
    return learned


def undo(options: UpdateOptions, console: Console) -> Path:
    """Put the model that was before the last update in the place of the one that is.

    Returns:
        The file of the model.

    Raises:
        GradError: there was no update, or the model before is not there.
    """
    file = model_file(options.model)
    previous = file.with_name(PREVIOUS)
    with claimed_update(file):
        info, _ = load_calibration(file)
        if not info.updates:
            raise GradError(f"The model {file} was never updated: there is nothing to undo.")
        if not previous.is_file():
            raise GradError(
                f"{previous}, the model before its last update, is not there: only the last "
                "update can be undone, and where the model was updated."
            )
        before, _ = load_calibration(previous)
        if before.updates != info.updates[:-1]:
            raise GradError(f"{previous} is not the model that {file} was before its last update.")
        os.replace(previous, file)
        _note_report(file, learned=bool(before.updates))
    _say(f"The update of {info.updates[-1].time} is undone: {file}", console)
    return file


@dataclass(frozen=True)
class _Work:
    """What reading and judging images of one class needs."""

    options: UpdateOptions
    loaded: LoadedModel
    console: Console
    class_name: str

    def features(self, paths: Sequence[Path], *, anomalous: bool) -> Features:
        """Of images of the class."""
        samples = [Sample(path, self.class_name, "train", anomalous) for path in paths]
        return features_for(
            self.loaded,
            samples,
            cache=self.options.cache,
            workers=self.options.workers,
            strict=self.options.strict,
            console=self.console,
        )


def _files(paths: Sequence[str]) -> list[Path]:
    """The image files that some paths name.

    Raises:
        GradError: one names nothing, or a video or a camera.
    """
    found: list[Path] = []
    for item in find_items(path for path in paths):
        if not isinstance(item.content, Path):
            raise GradError(f"{item.name} is no file: give images, or folders of images.")
        found.append(item.content)
    return list(dict.fromkeys(found))


def _class_name(options: UpdateOptions, loaded: LoadedModel) -> str:
    name, known = options.class_name, loaded.info.classes
    if name is not None:
        return check_class_name(name, "--class-name")
    if len(known) > 1:
        raise GradError(
            f"The model knows several classes: say with --class-name which the images are of, "
            f"{', '.join(known)} or a new one."
        )
    return known[0]


def _save(learned: LoadedModel, file: Path, out: Path | None) -> Path:
    """Write the new model: to ``out``, or in place of the old one, which is kept beside it."""
    if out is None:
        save_update(learned, file)
        return file
    target = empty_folder(out) / MODEL
    save_checkpoint(
        target,
        learned.model,
        learned.backbone,
        learned.info,
        learned.calibration,
        learned.exemplars,
    )
    return target


def _note_report(file: Path, *, learned: bool) -> None:
    """Let the report beside a model say whether it is of the model as it is."""
    metrics = file.with_name(METRICS)
    with suppress(GradError, OSError, ValueError):  # a damaged report has nothing to say
        note_learned(
            file.with_name(REPORT), json.loads(metrics.read_text(encoding="utf-8")), learned
        )


def _describe_region(info: ModelInfo, roi: Roi | None) -> str:
    name = info.updates[-1].class_name
    who = ", ".join(info.classes) if name is None else name
    return f"{who}: {looked_at_share(roi):.0%} of each image is looked at, its region of interest."


def _show_update(
    update: Update, known: int, missed: Sequence[tuple[Path, float]], console: Console
) -> None:
    images = _count(len(update.images), "image")
    text = f"{update.class_name}: learned from {images}"
    if update.false_alarms:
        text += f", {_count(update.false_alarms, 'false alarm')} among them"
    if known:
        text += f"; {_count(known, 'image')} left out, as known or given twice"
    _say(text, console)
    if update.still_alarms:
        _say(
            f"{update.class_name}: images such as {update.still_alarms} of these false alarms "
            "would still be some; more of them make it surer, or a class of their own.",
            console,
        )
    before = update.threshold_before
    was = "a new class" if before is None else f"before {before:.3f}"
    _say(f"{update.class_name}: threshold {update.threshold_after:.3f}, {was}", console)
    if update.defects:
        defects = _count(update.defects, "defect")
        _say(f"{update.class_name}: {update.found} of {defects} found", console)
    for path, score in missed:
        _say(f"  missed: {path}, score {score:.3f} of {update.threshold_after:.3f}", console)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _say(text: str, console: Console) -> None:
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
