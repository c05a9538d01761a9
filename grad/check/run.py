"""``check``: a folder of images, looked at before anything is trained."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.table import Table

from grad.check.findings import examine
from grad.check.options import CheckOptions
from grad.data.layouts import survey_dataset
from grad.data.roi import find_rois, with_rois
from grad.data.samples import Dataset, Sample, WhiteLevel, held_out_count
from grad.data.summary import show_dataset
from grad.data.survey import DEEP, Survey, survey_images
from grad.data.validation import find_validation
from grad.data.white_level import describe_white_level, white_level_of
from grad.score.rates import supported_rate
from grad.system.devices import default_workers
from grad.system.errors import GradError
from grad.system.progress import Progress, cell, print_line


def check(options: CheckOptions, console: Console) -> None:
    """Show what a folder holds, what would be trained, what is wrong and how to mend it.

    Args:
        options: the folder, and how it is to be used.
        console: where all that is shown.

    Raises:
        GradError: it can't be trained; what is to be mended first was shown.
    """
    dataset, problems = survey_dataset(options.data, options.class_names())
    files = len(dataset.samples) + sum(s.mask is not None for s in dataset.test)
    workers = options.workers or default_workers()
    with Progress(console, "images", files) as progress:
        survey = survey_images(dataset, workers, progress.advance)
    white_level = _white_level(dataset, survey, options.white_level, console)
    findings = examine(dataset, survey, options.image_size, white_level)
    validation, lack = _validation(options, dataset)
    errors = [*problems, *findings.errors, *lack]
    try:
        rois = find_rois(dataset, options.roi)
        if not errors:
            dataset, _ = with_rois(dataset, rois)
    except GradError as error:
        errors.append(str(error))
    show_dataset(dataset, console)
    if dataset.classes:
        console.print(_image_table(dataset, survey))
    kept = _kept(dataset, survey, validation, options)
    if not errors:
        _show_plan(dataset, survey, kept, bool(validation), options, console)
    for text in findings.warnings:
        print_line(f"Odd: {text}", "yellow", console)
    for text in errors:
        print_line(f"Wrong: {text}", "red", console)
    if errors:
        things = "1 thing is" if len(errors) == 1 else f"{len(errors)} things are"
        raise GradError(f"--data {options.data} can't be trained: {things} wrong, see above.")


def _white_level(dataset: Dataset, survey: Survey, wanted: WhiteLevel, console: Console) -> int:
    """What training takes as white of 16-bit images; says so where there are any."""
    facts = [survey.images[s.path] for s in dataset.train if s.path in survey.images]
    brightest = round(max((f.brightest for f in facts if f.kind == DEEP), default=0))
    level = white_level_of(brightest) if wanted == "auto" else wanted
    if brightest:
        print_line(describe_white_level(brightest, level), None, console)
    return level


def _validation(
    options: CheckOptions, dataset: Dataset
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Further good images, or why they can't be had."""
    if options.validation is None:
        return dataset.validation, ()
    try:
        return find_validation(options.validation, dataset.classes, dataset.train), ()
    except GradError as error:
        return (), (str(error),)


def _image_table(dataset: Dataset, survey: Survey) -> Table:
    """A row a class: sizes and kinds of its images."""
    table = Table("class", "pixels", "colours", title="Images", title_justify="left")
    for name in dataset.classes:
        members = [s for s in dataset.samples if s.class_name == name]
        facts = [survey.images[s.path] for s in members if s.path in survey.images]
        if facts:
            sizes = sorted({(f.size[1], f.size[0]) for f in facts}, key=lambda s: s[0] * s[1])
            ends = dict.fromkeys((sizes[0], sizes[-1]))
            text = " to ".join(f"{width} x {height}" for width, height in ends)
            table.add_row(cell(name), text, _joined({f.kind for f in facts}))
    return table


def _kept(
    dataset: Dataset, survey: Survey, validation: Iterable[Sample], options: CheckOptions
) -> dict[str, int]:
    """How many images of each class serve for thresholds alone."""
    further = [sample.class_name for sample in validation]
    if further:
        return {name: further.count(name) for name in dataset.classes}
    return {
        name: held_out_count(
            sum(s.class_name == name and s.path in survey.images for s in dataset.train),
            options.calibration_share,
        )
        for name in dataset.classes
    }


def _show_plan(
    dataset: Dataset,
    survey: Survey,
    kept: Mapping[str, int],
    further: bool,
    options: CheckOptions,
    console: Console,
) -> None:
    """What ``grad train`` would do with the folder; ``further``: what is kept is no part of it."""
    readable = sum(sample.path in survey.images for sample in dataset.train)
    learned = readable - (0 if further else sum(kept.values()))
    classes = len(dataset.classes)
    chosen = f" --classes {shlex.quote(options.classes)}" if options.classes else ""
    apart = sum(kept.values())
    lines = [
        f"grad train --data {shlex.quote(str(options.data))}{chosen} would train one model for "
        f"{'1 class' if classes == 1 else f'{classes} classes'}: {learned} good images to learn "
        f"from, {apart or 'the same'} for thresholds, {len(dataset.test)} to test on.",
        *_describe_thresholds(dataset, survey, kept, options),
    ]
    for line in lines:
        print_line(line, None, console)


def _describe_thresholds(
    dataset: Dataset, survey: Survey, kept: Mapping[str, int], options: CheckOptions
) -> Iterator[str]:
    """From how many images thresholds come, and which false-alarm rate these support by rank."""
    counts = {
        name: kept[name]
        or sum(s.class_name == name and s.path in survey.images for s in dataset.train)
        for name in dataset.classes
    }
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    if options.false_alarm_rate == "auto":
        rates = ", ".join(f"{name} {supported_rate(n):.1%}" for name, n in counts.items())
        yield f"Thresholds would come from {shown} good images, for false-alarm rates of {rates}."
    elif min(counts.values(), default=0) + 1 < 1 / options.false_alarm_rate:
        rate = options.false_alarm_rate
        yield (
            f"For a false-alarm rate of {rate:.2%} by rank alone a class needs at least "
            f"{round(1 / rate) - 1} images for thresholds ({shown}): with fewer, thresholds are "
            "fitted to their scores."
        )


def _joined(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
