from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from grad.model.fusion import ResidualBlock
from grad.model.grad import GRAD
from grad.model.grids import Grid
from grad.model.presets import PRESETS, Preset
from grad.model.rows import to_maps, to_rows
from grad.model.size import count_flops, count_parameters
from grad.ops import reference
from grad.system.errors import GradError

TINY = ("grad-tiny", 12, 5, 4)


def make(**options):
    torch.manual_seed(0)
    return GRAD.from_preset(*TINY, **options)


def maps(batch=3, channels=12, height=5, width=4):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("preset", "millions", "gflop"),
    [("grad", 13.84, 17.34), ("grad-s", 5.90, 4.90), ("grad-432", 26.44, 37.09)],
)
def test_presets_have_the_papers_size(preset, millions, gflop):
    model = GRAD.from_preset(preset, 216, 28, 28)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)
    assert count_flops(model) / 1e9 == pytest.approx(gflop, abs=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_rebuilds_its_maps(preset):
    context = 4 if PRESETS[preset].context else 0
    model = GRAD.from_preset(preset, *TINY[1:], context=context).eval()
    assert model(maps()).shape == (3, 12 - context, 5, 4)
    assert PRESETS[preset].statistics == (model.statistics is not None)


def test_the_names_of_presets_are_those_of_the_table():
    assert set(get_args(Preset)) == set(PRESETS)


def test_grad_is_within_one_percent_of_the_papers_table():
    model = GRAD.from_preset("grad", 216, 28, 28)
    assert count_parameters(model) == pytest.approx(13.8e6, rel=0.01)
    assert count_flops(model) == pytest.approx(17.4e9, rel=0.01)


def test_counting_flops_changes_nothing():
    model = make().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_forward_is_the_formula_with_grid_sample():
    """Heads, both lookups by torch's grid_sample, [global, local], fusion: as the paper says."""
    model = make(jitter="off").eval()
    features = maps()
    local, whole = model.local, model.global_
    rows = features.permute(0, 2, 3, 1)  # (B, H, W, C)
    coords = torch.tanh(local.coords(local.hidden(rows)))  # (B, H, W, 2)
    cells = local.grid.values.permute(2, 0, 1)[None].expand(3, -1, -1, -1)
    local_map = F.grid_sample(cells, coords, align_corners=False)
    global_coords = whole.coords(features)[None, None]  # (1, 1, B, 2)
    cells = whole.grid.values.permute(2, 0, 1)[None]
    values = F.grid_sample(cells, global_coords, align_corners=False)[0, :, 0].T  # (B, H*W*C)
    global_map = values.reshape(3, 5, 4, 12).permute(0, 3, 1, 2)
    expected = model.fusion(torch.cat([global_map, local_map], dim=1))
    torch.testing.assert_close(model(features), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("parts", "dims"), [("local+global", 2), ("local", 1), ("global", 3)])
def test_coordinates_are_those_that_the_grids_are_asked_for(parts, dims):
    """Looking both grids up at them, by the specification, gives the fusion network's input."""
    model = make(parts=parts, local_dims=dims, global_dims=dims).train()  # jitter would show
    features = maps()
    local, whole = model.coordinates(features)
    values = []
    if whole is not None:
        assert whole.shape == (3, dims)
        found = reference.interpolate(whole, model.global_.grid.values)
        values.append(found.view(-1, 12))
    if local is not None:
        assert local.shape == (3, 5, 4, dims)
        values.append(reference.interpolate(local.view(-1, dims), model.local.grid.values))
    expected = model.eval().fusion(to_maps(torch.cat(values, dim=1), features))
    torch.testing.assert_close(model(features), expected, rtol=1e-4, atol=1e-6)
    assert (local is None, whole is None) == (parts == "global", parts == "local")


@pytest.mark.parametrize("parts", ["local+global", "local", "global"])
@pytest.mark.parametrize(("local_dims", "global_dims"), [(2, 2), (1, 3), (4, 1)])
def test_parts_and_dimensions_train(parts, local_dims, global_dims):
    model = make(parts=parts, local_dims=local_dims, global_dims=global_dims, local_resolution=3)
    loss, score = model.train().loss_and_score(maps())
    loss.backward()
    assert score.shape == (3, 5, 4)
    assert loss.dtype == score.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_an_image_scores_the_same_alone_and_in_a_batch_and_in_any_layout():
    model = make().eval()
    features = maps()
    _, together = model.loss_and_score(features)
    _, alone = model.loss_and_score(features[1:2])
    _, other = model.loss_and_score(features.to(memory_format=torch.channels_last))
    torch.testing.assert_close(alone[0], together[1])
    torch.testing.assert_close(other, together)


def test_prediction_is_channels_last():
    assert make()(maps()).is_contiguous(memory_format=torch.channels_last)


def test_jitter_is_on_in_training_only_and_follows_the_seed():
    model = make()
    for module in model.modules():  # batch normalisation must not hide or add differences
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    features = maps()

    def predict(training, seed):
        torch.manual_seed(seed)
        return model.train(training)(features)

    assert torch.equal(predict(False, 0), predict(False, 1))
    assert torch.equal(predict(True, 0), predict(True, 0))
    assert not torch.equal(predict(True, 0), predict(True, 1))
    assert not torch.equal(predict(True, 0), predict(False, 0))


def test_without_refinement_score_is_the_plain_distance():
    model = make(refine="none").eval()
    features = maps()
    loss, score = model.loss_and_score(features)
    difference = model(features) - features
    torch.testing.assert_close(score, difference.norm(dim=1))
    torch.testing.assert_close(loss, difference.square().mean())


def test_weights_start_as_designed():
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-s", 216, 14, 14)
    grids = [m for m in model.modules() if isinstance(m, Grid)]
    assert [tuple(g.values.shape) for g in grids] == [(8, 8, 216), (4, 4, 14 * 14 * 216)]
    assert grids[0].values.std().item() == pytest.approx((2 / (217 * 64)) ** 0.5, rel=0.03)
    assert grids[1].values.std().item() == pytest.approx((2 / (42337 * 16)) ** 0.5, rel=0.03)
    assert model.fusion[1].conv1.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert model.fusion[-1].bias is None
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, torch.nn.Linear))


def test_equal_widths_need_no_shortcut_convolution():
    assert isinstance(ResidualBlock(8, 8).shortcut, torch.nn.Identity)
    assert (PRESETS["grad-432"].blocks, PRESETS["grad-432"].width) == (7, 432)


def test_rows_are_a_view_of_channels_last_maps():
    x = maps().to(memory_format=torch.channels_last)
    rows = to_rows(x)
    assert rows.data_ptr() == x.data_ptr() and rows.shape == (60, 12)
    assert torch.equal(to_maps(rows, x), x)


def test_bfloat16_autocast_keeps_loss_in_float32():
    model = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, score = model.loss_and_score(maps().bfloat16())
    loss.backward()
    assert loss.dtype == score.dtype == torch.float32
    exact, _ = make().train().loss_and_score(maps())
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"parts": "all"}, "parts"),
        ({"local_dims": 5}, "local_dims"),
        ({"global_resolution": 0}, "global_resolution"),
        ({"jitter": "on"}, "jitter"),
        ({"jitter_probability": 2.0}, "probability"),
    ],
)
def test_wrong_settings_are_named(options, word):
    with pytest.raises(GradError, match=word):
        make(**options)


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 12, 5, 4\)"):
        make()(maps(height=6))
