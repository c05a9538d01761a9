"""A trained model gets a region of interest later; thresholds hold, or images are asked for."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_model import CLASSES, SIZE, make_run, pixels
from PIL import Image

from grad.data.picture import Picture
from grad.data.roi import looked_at_share, read_roi, roi_of
from grad.detector.checkpoint import Update, load_checkpoint
from grad.detector.detector import Detector
from grad.detector.region import describe_thresholds, in_region, with_region
from grad.system.errors import GradError


@pytest.fixture(scope="module", params=["grad-tiny", "grad-plus"])
def loaded(request, tmp_path_factory):
    return load_checkpoint(make_run(tmp_path_factory.mktemp("run"), preset=request.param))


def region(left, right, painted=False):
    """The columns from left to right, not right itself."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, left:right] = 255
    return roi_of(Picture.from_image(Image.fromarray(mask)), painted)


def learned(loaded, name):
    """The same after it learned from an image of a class."""
    update = Update("now", name, ("x.png",), ("0",), 0, 0, 1.0, 1.0)
    return replace(loaded, info=replace(loaded.info, updates=(*loaded.info.updates, update)))


def test_a_class_gets_a_region_and_no_score_rises(loaded):
    roi = region(4, 20)
    cut = with_region(loaded, roi, "nut")
    assert cut.info.rois == {"nut": roi} and loaded.info.rois == {}
    assert cut.calibration == loaded.calibration and cut.origin is None
    update, limit = cut.info.updates[-1], loaded.calibration.classes["nut"].image
    assert update.region and update.class_name == "nut" and update.images == ()
    assert update.threshold_before == update.threshold_after == limit
    assert "may be too high" in describe_thresholds(cut.info)
    before, after = (Detector.of(one, device="cpu") for one in (loaded, cut))
    images = [Image.fromarray(pixels(seed)) for seed in range(20)]
    for name in CLASSES:
        pairs = zip(*(d.predict(images, class_name=name) for d in (before, after)), strict=True)
        for whole, part in pairs:
            assert part.score <= whole.score * (1 + 1e-5)
            assert (part.anomaly_map <= whole.anomaly_map + 1e-5).all()
            assert (part.score == whole.score) == (name == "screw")
            assert part.anomaly_map[:, 22:].any() == (name == "screw")


def test_all_classes_get_it_and_it_goes_again(loaded):
    roi = region(4, 20)
    cut = with_region(loaded, roi)
    assert cut.info.rois == dict.fromkeys(CLASSES, roi) and not cut.info.has_several_rois
    assert cut.info.updates[-1].class_name is None
    assert cut.info.updates[-1].threshold_after == loaded.calibration.unknown.image
    assert all(cut.info.is_cut_later(name) for name in (*CLASSES, None))
    back = with_region(cut, None)
    assert back.info.rois == {} and not back.info.is_cut_later(None)
    assert "made from whole images" in describe_thresholds(back.info)
    one = with_region(cut, None, "nut")
    assert one.info.rois == {"screw": roi} and one.info.is_cut_later(None)
    assert not one.info.is_cut_later("nut")


def test_thresholds_of_a_region_hold_inside_of_it_alone(loaded):
    small, middle, large = region(8, 16), region(6, 20), region(2, 30)
    known = learned(with_region(loaded, middle, "nut"), "nut")
    assert with_region(known, small, "nut").info.rois["nut"] == small
    for roi in (large, region(8, 22), None):
        with pytest.raises(GradError, match=r"class nut knows images of a smaller region"):
            with_region(known, roi, "nut")
        with pytest.raises(GradError, match="knows images of a smaller region"):
            with_region(known, roi)
    # Of another class, or learned before the region came, they tell nothing of it.
    for other in (
        learned(with_region(loaded, middle, "nut"), "screw"),
        with_region(learned(loaded, "nut"), middle, "nut"),
    ):
        assert with_region(other, large, "nut").info.rois["nut"] == large


@pytest.mark.parametrize(
    ("roi", "name", "words"),
    [
        (region(4, 20), "bolt", "not trained on class bolt: choose among nut, screw"),
        (None, None, "The classes nut, screw had no region of interest"),
        (None, "nut", "Class nut had no region of interest"),
    ],
)
def test_what_changes_nothing_is_refused(loaded, roi, name, words):
    with pytest.raises(GradError, match=words):
        with_region(loaded, roi, name)


def test_the_same_again_a_speck_and_no_thresholds_are_refused(loaded):
    cut = with_region(loaded, region(4, 20), "nut")
    with pytest.raises(GradError, match="had this region of interest before"):
        with_region(cut, region(4, 20), "nut")
    mask = np.zeros((40 * SIZE, 40 * SIZE), np.uint8)
    mask[500:520, 500:520] = 255
    with pytest.raises(GradError, match="smaller than a pixel of the 32 x 32"):
        with_region(loaded, roi_of(Picture.from_image(Image.fromarray(mask)), False))
    with pytest.raises(GradError, match="has no thresholds"):
        with_region(replace(loaded, calibration=None), region(4, 20))


def test_a_region_of_training_stays(loaded):
    painted = replace(loaded, info=replace(loaded.info, rois={"nut": region(4, 20, True)}))
    for roi, name in ((None, "nut"), (region(6, 18), "nut"), (region(6, 18), None)):
        with pytest.raises(GradError, match="trained inside of a region of interest of class nut"):
            with_region(painted, roi, name)
    assert not painted.info.is_cut_later("nut")
    assert set(with_region(painted, region(6, 18), "screw").info.rois) == {"nut", "screw"}


def test_images_make_thresholds_anew_where_there_are_statistics(loaded):
    roi = region(4, 20)
    assert in_region(loaded, roi, "bolt").info.rois == {"bolt": roi}, "a class that comes new"
    if loaded.model.statistics is None:
        with pytest.raises(GradError, match="has no statistics"):
            in_region(loaded, roi, "nut")
    else:
        cut = in_region(loaded, roi, "nut")
        assert cut.info.rois == {"nut": roi} and cut.info.updates == ()


def test_a_decoded_picture_is_read_as_its_file(tmp_path):
    values = np.zeros((30, 50), np.uint8)
    values[3:20, 10:30] = 200
    values[3:20, 30:40] = 90
    for image in (Image.fromarray(values), Image.fromarray(values.astype(np.uint16) * 257)):
        image.save(tmp_path / "roi.png")
        found = roi_of(Picture.from_image(image), painted=False)
        assert found == read_roi(tmp_path / "roi.png", painted=False)
        assert looked_at_share(found) == pytest.approx(17 * 20 / 1500)
    assert roi_of(Picture.from_image(Image.new("RGB", (5, 5), "white"))) is None
    with pytest.raises(GradError, match=r"The region of interest is black everywhere"):
        roi_of(Picture.from_image(Image.new("RGB", (5, 5))))
