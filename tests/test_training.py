import pytest
import torch
from conftest import make_features

from grad.batches import batches
from grad.errors import GradError
from grad.model import GRAD, Grid
from grad.training import Schedule, choose_precision, fit, make_optimizer

SHAPE = (6, 3, 3)  # C, H, W


def make_model(seed=0):
    torch.manual_seed(seed)
    return GRAD.from_preset("grad-tiny", *SHAPE)


def test_the_defaults_are_the_papers():
    schedule = Schedule()
    assert (schedule.epochs, schedule.batch_size, schedule.clip) == (100, 64, 0.1)
    assert schedule.milestones == [40, 80]
    assert Schedule(epochs=16).milestones == [6, 12]
    assert Schedule(epochs=16, drops=(9, 3)).milestones == [3, 9]
    assert Schedule(epochs=1).milestones == []
    assert Schedule(epochs=2).milestones == [1]


def test_the_optimizer_groups_by_type():
    model = make_model()
    networks, grids = make_optimizer(model, Schedule()).param_groups
    grid_values = [m.values for m in model.modules() if isinstance(m, Grid)]
    assert [id(p) for p in grids["params"]] == [id(v) for v in grid_values]
    assert len(networks["params"]) + 2 == len(list(model.parameters()))
    assert (networks["lr"], grids["lr"]) == (1e-3, 1e-1)
    assert networks["weight_decay"] == grids["weight_decay"] == 1e-2


def test_a_step_is_adamw_on_clipped_gradients():
    """One epoch of one batch against the same step written out."""
    features, schedule = make_features(4), Schedule(epochs=1, batch_size=4)
    trained, expected = make_model(), make_model()
    fit(trained, features, schedule, seed=5)

    expected.train()
    optimizer = make_optimizer(expected, schedule)
    torch.manual_seed(5)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(5))
    loss, _ = expected.loss_and_score(features.batch(order.tolist()).float())
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in expected.parameters()]).norm()
    assert norm > 0.1  # or clipping would not be tested
    for p in expected.parameters():
        p.grad *= 0.1 / (norm + 1e-6)
    optimizer.step()
    clipped = torch.stack([p.grad.norm() for p in trained.parameters()]).norm()
    assert clipped.item() == pytest.approx(0.1, rel=1e-4)
    for (name, a), b in zip(trained.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_the_loss_falls_and_the_result_is_in_evaluation_mode():
    model = make_model()
    result = fit(model, make_features(), Schedule(epochs=15, batch_size=4))
    assert result.epochs == len(result.history.loss) == 15
    assert result.history.loss[-1] < 0.5 * result.history.loss[0]
    assert not model.training and not result.interrupted


def test_same_seed_same_weights_other_seed_others():
    def train(seed):
        model = make_model()
        fit(model, make_features(), Schedule(epochs=2, batch_size=4), seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(train(0), train(0))
    assert not torch.equal(train(0), train(1))


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 2])],
)
def test_batches_hold_every_image_once(count, size, sizes):
    found = batches(count, size, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in found] == sizes
    assert sorted(i for batch in found for i in batch) == list(range(count))


def test_nan_stops_and_names_the_files_of_its_batch():
    features = make_features(12, broken=7)
    order = batches(12, 4, torch.Generator().manual_seed(3))
    guilty = next(batch for batch in order if 7 in batch)
    with pytest.raises(GradError, match="NaN") as error:
        fit(make_model(), features, Schedule(epochs=2, batch_size=4), seed=3)
    named = {i for i in range(12) if f" {i}.png" in str(error.value)}
    assert named == set(guilty)


def test_ctrl_c_returns_what_was_learned(monkeypatch):
    model, original, calls = make_model(), GRAD.loss_and_score, []

    def interrupted(self, features):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, features)

    monkeypatch.setattr(GRAD, "loss_and_score", interrupted)
    before = [p.detach().clone() for p in model.parameters()]
    result = fit(model, make_features(8), Schedule(epochs=9, batch_size=4))
    assert result.interrupted and result.epochs == 2
    assert not model.training
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_bfloat16_learns_too():
    result = fit(
        make_model(), make_features(), Schedule(epochs=8, batch_size=4), precision="bfloat16"
    )
    assert result.history.loss[-1] < 0.8 * result.history.loss[0]


def test_precision_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert choose_precision(torch.device("cpu")) == expected
