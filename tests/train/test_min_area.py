"""The smallest region that counts is part of thresholds and verdicts, and marks nothing smaller."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.images import make_images

from grad.detector.detector import Detector
from grad.score.regions import cut_small_peaks, map_pixels
from grad.train.__main__ import main as train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training with and without a smallest region."""
    root = tmp_path_factory.mktemp("area")
    make_images(root / "data", classes=("a",), train=8, test=4, size=64)
    options = "--backbone tf_efficientnet_lite0 --preset grad-plus --epochs 2 --image-size 64"
    for name, area in (("any", 1), ("large", 200)):
        where = ["--data", str(root / "data"), "--out", str(root / name)]
        rest = ["--cache", str(root / "cache"), "--device", "cpu", "--min-area", str(area)]
        assert train([*options.split(), *where, *rest]) == 0
    return root


def test_thresholds_and_records_are_made_with_it(runs):
    plain, large = (Detector.load(runs / name, device="cpu") for name in ("any", "large"))
    assert large.info.min_area == 200 and plain.info.min_area == 1
    pixel = [d.calibration.threshold("a").pixel for d in (plain, large)]
    assert pixel[1] < pixel[0], "good images have no large region that is as high as their peak"
    records = {
        name: [json.loads(line) for line in (runs / name / "records.jsonl").open()]
        for name in ("any", "large")
    }
    for before, after in zip(records["any"], records["large"], strict=True):
        assert before["score"] == after["score"]
        result = plain.predict(before["path"])
        pixels = map_pixels(200, (64, 64), tuple(result.anomaly_map.shape))
        cut = float(cut_small_peaks(result.anomaly_map, pixels).max())
        assert after["map_maximum"] == pytest.approx(cut, rel=1e-3)
        assert after["map_maximum"] < before["map_maximum"]
        same = large.predict(before["path"])
        assert same.map_maximum == pytest.approx(after["map_maximum"], rel=1e-3)
        assert same.is_anomalous == large.calibration.threshold("a").is_anomalous(
            after["score"], after["map_maximum"]
        )


def test_nothing_smaller_is_marked(runs):
    detector = Detector.load(runs / "large", device="cpu")
    results = detector.predict(runs / "data/a/test/dark")
    marked = [result for result in results if result.is_anomalous]
    assert marked
    for result in marked:
        areas = [region.area for region in result.regions]
        assert min(areas) >= 200 or len(areas) == 1
        assert int(np.asarray(result.mask_of_image()).sum()) == sum(areas)


def test_an_image_that_its_score_makes_anomalous_shows_a_region(runs):
    detector = Detector.load(runs / "large", device="cpu")
    detector.info = replace(detector.info, min_area=64 * 64)
    found = detector.predict(runs / "data/a/test/dark/a0.png")
    assert found.limit is not None and found.score > found.map_maximum > 0
    between = (found.score + found.map_maximum) / 2
    result = replace(found, limit=replace(found.limit, image=between, pixel=2 * found.score))
    assert result.is_anomalous
    assert [region.area for region in result.regions] == [64 * 64]
    assert bool(result.mask.all()) and bool(result.mask_of_image().all())
