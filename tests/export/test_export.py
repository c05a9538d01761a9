"""``python -m grad.export``: a verified file, or one sentence and none."""

import builtins
import dataclasses
import os
import sys

import numpy as np
import pytest
import torch
from helpers.command import error_of
from helpers.exporting import SIZE, make_backbone, make_model, save, write_images
from PIL import Image

from grad.export import graph as graph_module
from grad.export import run as run_module
from grad.export.__main__ import main


@pytest.fixture(scope="module")
def loaded():
    return make_model(make_backbone())


@pytest.fixture
def model(loaded, tmp_path):
    return save(loaded, tmp_path / "run" / "model.safetensors")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def export(model, images):
    """Calls the command line; without an option of the same name for torch and these images."""

    def call(*arguments):
        given = [str(argument) for argument in arguments]
        for option, value in (("--format", "torch"), ("--images", images)):
            if option not in given:
                given += [option, str(value)]
        return main([str(model.parent), *given])

    return call


def files_of(model):
    return {path.name for path in model.parent.iterdir()}


def test_a_file_is_verified_and_lies_beside_its_model(export, model, capsys):
    assert export() == 0
    output = capsys.readouterr().out
    assert "9 of 9" in output and "3 images" in output and "model.pt2" in output
    assert files_of(model) == {"model.safetensors", "model.pt2"}


def test_openvino_with_the_demo_images_and_one_class(export, model, tmp_path, capsys, monkeypatch):
    """The whole way; few of the demo images, as each costs time in two runtimes."""
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    monkeypatch.setattr(run_module, "_DEMO_STEP", 30)
    out = tmp_path / "new" / "part.xml"
    arguments = ["--format", "openvino", "--out", out, "--class-name", "bottle", "--batch", 2]
    assert main([str(model), *map(str, arguments)]) == 0
    assert {path.name for path in out.parent.iterdir()} == {"part.xml", "part.bin"}
    assert "4 of 4" in capsys.readouterr().out


def test_another_rate_gives_other_thresholds(export, model, loaded):
    assert export("--false-alarm-rate", 0.001, "--class-name", "bottle") == 0
    with (model.parent / "model.pt2").open("rb") as file:
        threshold = torch.export.load(file).module().threshold
    assert threshold.tolist() == [loaded.calibration.at_rate(0.001).classes["bottle"].image]
    assert threshold.item() > loaded.calibration.classes["bottle"].image


@pytest.mark.parametrize("what", ["backbone", "global grid", "threshold", "map"])
def test_a_wrong_file_is_found_out_and_not_left(export, model, monkeypatch, capsys, what):
    """One weight is another, or one formula, after the model was read."""
    trace = run_module.trace

    def wrong(graph, batch):
        if what == "backbone":
            graph.backbone.model.conv_stem.weight[0, 0, 0, 0] += 0.5
        elif what == "global grid":
            graph.model.global_.grid.values[:, :, 0] += 30.0
        elif what == "threshold":
            graph.threshold *= 1.01
        else:
            graph.rows_up *= 1.002
        return trace(graph, batch)

    monkeypatch.setattr(run_module, "trace", wrong)
    assert export() == 2
    message = error_of(capsys)
    assert "does not compute what the model does" in message and "nothing was written" in message
    assert files_of(model) == {"model.safetensors"}


def test_an_older_file_survives_a_wrong_one(export, model, monkeypatch, capsys):
    (model.parent / "model.pt2").write_bytes(b"older")
    monkeypatch.setattr(graph_module.ExportGraph, "forward", broken_forward)
    assert export() == 2
    assert (model.parent / "model.pt2").read_bytes() == b"older"


def broken_forward(self, images):
    maps = torch.full((images.shape[0], SIZE, SIZE), float("nan"))
    score = maps.mean(dim=(1, 2))
    value = score[:, None] * self.threshold
    return maps, score, value, value > 0


def test_missing_packages_are_named(export, monkeypatch, capsys):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "onnxscript":
            raise ModuleNotFoundError("No module named 'onnxscript'")
        return original(name, *arguments, **options)

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(builtins, "__import__", without)
    assert export("--format", "onnx") == 2
    message = error_of(capsys)
    assert "onnxscript" in message and 'pip install "grad-anomaly[export]"' in message


def test_a_model_without_thresholds(loaded, tmp_path, capsys):
    model = save(dataclasses.replace(loaded, calibration=None), tmp_path / "model.safetensors")
    assert main([str(model), "--format", "torch"]) == 2
    assert "has no thresholds" in error_of(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "model.onnx"], "--out model.onnx must end in .pt2"),
        (["--class-name", "can"], "--class-name can is none of the model's"),
        (["--batch", "0"], "--batch 0 is too small"),
        (["--opset", "20"], "--opset is a matter of --format onnx"),
        (["--false-alarm-rate", "2"], "--false-alarm-rate 2.0 must be between 0 and 1"),
        (["--images", "nothing-here"], "There is no file or folder nothing-here"),
        (["--images", "camera:0"], "--images camera:0 never ends"),
        (["--format", "tflite"], "--format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options(export, model, capsys, arguments, words):
    assert export(*arguments) == 2
    assert words in error_of(capsys)
    assert files_of(model) == {"model.safetensors"}


def test_a_missing_model(tmp_path, capsys):
    assert main([str(tmp_path / "no.safetensors")]) == 2
    assert "does not exist" in error_of(capsys)


def test_an_output_folder_that_can_not_be_written(export, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "model.pt2"
    assert export("--out", out) == 2
    assert f"{out} can't be written" in error_of(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(export, tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert export("--out", tmp_path / "closed" / "model.pt2") == 2
    assert "can't be written" in error_of(capsys)


@pytest.mark.parametrize("kind", ["broken", "16 bit"])
def test_images_that_can_not_be_used(export, model, tmp_path, capsys, kind):
    path = tmp_path / "part.png"
    if kind == "broken":
        path.write_bytes(b"no image")
    else:
        Image.fromarray(np.full((70, 70), 1000, np.uint16)).save(path)
    assert export("--images", path) == 2
    assert str(path) in error_of(capsys)
    assert files_of(model) == {"model.safetensors"}
