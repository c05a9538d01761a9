"""Exports in 8 bits: only the fusion network, set up with good images, thresholds that follow."""

import json

import numpy as np
import pytest
from helpers.command import error_of
from helpers.exporting import SIZE, make_backbone, make_model, noise, save
from PIL import Image

from grad.export.__main__ import main
from grad.export.good_images import read_good_images, rescale_thresholds
from grad.export.graph import columns

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def loaded():
    return make_model(make_backbone())


@pytest.fixture(scope="module")
def good(loaded, tmp_path_factory):
    """Good images of both classes, of two sizes."""
    root = tmp_path_factory.mktemp("good")
    for number, name in enumerate(loaded.info.classes):
        folder = root / name / "train/good"
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = noise(1, 90, 70 + 10 * (i % 2), seed=10 * number + i)[0]
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture
def export(loaded, good, tmp_path):
    model = save(loaded, tmp_path / "run" / "model.safetensors")
    images = str(good / loaded.info.classes[0] / "train/good")

    def call(*arguments):
        return main([str(model), "--images", images, *map(str, arguments)]), model.parent

    return call


def test_the_fusion_network_alone_has_eight_bits(export, good, loaded, capsys):
    code, folder = export("--int8", good)
    assert code == 0 and "decisions equal" in capsys.readouterr().out
    model = onnx.load(folder / "model.onnx")
    made = {output: node for node in model.graph.node for output in node.output}
    eight = {True: set(), False: set()}
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = made.get(node.input[1])
            name = weight.input[0] if weight is not None else node.input[1]
            eight[weight is not None].add(name.split(".")[0:2][-1])
    assert eight[True] == {"fusion"} and eight[False] and "fusion" not in eight[False]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == list(loaded.info.classes)
    before = [column.threshold.image for column in columns(loaded.calibration, None)]
    after = [limit["image"] for limit in json.loads(facts["thresholds"])]
    assert after != before and np.allclose(after, before, rtol=0.2)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    maps, scores, values, verdicts = session.run(None, {"images": noise(3, 80, 70)})
    limits = np.array(after, np.float32)
    assert np.array_equal(values > 0.5, verdicts)
    joint = maps.max(axis=(1, 2))[:, None] > [t["pixel"] for t in json.loads(facts["thresholds"])]
    assert np.array_equal(verdicts, (scores[:, None] > limits) | joint)


def test_openvino_and_a_fixed_batch_of_resized_images(export, good, tmp_path, capsys):
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    code, folder = export("--int8", good, "--format", "openvino", "--resize", "none", "--batch", 2)
    assert code == 0
    description = (folder / "model.xml").read_text()
    assert 'type="FakeQuantize"' in description or 'element_type="u8"' in description


def test_thresholds_move_with_the_scores_of_good_images(loaded, good):
    classes = loaded.info.classes
    images = read_good_images(good, classes, None)
    chosen = columns(loaded.calibration, None)
    factors = dict(zip(classes, (1.1, 0.9), strict=True))

    def score(pixels, name):
        found = pixels.mean(dim=(1, 2, 3)) + 1
        return found[:, None, None].expand(-1, 4, 4), found / factors[name]

    def run(pixels):
        found = (pixels.mean(axis=(1, 2, 3)) + 1).astype(np.float32)
        return [np.broadcast_to(2 * found[:, None, None], (len(found), 4, 4)), found]

    moved = rescale_thresholds(chosen, run, score, images, SIZE, "none")
    for before, after in zip(chosen, moved, strict=True):
        factor = factors.get(before.name, 1.0)
        assert after.threshold.image == pytest.approx(factor * before.threshold.image, rel=1e-5)
        assert after.threshold.pixel == pytest.approx(2 * before.threshold.pixel, rel=1e-5)


def test_what_can_not_be_is_one_sentence(export, good, tmp_path, capsys):
    code, folder = export("--int8", good, "--format", "torch")
    assert code == 2 and "--int8 is a matter of --format onnx" in error_of(capsys)
    code, _ = export("--int8", tmp_path / "absent")
    assert code == 2 and "absent does not exist" in error_of(capsys)
    folder = tmp_path / "other/train/good"
    folder.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(noise(1, 64, 64, seed=i)[0]).save(folder / f"{i}.png")
    code, run = export("--int8", tmp_path / "other")
    assert code == 2 and "holds no good images of class" in error_of(capsys)
    assert {path.name for path in run.iterdir()} == {"model.safetensors"}


def test_a_file_that_is_too_far_off_is_not_written(export, good, capsys, monkeypatch):
    from grad.export.formats import onnx as onnx_format

    def spoil(path, images):
        model = onnx.load(path)
        for value in model.graph.initializer:
            if value.name.startswith("model.fusion.") and value.name.endswith("weight"):
                array = onnx.numpy_helper.to_array(value)
                value.CopyFrom(onnx.numpy_helper.from_array(30 * array, value.name))
        onnx.save(model, path)

    monkeypatch.setattr(onnx_format, "quantise", spoil)
    code, folder = export("--int8", good)
    assert code == 2 and "does not compute what the model does" in error_of(capsys)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors"}
