"""Networks of their own for classes that were learned later."""

import copy
from dataclasses import asdict

import pytest
import torch
from helpers.features import add_branches

from grad.model.branches import Branches
from grad.model.grad import GRAD

SHAPE = (6, 3, 3)


@pytest.fixture
def images():
    """Three, one like each class."""
    means = torch.tensor([0.0, 5.0, -5.0])[:, None, None, None]
    return means + torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(images):
    torch.manual_seed(0)
    model = GRAD.from_preset("grad-tiny", *SHAPE)
    model.train()(torch.randn(8, *SHAPE))
    return add_branches(model, images)


def by_each(model, images):
    """Scores of each image by its own network."""
    networks = [copy.deepcopy(model), *model.branches.networks]
    networks[0].branches = None
    return torch.cat(
        [
            network.loss_and_score(image[None])[1]
            for network, image in zip(networks, images, strict=True)
        ]
    )


def test_each_image_is_scored_by_the_network_of_the_class_that_it_is_like(model, images):
    with torch.no_grad():
        assert model.branches.of_images(images).tolist() == [0, 1, 2]
        expected = by_each(model, images)
        torch.testing.assert_close(model.loss_and_score(images)[1], expected)
        order = [2, 0, 0, 1]
        torch.testing.assert_close(model.loss_and_score(images[order])[1], expected[order])
        _, own = model.loss_and_score(images[:1])
        torch.testing.assert_close(own, expected[:1])


def test_a_graph_scores_alike(model, images, monkeypatch):
    """Where all networks see all images, as on a GPU and in an exported file."""
    with torch.no_grad():
        expected = model.loss_and_score(images)[1]
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(model.loss_and_score(images)[1], expected)


def test_training_knows_no_branches(model, images):
    alone = copy.deepcopy(model)
    alone.branches = None
    state = torch.tensor([1, 2])
    losses = [one.train().loss_and_score(images, state)[0] for one in (model, alone)]
    assert losses[0] == losses[1]


def test_they_come_back_from_a_state(model, images):
    drawn = torch.random.get_rng_state()
    other = GRAD.from_preset(**asdict(model.settings))
    torch.random.set_rng_state(drawn)
    other.load_state_dict(model.state_dict())
    assert torch.equal(torch.random.get_rng_state(), drawn), "no random number is used up"
    with torch.no_grad():
        expected = model.loss_and_score(images)[1]
        assert torch.equal(other.eval().loss_and_score(images)[1], expected)
    damaged = {k: v for k, v in model.state_dict().items() if "networks.0.fusion" not in k}
    with pytest.raises(RuntimeError, match=r"branches\.networks\.0"):
        GRAD.from_preset(**asdict(model.settings)).load_state_dict(damaged)


def test_directions_in_which_a_class_varies_count_less():
    branches = Branches(2, [])
    spread = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, -0.1], [0.0, 0.1]])
    branches.place([spread, spread + torch.tensor([3.0, 3.0])], [0, 1])
    images = torch.tensor([[3.0, 1.0], [0.0, 2.0]])[:, :, None, None]
    assert branches.of_images(images).tolist() == [0, 1]
