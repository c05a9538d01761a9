import pytest
import torch

from grad.detector.checkpoint import ModelInfo, load_checkpoint, save_checkpoint
from grad.detector.training.loop import make_optimizer
from grad.detector.training.schedule import Schedule
from grad.features.backbone import load_backbone
from grad.features.weights import BUILT_IN_BACKBONE
from grad.model.grad import GRAD
from grad.model.memory import COMMITMENT, Attention, MemoryPart, VectorQuantisation
from grad.system.errors import GradError
from grad.train.options import TrainOptions, parse, write_options
from grad.train.plan import make_plan

C, H, W = 6, 4, 3
RIVALS = ["vq", "attention"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**options):
    torch.manual_seed(0)
    return GRAD.from_preset("grad-tiny", C, H, W, **options)


def test_the_nearest_entry_answers():
    memory = VectorQuantisation(9, C, C)
    memory.keys.data = normal(9, C)
    queries = normal(50, C, seed=1)
    answers, _ = memory(queries)
    nearest = torch.cdist(queries, memory.keys).argmin(dim=1)
    assert nearest.unique().numel() > 3
    torch.testing.assert_close(answers, memory.keys[nearest])


def test_entries_of_another_width_are_found_by_their_keys():
    memory = VectorQuantisation(5, C, 4 * C)
    memory.keys.data, memory.values.data = normal(5, C), normal(5, 4 * C, seed=2)
    queries = memory.keys[[3, 0, 3]].detach() + 0.01
    answers, loss = memory(queries)
    torch.testing.assert_close(answers, memory.values[[3, 0, 3]])
    assert loss.item() == pytest.approx((1 + COMMITMENT) * 1e-4, rel=1e-3)


def test_the_gradient_goes_straight_through_to_the_query():
    """As if the query were the answer; over the pixels of a wider answer it is summed."""
    weights = normal(7, 2 * C, seed=3)
    for width, expected in ((C, weights[:, :C]), (2 * C, weights[:, :C] + weights[:, C:])):
        memory = VectorQuantisation(4, C, width)
        queries = normal(7, C).requires_grad_()
        answers, _ = memory(queries)
        (answers * weights[:, :width]).sum().backward()
        torch.testing.assert_close(queries.grad, expected)
        assert memory.keys.grad is None  # the codebook loss moves them


def test_codebook_loss_moves_keys_to_queries_and_commitment_the_other_way():
    memory = VectorQuantisation(1, C, C)
    queries = normal(3, C).requires_grad_()
    _, loss = memory(queries)
    loss.backward()
    difference = 2 * (memory.keys - queries) / queries.numel()
    torch.testing.assert_close(memory.keys.grad, difference.sum(dim=0, keepdim=True))
    torch.testing.assert_close(queries.grad, -COMMITMENT * difference)


def test_attention_is_scaled_dot_product_attention():
    memory = Attention(5, C, 3 * C)
    memory.keys.data, memory.values.data = normal(5, C), normal(5, 3 * C, seed=2)
    queries = normal(8, C, seed=1)
    answers, loss = memory(queries)
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries[None], memory.keys[None], memory.values[None]
    )
    torch.testing.assert_close(answers, expected[0])
    assert loss.item() == 0


@pytest.mark.parametrize("parts", ["local+global", "local", "global"])
@pytest.mark.parametrize("local", ["grid", *RIVALS])
@pytest.mark.parametrize("global_", ["grid", *RIVALS])
def test_every_combination_trains(parts, local, global_):
    model = make(parts=parts, local=local, global_=global_, local_entries=3, global_entries=2)
    features = normal(4, C, H, W)
    model.train()
    loss, score = model.loss_and_score(features)
    loss.backward()
    assert score.shape == (4, H, W) and loss.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_the_codebook_loss_is_part_of_the_loss_and_attention_adds_none():
    features = normal(4, C, H, W)
    for kind in RIVALS:
        model = make(local=kind, global_=kind, refine="none").eval()
        loss, _ = model.loss_and_score(features)
        error = (model(features) - features).square().mean()
        _, local = model.local(features)
        _, global_ = model.global_(features)
        torch.testing.assert_close(loss, error + local + global_)
        assert (local + global_ > 0) == (kind == "vq")


def test_both_rivals_fill_the_fusion_networks_input_global_first():
    model = make(local="vq", global_="attention").eval()
    model.fusion = torch.nn.Identity()
    features = normal(2, C, H, W)
    both = model(features)
    whole, _ = model.global_(features)
    pixels, _ = model.local(features)
    torch.testing.assert_close(both[:, :C], whole.view(2, H, W, C).permute(0, 3, 1, 2))
    torch.testing.assert_close(both[:, C:], pixels.view(2, H, W, C).permute(0, 3, 1, 2))


def test_the_optimizer_treats_entries_as_grids():
    model = make(local="vq", global_="attention")
    _, stores = make_optimizer(model, Schedule()).param_groups
    entries = [model.local.memory.keys, model.global_.memory.keys, model.global_.memory.values]
    assert [id(p) for p in stores["params"]] == [id(p) for p in entries]
    assert stores["lr"] == 1e-1


def test_the_lookup_is_exact_under_autocast():
    part = MemoryPart("vq", 16, C)
    features = normal(40, C, 1, 1)
    exact, _ = part(features)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = part(features)
    assert torch.equal(exact, found)


@pytest.mark.parametrize("kind", RIVALS)
def test_a_checkpoint_keeps_the_rivals(kind, tmp_path):
    backbone = load_backbone(BUILT_IN_BACKBONE)
    torch.manual_seed(0)
    settings = {"local": kind, "global_": kind, "local_entries": 5, "global_entries": 3}
    model = GRAD.from_preset("grad-tiny", backbone.channels, 2, 2, **settings).eval()
    info = ModelInfo.of(backbone, image_size=16, classes=("a",), epochs=1)
    save_checkpoint(tmp_path / "m.safetensors", model, backbone, info)
    loaded = load_checkpoint(tmp_path / "m.safetensors").model
    assert loaded.settings == model.settings
    features = normal(2, backbone.channels, 2, 2)
    torch.testing.assert_close(loaded(features), model(features))


def test_settings_of_older_checkpoints_mean_grids():
    older = {"preset": "grad-tiny", "channels": C, "height": H, "width": W, "local_dims": 1}
    settings = GRAD.from_preset(**older).settings
    assert (settings.local, settings.global_) == ("grid", "grid")


def test_options_reach_the_model_and_survive_the_config_file(tmp_path):
    given = parse(["--local", "attention", "--global", "vq", "--global-entries", "64"])
    options = make_plan(given, torch.device("cpu")).model_options()
    assert (options["local"], options["global_"]) == ("attention", "vq")
    assert (options["local_entries"], options["global_entries"]) == (64, 64)
    write_options(tmp_path / "config.yaml", given)
    assert "global: vq" in (tmp_path / "config.yaml").read_text()
    assert parse(["--config", str(tmp_path / "config.yaml")]) == given


def test_wrong_options_are_named():
    with pytest.raises(GradError, match="--global"):
        parse(["--global", "all"])
    with pytest.raises(GradError, match="--local-entries 0"):
        TrainOptions(local_entries=0)
    with pytest.raises(GradError, match="local must be one of grid, vq, attention"):
        make(local="mean")
