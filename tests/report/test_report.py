import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.reports import HOSTILE, SIDE, MadeRun
from PIL import Image

from grad.data.samples import Sample
from grad.data.tiling import Tiling
from grad.model.grad import GRAD
from grad.report.coordinates import Points, sample_coordinates
from grad.report.gallery import Gallery
from grad.report.page_data import _plane, page_data
from grad.report.write import update_report
from grad.score.verdicts import judge_all
from grad.system.errors import GradError


def data_of(report: Path) -> dict:
    """The page's data, as its script reads them."""
    block = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', report.read_text()
    )
    return json.loads(block[1])


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_data_hold_every_score_threshold_and_picture(tmp_path):
    run = MadeRun(tmp_path)
    data = data_of(run.write())
    assert [one["name"] for one in data["classes"]] == ["bolt", "cap"]
    mine = [record for record in run.records if record.class_name == "bolt"]
    one = data["classes"][0]
    assert one["good"] == sorted(r.score for r in mine if not r.anomalous)
    assert one["bad"] == sorted(r.score for r in mine if r.anomalous)
    threshold = run.calibrations()["bolt"].threshold("bolt")
    assert one["threshold"]["image"] == threshold.image
    assert one["threshold"]["pixel_typical"] == threshold.pixel_typical
    assert len(data["images"]) == 24
    shown = next(image for image in data["images"] if image["file"] == "images/0-3.png")
    assert (shown["class"], shown["anomalous"], shown["defect"]) == (0, True, "hole")
    heat = np.asarray(picture(shown["heat"]).convert("L"), float)
    values = shown["low"] + (shown["high"] - shown["low"]) * heat / 255
    expected = np.full((SIDE, SIDE), 0.5)
    expected[12:24, 12:24] = shown["score"]
    np.testing.assert_allclose(values, expected, atol=0.003)
    assert np.asarray(picture(shown["mask"])).nonzero()[0].tolist() == [
        row for row in range(12, 24) for _ in range(12)
    ]
    thumbnail = np.asarray(picture(shown["thumbnail"]).convert("L"), int)
    assert thumbnail.shape == (SIDE, SIDE)
    assert abs(thumbnail[18, 18]) < 20 and abs(thumbnail[40, 40] - 105) < 20


def test_the_file_is_alone_and_names_are_text(tmp_path):
    run = MadeRun(tmp_path, classes=("bolt", HOSTILE), notes=(HOSTILE,))
    text = run.write().read_text()
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert text.count("<script") == text.count("</script>") == 2
    assert "<b>x</b>" not in text and "alert(1)</script>" not in text
    assert data_of(tmp_path / "report.html")["classes"][1]["name"] == HOSTILE


@pytest.mark.parametrize(
    "options",
    [
        {"calibrated": False},
        {"defects": False},
        {"defects": False, "calibrated": False},
        {"masks": False},
        {"classes": ("one",)},
        {"separate": True},
        {"images": 0},
        {"images": 0, "calibrated": False, "history": False},
        {"dims": 1},
        {"dims": 4},
    ],
    ids=str,
)
def test_every_kind_of_run_has_a_report(options, tmp_path):
    text = MadeRun(tmp_path, **options).write().read_text()
    assert "nan" not in re.sub(r'(?s)"(?:heat|thumbnail|mask)":"[^"]*"', "", text).lower().split()
    tested = options.get("images") != 0
    calibrated = options.get("calibrated", True)
    assert ('id="histogram"' in text) == tested
    assert ('id="threshold-table"' in text) == (tested or calibrated)
    assert ("The model has no thresholds" in text) == (tested and not calibrated)
    assert ("No masks." in text) == (options == {"masks": False})
    assert ("No test images." in text) == (not tested)


def test_a_report_that_cannot_be_written(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(GradError, match=r"report\.html can't be written"):
        MadeRun(tmp_path, images=2).write()


def sample(name: str, anomalous: bool, class_name: str = "bolt") -> Sample:
    return Sample(Path(f"gone/{name}.png"), class_name, "test", anomalous)


def test_a_full_gallery_keeps_mistakes_and_some_clear_images():
    gallery = Gallery(limit=20)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    scores = order / 100
    for start in range(0, 100, 7):
        part = slice(start, start + 7)
        samples = [sample(str(int(i)), int(i) % 2 > 0) for i in order[part]]
        gallery.add(samples, scores[part], torch.zeros(len(samples), 4, 4))
    kept = [round(100 * shown.score) for shown in gallery.shown()]
    assert len(kept) == 20
    defects, good = [i for i in kept if i % 2], [i for i in kept if not i % 2]
    assert set(defects) >= {1, 3, 5, 7, 9, 99, 97} and set(good) >= {98, 96, 94, 92, 90, 0, 2}


def test_merged_galleries_are_as_one():
    whole, left, right = Gallery(), Gallery(), Gallery()
    samples = [sample(name, name.isupper(), "ab"[name < "M"]) for name in "aBcDXyZ"]
    scores, maps = torch.arange(7.0), torch.rand(7, 80, 90)
    whole.add(samples, scores, maps)
    right.add(samples[:3], scores[:3], maps[:3])
    left.add(samples[3:], scores[3:], maps[3:])
    left.merge(right)
    assert left.shown() == whole.shown()


def test_an_image_that_is_gone_has_no_thumbnail_and_a_thin_defect_stays(tmp_path):
    mask = np.zeros((900, 700), np.uint8)
    mask[450, 3] = 1
    for name in ("image", "mask"):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    there = Sample(tmp_path / "image.png", "bolt", "test", True, "x", tmp_path / "mask.png")
    gallery = Gallery()
    gallery.add([sample("no", False), there], torch.zeros(2), torch.rand(2, 30, 200))
    pictures = {one.shown.sample.path.stem: one for one in gallery.pictures(workers=2)}
    assert pictures["no"].thumbnail == "" and picture(pictures["no"].heat).size == (56, 30)
    small = picture(pictures["image"].mask)
    assert small.size == (100, 128) and np.asarray(small).sum() == 1
    assert picture(pictures["image"].thumbnail).size == (224, 288)


def test_without_calibration_thresholds_suit_the_test_images(tmp_path):
    one, _ = data_of(MadeRun(tmp_path, calibrated=False, gap=0.5).write())["classes"]
    assert one["good"][-1] < one["threshold"]["image"] < one["bad"][0]
    assert one["threshold"]["image_typical"] < one["threshold"]["image"]
    (one,) = data_of(MadeRun(tmp_path, ("x",), calibrated=False, defects=False).write())["classes"]
    assert one["threshold"]["image"] == one["good"][-1]


def test_good_images_alone_have_histogram_pictures_and_drift(tmp_path):
    run = MadeRun(tmp_path, classes=("bolt",), images=20, defects=False, tested=False)
    data, text = data_of(run.write()), (tmp_path / "report.html").read_text()
    (one,) = data["classes"]
    assert data["of"] == "good" and len(one["good"]) == 20 == len(data["images"])
    assert "there may be defects among them" in text and 'id="drift"' in text
    assert 'id="metrics"' not in text and 'id="curves"' not in text
    names = [record.score for record in sorted(run.records, key=lambda record: record.score)]
    assert [score for score, _ in one["ordered"]] == names, "0-2.png is before 0-10.png"
    assert one["drift"].startswith("later images score higher (rank correlation +1.00")
    other = MadeRun(tmp_path, classes=("bolt",), images=20)
    other.write()
    assert 'id="drift"' not in (tmp_path / "report.html").read_text()


def test_pictures_of_good_images_have_the_scores_of_the_thresholds(tmp_path):
    """Other presets than grad-plus raise the scores, and with them the maps."""
    run = MadeRun(tmp_path, classes=("bolt",), images=4, defects=False, tested=False)
    before = data_of(run.write())["images"]
    run.metrics["settings"]["images"]["bolt"]["test_good"] = 0
    raised = [replace(r, score=1.5 * r.score, map_maximum=2 * r.map_maximum) for r in run.records]
    after = page_data(run.metrics, raised, [], run.gallery.pictures())["images"]
    for one, other in zip(before, after, strict=True):
        assert other["score"] == pytest.approx(1.5 * one["score"])
        assert other["high"] == pytest.approx(2 * one["high"], rel=1e-4)
        assert other["maximum"] == pytest.approx(other["high"], rel=0.02)


def test_thresholds_are_exchanged_in_a_report_that_is_there(tmp_path):
    run = MadeRun(tmp_path)
    path = run.write()
    before, text = data_of(path), path.read_text()
    update_report(path, run.metrics)
    assert path.read_text() == text
    metrics = run.metrics | judge_all(run.calibrations(0.4), run.records)
    update_report(path, metrics)
    after = data_of(path)
    expected = run.calibrations(0.4)["bolt"].threshold("bolt").image
    assert before["classes"][0]["threshold"]["image"] > expected
    assert after["classes"][0]["threshold"]["image"] == expected
    assert (after["images"], after["about"]) == (before["images"], before["about"])
    assert "for 40 % false alarms" in path.read_text()
    update_report(tmp_path / "none.html", metrics)
    assert not (tmp_path / "none.html").exists()
    path.write_text("<html>")
    with pytest.raises(GradError, match="no report"):
        update_report(path, metrics)


class MadeFeatures:
    """Features of samples: each map is constant, the number of its sample."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    tiling = None

    def tiles_of(self, index: int):
        yield torch.full((1, 6, 4, 4), float(index))


def made_features(tmp_path) -> MadeFeatures:
    mask = np.zeros((40, 40), np.uint8)
    mask[:10, :20] = 1  # two of the sixteen pixels of a map
    Image.fromarray(mask).save(tmp_path / "mask.png")
    good = [sample(str(i), False, "bolt" if i < 30 else "cap") for i in range(40)]
    marked = [Sample(Path("x"), "bolt", "test", True, "x", tmp_path / "mask.png")] * 3
    return MadeFeatures([*good, *marked, *[sample("y", True, "cap")] * 3])


def test_points_are_drawn_evenly_and_abnormal_pixels_by_mask(tmp_path):
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-tiny", 6, 4, 4, local_dims=3)
    features = made_features(tmp_path)
    found = sample_coordinates(model, [features], 40, images=20, pixels=60)
    whole, local = found.global_, found.local
    assert whole.coords.shape == (20, 2) and whole.resolution == 4
    groups = list(zip(whole.classes, whole.abnormal.tolist(), strict=True))
    assert sorted(groups.count(group) for group in set(groups)) == [3, 3, 7, 7]
    assert local.coords.shape == (60, 3) and local.resolution == 8
    groups = list(zip(local.classes, local.abnormal.tolist(), strict=True))
    assert {group: groups.count(group) for group in set(groups)} == {
        ("bolt", True): 6,  # all there are; "cap" has no masks
        ("bolt", False): 27,
        ("cap", False): 27,
    }
    _, all_coords = model.coordinates(torch.cat([*map(next, map(features.tiles_of, range(46)))]))
    assert all(
        np.abs(all_coords.detach().numpy() - one).sum(1).min() < 1e-6 for one in whole.coords
    )
    again = sample_coordinates(model, [features], 40, images=20, pixels=60)
    assert np.array_equal(again.local.coords, local.coords)


def test_of_a_defective_image_only_tiles_that_show_the_defect_have_points(tmp_path):
    mask = np.zeros((40, 80), np.uint8)
    mask[:10, 40:60] = 1  # two pixels of the right tile's map
    Image.fromarray(mask).save(tmp_path / "mask.png")
    marked = Sample(Path("x"), "bolt", "test", True, "x", tmp_path / "mask.png")
    unmarked = Sample(Path("y"), "bolt", "test", True, "y", None)
    features = MadeFeatures([sample("good", False, "bolt"), marked, unmarked])
    features.tiling = Tiling(40, 0)
    features.tiles_of = lambda index: iter([torch.rand(2, 6, 4, 4)])
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-tiny", 6, 4, 4)
    found = sample_coordinates(model, [features], 40)
    assert found.global_.abnormal.tolist() == [False, False, True]
    assert found.local.abnormal.tolist() == [False] * 32 + [True] * 2


@pytest.mark.parametrize("parts", ["local", "global"])
def test_a_grid_that_is_not_there_has_no_points(parts, tmp_path):
    model = GRAD.from_preset("grad-tiny", 6, 4, 4, parts=parts)
    found = sample_coordinates(model, [made_features(tmp_path), MadeFeatures([])], 40)
    assert (found.local is None, found.global_ is None) == (parts == "global", parts == "local")


def test_many_axes_are_shown_by_their_principal_ones():
    chance = np.random.default_rng(0)
    flat = chance.normal(size=(500, 2)) @ np.array([[3, 0, 0, 0], [0, 0, 1, 0.0]])
    planar, note = _plane(flat.astype(np.float32))
    assert planar.shape == (500, 2) and "100%" in note and "4" in note
    distances = [
        np.linalg.norm(values[:50, None] - values[None, :50], axis=2) for values in (flat, planar)
    ]
    np.testing.assert_allclose(*distances, atol=1e-4)
    assert planar[:, 0].std() > planar[:, 1].std()
    line, note = _plane(flat[:, :1].astype(np.float32))
    assert line.shape == (500, 1) and "one axis" in note
    assert Points(line, ("x",) * 500, np.zeros(500, bool), 8).resolution == 8
