from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grad.data.samples import Sample
from grad.detector.training.loop import fit
from grad.detector.training.schedule import Schedule
from grad.features.features import Features
from grad.features.store import MapsInMemory
from grad.model.grad import GRAD
from grad.score.dataset import good_scores, left_out_scores

SIDE = 32  # pixels, of the anomaly maps


def features_of(classes):
    """Maps of 4 x 4 pixels with 12 channels, so many of each class, each class around its own."""
    generator = torch.Generator().manual_seed(0)
    maps, samples = [], []
    for number, (name, count) in enumerate(classes.items()):
        images = torch.randn(count, 1, 1, 12, generator=generator)
        maps.append(images + 0.3 * torch.randn(count, 4, 4, 12, generator=generator) + 4 * number)
        samples += [Sample(Path(f"{name}{i}.png"), name, "train") for i in range(count)]
    stored = (MapsInMemory(torch.cat(maps).half()),)
    return Features(tuple(samples), (), stored, tuple((0, i) for i in range(len(samples))))


@pytest.fixture(scope="module")
def features():
    return features_of({"b": 9, "a": 14, "c": 1})


def make_model(preset, features):
    torch.manual_seed(0)
    model = GRAD.from_preset(preset, 12, 4, 4)
    fit(model, features, Schedule(epochs=1, batch_size=8))
    return model


def test_statistics_do_not_know_the_images_that_they_judge(features):
    """Images of a and b score higher than by Gaussians that know them; c has a single one."""
    model = make_model("grad-plus", features)
    known, found = (
        dict(zip(("scores", "maxima"), values, strict=True))
        for values in (
            good_scores(model, features, SIDE),
            left_out_scores(model, features, SIDE, ["c", "b", "a"]),
        )
    )
    for of in ("scores", "maxima"):
        assert {name: len(values) for name, values in found[of].items()} == {
            "a": 14,
            "b": 9,
            "c": 1,
        }
        assert found[of]["c"] == pytest.approx(known[of]["c"])
        for name in ("a", "b"):
            assert sum(found[of][name]) > sum(known[of][name])
    again = good_scores(model, features, SIDE)
    assert again == (known["scores"], known["maxima"])


class Seen:
    """An observer that remembers what it was offered."""

    def __init__(self):
        self.samples, self.scores = [], []

    def add(self, samples, image_scores, anomaly_maps):
        assert len(samples) == len(image_scores) == len(anomaly_maps)
        self.samples += samples
        self.scores += image_scores.tolist()


def with_variants_of(features, variants):
    """The same maps again for each variant, twice as large."""
    maps = features.batch(range(len(features))).permute(0, 2, 3, 1)
    samples = [
        replace(sample, variant=variant)
        for variant in (None, *variants)
        for sample in features.samples
    ]
    stored = (MapsInMemory(torch.cat([maps, *[2 * maps] * len(variants)])),)
    return Features(tuple(samples), (), stored, tuple((0, i) for i in range(len(samples))))


@pytest.mark.parametrize("preset", ["grad-plus", "grad-tiny"])
def test_variants_have_no_scores(features, preset):
    model = make_model(preset, features)
    seen = Seen()
    found = good_scores(model, with_variants_of(features, ["turn 90"]), SIDE, observers=[seen])
    assert found == good_scores(model, features, SIDE)
    assert seen.samples == list(features.samples)


def test_a_variant_is_left_out_with_its_image(features):
    """Scored by statistics that know neither, an image scores higher than by those that do."""
    doubled = with_variants_of(features, ["turn 90"])
    model = make_model("grad-plus", doubled)
    seen = Seen()
    found, _ = left_out_scores(model, doubled, SIDE, ["a", "b", "c"], observers=[seen])
    known, _ = good_scores(model, doubled, SIDE)
    assert {name: len(scores) for name, scores in found.items()} == {"a": 14, "b": 9, "c": 1}
    assert sum(found["a"]) > sum(known["a"])
    by_path = dict(zip((sample.path for sample in seen.samples), seen.scores, strict=True))
    assert len(by_path) == len(features)
    assert sorted(score for scores in found.values() for score in scores) == sorted(seen.scores)


def test_classes_without_images_are_passed_over(features):
    model = make_model("grad-plus", features)
    of_a, _ = left_out_scores(model, features.of_classes(["a"]), SIDE, ["a", "b", "c"])
    of_all, _ = left_out_scores(model, features, SIDE, ["a", "b", "c"])
    assert of_a == {"a": of_all["a"]}
