"""``show_model``: what a model file says about itself."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from grad.data.roi import looked_at_share
from grad.detector.checkpoint import ModelInfo, exemplar_shapes, load_calibration, model_files
from grad.detector.exemplars import describe_exemplars
from grad.score.thresholds import Calibration
from grad.system.progress import cell


def show_model(path: Path, console: Console) -> int:
    """Print what the models of a run were trained on, their thresholds and updates; 0.

    Raises:
        GradError: no such model, or a damaged one.
    """
    for file in model_files(path):
        info, calibration = load_calibration(file)
        side = info.image_size
        tiles = "" if info.tile is None else f", tiles of {info.tile}"
        rows = [
            ("model", f"{file}, {file.stat().st_size / 2**20:.1f} MiB"),
            ("trained", f"{info.epochs} epochs by grad {info.grad_version}"),
            ("backbone", f"{info.backbone}, images at {side} x {side}{tiles}"),
        ]
        if info.augment:
            rows.append(("augmented by", ", ".join(info.augment)))
        if info.rois:
            shares = (f"{name} {looked_at_share(info.rois.get(name)):.0%}" for name in info.classes)
            rows.append(("looked at", ", ".join(shares)))
        if info.min_area > 1:
            rows.append(("smallest region", f"{info.min_area} pixels"))
        kept = exemplar_shapes(file)
        if kept:
            rows.append(("to learn on", describe_exemplars(kept)))
        for name, value in rows:
            console.print(f"{name:<16} {value}", highlight=False, markup=False, soft_wrap=True)
        if calibration is not None:
            console.print(_thresholds(calibration))
        if info.updates:
            console.print(_updates(info))
    return 0


def _thresholds(calibration: Calibration) -> Table:
    table = Table("class", "threshold", "false-alarm rate", "good images", title="Thresholds")
    for name, limit in calibration.classes.items():
        rate = "moved by hand" if limit.moved else "-"
        if limit.rate is not None:
            rate = f"{limit.rate:.2%}"
        table.add_row(cell(name), f"{limit.image:.4g}", rate, str(limit.images))
    return table


def _updates(info: ModelInfo) -> Table:
    table = Table(
        "time (UTC)",
        "class",
        "what",
        "false alarms",
        "threshold",
        "defects found",
        title="Learned since",
    )
    for update in info.updates:
        before = "new" if update.threshold_before is None else f"{update.threshold_before:.4g}"
        names = ", ".join(update.images[:3]) + (", ..." if len(update.images) > 3 else "")
        images = [f"{len(update.images)}: {names}"] if update.images else []
        regions = ["region of interest"] if update.region else []
        table.add_row(
            update.time[:16].replace("T", " "),
            "all" if update.class_name is None else cell(update.class_name),
            cell("; ".join(regions + images)),
            str(update.false_alarms) if images else "-",
            f"{before} -> {update.threshold_after:.4g}" if images else "stays",
            f"{update.found} of {update.defects}" if update.defects else "-",
        )
    return table
