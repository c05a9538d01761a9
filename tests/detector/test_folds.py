"""Scores of images trained on by models that do not know them."""

from pathlib import Path

import pytest
import torch

from grad.data.samples import Sample
from grad.detector.training.folds import fold_scores
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.features.store import MapsInMemory
from grad.model.grad import GRAD
from grad.score.dataset import good_scores

SIDE = 32  # pixels, of the anomaly maps
SCHEDULE = Schedule(epochs=20, batch_size=4)


@pytest.fixture(scope="module")
def features():
    """Two classes with maps of 4 x 4 pixels, each image its own noise, and a class of one image."""
    counts = {"a": 9, "b": 7, "one": 1}
    torch.manual_seed(0)
    maps = torch.cat([torch.randn(n, 4, 4, 12) + 4 * i for i, n in enumerate(counts.values())])
    samples = [Sample(Path(f"{n}{i}.png"), n, "train") for n, c in counts.items() for i in range(c)]
    return Features(
        tuple(samples), (), (MapsInMemory(maps.half()),), tuple((0, i) for i in range(len(samples)))
    )


@pytest.mark.parametrize("preset", ["grad-tiny", "grad-plus"])
def test_each_image_is_scored_once_by_a_model_that_does_not_know_it(features, preset):
    torch.manual_seed(0)
    model = GRAD.from_preset(preset, 12, 4, 4)
    fit(model, features, SCHEDULE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known, _ = good_scores(model, features, SIDE)
    scores, maxima = fold_scores(model, features, SIDE, SCHEDULE, classes=["a", "b", "one"])
    assert {name: len(values) for name, values in scores.items()} == {"a": 9, "b": 7, "one": 1}
    assert {name: len(values) for name, values in maxima.items()} == {"a": 9, "b": 7, "one": 1}
    for name in "ab":
        assert sum(scores[name]) > sum(known[name]), "images left out score higher"
    assert scores["one"] == pytest.approx(known["one"]), "a single image can't be left out"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "the model stays as it was"
