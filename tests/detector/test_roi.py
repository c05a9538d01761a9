"""A model with regions of interest: verdicts, maps and exports know nothing of what is outside."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.exporting import SIZE, make_backbone, make_model, noise
from PIL import Image

from grad.data.roi import inside, read_roi
from grad.detector.checkpoint import LoadedModel, load_checkpoint, save_checkpoint
from grad.detector.detector import Detector
from grad.export.graph import ExportGraph, columns
from grad.system.errors import GradError

BOX = (slice(10, 50), slice(20, 56))  # rows, columns


@pytest.fixture(scope="module")
def roi(tmp_path_factory):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[BOX] = True
    path = tmp_path_factory.mktemp("roi") / "roi.png"
    Image.fromarray(mask).save(path)
    return read_roi(path)


@pytest.fixture(scope="module", params=[{}, {"statistics": True}], ids=["plain", "statistics"])
def loaded(request):
    return make_model(make_backbone(), **request.param)


def with_regions(loaded, rois):
    return LoadedModel(
        loaded.model, loaded.backbone, replace(loaded.info, rois=rois), loaded.calibration
    )


def both(loaded, rois):
    return Detector.of(with_regions(loaded, rois), device="cpu", precision="float32")


@pytest.mark.parametrize("options", [{}, {"tile": 32}], ids=["whole", "tiles"])
def test_what_is_outside_changes_no_bit(loaded, roi, options):
    detector = both(loaded, dict.fromkeys(loaded.info.classes, roi))
    image = noise(1, SIZE, SIZE)[0]
    other = noise(1, SIZE, SIZE, seed=1)[0]
    other[BOX] = image[BOX]
    first, second = (detector.predict(Image.fromarray(i), **options) for i in (image, other))
    assert first.score == second.score and torch.equal(first.anomaly_map, second.anomaly_map)
    assert (first.anomaly_map[~inside(roi, (SIZE, SIZE))] == 0).all()
    assert first.anomaly_map.any()
    changed = other.copy()
    changed[20:40, 30:50] = 0
    assert detector.predict(Image.fromarray(changed), **options).score != first.score


def test_a_region_that_came_later_cuts_maps_alone(loaded, roi):
    later = dict.fromkeys(loaded.info.classes, replace(roi, painted=False))
    image = Image.fromarray(noise(1, SIZE, SIZE)[0])
    whole, cut = both(loaded, {}).predict(image), both(loaded, later).predict(image)
    far = (slice(22, 38), slice(32, 44))  # further inside than the box that smooths reaches
    torch.testing.assert_close(cut.anomaly_map[far], whole.anomaly_map[far])
    assert (cut.anomaly_map[~inside(roi, (SIZE, SIZE))] == 0).all() and cut.score < whole.score


def test_each_class_has_its_own(loaded, roi):
    first, second = loaded.info.classes
    detector = both(loaded, {first: roi})
    image = Image.fromarray(noise(1, SIZE, SIZE)[0])
    assert detector.predict(image, class_name=first).roi == roi
    whole = detector.predict(image, class_name=second)
    assert whole.score == both(loaded, {}).predict(image, class_name=second).score
    with pytest.raises(GradError, match="different regions of interest: say of which class"):
        detector.predict(image)


def test_a_batch_of_several_classes_is_cut_image_by_image(loaded, roi):
    first, second = loaded.info.classes
    detector = both(loaded, {first: roi})
    images = torch.from_numpy(noise(2, SIZE, SIZE)).permute(0, 3, 1, 2)
    maps, scores = detector.score_batch(images, [second, first])
    for index, name in enumerate((second, first)):
        one_map, one = detector.score_batch(images[index : index + 1], [name])
        torch.testing.assert_close(maps[index], one_map[0])
        torch.testing.assert_close(scores[index], one[0])
        result = detector.predict(Image.fromarray(noise(2, SIZE, SIZE)[index]), class_name=name)
        torch.testing.assert_close(result.anomaly_map, maps[index], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("painted", [True, False])
@pytest.mark.parametrize("resize", ["graph", "none"])
def test_an_exported_graph_carries_it(loaded, roi, painted, resize):
    region = replace(roi, painted=painted)
    detector = both(loaded, dict.fromkeys(loaded.info.classes, region))
    graph = ExportGraph(
        loaded.backbone, loaded.model, SIZE, columns(loaded.calibration, None), resize, region
    )
    pixels = torch.from_numpy(noise(3, SIZE, SIZE))
    images = pixels.permute(0, 3, 1, 2)
    with torch.no_grad():
        maps, scores, _, _ = graph(pixels if resize == "graph" else images / 255)
    wanted_maps, wanted = detector.score_batch(images)
    torch.testing.assert_close(maps, wanted_maps, rtol=1e-4, atol=1e-4 * float(wanted_maps.max()))
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5)


def test_a_file_keeps_it(loaded, roi, tmp_path):
    changed = with_regions(loaded, {loaded.info.classes[0]: roi})
    save_checkpoint(
        tmp_path / "model.safetensors",
        changed.model,
        changed.backbone,
        changed.info,
        changed.calibration,
    )
    assert load_checkpoint(tmp_path / "model.safetensors").info == changed.info


def test_the_overlay_greys_what_is_outside(loaded, roi):
    detector = both(loaded, dict.fromkeys(loaded.info.classes, roi))
    result = detector.predict(Image.new("RGB", (SIZE, SIZE), "#ff0000"))
    pixel = np.array(result.overlay())[60, 3].astype(int)
    assert np.ptp(pixel) <= 1
