import pytest
import timm
import torch
from helpers.operators import assert_near
from torch import nn

from grad.detector.folding import fold_batch_norms
from grad.detector.onednn import FusedConv2d, fuse_convolutions, is_available
from grad.model.fusion import fusion_network

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
onednn = pytest.mark.skipif(not is_available(), reason="this torch has no oneDNN")


def with_statistics(model):
    """In evaluation mode, with batch norms that do something."""
    torch.manual_seed(1)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
    return model.eval().requires_grad_(False)


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def timm_model(name):
    options = {} if name.startswith("vit") else {"features_only": True}
    return with_statistics(timm.create_model(name, **options))


def outputs(model, images=IMAGES):
    found = model(images)
    return list(found) if isinstance(found, (list, tuple)) else [found]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tf_efficientnet_lite0", 0),  # TensorFlow's padding, BatchNormAct2d
        ("tf_efficientnet_b0", 0),  # squeeze and excitation
        ("resnet18", 0),
        ("regnety_002", 0),
        ("densenet121", 62),  # batch norms before their convolution, after a concatenation
        ("convnext_atto", 0),
    ],
)
def test_a_folded_timm_model_computes_the_same(name, left):
    model = timm_model(name)
    folded = fold_batch_norms(model, IMAGES[:1])
    assert count(folded, nn.BatchNorm2d) == left
    assert_near(outputs(folded), outputs(model), 1e-5)
    if is_available():
        fused = fuse_convolutions(folded.to(memory_format=torch.channels_last), IMAGES[:1])
        assert not any(type(module) is nn.Conv2d for module in fused.modules())
        assert_near(outputs(fused), outputs(model), 1e-5)


def test_a_folded_fusion_network_computes_the_same():
    model = with_statistics(fusion_network(12, 8, blocks=3, width=16))
    maps = torch.randn(2, 12, 9, 9)
    folded = fold_batch_norms(model, maps[:1])
    assert count(folded, nn.BatchNorm2d) == 0 and count(model, nn.BatchNorm2d) == 6
    assert_near(folded(maps), model(maps), 1e-5)


def test_a_vision_transformer_stays_as_it_is():
    model = with_statistics(timm.create_model("test_vit", dynamic_img_size=True))
    folded = fold_batch_norms(model, IMAGES[:1])
    assert folded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(folded(IMAGES), model(IMAGES))


class Branching(nn.Module):
    """The convolution's output is used beside the batch norm too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Returning(Branching):
    """It is a result of its own."""

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y


class Twice(Branching):
    """The convolution runs twice, once without its batch norm."""

    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x)


class Standardised(nn.Conv2d):
    """Weights are changed on their way: folding into them would be undone."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


class Subclassed(Branching):
    def __init__(self):
        super().__init__()
        self.conv = Standardised(3, 4, 3)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize("kind", [Branching, Returning, Twice, Subclassed])
def test_what_a_convolution_gives_to_others_is_not_changed(kind):
    model = with_statistics(kind())
    folded = fold_batch_norms(model, IMAGES)
    assert count(folded, nn.BatchNorm2d) == 1
    assert_near(outputs(folded), outputs(model), 1e-6)


class Activated(nn.Module):
    def __init__(self, activation, *, shared=False):
        super().__init__()
        self.conv, self.act, self.shared = nn.Conv2d(3, 4, 3), activation, shared

    def forward(self, x):
        y = self.conv(x)
        return self.act(y) + y if self.shared else self.act(y)


@onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU])
def test_activations_run_with_their_convolution(kind, dtype):
    model = Activated(kind()).eval().requires_grad_(False).to(dtype)
    images = (4 * IMAGES - 2).to(dtype)
    fused = fuse_convolutions(model, images)
    assert isinstance(fused.act, nn.GELU if kind is nn.GELU else nn.Identity)
    assert_near(fused(images), model(images), 1e-6 if dtype == torch.float32 else 1e-2)


@onednn
def test_an_activation_that_is_not_alone_stays():
    model = Activated(nn.ReLU(), shared=True).requires_grad_(False)
    fused = fuse_convolutions(model, IMAGES)
    assert isinstance(fused.act, nn.ReLU) and isinstance(fused.conv, FusedConv2d)
    assert_near(fused(IMAGES), model(IMAGES), 1e-6)


@onednn
@pytest.mark.parametrize("preset", [(12, 16), (16, 16)])
def test_residual_blocks_become_two_primitives(preset):
    inputs, width = preset
    model = fold_batch_norms(
        with_statistics(fusion_network(inputs, 8, blocks=2, width=width)),
        torch.randn(1, inputs, 9, 9),
    )
    maps = torch.randn(3, inputs, 9, 9).contiguous(memory_format=torch.channels_last)
    fused = fuse_convolutions(model, maps[:1])
    assert count(fused, FusedConv2d) == 2 * 2 + 1 + (inputs != width)
    assert_near(fused(maps), model(maps), 1e-6)
