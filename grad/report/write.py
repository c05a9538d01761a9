"""``report.html``: one file that needs nothing else, neither a server nor a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console

from grad import __version__
from grad.files import replacing
from grad.progress import Progress
from grad.records import ImageRecord
from grad.report import tables
from grad.report.contents import About, ModelPart
from grad.report.data import page_data
from grad.report.gallery import Gallery
from grad.report.verdicts import confusion, thresholds

# In this order they are one script.
_SCRIPTS = (
    "dom.js",
    "state.js",
    "plot.js",
    "tables.js",
    "histogram.js",
    "heat.js",
    "gallery.js",
    "viewer.js",
    "curves.js",
    "scatter.js",
    "training.js",
    "main.js",
)


def write_report(
    path: Path,
    about: About,
    *,
    metrics: Mapping[str, Any],
    records: Sequence[ImageRecord],
    models: Sequence[ModelPart],
    gallery: Gallery,
    workers: int = 1,
    console: Console | None = None,
) -> None:
    """Write the report of a run.

    Args:
        path: the file.
        about: what was done.
        metrics: the contents of metrics.json with its ``settings``.
        records: every test image; there may be none.
        models: of the run, their classes together those of ``metrics``.
        gallery: the test images to show.
        workers: threads that decode images.
        console: where progress goes; None for silence.

    Raises:
        GradError: the file can't be written; a mask can't be read.
    """
    limits, calibrated = thresholds(models, records)
    with Progress(console, "report", len(gallery.shown())) as progress:
        pictures = gallery.pictures(workers, progress.advance)
    classes = list(metrics["classes"])
    images = metrics["settings"]["images"]
    text = _template().render(
        about=about,
        lead=tables.lead(models, images),
        tiles=tables.tiles(metrics, confusion(records, limits) if records else None, calibrated),
        counts=tables.counts(images),
        metrics=tables.metrics_table(metrics),
        thresholds=tables.thresholds_text(models, limits, calibrated),
        gallery_note=tables.gallery_note(len(pictures), records),
        options=tables.options_table(about.options),
        versions=tables.versions(),
        has_scores=bool(records),
        has_thresholds=bool(limits),
        has_coordinates=any(model.coordinates is not None for model in models),
        has_history=any(model.history for model in models),
        data=page_data(classes, records, limits, models, pictures),
        style=_inline("report.css"),
        script=_inline(*_SCRIPTS),
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _Inline:
    """Style or script to stand in the page, and the digest by which the page allows it alone."""

    text: Markup
    digest: str


def _inline(*names: str) -> _Inline:
    folder = Path(__file__).parent / "page"
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return _Inline(Markup(text), f"sha256-{digest}")


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("grad.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("report.html")
