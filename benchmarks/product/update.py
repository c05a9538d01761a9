"""What do models learn from images that come after their training, and what do they forget?

    python benchmarks/bench_update.py light RUN... --data DIR [--rates 0.01,0.05]
    python benchmarks/bench_update.py class JOINT FEWER --data DIR

``light``: good test images in another light (brightness x 0.8, Gaussian blur of 1 pixel). Of every
second one, at most 20 false alarms of each class are given back; the others, and all test images as
they are, are judged before and after.

``class``: the model FEWER was trained without one class of JOINT's. It learns that class from its
training images, and is compared with JOINT on all test images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

from grad.data.layouts import find_dataset
from grad.data.samples import Dataset, Sample
from grad.detector.checkpoint import LoadedModel, load_checkpoint
from grad.detector.features import features_for
from grad.detector.learning import learn
from grad.features.compute import default_cache
from grad.features.features import Features
from grad.score.dataset import evaluate, good_scores
from grad.system.command_line import run_command
from grad.system.errors import GradError

BRIGHTNESS, BLUR = 0.8, 1.0
GIVEN = 20  # false alarms of a class at most
ALL = "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a user's error."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


@dataclass
class Tally:
    """Images of a class called anomalous before and after an update, out of how many."""

    given: int = 0
    cells: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, before: int, after: int, images: int) -> None:
        """Count images of one kind."""
        cell = self.cells.setdefault(name, [0, 0, 0])
        for index, number in enumerate((before, after, images)):
            cell[index] += number


def measure_light(loaded: LoadedModel, data: Dataset, cache: Path, rate: float) -> dict[str, Tally]:
    """False alarms of another light given back, class by class."""
    assert loaded.calibration is not None
    calibration = loaded.calibration.at_rate(rate)
    loaded = replace(loaded, calibration=calibration)
    tallies = {name: Tally() for name in (*loaded.info.classes, ALL)}
    with tempfile.TemporaryDirectory() as folder:
        for name in loaded.info.classes:
            mine = [sample for sample in data.test if sample.class_name == name]
            good, bad = ([s for s in mine if s.anomalous == kind] for kind in (False, True))
            lit = [relight(s, Path(folder, f"{name}-{i}.png")) for i, s in enumerate(good)]
            dark = [relight(s, Path(folder, f"{name}-bad{i}.png")) for i, s in enumerate(bad)]
            seen = {
                "other light, further good images": features_for(loaded, lit[1::2], cache=cache),
                "other light, defects": features_for(loaded, dark, cache=cache),
                "good images": features_for(loaded, good, cache=cache),
                "defects": features_for(loaded, bad, cache=cache),
            }
            first = features_for(loaded, lit[::2], cache=cache)
            alarms = [i for i, alarm in enumerate(_alarms(loaded, first, name)) if alarm][:GIVEN]
            learned = learn(loaded, first.subset(alarms)) if alarms else loaded
            for tally in (tallies[name], tallies[ALL]):
                tally.given += len(alarms)
            for kind, features in seen.items():
                counts = [sum(_alarms(model, features, name)) for model in (loaded, learned)]
                for tally in (tallies[name], tallies[ALL]):
                    tally.add(kind, *counts, len(features))
    return tallies


def measure_class(joint: LoadedModel, fewer: LoadedModel, data: Dataset, cache: Path) -> str:
    """A class that comes new, and those that were there, beside a model trained on all."""
    (name,) = set(joint.info.classes) - set(fewer.info.classes)
    training = [sample for sample in data.train if sample.class_name == name]
    features = features_for(
        fewer, training, cache=cache
    )  # kept, so that the time is that of learning
    start = time.process_time()
    learned = learn(fewer, features)
    seconds = time.process_time() - start
    test = features_for(joint, data.test, cache=cache)
    lines = [
        f"`{name}`, {len(features)} images, learned in {seconds:.0f} s of a core once their "
        "features were there. Image / pixel AUROC; false alarms and defects found:",
        "",
        "| class | trained on all | trained without it | learned later |",
        "|---|---|---|---|",
    ]
    columns = []
    for model in (joint, fewer, learned):
        known = model.info.classes
        reports = evaluate(
            model.model, test.of_classes(known), model.info.image_size, (), classes=known
        )
        tallies = {kind: _verdicts(model, test, kind) for kind in known}
        columns.append(
            {kind: f"{_aurocs(reports[kind].values)}; {tallies[kind]}" for kind in known}
        )
    for kind in joint.info.classes:
        cells = [column.get(kind, "-") for column in columns]
        lines.append("| " + " | ".join([kind, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _verdicts(loaded: LoadedModel, test: Features, name: str) -> str:
    """False alarms of good test images, and defects found."""
    mine = test.of_classes([name])
    alarms = _alarms(loaded, mine, name)
    kinds = [sample.anomalous for sample in mine.samples]
    counts = [
        f"{sum(a for a, k in zip(alarms, kinds, strict=True) if k == kind)} of {kinds.count(kind)}"
        for kind in (False, True)
    ]
    return ", ".join(counts)


def _aurocs(values: dict[str, float | None]) -> str:
    both = (values["image_auroc"], values["pixel_auroc"])
    return " / ".join("-" if value is None else f"{value:.3f}" for value in both)


def relight(sample: Sample, path: Path) -> Sample:
    """The image in another light, as a file."""
    with Image.open(sample.path) as image:
        blurred = image.convert("RGB").filter(ImageFilter.GaussianBlur(BLUR))
    ImageEnhance.Brightness(blurred).enhance(BRIGHTNESS).save(path)
    return Sample(path, sample.class_name, "test", sample.anomalous)


def _alarms(loaded: LoadedModel, features: Features, name: str) -> list[bool]:
    assert loaded.calibration is not None
    scores, maxima = good_scores(loaded.model, features, loaded.info.image_size)
    limit = loaded.calibration.threshold(name)
    return [*map(limit.is_anomalous, scores[name], maxima[name])]


def _light_table(tallies: dict[str, Tally]) -> str:
    kinds = list(tallies[ALL].cells)
    lines = [
        "Called anomalous, before -> after, of how many:",
        "",
        "| class | given back | " + " | ".join(kinds) + " |",
        "|" + "---|" * (2 + len(kinds)),
    ]
    for name, tally in tallies.items():
        cells = [f"{b} -> {a} of {n}" for b, a, n in (tally.cells[kind] for kind in kinds)]
        lines.append("| " + " | ".join([name, str(tally.given), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _run(options: argparse.Namespace) -> None:
    data = find_dataset(options.data)
    if options.kind == "class":
        if len(options.runs) != 2:
            raise GradError("class compares two runs: give JOINT and FEWER.")
        joint, fewer = (load_checkpoint(run) for run in options.runs)
        print(measure_class(joint, fewer, data.select(joint.info.classes), options.cache), end="")
        return
    for rate in map(float, options.rates.split(",")):
        together: dict[str, Tally] = {}
        for run in options.runs:
            loaded = load_checkpoint(run)
            for name, tally in measure_light(loaded, data, options.cache, rate).items():
                mine = together.setdefault(name, Tally())
                mine.given += tally.given
                for kind, cell in tally.cells.items():
                    mine.add(kind, *cell)
        print(f"\nThresholds at {rate:.0%}, {len(options.runs)} run(s) together.\n")
        print(_light_table(together), end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("light", "class"))
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--data", type=Path, required=True, help="what they were trained on")
    parser.add_argument("--rates", default="0.01,0.05", help="false-alarm rates to ask for")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of features")
    return parser
