"""Gaussians by class and place, against the same written out with whole matrices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grad.model.gaussians import BLOCK, IMAGES, RANK, Places, chosen, whitening
from grad.model.gaussians import second_moment as moment_of

PRIOR = 60.0


def make_values(count, height, width, channels, seed=0):
    """Correlated channels, a few of them large, of another size and mean at each place."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(channels) + 0.3 * torch.randn(channels, channels, generator=generator)
    mix = mix * torch.linspace(1, 0, channels).exp2().pow(4)
    place = 0.5 + torch.rand(1, height, width, 1, generator=generator)
    values = torch.randn(count, height, width, channels, generator=generator) @ mix
    return place * (values + 0.5)


def second_moment(*classes):
    rows = torch.cat([values.flatten(0, 2) for values in classes])
    return rows.T @ rows / len(rows)


def measured(*classes):
    places = Places(classes[0].shape[3])
    places.measure(second_moment(*classes), classes)
    return places


def of_class(index, values):
    return torch.full((len(values),), index)


def place_gaussian(values, row, column):
    """Mean and covariance of a place, drawn towards 0 and 1 by the prior."""
    height, width = values.shape[1:3]
    rows = [min(BLOCK * row + i, height - 1) for i in range(BLOCK)]  # the last one repeats
    columns = [min(BLOCK * column + i, width - 1) for i in range(BLOCK)]
    own = len(values) / (len(values) + PRIOR)
    values = values[:, rows][:, :, columns].flatten(0, 2).double()
    mean = own * values.mean(dim=0)
    centred = values - mean
    unit = torch.eye(values.shape[1], dtype=torch.float64)
    return mean, own * centred.T @ centred / len(values) + (1 - own) * unit


def truncated(covariance):
    """The largest RANK variances and their directions, the mean of the others elsewhere."""
    variances, directions = torch.linalg.eigh(covariance)
    if len(variances) > RANK:
        variances[:-RANK] = variances[:-RANK].mean()
    return directions @ torch.diag(variances) @ directions.T


def expected_distances(training, seen, whitening):
    training, seen = training @ whitening, (seen @ whitening).double()
    distances = torch.empty(seen.shape[:3], dtype=torch.float64)
    for y in range(seen.shape[1]):
        for x in range(seen.shape[2]):
            mean, covariance = place_gaussian(training, y // BLOCK, x // BLOCK)
            centred = seen[:, y, x] - mean
            solved = torch.linalg.solve(truncated(covariance), centred.T).T
            distances[:, y, x] = ((centred * solved).sum(dim=1) / seen.shape[3]).sqrt()
    return distances.float()


@pytest.mark.parametrize(
    "channels, images", [(6, 40), (RANK, 40), (90, 60), (20, 3)], ids=["few", "rank", "more", "n<C"]
)
def test_distance_is_mahalanobis_of_class_and_place(channels, images):
    classes = [make_values(images, 9, 8, channels, seed) for seed in (1, 2)]
    places = measured(*classes)
    seen = make_values(7, 9, 8, channels, 3)
    for index, training in enumerate(classes):
        found = places.distance(seen, of_class(index, seen))
        expected = expected_distances(training, seen, places.whitening)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


@given(
    height=st.integers(1, 9), width=st.integers(1, 9), images=st.integers(1, 9), seed=st.integers(0)
)
def test_any_shape_and_number_of_images(height, width, images, seed):
    training = make_values(images, height, width, 5, seed % 1000)
    seen = make_values(2, height, width, 5, seed % 1000 + 1)
    places = measured(training)
    found = places.distance(seen, of_class(0, seen))
    expected = expected_distances(training, seen, places.whitening)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_whitened_values_have_the_ridges_variance():
    """In a direction of variance v they have v / (v + 0.1 mean v), and are not correlated."""
    values = make_values(20, 4, 4, 6)
    moment = second_moment(values).double()
    variances = torch.linalg.eigvalsh(moment)
    white = whitening(moment)
    expected = torch.diag(variances / (variances + 0.1 * variances.mean()))
    torch.testing.assert_close(white.T @ moment @ white, expected)


def test_a_whitening_tells_what_it_was_made_of():
    moment = second_moment(make_values(20, 4, 4, 6))
    torch.testing.assert_close(moment_of(whitening(moment)), moment, rtol=1e-3, atol=1e-4)


def test_one_image_says_little_and_many_say_all():
    """The distance goes from the plain length to that of the class's own covariance."""
    values = torch.randn(1200, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(1, 4, 4, 4)
    one, many = (
        _unwhitened(3 * some).distance(seen, of_class(0, seen)).mean().item()
        for some in (values[:1], values)
    )
    assert one == pytest.approx(1, abs=0.2)
    assert many == pytest.approx(1 / 3, abs=0.05)


def _unwhitened(values):
    places = Places(values.shape[3])
    places.measure(torch.eye(values.shape[3]) / 1.1, [values])  # 1.1: the ridge
    return places


def test_each_image_is_measured_by_its_class_whatever_the_batch():
    classes = [make_values(30, 4, 4, 6, seed) * (1 + seed) for seed in (0, 1, 2)]
    places = measured(*classes)
    seen, kind = make_values(4, 4, 4, 6, 9), torch.tensor([2, 0, 1, 1])
    together = places.distance(seen, kind)
    alone = [places.distance(seen[i : i + 1], kind[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not torch.allclose(together[2], places.distance(seen, kind.flip(0))[2])


def test_bfloat16_values_give_the_same_distances_to_their_rounding():
    classes = [make_values(30, 8, 8, 70, seed) for seed in (0, 1)]
    places, seen = measured(*classes), make_values(3, 8, 8, 70, 9)
    exact = places.distance(seen, of_class(1, seen))
    found = places.distance(seen.bfloat16(), of_class(1, seen))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.01)


def test_nothing_measured_is_the_plain_length():
    seen = make_values(2, 3, 3, 4)
    found = Places(4).distance(seen, of_class(0, seen))
    torch.testing.assert_close(found, seen.square().mean(dim=3).sqrt())


def test_what_was_measured_can_be_saved_loaded_and_had_again():
    classes = [make_values(9, 5, 4, 70, seed) for seed in (0, 1)]
    before = torch.random.get_rng_state()
    places, again = measured(*classes), measured(*classes)
    assert torch.equal(torch.random.get_rng_state(), before)
    loaded = Places(70)
    loaded.load_state_dict(places.state_dict())
    for name, values in places.state_dict().items():
        assert torch.equal(values, again.state_dict()[name]), name
        assert torch.equal(values, loaded.state_dict()[name]), name
        assert values.isfinite().all(), name
    assert loaded.directions.dtype == torch.bfloat16


def test_values_without_any_variance_give_finite_distances():
    zero = torch.zeros(5, 4, 4, 3)
    places = measured(zero, zero)
    seen = torch.ones(1, 4, 4, 3)
    assert places.distance(seen, of_class(1, seen)).isfinite().all()
    assert places.distance(zero[:1], of_class(1, seen)).eq(0).all()


def test_the_images_measured_are_all_or_evenly_spaced():
    assert list(chosen(3)) == [0, 1, 2]
    found = list(chosen(10 * IMAGES))
    assert found == list(range(0, 10 * IMAGES, 10))


@pytest.mark.parametrize("channels", [6, RANK, 90])
def test_extended_gaussians_are_those_of_all_images_together(channels):
    first, other = make_values(40, 9, 8, channels, 1), 1.3 * make_values(25, 9, 8, channels, 2) + 1
    extended, alone = measured(first), measured(first)
    together = measured(first)
    together.measure_class(0, torch.cat([first, other]))
    extended.extend_class(0, other, known=40)
    seen = torch.cat([first, other, make_values(5, 9, 8, channels, 3)])
    found, expected, before = (
        places.distance(seen, of_class(0, seen)) for places in (extended, together, alone)
    )
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    assert (before / expected - 1).abs().mean() > 0.1
    assert (found / expected - 1).abs().mean() < 0.01


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_class_that_comes_new_is_as_if_measured_by_itself(kind):
    classes = [make_values(30, 8, 8, 6, seed) for seed in (0, 1)]
    new, places = make_values(20, 8, 8, 6, 5), measured(*classes)
    expected = measured(*classes)
    expected.measure_class(0, new)
    before = [places.distance(values, of_class(i, values)) for i, values in enumerate(classes)]
    places.insert_class(kind, new)
    torch.testing.assert_close(
        places.distance(new, of_class(kind, new)), expected.distance(new, of_class(0, new))
    )
    for i, values in enumerate(classes):
        moved = of_class(i + (i >= kind), values)
        assert torch.equal(places.distance(values, moved), before[i])
