import dataclasses
import functools
import time

import pytest
import torch
from helpers.features import make_features

from grad.detector.training import loop as training
from grad.detector.training.loop import fit, make_optimizer
from grad.detector.training.schedule import Schedule
from grad.detector.training.step import TrainingStep
from grad.features.batches import Loader, balanced_batches, batches, fits
from grad.features.store import MapsInMemory
from grad.model.grad import GRAD
from grad.model.grids import Grid
from grad.system.devices import choose_precision
from grad.system.errors import GradError

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
    cosine = Schedule(epochs=4, decay="cosine")
    shares = [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]
    assert [cosine.learning_rates(e)[0] for e in range(4)] == pytest.approx(
        [1e-3 * share for share in shares]
    )
    assert [cosine.learning_rates(e)[1] for e in range(4)] == pytest.approx(
        [1e-1 * share for share in shares]
    )


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


def test_balanced_batches_draw_all_classes_equally_often():
    classes = ["many"] * 900 + ["few"] * 90 + ["rare"] * 9
    found = balanced_batches(classes, 16, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in found] == [16] * 62 + [7]
    drawn = [classes[i] for batch in found for i in batch]
    for name in ("many", "few", "rare"):
        # 333 expected, with a standard deviation of 15
        assert 273 < drawn.count(name) < 393
    assert found == balanced_batches(classes, 16, torch.Generator().manual_seed(0))


def test_only_a_balanced_schedule_draws_by_class(monkeypatch):
    asked = []

    def record(classes, size, order):
        asked.append(list(classes))
        return batches(len(classes), size, order)

    monkeypatch.setattr(training, "balanced_batches", record)
    features = make_features()
    fit(make_model(), features, Schedule(epochs=1, batch_size=4))
    assert asked == []
    fit(make_model(), features, Schedule(epochs=2, batch_size=4, balance=True))
    assert asked == [[sample.class_name for sample in features.samples]] * 2


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


def test_compiled_steps_are_the_same(monkeypatch):
    """Whole batches are compiled, the incomplete last one of each epoch runs as it is."""
    torch._dynamo.reset()
    eager_calls, original = [], GRAD.loss_and_score
    quick = functools.partial(torch.compile, backend="aot_eager")  # inductor takes a minute

    def counted(self, features):
        if not torch.compiler.is_compiling():
            eager_calls.append(len(features))
        return original(self, features)

    monkeypatch.setattr(torch, "compile", quick)
    monkeypatch.setattr(GRAD, "loss_and_score", counted)
    histories = []
    for compiled in (False, True):
        eager_calls.clear()
        schedule = Schedule(epochs=2, batch_size=4)
        result = fit(make_model(), make_features(10), schedule, compile_step=compiled)
        histories.append(result.history.loss)
    assert histories[1] == pytest.approx(histories[0], rel=1e-5)
    assert eager_calls == [2, 2]


def test_a_compiler_that_fails_is_a_sentence(monkeypatch):
    def fails(function, **options):
        def call(*arguments):
            raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(GradError, match=r"--compile .*no C\+\+ compiler\): leave it out"):
        fit(make_model(), make_features(8), Schedule(epochs=1, batch_size=4), compile_step=True)


@pytest.mark.parametrize("on_device", ["always", "never"])
def test_features_on_the_device_and_from_disk_are_the_same(on_device):
    features = make_features(600)
    loader = Loader(features, torch.device("cpu"), torch.float32, on_device)
    parts = [[5, 599, 0], [], [300]]
    assert loader.resident == (on_device == "always")
    for part, batch in zip(parts, loader.load(parts), strict=True):
        assert torch.equal(batch, features.batch(part).float())
        assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("free", "resident"), [(4.1, True), (3.9, False)])
def test_features_are_kept_on_a_gpu_where_half_of_it_is_enough(monkeypatch, free, resident):
    features = make_features(10)
    size = 2 * 10 * 6 * 3 * 3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free / 2 * size), 0))
    assert fits(features, torch.device("cuda")) == resident
    assert not fits(features, torch.device("cpu"))


def test_the_next_batch_is_read_while_the_model_works():
    """The second batch is there before anyone has asked for it."""
    features, reads = make_features(8), []

    class Watched(MapsInMemory):
        def read_into(self, row, maps):
            super().read_into(row, maps)
            reads.append(row)

    maps = torch.from_numpy(features._maps[0]._maps)
    features = dataclasses.replace(features, _maps=(Watched(maps),))
    batches_of = Loader(features, torch.device("cpu"), torch.float32).load([[0], [1], [2]])
    next(batches_of)
    end = time.monotonic() + 10
    while reads != [0, 1] and time.monotonic() < end:
        time.sleep(0.001)
    assert reads == [0, 1]


def test_sums_and_loss_are_float32_under_bfloat16():
    model = make_model().train()
    optimizer = make_optimizer(model, Schedule())
    images = make_features(4).batch(range(4)).bfloat16()
    loss = TrainingStep(model, optimizer, clip=0.1, autocast=True)(images, 4)
    assert loss.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    states = [value.dtype for state in optimizer.state.values() for value in state.values()]
    assert set(states) == {torch.float32}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(norm.running_var.dtype == torch.float32 for norm in norms)
