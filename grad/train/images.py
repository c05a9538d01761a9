"""The images of a run, and their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from grad.data.demo import demo_dataset
from grad.data.layouts import find_dataset
from grad.data.leave_out import leave_out
from grad.data.roi import find_rois, with_rois
from grad.data.samples import Dataset, Sample, few_shot
from grad.data.survey import check_masks
from grad.data.validation import find_validation
from grad.data.white_level import with_white_level
from grad.features.backbone import Backbone
from grad.features.compute import compute_features
from grad.features.features import Features
from grad.system.devices import default_workers
from grad.train.options import TrainOptions
from grad.train.plan import TrainPlan


def find_images(options: TrainOptions) -> tuple[Dataset, tuple[Sample, ...]]:
    """The images of a run, and further ones for thresholds; all masks can be read.

    Raises:
        GradError: there are none, or none that can be used.
    """
    dataset = _find_dataset(options)
    if options.leave_out is not None:
        dataset = leave_out(dataset, options.leave_out)
    validation = dataset.validation
    if options.validation is not None:
        validation = find_validation(options.validation, dataset.classes, dataset.train)
    check_masks(dataset)
    dataset, validation = with_rois(dataset, find_rois(dataset, options.roi), validation)
    dataset, validation = _with_min_area(dataset, validation, options.min_area)
    workers = options.workers or default_workers()
    return with_white_level(dataset, options.white_level, workers, validation)


def _with_min_area(
    dataset: Dataset, validation: Sequence[Sample], min_area: int
) -> tuple[Dataset, tuple[Sample, ...]]:
    train, test, more = (
        tuple(replace(sample, min_area=min_area) for sample in samples)
        for samples in (dataset.train, dataset.test, validation)
    )
    return replace(dataset, train=train, test=test), more


def compute_features_of(
    samples: Sequence[Sample], plan: TrainPlan, backbone: Backbone, console: Console
) -> Features:
    """Features as a run wants them; see :func:`grad.features.compute.compute_features`."""
    return compute_features(
        samples,
        backbone,
        plan.image_size,
        cache=plan.cache,
        tiling=plan.options.tiling(),
        device=plan.device,
        workers=plan.workers,
        strict=plan.options.strict,
        console=console,
    )


def _find_dataset(options: TrainOptions) -> Dataset:
    names = options.class_names()
    if options.data is None:
        dataset = demo_dataset() if names is None else demo_dataset().select(names)
    else:
        dataset = find_dataset(options.data, names, strict=options.strict)
    if options.few_shot is not None:
        dataset = few_shot(dataset, options.few_shot, options.seed)
    return dataset.with_mask_rule(options.mask_rule)
