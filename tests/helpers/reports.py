"""Runs made up for the tests of reports: images, maps, scores, thresholds, without any network."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from grad.data.samples import Sample
from grad.report.contents import About, ModelPart
from grad.report.coordinates import Coordinates, Points
from grad.report.gallery import Gallery
from grad.report.write import write_report
from grad.score.metrics.classes import ClassMetrics, summarize
from grad.score.records import Recorder
from grad.score.thresholds import Calibration, calibrate
from grad.score.verdicts import judge_all

SIDE = 48  # pixels of images and maps
HOSTILE = """<b>x</b>"'&</script><script>alert(1)</script>"""


@dataclass
class MadeRun:
    """Test images of some classes, every second one with a square defect.

    The score of image i is 1 + i / 100, and a defect's higher by ``gap``, so with a gap of 0 good
    and bad are mixed evenly. The map is 0.5 and the score in the square.

    Args:
        folder: for the images and the report.
        classes: their names.
        images: of each class.
        gap: between good and bad.
        masks, defects, calibrated, history, separate: what there is, or how models were trained.
        dims: axes of both grids.
        tested: whether there are test images; else all are the good ones of the thresholds.
    """

    folder: Path
    classes: tuple[str, ...] = ("bolt", "cap")
    images: int = 12
    gap: float = 0.0
    masks: bool = True
    defects: bool = True
    calibrated: bool = True
    history: bool = True
    separate: bool = False
    dims: int = 2
    tested: bool = True
    gallery: Gallery = field(default_factory=Gallery)
    notes: tuple[str, ...] = ()

    def write(self) -> Path:
        """Write the report and return its file."""
        recorder, reports, counts = Recorder(), {}, {}
        for number, name in enumerate(self.classes):
            samples = [self._sample(number, name, i) for i in range(self.images)]
            scores = torch.tensor(
                [1 + i / 100 + self.gap * s.anomalous for i, s in enumerate(samples)]
            )
            maps = torch.full((self.images, SIDE, SIDE), 0.5)
            maps[:, 12:24, 12:24] = scores[:, None, None]
            mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            mask[12:24, 12:24] = True
            metrics = ClassMetrics(name)
            if samples:
                labels = [sample.anomalous for sample in samples]
                masks = [mask if sample.mask else None for sample in samples]
                if self.tested:
                    metrics.update(maps, masks, scores, labels)
                recorder.add(samples, scores, maps)
                self.gallery.add(samples, scores, maps)
            reports[name] = metrics.compute()
            defects = sum(sample.anomalous for sample in samples)
            counts[name] = {
                "train": 30,
                "test_good": (len(samples) - defects) * self.tested,
                "test_defects": defects,
                "masks": defects if self.masks else 0,
            }
        path = self.folder / "report.html"
        self.records = recorder.records
        self.metrics = summarize(reports) | {"settings": {"images": counts}}
        if self.calibrated:
            self.metrics |= judge_all(self.calibrations(), self.records if self.tested else [])
        write_report(
            path,
            About("Made up", {"Data": HOSTILE}, {"seed": 0, "data": None}, self.notes),
            metrics=self.metrics,
            records=recorder.records,
            models=[self._model(group) for group in self._groups()],
            gallery=self.gallery,
        )
        return path

    def calibrations(self, rate: float = 0.1) -> dict[str, Calibration]:
        """Of each class, from good images that score 0.9 to 1.04, within the test scores."""
        made = {}
        for classes in self._groups():
            good = {name: [0.9 + i / 100 for i in range(15)] for name in classes}
            sources = dict.fromkeys(classes, "held out")
            made |= dict.fromkeys(classes, calibrate(good, good, sources, rate))
        return made

    def limit(self, name: str) -> float:
        """The threshold of a class."""
        return self.calibrations()[name].threshold(name).image

    def _groups(self) -> list[tuple[str, ...]]:
        return [(name,) for name in self.classes] if self.separate else [self.classes]

    def _model(self, classes: tuple[str, ...]) -> ModelPart:
        chance = np.random.default_rng(0)
        points = Points(
            chance.uniform(-1, 1, (60, self.dims)).astype(np.float32),
            tuple(classes[i % len(classes)] for i in range(60)),
            chance.random(60) < 0.2,
            8,
        )
        history = {"loss": [3.0, 1.0, 0.5], "learning_rate": [0.1, 0.1, 0.01]}
        return ModelPart(
            classes, "tiny", history if self.history else {}, Coordinates(points, points)
        )

    def _sample(self, number: int, name: str, i: int) -> Sample:
        bad = self.defects and i % 2 == 1
        path = self.folder / "images" / f"{number}-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((SIDE, SIDE, 3), 90 + 5 * (i % 30), np.uint8)
        square = np.zeros((SIDE, SIDE), np.uint8)
        if bad:
            pixels[12:24, 12:24] = 0
            square[12:24, 12:24] = 255
        Image.fromarray(pixels).save(path)
        mask = path.with_name(f"{number}-{i}_mask.png") if bad and self.masks else None
        if mask:
            Image.fromarray(square).save(mask)
        return Sample(path, name, "test", bad, "hole" if bad else "good", mask)
