import json
import threading
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers.tiny_model import CLASSES, SIZE, make_run, picture, pixels
from PIL import Image, PngImagePlugin

import grad
from grad.data.images import UnreadableImage, load_image
from grad.detector.checkpoint import load_checkpoint
from grad.detector.detector import Detector
from grad.detector.engine import Pipeline
from grad.model.presets import PRESETS
from grad.system.errors import GradError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def without_thresholds(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("run"), calibrated=False)
    return Detector.load(folder, device="cpu", precision="float32")


@pytest.mark.parametrize("preset", PRESETS)
def test_scores_are_those_that_thresholds_are_made_from(preset, tmp_path):
    """Whatever the machine multiplies fastest; thresholds come from a plain float32 model."""
    run = make_run(tmp_path, preset=preset)
    detector, loaded = Detector.load(run, device="cpu"), load_checkpoint(run)
    images = torch.stack([torch.from_numpy(pixels(seed)).permute(2, 0, 1) for seed in range(40)])
    with torch.inference_mode():
        maps, scores = Pipeline(loaded.backbone, loaded.model, SIZE)(images / 255)
    found = detector.predict(images)
    limit = detector.calibration.unknown
    for unit, made, given in (
        (limit.image, scores, [result.score for result in found]),
        (limit.pixel, maps.amax(dim=(1, 2)), [result.map_maximum for result in found]),
    ):
        apart = (made - torch.tensor(given)).abs() / unit
        assert apart.quantile(0.99) <= 0.005


def same(a, b):
    return a.score == b.score and torch.equal(a.anomaly_map, b.anomaly_map)


def test_three_lines(run, tmp_path):
    path = picture(tmp_path / "part.png", size=(40, 60))
    detector = grad.Detector.load(run)
    result = detector.predict(path)
    assert isinstance(result, grad.Result)
    assert result.name == str(path) and result.size == (40, 60) and result.class_name is None
    assert result.anomaly_map.shape == result.mask.shape == (SIZE, SIZE)
    assert result.anomaly_map.dtype == torch.float32 and result.mask.dtype == torch.bool
    assert result.image.size == (60, 40)
    assert result.overlay().width == 60 and result.overlay().height > 40
    assert result.is_anomalous == (result.score > result.threshold)
    assert detector.classes == CLASSES and detector.image_size == SIZE


def test_every_kind_of_input_gives_the_same_numbers(detector, tmp_path):
    array = pixels(seed=3, size=(40, 60))
    path = picture(tmp_path / "a.png", seed=3, size=(40, 60))
    expected = detector.predict(path)
    alpha = np.concatenate([array, np.full((40, 60, 1), 7, np.uint8)], axis=2)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    one = [str(path), Image.fromarray(array), Image.fromarray(alpha), array, alpha, tensor]
    one += [np.asfortranarray(array), tensor.contiguous(), detector.predict(path).item]
    for image in one:
        assert same(detector.predict(image), expected)
    several = [[path, array], (tensor,), array[None], tensor[None], tmp_path, [tmp_path, [array]]]
    for images in several:
        found = detector.predict(images)
        assert isinstance(found, list) and all(same(result, expected) for result in found)
    assert [len(detector.predict(images)) for images in several] == [2, 1, 1, 1, 1, 2]
    assert detector.predict([]) == []


def test_the_numbers_are_those_of_training(detector, tmp_path):
    path = picture(tmp_path / "a.png", size=(40, 60))
    maps, scores = detector.score_batch(load_image(path, (SIZE, SIZE))[None])
    result = detector.predict(path)
    assert torch.equal(result.anomaly_map, maps[0]) and result.score == float(scores[0])


def test_grey_and_sixteen_bits(detector, tmp_path):
    grey = pixels(size=(40, 60))[:, :, 0]
    assert same(detector.predict(grey), detector.predict(np.stack([grey] * 3, axis=2)))
    assert same(detector.predict(grey), detector.predict(grey[:, :, None]))
    assert same(detector.predict(grey), detector.predict(torch.from_numpy(grey)))
    deep = pixels(size=(40, 60), top=65535, dtype=np.uint16)
    Image.fromarray(deep[:, :, 0]).save(tmp_path / "deep.png")
    assert same(detector.predict(tmp_path / "deep.png"), detector.predict(deep[:, :, 0]))
    floats = (deep / np.float32(65535)).astype(np.float32)
    assert same(detector.predict(deep), detector.predict(floats))
    for other in (floats.astype(np.float64), torch.from_numpy(floats).permute(2, 0, 1)):
        assert same(detector.predict(deep), detector.predict(other))
    black_white = grey > 128
    assert same(detector.predict(black_white), detector.predict(Image.fromarray(black_white)))


def test_floats_differ_from_eight_bits_by_the_rounding_after_resizing_only(detector):
    levels = pixels(size=(SIZE, SIZE))
    eight = detector.predict(levels)
    floats = detector.predict(levels / np.float32(255))
    torch.testing.assert_close(floats.anomaly_map, eight.anomaly_map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "F", "YCbCr"])
def test_any_size_and_mode(detector, size, mode):
    if mode == "I;16":
        image = Image.new(mode, size, 30000)
    elif mode == "F":
        image = Image.new(mode, size, 0.5)
    else:
        image = Image.new("RGB", size, (10, 200, 30)).convert(mode)
    result = detector.predict(image)
    assert np.isfinite(result.score) and result.image.mode == "RGB" and result.image.size == size


def test_the_exif_orientation_counts(detector, tmp_path):
    image, exif = Image.fromarray(pixels(size=(40, 60))), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    upright = Image.fromarray(np.rot90(pixels(size=(40, 60)), -1))
    for source in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        result = detector.predict(source)
        assert same(result, detector.predict(upright)) and result.size == (60, 40)


def test_a_batch_changes_nothing(detector):
    arrays = [pixels(seed) for seed in range(11)]
    for batch_size in (1, 3, 8):
        found = list(detector.stream(arrays, batch_size=batch_size))
        assert [result.name for result in found] == [f"image {i}" for i in range(11)]
        for result, array in zip(found, arrays, strict=True):
            alone = detector.predict(array)
            torch.testing.assert_close(result.anomaly_map, alone.anomaly_map, rtol=1e-4, atol=1e-5)


def test_threads_share_a_detector(detector):
    arrays = [pixels(seed, size=(50, 30)) for seed in range(6)]
    expected = [detector.predict(array) for array in arrays]
    wrong = []

    def work(first):
        for turn in range(12):
            index = (first + turn) % 6
            if not same(detector.predict(arrays[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_thresholds_of_a_class_and_of_any_class(detector):
    array, calibration = pixels(seed=5), detector.calibration
    for name in (*CLASSES, None):
        result, limit = detector.predict(array, class_name=name), calibration.threshold(name)
        assert result.class_name == name and result.threshold == limit.image
        assert result.value == limit.value(result.score, float(result.anomaly_map.max()))
        assert bool(result.mask.any()) is result.is_anomalous
        found = result.to_dict()
        assert (result.p_value, result.p_resolution) == (found["p_value"], found["p_resolution"])
        assert result.p_resolution == (1 / 11 if name else 1 / 21) <= result.p_value <= 1
    with pytest.raises(GradError, match="not trained on class nuts: choose among nut, screw"):
        detector.predict(array, class_name="nuts")


def test_another_rate_and_a_threshold_by_hand(run, detector):
    other = Detector.load(run, device="cpu", precision="float32", false_alarm_rate=0.3)
    assert other.predict(pixels()).threshold < detector.predict(pixels()).threshold
    score = detector.predict(pixels()).score
    for threshold, verdict in ((score * 1.01, False), (score * 0.99, True), (score / 50, True)):
        result = detector.with_threshold(threshold).predict(pixels())
        assert result.is_anomalous == verdict == (result.value > 0.5)
        assert result.threshold == np.float32(threshold)
        assert bool(result.mask.any()) is bool(result.regions) is verdict
        assert sum(region.area for region in result.regions) == result.mask_of_image().sum()
    for threshold in (0, -1, float("nan"), float("inf")):
        with pytest.raises(GradError, match=r"--threshold .* must be a number above 0"):
            detector.with_threshold(threshold)


def test_without_thresholds_scores_work_and_verdicts_say_why_not(without_thresholds):
    result = without_thresholds.predict(pixels())
    assert result.score > 0 and result.overlay().width == SIZE
    for name in ("threshold", "value", "is_anomalous", "mask", "regions"):
        with pytest.raises(GradError, match="has no thresholds, as training was interrupted"):
            getattr(result, name)
    assert result.to_dict()["is_anomalous"] is None
    with pytest.raises(GradError, match="has no threshold"):
        without_thresholds.with_threshold(3.0)


def test_a_result_is_json_and_its_picture_is_found_again(detector, tmp_path):
    path = picture(tmp_path / "a.png", size=(300, 200))
    result = detector.predict(path)
    fields = json.loads(json.dumps(result.to_dict()))
    assert fields["name"] == str(path) and (fields["width"], fields["height"]) == (200, 300)
    assert fields["map_maximum"] == float(result.anomaly_map.max())
    assert fields["is_anomalous"] == result.is_anomalous and fields["value"] == result.value
    assert result.overlay(longest=30).width == 20 and result.overlay().width == 200
    assert result.mask_of_image().shape == (300, 200)
    assert fields["regions"] == json.loads(json.dumps([asdict(r) for r in result.regions]))
    kept = next(iter(detector.stream(path, keep_images=True)))
    path.unlink()
    assert kept.image.size == (200, 300)
    with pytest.raises(UnreadableImage, match="there is no such file"):
        _ = result.image


def test_maps_are_plain_tensors_of_their_own(detector):
    found = detector.predict([pixels(0), pixels(1)])
    for result in found:
        result.anomaly_map.add_(1)  # no inference tensor
        assert result.anomaly_map.untyped_storage().nbytes() == 4 * SIZE * SIZE


def test_tiles(detector):
    array = pixels(size=(100, 150))
    result = detector.predict(array, tile=SIZE, overlap=8)
    assert result.anomaly_map.shape == result.mask.shape == result.mask_of_image().shape
    assert result.anomaly_map.shape == (100, 150) and result.overlay().width == 150
    half = detector.predict(array, tile=2 * SIZE)
    assert half.anomaly_map.shape == (100, 150) and half.score != result.score
    whole = pixels(size=(SIZE, SIZE))
    one, none = detector.predict(whole, tile=SIZE), detector.predict(whole)
    torch.testing.assert_close(one.anomaly_map, none.anomaly_map, rtol=1e-5, atol=1e-6)
    assert one.score == pytest.approx(none.score, rel=1e-5)
    with pytest.raises(GradError, match="--overlap needs --tile"):
        detector.predict(array, overlap=3)


@pytest.mark.parametrize("tile", [None, SIZE])
def test_a_stream_is_lazy_and_its_memory_bounded(detector, tile):
    made, alive = 0, set()

    class Watched(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def endless():
        nonlocal made
        while True:
            made += 1
            array = pixels(made % 4).view(Watched)
            alive.add(id(array))
            yield array
            del array

    results = detector.stream(endless(), batch_size=2, tile=tile)
    most = 0
    for _ in range(30):
        next(results)
        most = max(most, len(alive))
    results.close()
    assert made <= 30 + 6 and most <= 10


def test_what_can_not_be_used_is_skipped_or_raised(detector, tmp_path):
    good = picture(tmp_path / "a.png")
    bad = tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:100])
    skipped = []
    sources = [good, bad, pixels() * np.nan, good]
    found = list(detector.stream(sources, on_error=skipped.append, batch_size=8))
    assert [result.name for result in found] == [str(good), str(good)]
    assert [type(error) for error in skipped] == [UnreadableImage, GradError]
    with pytest.raises(UnreadableImage, match=r"b\.png can't be read"):
        detector.predict([good, bad])
    stream = detector.stream([good, bad], batch_size=8)
    assert next(stream).name == str(good)  # what came before is not lost
    with pytest.raises(UnreadableImage):
        next(stream)


def _bomb(path):
    """30,000 x 30,000 pixels in a few bytes: a header alone."""
    chunk = PngImagePlugin.putchunk
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(file, b"IHDR", (30000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]))
        chunk(file, b"IDAT", b"")
        chunk(file, b"IEND", b"")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("this is no image"), "it is no image that Pillow knows"),
        (_bomb, "it has more than 178 million pixels; cut it into tiles"),
        (lambda path: None, "there is no such file"),
    ],
)
def test_bad_files_are_one_sentence(detector, tmp_path, make, words):
    path = tmp_path / "a.jpg"
    make(path)
    with pytest.raises(UnreadableImage) as caught:
        detector.predict(path)
    assert words in str(caught.value) and str(caught.value).count("\n") == 0
    assert str(path) in str(caught.value)


def test_bad_models_and_devices_are_one_sentence(run, tmp_path):
    whole = (run / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    for path, words in (
        (tmp_path / "half.safetensors", "is damaged or no safetensors file"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "holds no model.safetensors"),
    ):
        with pytest.raises(GradError, match=words):
            Detector.load(path)
    for name in ("gpu", "meta"):
        with pytest.raises(GradError, match=f"--device {name} can't be used"):
            Detector.load(run, device=name)
    with pytest.raises(GradError, match="--false-alarm-rate 2 must be between 0 and 1"):
        Detector.load(run, false_alarm_rate=2)
    with pytest.raises(GradError, match="--batch-size 0 must be a whole number, 1 or more"):
        Detector.load(run).stream(pixels(), batch_size=0)  # at once, not when it is read


NO_IMAGES = {
    "0 x 0": lambda: Image.new("RGB", (0, 0)),
    "0 x 7": lambda: Image.new("L", (0, 7)),
    "array without pixels": lambda: np.zeros((0, 0, 3), np.uint8),
    "complex": lambda: torch.rand(3, 9, 9) * 1j,
    "meta": lambda: torch.rand(3, 9, 9, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.rand(3, 4, 4), torch.rand(3, 5, 5)]),
    "objects": lambda: np.array([[None] * 3] * 3),
    "path with a zero": lambda: "a\0b.png",
    "path too long": lambda: "a" * 5000,
    "quantised": lambda: torch.quantize_per_tensor(torch.rand(3, 9, 9), 0.1, 0, torch.quint8),
    "sparse": lambda: torch.rand(3, 9, 9).to_sparse(),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
@pytest.mark.filterwarnings("ignore")  # torch's, of its prototypes
def test_what_is_no_image_is_one_sentence(detector, kind):
    with pytest.raises(GradError, match="can't be"):
        detector.predict(NO_IMAGES[kind]())


@pytest.mark.parametrize(
    "options",
    [
        {"workers": -1},
        {"workers": "2"},
        {"batch_size": 2.5},
        {"tile": "64"},
        {"tile": 6.4},
        {"tile": 64, "overlap": "3"},
    ],
)
def test_numbers_of_another_kind_are_one_sentence(detector, options):
    with pytest.raises(GradError, match="must be a whole number"):
        detector.stream(pixels(), **options)


def test_a_negated_view_is_read_as_what_it_means(detector):
    values = torch.rand(3, 9, 9)
    view = torch._neg_view(-values)
    assert detector.predict(view).score == detector.predict(values).score


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_an_error(detector, tmp_path, monkeypatch, score):
    paths = [picture(tmp_path / f"{name}.png") for name in "ab"]
    engine = type(detector._engine)
    original = engine.__call__

    def broken(self, images, looked_at=None):
        maps, scores = original(self, images, looked_at)
        scores = scores.clone()
        scores[0] = score
        return maps, scores

    monkeypatch.setattr(engine, "__call__", broken)
    with pytest.raises(GradError, match="neither good nor anomalous"):
        detector.predict(paths[0])
    said = []
    found = list(detector.stream(paths, batch_size=2, workers=1, on_error=said.append))
    assert [result.name for result in found] == [str(paths[1])]
    assert str(paths[0]) in str(said[0])


def test_batches_of_values_that_are_not_finite_are_refused(detector):
    images = torch.zeros(2, 3, detector.image_size, detector.image_size)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        detector.score_batch(images)
