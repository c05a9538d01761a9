"""``export_model``: from a model file to a verified file for another runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from grad.data.demo import demo_dataset
from grad.data.sources import Item, find_items, is_live, items_of
from grad.detector.checkpoint import LoadedModel, load_checkpoint, model_file
from grad.detector.detector import Detector
from grad.export.formats.base import FORMATS, Format
from grad.export.graph import Column, ExportGraph, columns, facts, trace
from grad.export.verify import Parity, batches, verify
from grad.score.thresholds import no_thresholds
from grad.system.errors import GradError
from grad.system.files import replacing

if TYPE_CHECKING:
    from grad.export.options import ExportOptions

_DEMO_STEP = 3  # of the demo set's test images every third is verified with


def export_model(options: ExportOptions, console: Console) -> Path:
    """Write a model as a file for another runtime, and compare it with the detector first.

    Args:
        options: as given.
        console: where the comparison is shown.

    Returns:
        The file.

    Raises:
        GradError: something that was given is wrong, a package is missing, or the file does not
            compute what the detector does; no file is left then.
    """
    chosen_format = FORMATS[options.format]
    module = chosen_format.load()
    out = _output_file(options, chosen_format)
    images = list(_images(options.images))
    loaded = load_checkpoint(options.model)
    detector = Detector.of(loaded, device="cpu", precision="float32")
    chosen = _columns(loaded, options)
    with _staging_folder(out) as folder:
        info, roi = loaded.info, loaded.info.roi(options.class_name)
        graph = ExportGraph(
            loaded.backbone, loaded.model, info.image_size, chosen, options.resize, roi
        )
        length = None if options.batch == "dynamic" else options.batch
        about = facts(loaded.info, chosen, options.resize)
        program = trace(graph, length)
        files = module.write(program, folder / out.name, about, **options.format_options())
        parity = verify(
            module.open_file(files[0], torch.get_num_threads()),
            lambda images: detector.score_batch(images, [options.class_name] * len(images)),
            [column.threshold for column in chosen],
            loaded.info.image_size,
            options.resize,
            batches(images, length),
        )
        console.print(parity_table(chosen_format.runtime, parity))
        parity.check()
        for file in reversed(files):  # the one that needs the others comes last
            with replacing(out.with_name(file.name)) as temporary:
                os.replace(file, temporary)
    console.print(f"The model is in {out}", markup=False, highlight=False, soft_wrap=True)
    return out


def parity_table(runtime: str, parity: Parity) -> Table:
    """What was measured, for people."""
    table = Table(title=f"{runtime} beside the detector", title_justify="left")
    for heading in ("", "largest difference", "mean difference"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, difference in (
        ("anomaly map, of the threshold", parity.anomaly_map),
        ("image score, of the threshold", parity.score),
        ("calibrated value", parity.value),
    ):
        table.add_row(name, f"{difference.largest:.1e}", f"{difference.mean:.1e}")
    table.add_section()
    equal = parity.decisions - parity.different
    table.add_row("decisions equal", f"{equal} of {parity.decisions}", f"{parity.images} images")
    table.add_row(
        "images a second on this CPU",
        f"{parity.timed / parity.seconds:.1f}",
        f"detector {parity.timed / parity.detector_seconds:.1f}",
    )
    return table


def _output_file(options: ExportOptions, file_format: Format) -> Path:
    """Where the file goes, with the format's suffix."""
    if options.out is None:
        return model_file(options.model).with_suffix(file_format.suffix)
    out = options.out.expanduser()
    if out.suffix != file_format.suffix:
        raise GradError(
            f"--out {options.out} must end in {file_format.suffix}, as files of --format "
            f"{options.format} do."
        )
    if out.is_dir():
        raise GradError(f"--out {options.out} is a folder: give the name of a file.")
    return out


def _columns(loaded: LoadedModel, options: ExportOptions) -> tuple[Column, ...]:
    calibration = loaded.calibration
    if calibration is None:
        raise GradError(no_thresholds(f"The model {options.model}"))
    if options.false_alarm_rate is not None:
        calibration = calibration.at_rate(options.false_alarm_rate)
    return columns(calibration, options.class_name, loaded.info.min_area)


def _images(path: str | None) -> Iterator[Item]:
    """What to verify with."""
    if path is None:
        return items_of([sample.path for sample in demo_dataset().test][::_DEMO_STEP])
    if is_live(path):
        raise GradError(f"--images {path} never ends: give an image or a folder of images.")
    return find_items([path])


@contextmanager
def _staging_folder(out: Path) -> Iterator[Path]:
    """A folder beside the file to be, so that renaming is enough in the end.

    Raises:
        GradError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise GradError(
            f"{out} can't be written ({error.strerror}): choose another folder with --out."
        ) from error
    with folder as name:
        yield Path(name)
