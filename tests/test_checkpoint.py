import dataclasses
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from grad import checkpoint
from grad.checkpoint import ModelInfo, load_checkpoint, save_checkpoint
from grad.errors import GradError
from grad.model import GRAD

INFO = ModelInfo(
    backbone="tf_efficientnet_lite0",
    backbone_fingerprint="abc",
    image_size=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.25, 0.5),
    classes=("bottle", "Schraube ä"),
    epochs=3,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-tiny", 8, 4, 4, local_dims=3, local_resolution=2, jitter="batch")
    for _ in range(2):  # give batch normalisation statistics of its own
        model.train()(torch.randn(2, 8, 4, 4))
    return model.eval()


@pytest.fixture
def path(model, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", model, INFO)
    return tmp_path / "model.safetensors"


def test_a_loaded_model_is_the_saved_one(model, path):
    loaded, info = load_checkpoint(path)
    assert info == INFO
    assert loaded.settings == model.settings
    assert not loaded.training
    features = torch.randn(2, 8, 4, 4)
    assert torch.equal(loaded.loss_and_score(features)[1], model.loss_and_score(features)[1])
    weight = loaded.fusion[1].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_metadata_is_readable_without_grad(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "grad-model/1"
    assert '"image_size": 224' in metadata["info"]
    assert '"preset": "grad-tiny"' in metadata["model"]


def test_no_such_file(tmp_path):
    with pytest.raises(GradError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("legacy", [True, False])
def test_pickles_are_refused(model, tmp_path, legacy):
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(GradError, match="pickle"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_truncated_files_are_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(GradError, match="damaged"):
        load_checkpoint(path)


def test_other_safetensors_files_and_formats_are_refused(model, tmp_path, monkeypatch):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(GradError, match="no GRAD model"):
        load_checkpoint(path)
    monkeypatch.setattr(checkpoint, "FORMAT", "grad-model/9")
    save_checkpoint(path, model, INFO)
    monkeypatch.undo()
    with pytest.raises(GradError, match="grad-model/9"):
        load_checkpoint(path)


def test_a_header_that_does_not_fit_is_refused(model, path):
    other = dataclasses.replace(model.settings, preset="grad-s")
    model.settings = other
    save_checkpoint(path, model, INFO)
    with pytest.raises(GradError, match="does not fit"):
        load_checkpoint(path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_file(model, path, monkeypatch):
    before = path.read_bytes()

    def full(tensors, filename, metadata):
        with open("/dev/full", "wb") as file:
            file.write(bytes(1 << 20))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(GradError, match="No space left on device"):
        save_checkpoint(path, model, INFO)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
