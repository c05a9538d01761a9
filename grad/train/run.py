"""``run``: from a folder of good images to a judged model.

The images are found (:mod:`grad.train.images`), their features computed, and each model trained and
judged (:mod:`grad.train.model`); what the report says of all that is in :mod:`grad.train.about`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console

from grad.data.augment import with_variants
from grad.data.leave_out import write_list
from grad.data.samples import Dataset
from grad.data.scan import count
from grad.data.summary import show_dataset
from grad.features.backbone import Backbone, load_backbone
from grad.features.features import Features
from grad.features.split import split_training
from grad.features.strays import find_strays
from grad.report.examples import save_oddest
from grad.report.results import Results
from grad.system import distributed
from grad.system.devices import deterministic, find_device
from grad.system.errors import GradError, raise_once
from grad.system.files import claimed
from grad.system.progress import print_line
from grad.system.run_folder import CONFIG, EXAMPLES, ODDEST, new_folder
from grad.train.about import describe_run, metrics_settings
from grad.train.images import compute_features_of, find_images
from grad.train.log import check_log, open_log
from grad.train.model import ModelTraining
from grad.train.options import TrainOptions, write_options
from grad.train.plan import TrainPlan, make_plan
from grad.train.resume import is_complete, remove_results


def run(options: TrainOptions, console: Console) -> Path:
    """Train, evaluate and write everything; see the README for what lies where.

    Ctrl-C during training writes the model as it is.

    Args:
        options: as given.
        console: where progress and results are shown.

    Returns:
        The folder of results.

    Raises:
        GradError: something that was given is wrong; nothing half-written is left.
        KeyboardInterrupt: Ctrl-C, after what could be saved was saved and announced.
    """
    raise_once(lambda: check_log(options.log))
    device = raise_once(lambda: find_device(options.device))
    with distributed.joined(device):
        return _run(options, device, console if distributed.is_main() else Console(quiet=True))


def _run(options: TrainOptions, device: torch.device, console: Console) -> Path:
    """``run`` in each of several processes, or in the only one."""
    if options.resume is not None and distributed.from_main(lambda: _has_ended(options, console)):
        return options.resume
    dataset, validation = distributed.from_main(lambda: find_images(options))
    options = dataclasses.replace(options, white_level=dataset.train[0].white_level)
    show_dataset(dataset, console)
    train = with_variants(dataset.train, options.augmentations())
    plan = make_plan(options, device, len(train))
    with _run_folder(plan, dataset) as out, deterministic(plan.device), ExitStack() as stack:
        backbone = _load_backbone(plan, console)
        used = plan.as_options(backbone.name, out)
        log = stack.enter_context(open_log(options.log, out, dataclasses.asdict(used), console))
        if distributed.is_main():
            write_options(out / CONFIG, used)
        learned, test, further = (
            compute_features_of(samples, plan, backbone, console)
            for samples in (train, dataset.test, validation)
        )
        strays: list[Path] = []
        if distributed.is_main():
            remove_results(out)
            strays = _name_strays(learned.as_they_come(), console)
        split = split_training(
            learned, further, options.calibration_share, options.seed, options.group
        )
        results = Results(exact=options.exact_metrics, tested=len(test) > 0)
        training = ModelTraining(plan, backbone, results, console, log)
        for folder, classes in plan.models(dataset.classes, out):
            training.run(split.of_classes(classes), test.of_classes(classes), folder)
        if distributed.is_main():
            settings = metrics_settings(plan, backbone, split, test)
            about = describe_run(plan, dataset, backbone, out)
            if not validation:  # which would be what thresholds are made from
                listed = dict.fromkeys([*strays, *results.oddest()])
                write_list(out / ODDEST, dataset.root, listed)
                by_path = {sample.path.absolute(): sample for sample in dataset.train}
                save_oddest(out / EXAMPLES, [by_path[path] for path in listed])
            results.write(out, settings, about, console, workers=plan.workers)
            log.results(out)
        print_line(f"Results are in {out}", None, console)
    return out


def _has_ended(options: TrainOptions, console: Console) -> bool:
    """Whether nothing is left to do for ``--resume``; says so."""
    run, epochs = options.resume, options.epochs
    assert run is not None and epochs is not None, "a run's own options leave nothing open"
    if not is_complete(run.expanduser(), epochs):
        return False
    print_line(
        f"{run} is complete: all {epochs} epochs are trained and evaluated. "
        "More --epochs would go on.",
        None,
        console,
    )
    return True


def _name_strays(train: Features, console: Console) -> list[Path]:
    """The training images that look like another class; says so, a line for each such pair."""
    found: dict[tuple[str, str], list[Path]] = {}
    for sample, like in find_strays(train):
        found.setdefault((sample.class_name, like), []).append(sample.path.absolute())
    for (name, like), paths in found.items():
        print_line(
            f"{name}: {count(len(paths), 'training image')} nearer to {like} than to the others, "
            f"such as {paths[0]}: look at them; {ODDEST} will list them for --leave-out.",
            "yellow",
            console,
        )
    return [path for paths in found.values() for path in paths]


@contextmanager
def _run_folder(plan: TrainPlan, dataset: Dataset) -> Iterator[Path]:
    """The folder of results; removed where nothing came to lie in it but the options."""
    options = plan.options
    if options.resume is not None:
        out = options.resume.expanduser()
    else:
        out = distributed.from_main(lambda: new_folder(options.out, plan.run_name(dataset)))
    try:
        with (
            _claim(out),
            distributed.advising(f"--resume {out} goes on from the last completed epoch"),
        ):
            yield out
    finally:
        if distributed.is_main() and options.resume is None:
            with suppress(OSError):
                if [path.name for path in out.iterdir()] == [CONFIG]:
                    (out / CONFIG).unlink()
                out.rmdir()  # only goes where it is empty


@contextmanager
def _claim(out: Path) -> Iterator[None]:
    """Hold the sole right to write to a folder of results."""
    if not distributed.is_main():
        yield
        return
    with claimed(out, wait=False) as mine:
        if not mine:
            raise GradError(f"Another run writes to {out}: wait for it, or choose another --out.")
        yield


def _load_backbone(plan: TrainPlan, console: Console) -> Backbone:
    """On the device; says where it is not the one that was wanted first."""
    backbone = distributed.main_first(
        lambda: load_backbone(plan.backbone, plan.options.weights, context=plan.row.context)
    )
    if backbone.note:
        console.print(backbone.note, style="yellow", markup=False)
    return backbone.to(plan.device)
