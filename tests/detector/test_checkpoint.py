import dataclasses
import json
import shutil

import numpy as np
import pytest
import timm
import torch
from helpers.disk import needs_dev_full
from helpers.features import measure_statistics
from safetensors import safe_open
from safetensors.torch import save_file

from grad.detector import checkpoint
from grad.detector.checkpoint import ModelInfo, load_checkpoint, save_calibration, save_checkpoint
from grad.features import backbone as backbone_module
from grad.features.backbone import load_backbone
from grad.model.grad import GRAD
from grad.score.thresholds import calibrate
from grad.system.errors import GradError

SMALL = "test_resnet"  # a model of timm with 0.5 million parameters
SIZE = 32
CALIBRATION = calibrate(
    {"bottle": [1.0, 2.0, 3.0], "Schraube ä": [2.0, 5.0]},
    {"bottle": [2.0, 4.0, 6.0], "Schraube ä": [4.0, 10.0]},
    {"bottle": "held out", "Schraube ä": "training"},
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model(SMALL).state_dict(), file)
    return load_backbone(SMALL, file)


@pytest.fixture(scope="module")
def info(backbone):
    return ModelInfo.of(backbone, image_size=SIZE, classes=("bottle", "Schraube ä"), epochs=3)


@pytest.fixture
def model(backbone):
    torch.manual_seed(0)
    shape = (backbone.channels, *backbone.feature_size(SIZE))
    model = GRAD.from_preset("grad-tiny", *shape, local_dims=3, local_resolution=2, jitter="batch")
    for _ in range(2):  # give batch normalisation statistics of its own
        model.train()(torch.randn(2, *shape))
    return model.eval()


@pytest.fixture
def path(model, backbone, info, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", model, backbone, info, CALIBRATION)
    return tmp_path / "model.safetensors"


@pytest.fixture
def no_downloads(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("tried to find weights elsewhere")

    monkeypatch.setattr(backbone_module, "download_model", refuse)
    monkeypatch.setattr(backbone_module, "find_package_weights", refuse)


def test_a_loaded_model_is_the_saved_one(model, backbone, info, path, no_downloads):
    loaded = load_checkpoint(path)
    assert loaded.info == info
    assert loaded.calibration == CALIBRATION
    assert loaded.model.settings == model.settings
    assert not loaded.model.training and not loaded.backbone.training
    images = torch.rand(2, 3, SIZE, SIZE)
    features = loaded.backbone(images)
    assert torch.equal(features, backbone(images))
    assert loaded.backbone.fingerprint == backbone.fingerprint
    assert loaded.backbone.feature_size(SIZE) == (model.settings.height, model.settings.width)
    assert torch.equal(loaded.model.loss_and_score(features)[1], model.loss_and_score(features)[1])
    weight = loaded.model.fusion[1].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_backbone_with_context_is_the_saved_one(tmp_path, no_downloads):
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "weights.safetensors")
    saved = load_backbone("test_efficientnet", tmp_path / "weights.safetensors", context=True)
    assert saved.context
    size, context = 64, saved.context
    shape = saved.channels, *saved.feature_size(size)
    model = GRAD.from_preset("grad-plus", *shape, context=context).eval()
    measure_statistics(model)
    info = ModelInfo.of(saved, image_size=size, classes=("a",), epochs=1)
    save_checkpoint(tmp_path / "model.safetensors", model, saved, info)
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    images = torch.rand(2, 3, size, size)
    assert torch.equal(loaded.backbone(images), saved(images))
    assert loaded.model.settings.context == context
    features = saved(images)
    assert torch.equal(loaded.model.loss_and_score(features)[1], model.loss_and_score(features)[1])
    metadata, tensors = checkpoint._read(tmp_path / "model.safetensors")
    assert metadata["format"] == "grad-model/3"
    save_file(tensors, tmp_path / "old.safetensors", metadata | {"format": "grad-model/2"})
    with pytest.raises(GradError, match=r"grad-model/2, this GRAD .* reads grad-model/3"):
        load_checkpoint(tmp_path / "old.safetensors")


def test_loading_draws_no_random_numbers(path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_checkpoint(path)
    assert torch.equal(torch.rand(3), expected)


def test_the_folder_of_a_run_will_do(path, tmp_path):
    assert load_checkpoint(str(path.parent)).info == load_checkpoint(path).info
    (tmp_path / "runs/one").mkdir(parents=True)
    with pytest.raises(GradError, match=r"runs holds no model.safetensors: train first"):
        load_checkpoint(tmp_path / "runs")
    path.rename(tmp_path / "runs/one/model.safetensors")
    assert load_checkpoint(tmp_path / "runs").info.classes  # the only model there


def test_of_several_models_one_has_to_be_named(path, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "runs" / name)
    with pytest.raises(GradError, match=r"give one of its folders, one, two"):
        load_checkpoint(tmp_path / "runs")


def test_a_model_without_calibration(model, backbone, info, path):
    save_checkpoint(path, model, backbone, info)
    assert load_checkpoint(path).calibration is None
    save_calibration(path, CALIBRATION)
    loaded = load_checkpoint(path)
    assert loaded.calibration == CALIBRATION and loaded.info == info


def test_metadata_is_readable_without_grad(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "grad-model/2"
    assert f'"image_size": {SIZE}' in metadata["info"]
    assert '"preset": "grad-tiny"' in metadata["model"]
    assert '"false_alarm_rate": 0.01' in metadata["calibration"]


def test_no_such_file(tmp_path):
    with pytest.raises(GradError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("legacy", [True, False])
def test_pickles_are_refused(model, tmp_path, legacy):
    path = tmp_path / "model.safetensors"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(GradError, match="pickle"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -10])
def test_truncated_files_are_refused(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep == 0.5 else keep])
    with pytest.raises(GradError, match="damaged"):
        load_checkpoint(path)


def test_a_file_without_permission(path, monkeypatch):
    """As root may read everything, the refusal comes from a stand-in."""

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(GradError, match=r"model.safetensors can't be read \(Permission denied\)"):
        load_checkpoint(path)


def test_other_safetensors_files_and_formats_are_refused(path, monkeypatch):
    metadata, tensors = checkpoint._read(path)
    save_file(tensors, path)
    with pytest.raises(GradError, match="no GRAD model"):
        load_checkpoint(path)
    save_file(tensors, path, metadata | {"format": "grad-model/9"})
    with pytest.raises(GradError, match=r"grad-model/9, this GRAD .* reads grad-model/2"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("info", "{}"),
        ("info", '"text"'),
        ("model", "not json"),
        ("calibration", '{"method": "good"}'),
        ("calibration", "[]"),
    ],
)
def test_a_damaged_header_is_refused(path, key, value):
    metadata, tensors = checkpoint._read(path)
    checkpoint._write(path, tensors, metadata | {key: value})
    with pytest.raises(GradError, match="header that does not fit"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", "64"),
        ("image_size", 0),
        ("image_size", True),
        ("tile", "64"),
        ("overlap", 1.5),
        ("epochs", None),
        ("classes", [1, 2]),
    ],
)
def test_facts_of_a_wrong_type_are_refused(path, name, value):
    metadata, tensors = checkpoint._read(path)
    info = json.loads(metadata["info"]) | {name: value}
    checkpoint._write(path, tensors, metadata | {"info": json.dumps(info)})
    with pytest.raises(GradError, match="header that does not fit"):
        load_checkpoint(path)


def test_a_header_that_does_not_fit_is_refused(model, backbone, info, path):
    model.settings = dataclasses.replace(model.settings, preset="grad-s")
    save_checkpoint(path, model, backbone, info)
    with pytest.raises(GradError, match="does not fit"):
        load_checkpoint(path)


def test_exemplars_come_back_and_must_fit(model, backbone, info, path):
    s = model.settings
    maps = torch.rand(2, s.height, s.width, s.channels).half()
    name = info.classes[-1]
    save_checkpoint(path, model, backbone, info, CALIBRATION, {name: maps})
    checkpoint.save_calibration(path, CALIBRATION)
    assert torch.equal(load_checkpoint(path).exemplars[name], maps)
    assert checkpoint.exemplar_shapes(path) == {name: tuple(maps.shape)}
    for wrong in ({"nobody": maps}, {name: maps.float()}, {name: maps[:, :-1]}):
        save_checkpoint(path, model, backbone, info, CALIBRATION, wrong)
        with pytest.raises(GradError, match="its exemplars of"):
            load_checkpoint(path)


def test_other_weights_of_the_backbone_are_refused(path):
    metadata, tensors = checkpoint._read(path)
    key = next(name for name in tensors if name.startswith("backbone.model."))
    tensors[key].view(-1)[0] += 1
    checkpoint._write(path, tensors, metadata)
    with pytest.raises(GradError, match="weights of its backbone are not those"):
        load_checkpoint(path)


def test_a_flipped_bit_anywhere_is_noticed(path):
    content, chance = path.read_bytes(), np.random.default_rng(0)
    size = int.from_bytes(content[:8], "little")
    places = [content.index(b'\\"image_size\\": ') + 16]  # of the numbers in the header, one
    places += list(8 + size + chance.integers(0, len(content) - 8 - size, 20))
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(GradError, match="is damaged"):
            load_checkpoint(path)


def test_files_without_a_digest_are_read(path):
    metadata, tensors = checkpoint._read(path)
    del metadata["digest"]
    save_file(tensors, path, metadata)
    assert load_checkpoint(path).info.epochs == 3


def test_a_backbone_that_timm_does_not_have(model, backbone, info, path):
    other = dataclasses.replace(info, backbone="resnet_of_next_year")
    save_checkpoint(path, model, backbone, other)
    with pytest.raises(GradError, match=r"resnet_of_next_year .* timm"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_other_families_come_back_too(name, info, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model(name).state_dict(), weights)
    before = load_backbone(name, weights)
    model = GRAD.from_preset("grad-tiny", before.channels, *before.feature_size(SIZE))
    fields = dataclasses.replace(
        info,
        backbone=name,
        backbone_maps=tuple(before.maps),
        backbone_fingerprint=before.fingerprint,
    )
    save_checkpoint(tmp_path / "model.safetensors", model, before, fields)
    after = load_checkpoint(tmp_path).backbone
    images = torch.rand(1, 3, SIZE, SIZE)
    assert torch.equal(after(images), before(images))


@needs_dev_full
def test_a_full_disk_leaves_the_old_file(model, backbone, info, path, monkeypatch):
    before = path.read_bytes()

    def full(tensors, filename, metadata):
        with open("/dev/full", "wb") as file:
            file.write(bytes(1 << 20))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(GradError, match="No space left on device"):
        save_checkpoint(path, model, backbone, info)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
