"""A model that learns from tiles: its features, its run, and what predicts with it."""

import json

import numpy as np
import pytest
import torch
from helpers.images import FakeBackbone
from PIL import Image, ImageDraw

from grad.data.images import load_picture
from grad.data.mosaic import Mosaic
from grad.data.picture import as_floats
from grad.data.samples import Sample, held_out_count
from grad.data.tiling import Tiling
from grad.detector.checkpoint import load_checkpoint
from grad.detector.detector import Detector
from grad.features.compute import compute_features
from grad.model.grad import GRAD
from grad.score.anomaly_map import score_tiles
from grad.score.dataset import scored
from grad.system.errors import GradError
from grad.train.__main__ import main

SIDE = 32
TILING = Tiling(40, 10)  # of 100 x 130 pixels, seen at 80 x 104: 3 x 4 tiles


@pytest.fixture
def samples(tmp_path):
    rng, found = np.random.default_rng(0), []
    for name, size in (("a", (100, 130)), ("b", (100, 130)), ("c", (20, 25))):
        path = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        found.append(Sample(path, "x", "train"))
    return found


@pytest.fixture
def compute(samples, tmp_path):
    def call(backbone, tiling=TILING):
        cache = tmp_path / "cache"
        return compute_features(samples, backbone, SIDE, cache=cache, tiling=tiling)

    return call


def test_each_tile_is_a_row(compute, samples):
    backbone = FakeBackbone()
    features = compute(backbone)
    assert len(features) == 3 and features.samples == tuple(samples)
    tiles = features.tiles()
    assert len(tiles) == tiles.shape[0] == backbone.images == 12 + 12 + 1
    assert [sample.path.stem for sample in tiles.samples] == [*"a" * 12, *"b" * 12, "c"]
    picture = load_picture(samples[1].path)
    cut = list(Mosaic.of_image(TILING, picture.size, SIDE).cut(picture))
    expected = FakeBackbone()(torch.stack([as_floats(tile) for tile in cut])).half()
    assert torch.equal(tiles.batch(range(12, 24)), expected)
    assert torch.equal(torch.cat(list(features.tiles_of(1))), expected)
    assert torch.equal(torch.cat(list(features.subset([2, 1]).tiles_of(1))), expected)
    assert tiles.tiles() is tiles


def test_tiles_are_cached_apart_from_whole_images_and_other_tiles(compute):
    for tiling, images in ((TILING, 25), (None, 3), (Tiling(40, 30), 25 + 36), (TILING, 0)):
        backbone = FakeBackbone()
        compute(backbone, tiling)
        assert (backbone.images > 0) == (images > 0)
        assert tiling is None or tiling.overlap != 10 or backbone.images == images


def test_all_tiles_of_an_unreadable_image_are_left_out(compute, samples):
    content = samples[0].path.read_bytes()
    samples[0].path.write_bytes(content[: len(content) // 2])  # the header is whole
    features = compute(FakeBackbone())
    assert features.samples == tuple(samples[1:]) and features.skipped == (samples[0].path,)
    fresh = FakeBackbone()(
        torch.stack(
            [
                as_floats(tile)
                for picture in [load_picture(samples[2].path)]
                for tile in Mosaic.of_image(TILING, picture.size, SIDE).cut(picture)
            ]
        )
    )
    assert torch.equal(features.tiles().batch([12]), fresh.half())


def test_images_are_judged_on_the_blended_map(compute, samples):
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-tiny", 4, 4, 4).eval()
    found = list(scored(model, compute(FakeBackbone()), SIDE))
    assert [sample for of_image, _, _ in found for sample in of_image] == samples
    for sample, (_, scores, maps) in zip(samples, found, strict=True):

        def score_map(tiles):
            with torch.no_grad():
                return model.loss_and_score(FakeBackbone()(as_floats(tiles)).half().float())[1]

        expected, score = score_tiles(score_map, load_picture(sample.path), SIDE, TILING)
        assert maps.shape == (1, *expected.shape)
        torch.testing.assert_close(maps[0], expected, rtol=1e-4, atol=1e-5)
        assert float(scores[0]) == pytest.approx(score, rel=1e-4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise of 120 x 160 pixels; defects are small squares."""
    root = tmp_path_factory.mktemp("data") / "parts"
    rng = np.random.default_rng(0)

    def image(path, spot=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(120, 8, (120, 160, 3)).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(noise)
        if spot is not None:
            ImageDraw.Draw(picture).rectangle(spot, fill="black")
        picture.save(path)

    for i in range(10):
        image(root / "train/good" / f"{i}.png")
    for i in range(3):
        image(root / "test/good" / f"{i}.png")
        spot = (30 + 30 * i, 40, 42 + 30 * i, 52)
        image(root / "test/hole" / f"{i}.png", spot)
        mask = Image.new("L", (160, 120))
        ImageDraw.Draw(mask).rectangle(spot, fill=255)
        (root / "ground_truth/hole").mkdir(parents=True, exist_ok=True)
        mask.save(root / "ground_truth/hole" / f"{i}.png")
    return root


def test_a_run_on_tiles_and_what_predicts_with_it(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = "--backbone tf_efficientnet_lite0 --preset grad-tiny --epochs 1 --batch-size 16"
    options = f"{quick} --image-size 64 --tile 64 --overlap 16 --device cpu --precision float32"
    options += " --calibration-share 0.3"
    assert main([*options.split(), "--data", str(data), "--out", "run", "--cache", "cache"]) == 0
    summary = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (summary["settings"]["tile"], summary["settings"]["overlap"]) == (64, 16)
    kept_out = held_out_count(10, 0.3)  # images, not tiles
    assert summary["settings"]["images"]["parts"]["train"] == 10 - kept_out < 10
    assert summary["classes"]["parts"]["pixel_auroc"] is not None
    info = load_checkpoint(tmp_path / "run").info
    assert (info.tile, info.overlap) == (64, 16)

    detector = Detector.load("run", device="cpu", precision="float32")
    path = data / "test/hole/0.png"
    result = detector.predict(path)
    assert result.anomaly_map.shape == (120, 160)
    records = [json.loads(line) for line in (tmp_path / "run/records.jsonl").open()]
    record = next(r for r in records if r.get("path", "").endswith("hole/0.png"))
    assert result.score == pytest.approx(record["score"], rel=1e-3)
    assert detector.predict(path, tile=0).anomaly_map.shape == (64, 64)
    other = detector.predict(path, tile=80)
    assert other.anomaly_map.shape == (120, 160) and other.score != result.score


def test_an_overlap_alone_is_refused():
    with pytest.raises(GradError, match="--overlap needs --tile"):
        from grad.train.options import TrainOptions

        TrainOptions(overlap=3)
