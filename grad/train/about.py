"""What metrics.json and the report say of a run, beside what they get from its models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from grad.data.samples import Dataset
from grad.features.backbone import Backbone
from grad.features.features import Features
from grad.features.split import TrainingSplit
from grad.report.contents import About
from grad.report.results import test_settings
from grad.train.options import TrainOptions
from grad.train.plan import TrainPlan


def metrics_settings(
    plan: TrainPlan, backbone: Backbone, split: TrainingSplit, test: Features
) -> dict[str, Any]:
    """What the metrics depend on, for metrics.json."""
    options = plan.options
    return {
        "seed": options.seed,
        "separate": options.separate,
        "few_shot": options.few_shot,
        "preset": plan.preset,
        "epochs": plan.epochs,
        "backbone": backbone.name,
        "tile": options.tile,
        "overlap": options.overlap,
        "augment": options.augmentations(),
        "white_level": options.white_level,
        "calibration_share": None if options.validation else options.calibration_share,
        **test_settings(test, plan.image_size, split),
    }


def describe_run(plan: TrainPlan, dataset: Dataset, backbone: Backbone, out: Path) -> About:
    """What the report says of the run."""
    side = plan.image_size
    used = plan.as_options(backbone.name, out)
    return About(
        f"{'demo set' if plan.options.data is None else plan.data_name(dataset)}, {plan.preset}",
        {
            "data": "the demo set of the package"
            if plan.options.data is None
            else f"{dataset.root} ({dataset.layout} layout)",
            "backbone": f"{backbone.name}, images at {side} x {side}",
            "grids": _describe_grids(plan.options),
            "training": f"{plan.epochs} epochs, batches of {plan.batch_size}, "
            f"{plan.precision} on {used.device}",
            "seed": str(plan.options.seed),
        },
        dataclasses.asdict(used),
        (*([backbone.note] if backbone.note else []), *dataset.notes),
    )


def _describe_grids(options: TrainOptions) -> str:
    local, whole = (
        " x ".join([str(cells)] * dims) + " cells"
        for cells, dims in (
            (options.local_resolution, options.local_dims),
            (options.global_resolution, options.global_dims),
        )
    )
    grids = {"local+global": f"local {local}, global {whole}", "local": local, "global": whole}
    return grids[options.parts]
