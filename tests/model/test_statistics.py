import io
import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from grad.data.samples import Sample
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.features.split import fold_images
from grad.features.store import MapsInMemory
from grad.model.gaussians import whitening
from grad.model.grad import GRAD
from grad.model.measure import (
    extend_class,
    insert_class,
    leaving_out,
    measure_features,
    measure_residuals,
)
from grad.model.settings import ModelSettings
from grad.model.statistics import Statistics
from grad.system.errors import GradError

SHAPE = (6, 3, 4)  # C, H, W


def make_features(scale=(1.0,) * 6, count=20):
    """Channels of very different sizes, times ``scale``; the last one is constant."""
    maps = torch.randn(count, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    maps = maps * torch.tensor([1.0, 30.0, 0.01, 5.0, 2.0, 0.0]) + torch.arange(6.0)
    maps = maps.half() * torch.tensor(scale).half()
    samples = tuple(Sample(Path(f"{i}.png"), "a", "train") for i in range(count))
    return Features(samples, (), (MapsInMemory(maps),), tuple((0, i) for i in range(count)))


def make_model(preset="grad-plus", **options):
    torch.manual_seed(0)
    return GRAD.from_preset(preset, *SHAPE, **options)


def test_standardised_channels_have_mean_0_and_deviation_1_unless_constant():
    features, statistics = make_features(), Statistics(6)
    measure_features(statistics, features)
    rows = (
        statistics.standardise(features.batch(range(20)).float()).permute(0, 2, 3, 1).flatten(0, 2)
    )
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    deviation = rows.std(dim=0, correction=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0] * 5 + [0.0]), atol=1e-4, rtol=0)
    assert statistics.standardise(features.batch([0]).bfloat16()).dtype == torch.bfloat16


def test_distance_is_the_product_of_residual_angle_and_context():
    statistics = Statistics(6, context=2)
    statistics.residuals.whitening.copy_(torch.diag(torch.arange(1.0, 5.0)))
    statistics.context.whitening.copy_(torch.diag(torch.tensor([0.5, 2.0])))
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 5, 2, 3, 4, generator=generator)
    context = torch.randn(5, 2, 3, 2, generator=generator)
    found = statistics.distance(a, b, context)
    for place in itertools.product(range(5), range(2), range(3)):
        norm = ((a[place] - b[place]) * torch.arange(1.0, 5.0)).norm() / 4**0.5
        cosine = a[place] @ b[place] / (a[place].norm() * b[place].norm())
        around = (context[place] * torch.tensor([0.5, 2.0])).norm() / 2**0.5
        expected = norm * (1 - cosine) ** 0.5 * around
        assert found[place].item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_context_the_distance_is_that_of_the_residual():
    statistics = Statistics(4)
    a, b = torch.randn(2, 5, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    norm = (a - b).square().mean(dim=3).sqrt()
    expected = norm * (1 - F.cosine_similarity(a, b, dim=3)).sqrt()
    torch.testing.assert_close(statistics.distance(a, b, a.new_empty(0, 0, 0, 0)), expected)


def features_of(classes):
    """Features of 4 x 4 pixels; ``classes`` are the means over each image, by name."""
    means = torch.cat(list(classes.values()))
    maps = means[:, None, None].expand(-1, 4, 4, -1).half().contiguous()
    names = [name for name, rows in classes.items() for _ in rows]
    samples = tuple(Sample(Path(f"{i}.png"), name, "train") for i, name in enumerate(names))
    return Features(samples, (), (MapsInMemory(maps),), tuple((0, i) for i in range(len(maps))))


def test_images_are_given_to_the_class_that_they_look_like():
    """A direction in which images of a class differ does not decide; plain distances would err."""
    generator = torch.Generator().manual_seed(0)
    around = torch.randn(200, 2, generator=generator) * torch.tensor([3.0, 0.3])
    around -= around.mean(dim=0)
    classes = {"a": around, "b": around + torch.tensor([2.0, 1.0])}
    statistics = Statistics(2)
    measure_residuals(statistics, torch.zeros_like, features_of(classes))
    seen = torch.tensor([[4.0, 0.0], [-2.0, 1.0]])[:, None, None].expand(2, 4, 4, 2)
    assert statistics.nearest(seen, seen.new_empty(0, 0, 0, 0)).tolist() == [0, 1]
    assert Statistics(2).nearest(seen, seen.new_empty(0, 0, 0, 0)).tolist() == [0, 0]


def test_classes_are_found_by_rebuilt_channels_and_context():
    generator = torch.Generator().manual_seed(0)
    classes = {
        name: torch.randn(20, 3, generator=generator) + torch.tensor(centre)
        for name, centre in {"a": [0.0, 0, 0], "b": [9.0, 0, 0], "c": [0.0, 0, 9]}.items()
    }
    statistics = Statistics(3, context=1)
    measure_residuals(statistics, lambda maps: torch.zeros_like(maps[:, :2]), features_of(classes))
    seen = torch.tensor([[0.0, 0, 8], [8.0, 0, 0], [0.0, 0, 1]])[:, None, None].expand(3, 4, 4, 3)
    assert statistics.nearest(seen[..., :2], seen[..., 2:]).tolist() == [2, 1, 0]
    assert len(statistics.residuals.mean) == len(statistics.context.mean) == 3
    loaded = Statistics(3, context=1)
    loaded.load_state_dict(statistics.state_dict())
    args = seen[..., :2], torch.zeros(3, 4, 4, 2), seen[..., 2:]
    assert torch.equal(loaded.distance(*args), statistics.distance(*args))


def test_only_grad_plus_has_statistics_unless_asked_for():
    assert make_model().statistics is not None
    assert make_model().statistics.context is None
    assert make_model(context=2).statistics.context is not None
    assert make_model("grad-tiny").statistics is None
    assert make_model("grad-tiny", statistics=True).statistics is not None
    assert ModelSettings("grad-s", *SHAPE).statistics is False
    assert make_model("grad-s").state_dict().keys() < make_model().state_dict().keys()


def test_fit_measures_before_and_after_and_the_result_does_not_depend_on_the_units():
    """Features in other units, channel by channel, give the same training and the same scores."""
    scores = []
    for mine in (make_features(), make_features((4.0, 0.25, 2.0, 0.5, 8.0, 1.0))):
        model = make_model()
        result = fit(model, mine, Schedule(epochs=3, batch_size=8))
        assert result.history.loss[-1] < result.history.loss[0]
        assert not torch.equal(model.statistics.residuals.whitening, torch.eye(6))
        assert len(model.statistics.residuals.mean) == 1
        scores.append(model.loss_and_score(mine.batch(range(20)).float())[1])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-2, atol=1e-3)


def test_a_training_that_is_complete_is_measured_again(tmp_path):
    """Where its last part was interrupted; with bars on a terminal one after the other."""
    measured = []
    for _ in range(2):
        console = Console(force_terminal=True, file=io.StringIO())
        model = make_model()
        schedule = Schedule(epochs=2, batch_size=8)
        fit(model, make_features(), schedule, folder=tmp_path, console=console)
        assert "measuring" in console.file.getvalue()
        measured.append(model.state_dict())
    for name, values in measured[0].items():
        assert torch.equal(values, measured[1][name]), name


def test_training_minimises_the_mean_squared_error_of_standardised_features():
    model, features = make_model(jitter="off").train(), make_features()
    measure_features(model.statistics, features)
    maps = features.batch(range(20)).float()
    loss, _ = model.loss_and_score(maps)
    expected = (model(maps) - model.statistics.standardise(maps)).square().mean()
    torch.testing.assert_close(loss, expected)


def test_context_is_measured_and_not_rebuilt():
    """Other values there change the score, and nothing of prediction and loss."""
    model, features = make_model(context=2), make_features()
    fit(model, features, Schedule(epochs=1, batch_size=8))
    maps = features.batch(range(4)).float()
    other = maps.clone()
    other[:, 4:] += 1
    assert model(maps).shape == (4, 4, *SHAPE[1:])
    assert torch.equal(model(maps), model(other))
    (loss, score), (other_loss, other_score) = (model.loss_and_score(m) for m in (maps, other))
    assert torch.equal(loss, other_loss)
    assert (score < other_score).all()


@pytest.mark.parametrize("options", [{"context": 6}, {"context": -1}])
def test_something_must_be_rebuilt(options):
    with pytest.raises(GradError, match="context must be below 6 channels"):
        make_model(**options)


def test_context_needs_statistics():
    with pytest.raises(GradError, match="context needs statistics"):
        make_model("grad-tiny", context=2)


def features_of_images(classes, tiles=1, seed=0):
    """Images of 4 x 4 pixels that differ as a whole, so many of each class, cut into tiles."""
    generator = torch.Generator().manual_seed(seed)
    images = sum(classes.values())
    maps = torch.randn(images, 1, 1, 1, 12, generator=generator)
    maps = (maps + 0.1 * torch.randn(images, tiles, 4, 4, 12, generator=generator)).half()
    samples = tuple(
        Sample(Path(f"{name}{i}.png"), name, "train")
        for name, count in classes.items()
        for i in range(count)
    )
    places = tuple((0, tiles * i) for i in range(images))
    stored = (MapsInMemory(maps.flatten(0, 1)),)
    return Features(samples, (), stored, places, _counts=(tiles,) * images)


@pytest.mark.parametrize("tiles", [1, 2])
def test_images_that_are_left_out_are_as_far_as_new_ones(tiles, monkeypatch):
    monkeypatch.setattr("grad.model.gaussians._PRIOR", 5.0)
    names = [f"class {i}" for i in range(8)]
    features = features_of_images(dict.fromkeys(names, 23), tiles)
    new = features_of_images(dict.fromkeys(names, 100), tiles, seed=1)
    statistics = Statistics(12, context=4)

    def predict(maps):
        return torch.zeros_like(maps[:, :8])

    def distances(some, kind):
        maps = some.tiles().batch(range(tiles * len(some))).float().permute(0, 2, 3, 1)
        kinds = torch.full((len(maps),), kind)
        parts = ((statistics.residuals, maps[..., :8]), (statistics.context, maps[..., 8:]))
        found = torch.stack([places.distance(values, kinds) for places, values in parts])
        return found.mean(dim=(2, 3)).unflatten(1, (-1, tiles)).mean(dim=2)  # (2, images)

    measure_residuals(statistics, predict, features.tiles())
    before = {name: values.clone() for name, values in statistics.state_dict().items()}
    known, unknown, left_out = [], [], []
    for kind, name in enumerate(names):
        images = features.of_classes([name])
        known.append(distances(images, kind))
        unknown.append(distances(new.of_classes([name]), kind))
        of_class = torch.zeros(2, 23)
        for left in leaving_out(statistics, predict, images, kind, fold_images(images.samples)):
            assert of_class[:, list(left)].eq(0).all() and 4 <= len(left) <= 5
            of_class[:, list(left)] = distances(images.subset(left), kind)
        left_out.append(of_class)
    for name, values in statistics.state_dict().items():
        assert torch.equal(values, before[name]), name
    known, unknown, left_out = (torch.stack(d).mean(dim=(0, 2)) for d in (known, unknown, left_out))
    assert ((left_out - unknown).abs() < 0.25 * (unknown - known)).all()


def test_what_is_left_out_comes_back_if_nobody_goes_on():
    features = features_of_images({"a": 6})
    statistics = Statistics(12)
    measure_residuals(statistics, torch.zeros_like, features.tiles())
    before = statistics.residuals.directions.clone()
    answers = leaving_out(statistics, torch.zeros_like, features, 0, fold_images(features.samples))
    next(answers)
    assert not torch.equal(statistics.residuals.directions, before)
    answers.close()
    assert torch.equal(statistics.residuals.directions, before)


def test_a_single_image_is_never_left_out():
    features = features_of_images({"a": 1})
    statistics = Statistics(12)
    measure_residuals(statistics, torch.zeros_like, features.tiles())
    before = statistics.residuals.directions.clone()
    for left in leaving_out(
        statistics, torch.zeros_like, features, 0, fold_images(features.samples)
    ):
        assert list(left) == [0]
        assert torch.equal(statistics.residuals.directions, before)


@pytest.mark.parametrize("tiles", [1, 2])
def test_further_images_are_left_out_in_folds_and_known_in_the_end(tiles):
    first = features_of_images({"a": 8, "b": 5}, tiles)
    further = features_of_images({"b": 6}, tiles, seed=1)
    statistics, predict = Statistics(12, context=4), lambda maps: torch.zeros_like(maps[:, :8])
    measure_residuals(statistics, predict, first.tiles())
    assert statistics.images.tolist() == [8 * tiles, 5 * tiles]
    before = statistics.residuals.mean.clone()
    states = []
    for left in extend_class(statistics, predict, further, 1, [[0, 1, 2], [3, 4, 5]]):
        states.append((left, statistics.residuals.mean[1].clone()))
    assert [left for left, _ in states] == [[0, 1, 2], [3, 4, 5]]
    means = [before[1], *(mean for _, mean in states), statistics.residuals.mean[1]]
    for one, other in itertools.combinations(means, 2):
        assert not torch.equal(one, other)
    assert torch.equal(statistics.residuals.mean[0], before[0]), "another class"
    assert statistics.images.tolist() == [8 * tiles, 11 * tiles]
    centre = torch.cat(
        [images.tiles().batch(range(tiles * len(images))) for images in (b_of(first), further)]
    )
    expected = centre.float().mean(dim=(0, 2, 3))
    torch.testing.assert_close(statistics.centre[1], expected, rtol=1e-3, atol=1e-3)


def b_of(features):
    return features.of_classes(["b"])


def test_a_single_further_image_is_scored_by_what_was_known_before_it():
    statistics = Statistics(12)
    measure_residuals(statistics, torch.zeros_like, features_of_images({"a": 8}).tiles())
    before = statistics.residuals.mean.clone()
    further = features_of_images({"a": 1}, seed=1)
    for left in extend_class(statistics, torch.zeros_like, further, 0, [[0]]):
        assert left == [0] and torch.equal(statistics.residuals.mean, before)
    assert not torch.equal(statistics.residuals.mean, before)


def test_a_class_that_comes_new_moves_those_behind_it_up():
    statistics = Statistics(12)
    measure_residuals(statistics, torch.zeros_like, features_of_images({"a": 8, "c": 5}).tiles())
    before = statistics.centre.clone()
    new = features_of_images({"b": 7}, seed=1)
    insert_class(statistics, torch.zeros_like, new, 1)
    assert statistics.images.tolist() == [8, 7, 5]
    assert torch.equal(statistics.centre[[0, 2]], before)
    expected = new.tiles().batch(range(7)).float().mean(dim=(0, 2, 3))
    torch.testing.assert_close(statistics.centre[1], expected)
    together = Statistics(12)
    both = features_of_images({"a": 8, "c": 5}), new
    maps = [f.tiles().batch(range(len(f))).float() for f in both]
    means = [m.mean(dim=(2, 3)) for m in (maps[0][:8], maps[1], maps[0][8:])]
    within = torch.cat([m - m.mean(dim=0) for m in means])
    together.spread.copy_(whitening(within.T @ within / len(within)))
    found = statistics.spread @ statistics.spread.T
    torch.testing.assert_close(found, together.spread @ together.spread.T, rtol=0.02, atol=0.02)
    maps = new.tiles().batch(range(7)).float().permute(0, 2, 3, 1)
    assert statistics.distance(maps, torch.zeros_like(maps), maps[..., :0]).isfinite().all()


def test_statistics_of_an_earlier_version_have_counted_no_images():
    statistics = Statistics(12)
    measure_residuals(statistics, torch.zeros_like, features_of_images({"a": 8, "b": 5}).tiles())
    state = statistics.state_dict()
    del state["images"]
    loaded = Statistics(12)
    loaded.load_state_dict(state)
    assert loaded.images.tolist() == [0, 0]
