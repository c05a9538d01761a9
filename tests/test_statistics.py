from pathlib import Path

import pytest
import torch
from conftest import MapsInMemory

from grad.data import Sample
from grad.features import Features
from grad.model import GRAD, ModelSettings
from grad.statistics import Statistics
from grad.training import Schedule, fit

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
    statistics.measure_features(features)
    rows = (
        statistics.standardise(features.batch(range(20)).float()).permute(0, 2, 3, 1).flatten(0, 2)
    )
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    deviation = rows.std(dim=0, correction=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0] * 5 + [0.0]), atol=1e-4, rtol=0)
    assert statistics.standardise(features.batch([0]).bfloat16()).dtype == torch.bfloat16


def test_whitened_residuals_of_good_images_have_the_ridges_variance():
    """In a direction of variance v they have v / (v + 0.1 mean v), and are not correlated."""
    features, statistics = make_features(), Statistics(6)
    statistics.measure_residuals(torch.zeros_like, features)  # the residual is the feature
    rows = features.batch(range(20)).float().permute(0, 2, 3, 1).flatten(0, 2).double()
    variances = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp_min(0)
    whitened = rows @ statistics.whitening.double()
    expected = torch.diag(variances / (variances + 0.1 * variances.mean()))
    torch.testing.assert_close(whitened.T @ whitened / len(rows), expected, atol=1e-4, rtol=0)


def test_distance_is_the_formula():
    statistics = Statistics(6)
    statistics.whitening.copy_(torch.diag(torch.arange(1.0, 7.0)))
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 5, 6, generator=generator)
    for row, found in enumerate(statistics.distance(a, b)):
        norm = ((a[row] - b[row]) * torch.arange(1.0, 7.0)).norm() / 6**0.5
        cosine = a[row] @ b[row] / (a[row].norm() * b[row].norm())
        assert found.item() == pytest.approx((norm * (1 - cosine)).item(), rel=1e-5)


def test_only_grad_plus_has_statistics_unless_asked_for():
    assert make_model().statistics is not None
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
        assert not torch.equal(model.statistics.whitening, torch.eye(6))
        scores.append(model.loss_and_score(mine.batch(range(20)).float())[1])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-2, atol=1e-3)


def test_training_minimises_the_mean_squared_error_of_standardised_features():
    model, features = make_model(jitter="off").train(), make_features()
    model.statistics.measure_features(features)
    maps = features.batch(range(20)).float()
    loss, _ = model.loss_and_score(maps)
    expected = (model(maps) - model.statistics.standardise(maps)).square().mean()
    torch.testing.assert_close(loss, expected)
