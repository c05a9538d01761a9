"""``report.html``: one file that needs nothing else, neither a server nor a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from rich.console import Console

from grad.report import tables
from grad.report.contents import About, ModelPart
from grad.report.gallery import Gallery
from grad.report.page_data import page_data, set_thresholds
from grad.score.heat import SCRIPT
from grad.score.records import ImageRecord
from grad.system.errors import GradError
from grad.system.files import replacing
from grad.system.progress import Progress

LEARNED = (
    "The model in this folder has learned since: this page is of the model before, and "
    "grad evaluate with --data makes one of the model as it is."
)

# In this order they are one style sheet and one script.
_STYLES = ("base.css", "tables.css", "plots.css", "gallery.css", "media.css")
_SCRIPTS = (
    SCRIPT,
    "dom.js",
    "state.js",
    "plot.js",
    "tables.js",
    "histogram.js",
    "pictures.js",
    "gallery.js",
    "viewer.js",
    "curves.js",
    "drift.js",
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
        metrics: the contents of metrics.json; the section ``thresholds`` may be missing.
        records: every test image, or good ones where there is none; there may be none of them too.
        models: of the run, their classes together those of ``metrics``.
        gallery: of these images, those to show.
        workers: threads that decode images.
        console: where progress goes; None for silence.

    Raises:
        GradError: the file can't be written.
    """
    with Progress(console, "report", len(gallery.shown())) as progress:
        pictures = gallery.pictures(workers, progress.advance)
    data = page_data(metrics, records, models, pictures)
    data["about"] = {
        "title": about.title,
        "facts": dict(about.facts) | tables.model_facts(models),
        "options": {name: _text(value) for name, value in about.options.items()},
        "notes": [*about.notes, *tables.unreadable(metrics)],
        "versions": tables.versions(),
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    _write(path, data, metrics)


def update_report(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write a report again with other thresholds; everything else is taken from the file.

    Args:
        path: a report of this version of GRAD; nothing is done where there is none.
        metrics: the contents of metrics.json with the new section ``thresholds``.

    Raises:
        GradError: the file is no such report, or can't be read or written.
    """
    if path.exists():
        with _explained(path):
            data = _read(path)
            set_thresholds(data, metrics)
        _write(path, data, metrics)


def note_learned(path: Path, metrics: Mapping[str, Any], learned: bool) -> None:
    """Let a report say, or say no more, that the model beside it has learned since.

    Args:
        path, metrics: as of :func:`update_report`.
        learned: whether it has.

    Raises:
        GradError: as of :func:`update_report`.
    """
    if path.exists():
        with _explained(path):
            data = _read(path)
            notes = [note for note in data["about"]["notes"] if note != LEARNED]
            data["about"]["notes"] = notes + [LEARNED] * learned
        _write(path, data, metrics)


def _read(path: Path) -> dict[str, Any]:
    found = _DATA.search(path.read_text(encoding="utf-8"))
    data: dict[str, Any] = json.loads(found[1]) if found else {}
    return data


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError) as error:
        raise GradError(
            f"{path} is no report of GRAD ({error}): remove it, or evaluate again with --data DIR."
        ) from error


_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def _write(path: Path, data: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    images = sum(len(one["good"]) + len(one["bad"]) for one in data["classes"])
    counts = metrics["settings"]["images"]
    text = _template().render(
        about=data["about"],
        lead=tables.lead(len(data["models"]), counts),
        tested=data["of"] == "test",
        tiles=tables.tiles(metrics) if data["of"] == "test" else [],
        counts=tables.counts(counts),
        metrics=tables.metrics_table(metrics),
        rates=metrics.get("rates", []) if data["of"] == "test" else [],
        thresholds=tables.thresholds_text(metrics),
        gallery_note=tables.gallery_note(len(data["images"]), images),
        has_scores=images > 0,
        has_thresholds=any(one["threshold"] for one in data["classes"]),
        has_coordinates=any(model["local"] or model["global"] for model in data["models"]),
        history=[key for key in ("loss", "rate") if any(model[key] for model in data["models"])],
        data=data,
        style=_inline(*_STYLES),
        script=_inline(*_SCRIPTS),
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _Inline:
    """Style or script to stand in the page, and the digest by which the page allows it alone."""

    text: Markup
    digest: str


def _inline(*names: str | Path) -> _Inline:
    folder = Path(__file__).parent / "page"  # a path that is absolute stays as it is
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return _Inline(Markup(text), f"sha256-{digest}")


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("grad.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("report.html")
