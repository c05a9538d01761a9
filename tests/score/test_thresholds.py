"""Thresholds from good images: what holds for any scores, and the rates on simulated ones."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grad.score.false_alarms import GoodScores, Scale
from grad.score.rules import f1_limit
from grad.score.thresholds import Calibration, Threshold, calibrate, calibrated
from grad.system.errors import GradError

SCORES = st.lists(st.floats(1.0, 8.0, width=32), min_size=1, max_size=30)
RATES = st.floats(1e-4, 0.5)


@st.composite
def calibrations(draw):
    """Of one to three classes, some without images of their own for thresholds."""
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    good, trained = ({name: draw(SCORES) for name in names} for _ in range(2))
    sources = {name: draw(st.sampled_from(["held out", "training"])) for name in names}
    rate = draw(RATES)

    def make(factor=1.0):
        of_good = {name: [factor * score for score in values] for name, values in good.items()}
        of_trained = {n: [factor * score for score in values] for n, values in trained.items()}
        maxima = {name: [2 * score for score in values] for name, values in of_good.items()}
        trained_maxima = {n: [2 * score for score in values] for n, values in of_trained.items()}
        return calibrate(of_good, maxima, sources, rate, (of_trained, trained_maxima))

    return make


def limits(calibration):
    return [*calibration.classes.values(), calibration.unknown]


@settings(deadline=None, max_examples=60)
@given(calibrations(), st.lists(RATES, min_size=2, max_size=4))
def test_thresholds_do_not_rise_with_the_rate(make, rates):
    calibration = make()
    ascending = [calibration.at_rate(rate) for rate in sorted(rates)]
    for lower, higher in itertools.pairwise(ascending):
        for strict, loose in zip(limits(lower), limits(higher), strict=True):
            assert strict.image >= loose.image and strict.pixel >= loose.pixel


@settings(deadline=None, max_examples=40)
@given(calibrations(), st.sampled_from([0.03125, 4.0, 1024.0]))
def test_thresholds_scale_with_the_scores(make, factor):
    for small, large in zip(limits(make()), limits(make(factor)), strict=True):
        assume(max(small.image, small.pixel) < 1e30)  # far from the largest float32
        assert large.image == pytest.approx(factor * small.image, rel=1e-5)
        assert large.pixel == pytest.approx(factor * small.pixel, rel=1e-5)
        assert large.image_typical == pytest.approx(factor * small.image_typical, rel=1e-6)
        assert large.note == small.note


@settings(deadline=None, max_examples=40)
@given(calibrations())
def test_thresholds_are_float32_numbers_above_what_is_typical(make):
    for limit in limits(make()):
        assert limit.image_typical < limit.image and limit.pixel_typical < limit.pixel
        for value in (limit.image, limit.pixel, limit.image_typical, limit.pixel_typical):
            assert math.isfinite(value) and float(np.float32(value)) == value


@settings(deadline=None, max_examples=40)
@given(calibrations())
def test_a_calibration_comes_back_from_json(make):
    calibration = make()
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


@settings(deadline=None)
@given(st.floats(0.0, 1e6), st.floats(1e-3, 1e6), st.floats(-1e6, 1e6))
def test_the_calibrated_scale(typical, gap, score):
    threshold = typical + gap
    assert calibrated(threshold, typical, threshold) == 0.5
    assert calibrated(typical, typical, threshold) == pytest.approx(0.1)
    assert calibrated(2 * threshold - typical, typical, threshold) == pytest.approx(0.9)
    value = calibrated(score, typical, threshold)
    assert 0.0 <= value <= 1.0
    tensor = calibrated(torch.tensor([score], dtype=torch.float64), typical, threshold)
    assert float(tensor) == pytest.approx(value, abs=1e-12)
    assert calibrated(torch.tensor(threshold, dtype=torch.float64), typical, threshold) == 0.5


def simulated_rate(rate, held, trained, classes=3, *, lower=0.0, repetitions=150):
    """False alarms on new images, averaged over many calibrations of simulated classes.

    Classes differ in level and spread; trained images score lower by ``lower`` spreads.
    """
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(repetitions):
        levels, spreads = rng.normal(3, 1, classes), rng.uniform(0.02, 0.4, classes)

        def draw(count, index, shift=0.0, levels=levels, spreads=spreads):
            return np.exp(levels[index] + spreads[index] * (rng.normal(size=count) - shift))

        of_trained = {str(i): draw(trained, i, lower) for i in range(classes)}
        good = {str(i): draw(held, i) for i in range(classes)} if held else of_trained
        sources = dict.fromkeys(good, "held out" if held else "training")
        made = calibrate(good, good, sources, rate, (of_trained, of_trained))
        for i in range(classes):
            alarms.append((draw(500, i) > made.classes[str(i)].image).mean())
    return float(np.mean(alarms))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_few_held_out_images_keep_the_rate_on_average(rate):
    found = simulated_rate(rate, held=5, trained=60)
    assert 0.2 * rate < found < 1.1 * rate


@pytest.mark.parametrize("trained", [4, 16])
def test_few_shots_without_any_held_out_image_keep_the_rate(trained):
    """As long as new images score like those trained on."""
    assert simulated_rate(0.05, held=0, trained=trained) < 0.06


def test_a_single_class_with_three_held_out_images_keeps_the_rate():
    assert 0.002 < simulated_rate(0.05, held=3, trained=28, classes=1) < 0.055


def test_images_that_score_lower_for_being_trained_on_are_allowed_for():
    found = simulated_rate(0.05, held=12, trained=60, lower=2.0)
    assert 0.02 < found < 0.07
    without = simulated_rate(0.05, held=0, trained=60, lower=2.0)
    assert without > 0.1, "what images held out are good for"


def test_many_images_are_ranked():
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    by_class = {"a": scores}
    made = calibrate(by_class, by_class, {"a": "held out"}, 0.01)
    assert made.classes["a"].image == 991  # ceil(1001 * 0.99) = 991: exceeded by 9 of 1000
    assert made.classes["a"].images == 1000
    assert "rank among 1000 good images held out" in made.classes["a"].note
    assert "fitted" in made.at_rate(0.005).classes["a"].note
    assert made.at_rate(0.005).classes["a"].image > 991


def test_the_scale_of_one_class_does_not_move_with_another():
    """Log scores of real classes spread by 2 % to 45 %: a spread of all would serve none."""
    rng = np.random.default_rng(0)
    calm, wild = (np.exp(spread * rng.normal(size=60)) for spread in (0.02, 0.45))
    trained = {"calm": calm[10:], "wild": wild[10:]}
    good = {"calm": calm[:10], "wild": wild[:10]}
    made = calibrate(good, good, dict.fromkeys(good, "held out"), 0.01, (trained, trained))
    assert made.classes["calm"].image < 1.15
    assert made.classes["wild"].image > 2.0
    assert made.classes["calm"].image < made.unknown.image < made.classes["wild"].image


def test_notes_say_how_many_images_and_what_they_support():
    good = {"a": [1.0, 1.1, 1.3], "b": [2.0, 2.5]}
    trained = ({"a": [1.0] * 30, "b": [2.0] * 4}, {"a": [1.0] * 30, "b": [2.0] * 4})
    made = calibrate(good, good, {"a": "held out", "b": "training"}, 0.01, trained)
    note = made.classes["a"].note
    assert "3 good images held out of training, too few for 1.00% by rank (from 25.00% on)" in note
    assert "30 images trained on" in note
    assert "none was kept out of training" in made.classes["b"].note
    assert "4 images trained on" in made.classes["b"].note
    assert "too few" not in made.at_rate(0.3).classes["a"].note


def test_which_threshold_an_image_gets():
    good = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    both = calibrate(good, good, dict.fromkeys(good, "held out"))
    assert both.threshold("a") is both.classes["a"]
    assert both.threshold(None) is both.unknown and both.threshold("c") is both.unknown
    one = calibrate({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, {"a": "held out"})
    assert one.threshold(None) is one.classes["a"]
    assert one.threshold("b") is one.unknown
    assert one.unknown.image == one.classes["a"].image


def test_a_given_threshold():
    good = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    made = calibrate(good, good, dict.fromkeys(good, "held out"))
    fixed = made.fixed(2.5)
    assert fixed.method == "fixed" and "given as 2.5" in fixed.classes["a"].note
    assert {limit.image for limit in limits(fixed)} == {2.5}
    assert fixed.classes["a"].image_typical == 1.5
    assert fixed.classes["b"].image_typical == 1.25, "the median of b is above the threshold"
    assert fixed.classes["b"].pixel == made.classes["b"].pixel
    assert fixed.at_rate(made.false_alarm_rate) == made


@settings(deadline=None, max_examples=60)
@given(SCORES, SCORES)
def test_f1_is_the_largest(good, bad):
    threshold, typical = f1_limit(good, bad)
    assert typical < threshold

    def f1(limit):
        true = sum(score > limit for score in bad)
        false = sum(score > limit for score in good)
        return 2 * true / (true + false + len(bad))

    assert f1(threshold) == max(f1(limit) for limit in [0.0, *good, *bad])


def test_f1_lies_between_good_and_bad():
    assert f1_limit([1.0, 2.0], [4.0, 5.0]) == (3.0, 1.5)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan, 2.0])
def test_wrong_rates(rate):
    with pytest.raises(GradError, match="--false-alarm-rate"):
        calibrate({"a": [1.0]}, {"a": [1.0]}, {"a": "held out"}, rate)


def test_scores_that_no_threshold_can_be_made_from():
    with pytest.raises(GradError, match="Class a has no good image"):
        calibrate({"a": []}, {"a": []}, {"a": "held out"})
    with pytest.raises(GradError, match="class a has a score that is not finite"):
        calibrate({"a": [1.0, math.nan]}, {"a": [1.0, 1.0]}, {"a": "held out"})
    with pytest.raises(ValueError, match="not above"):
        Threshold(1.0, 1.0, 1.0, 0.5, 1, "")


@pytest.mark.parametrize("scores", [[5.0], [5.0] * 50, [0.0, 0.0], [0.0, 1e30]])
def test_scores_without_a_spread_still_give_a_threshold(scores):
    made = calibrate({"a": scores}, {"a": scores}, {"a": "held out"}, 0.01)
    assert made.classes["a"].image_typical < made.classes["a"].image < math.inf


def test_the_spread_of_few_images_tends_to_a_usual_one():
    assert Scale.of([7.0]).spread == pytest.approx(0.1)
    two = Scale.of([1.0, math.e**0.4]).spread
    assert 0.1 < two < 0.2
    logs = np.random.default_rng(0).normal(0, 0.02, 400)
    assert Scale.of(np.exp(logs)).spread == pytest.approx(0.02, rel=0.15)


def test_a_heavy_tail_widens_the_spread():
    """One image in 25 is far out, as those are that show something rare; of 40 none tells."""
    rng = np.random.default_rng(0)
    logs = 0.1 * rng.normal(size=200)
    logs[:8] += 1
    assert Scale.of(np.exp(logs)).spread > 0.35
    above = logs[logs > np.median(logs)] - np.median(logs)
    assert Scale.of(np.exp(logs)).spread > 1.2 * np.sqrt((above**2).mean())
    few = logs[4:44]
    above = few[few > np.median(few)] - np.median(few)
    usual = 0.1 ** (1 / 11)  # as much as 2 of the 20 above the median and 2
    assert Scale.of(np.exp(few)).spread == pytest.approx(
        usual * (above**2).mean() ** (0.5 * 10 / 11), rel=1e-6
    )


def test_classes_without_unseen_images_learn_from_the_others():
    """New images score two spreads higher than those trained on: true of a class without any."""
    rng = np.random.default_rng(0)
    scales = {name: Scale.of(np.exp(0.1 * rng.normal(size=100))) for name in "ab"}
    unseen = {"a": np.exp(0.1 * (rng.normal(size=40) + 2))}
    limit, by_rank = GoodScores(scales, unseen).limit(["b"], 0.05)
    without, _ = GoodScores(scales, {}).limit(["b"], 0.05)
    assert not by_rank
    assert limit > 1.1 * without
