"""Thresholds from good images: what holds for any scores, and the rates on simulated ones."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grad.score.false_alarms import GoodScores, Scale, realised_interval
from grad.score.rates import supported_rate
from grad.score.rules import f1_limit
from grad.score.thresholds import Calibration, Threshold, calibrate, calibrated
from grad.system.errors import GradError

SCORES = st.lists(st.floats(1.0, 8.0, width=32), min_size=1, max_size=30)
RATES = st.floats(1e-4, 0.5)


@st.composite
def calibrations(draw):
    """Of one to three classes."""
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    good = {name: draw(SCORES) for name in names}
    sources = {name: draw(st.sampled_from(["held out", "folds", "training"])) for name in names}
    rate = draw(RATES)

    def make(factor=1.0):
        of_good = {name: [factor * score for score in values] for name, values in good.items()}
        maxima = {name: [2 * score for score in values] for name, values in of_good.items()}
        return calibrate(of_good, maxima, sources, rate)

    return make


def limits(calibration):
    return [*calibration.classes.values(), calibration.unknown]


@settings(max_examples=60)
@given(calibrations(), st.lists(RATES, min_size=2, max_size=4))
def test_thresholds_do_not_rise_with_the_rate(make, rates):
    calibration = make()
    ascending = [calibration.at_rate(rate) for rate in sorted(rates)]
    for lower, higher in itertools.pairwise(ascending):
        for strict, loose in zip(limits(lower), limits(higher), strict=True):
            assert strict.image >= loose.image and strict.pixel >= loose.pixel


@settings(max_examples=40)
@given(calibrations(), st.sampled_from([0.03125, 4.0, 1024.0]))
def test_thresholds_scale_with_the_scores(make, factor):
    for small, large in zip(limits(make()), limits(make(factor)), strict=True):
        assume(max(small.image, small.pixel) < 1e30)  # far from the largest float32
        assert large.image == pytest.approx(factor * small.image, rel=1e-5)
        assert large.pixel == pytest.approx(factor * small.pixel, rel=1e-5)
        assert large.image_typical == pytest.approx(factor * small.image_typical, rel=1e-6)
        assert large.note == small.note


@settings(max_examples=40)
@given(calibrations())
def test_thresholds_are_float32_numbers_above_what_is_typical(make):
    for limit in limits(make()):
        assert limit.image_typical < limit.image and limit.pixel_typical < limit.pixel
        for value in (limit.image, limit.pixel, limit.image_typical, limit.pixel_typical):
            assert math.isfinite(value) and float(np.float32(value)) == value


@settings(max_examples=40)
@given(calibrations())
def test_a_calibration_comes_back_from_json(make):
    calibration = make()
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


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


def simulated_rate(rate, images, draw=None, classes=3, repetitions=200):
    """False alarms on new images, averaged over many calibrations of simulated classes.

    Classes differ in level and spread; scores and maxima have a part in common.
    """
    rng = np.random.default_rng(0)
    draw = draw or (lambda count: rng.normal(size=count))
    alarms = []
    for _ in range(repetitions):
        levels, spreads = rng.normal(3, 1, classes), rng.uniform(0.02, 0.4, classes)

        def scores(count, index, levels=levels, spreads=spreads):
            common = draw(count)
            score, maximum = (common + 0.5 * rng.normal(size=count) for _ in range(2))
            return [np.exp(levels[index] + spreads[index] * part) for part in (score, maximum)]

        good = {str(i): scores(images, i) for i in range(classes)}
        made = calibrate(
            {name: both[0] for name, both in good.items()},
            {name: both[1] for name, both in good.items()},
            dict.fromkeys(good, "folds"),
            rate,
        )
        for i in range(classes):
            limit = made.classes[str(i)]
            new, maxima = scores(500, i)
            alarms.append(((new > limit.image) | (maxima > limit.pixel)).mean())
    return float(np.mean(alarms))


@pytest.mark.parametrize(("rate", "images"), [(0.01, 99), (0.05, 40), (0.1, 30), (0.1, 9)])
def test_by_rank_the_rate_is_kept_by_score_and_pixels_together(rate, images):
    assert 0.6 * rate < simulated_rate(rate, images) < 1.4 * rate


@pytest.mark.parametrize(("rate", "images"), [(0.01, 30), (0.01, 60), (0.05, 8), (0.05, 4)])
def test_fitted_thresholds_keep_the_rate_on_average(rate, images):
    assert 0.3 * rate < simulated_rate(rate, images) < 1.6 * rate


def test_ranks_keep_the_rate_of_heavy_tails_too():
    rng = np.random.default_rng(1)
    found = simulated_rate(0.05, 60, lambda count: rng.standard_t(3, count))
    assert 0.03 < found < 0.07


@pytest.mark.parametrize(("images", "rate"), [(1, 0.05), (31, 1 / 32), (98, 1 / 99), (500, 0.01)])
def test_what_images_support(images, rate):
    assert supported_rate(images) == pytest.approx(rate)
    scores = {"a": np.arange(1.0, images + 1)}
    made = calibrate(scores, scores, {"a": "folds"}, "auto")
    assert made.false_alarm_rate == "auto"
    assert made.classes["a"].rate == pytest.approx(rate)


def test_many_images_are_ranked():
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    by_class = {"a": scores}
    made = calibrate(by_class, by_class, {"a": "held out"}, 0.01)
    limit = made.classes["a"]
    assert limit.image == pytest.approx(991)  # ceil(1001 * 0.99) = 991: exceeded by 9 of 1000
    assert (limit.images, limit.rate, limit.joint) == (1000, 0.01, True)
    assert "rank among 1000 good images held out" in limit.note
    low, high = limit.interval
    assert 0.005 < low < 0.01 < high < 0.016
    fine = made.at_rate(0.0005).classes["a"]
    assert "fitted to 1000 good images" in fine.note and fine.interval is None
    assert fine.image >= 1000


def test_rank_begins_where_the_images_tell_the_rate():
    scores = {"a": np.arange(1.0, 100.0)}
    made = calibrate(scores, scores, {"a": "folds"}, 0.01)
    assert made.classes["a"].interval is not None
    assert made.classes["a"].image == pytest.approx(99)
    assert made.at_rate(0.0099).classes["a"].interval is None


def test_the_interval_of_the_realised_rate():
    """What thresholds at a rank of n images do to very many new ones."""
    rng = np.random.default_rng(0)
    good = np.sort(rng.random((4000, 50)), axis=1)
    realised = 1 - good[:, 47]  # the 48th of 50
    low, high = realised_interval(50, 48)
    assert np.mean(realised < low) == pytest.approx(0.05, abs=0.015)
    assert np.mean(realised > high) == pytest.approx(0.05, abs=0.015)


def test_one_image_that_is_odd_by_either_number_is_anomalous():
    rng = np.random.default_rng(0)
    scores, maxima = np.exp(0.1 * rng.normal(size=(2, 300)))
    limit = calibrate({"a": scores}, {"a": maxima}, {"a": "folds"}, 0.05).classes["a"]
    alarms = (scores > limit.image) | (maxima > limit.pixel)
    assert alarms.mean() == pytest.approx(0.05, abs=0.005)
    assert 0 < (scores > limit.image).sum() < alarms.sum()
    for score, maximum, verdict in [
        (limit.image, limit.pixel, False),
        (1.01 * limit.image, 0.5, True),
        (0.5, 1.01 * limit.pixel, True),
    ]:
        assert limit.is_anomalous(score, maximum) is verdict
        assert (limit.value(score, maximum) > 0.5) is verdict


def test_pixels_are_marked_in_anomalous_images_only_and_some_in_each():
    limit = Threshold(2.0, 5.0, 1.0, 2.0, 9, "", joint=True)
    assert limit.pixel_level(1.0, 5.0) == math.inf
    assert limit.pixel_level(1.0, 6.0) == 5.0
    assert limit.pixel_level(3.0, 4.0) == 2.0, "a score is a mean of map values"
    assert 1.49 < limit.pixel_level(3.0, 1.5) < 1.5, "a cut map has none above"
    alone = Threshold(2.0, 5.0, 1.0, 2.0, 9, "")
    assert not alone.is_anomalous(1.0, 9.0) and alone.pixel_level(1.0, 9.0) == math.inf
    assert alone.value(1.0, 9.0) == pytest.approx(0.1)


def test_p_values_count_good_images():
    scores = {"a": [1.0, 2.0, 3.0, 4.0], "b": [10.0, 20.0]}
    made = calibrate(scores, scores, dict.fromkeys(scores, "folds"))
    assert made.p_value(9.0, 1.0, "a") == (0.2, 0.2)
    assert made.p_value(1.0, 9.0, "a") == (0.2, 0.2)
    assert made.p_value(3.0, 1.0, "a") == (pytest.approx(3 / 5), 0.2)
    assert made.p_value(0.5, 0.5, "a") == (1.0, 0.2)
    assert made.p_value(50.0, 50.0, None) == (pytest.approx(1 / 7), pytest.approx(1 / 7))
    assert made.p_value(50.0, 50.0, "c") == made.p_value(50.0, 50.0, None)


@settings(max_examples=60)
@given(st.lists(st.floats(1.0, 8.0), min_size=1, max_size=40), st.floats(0.5, 10.0), RATES)
def test_what_is_above_a_threshold_by_rank_has_a_p_value_below_the_rate(scores, score, rate):
    good = GoodScores(scores, scores)
    limit = good.limit(rate)
    if limit.interval is not None and score > limit.image * (1 + 1e-9):
        assert good.p_value(score, score) <= rate + 1e-9


def test_the_scale_of_one_class_does_not_move_with_another():
    """Log scores of real classes spread by 2 % to 45 %: a spread of all would serve none."""
    rng = np.random.default_rng(0)
    good = {name: np.exp(spread * rng.normal(size=60)) for name, spread in SPREADS.items()}
    made = calibrate(good, good, dict.fromkeys(good, "folds"), 0.01)
    assert made.classes["calm"].image < 1.15
    assert made.classes["wild"].image > 2.0
    assert made.classes["calm"].image < made.unknown.image


SPREADS = {"calm": 0.02, "wild": 0.45}


def test_notes_say_how_many_images_and_what_they_support():
    good = {"a": [1.0, 1.1, 1.3], "b": [2.0]}
    made = calibrate(good, good, {"a": "folds", "b": "training"}, 0.01)
    note = made.classes["a"].note
    assert "fitted to 3 good images scored by a model that did not know them" in note
    assert "from 25.00% on by rank" in note
    assert "1 good image trained on" in made.classes["b"].note
    assert "new images may score higher" in made.classes["b"].note
    assert "rank among 3 good images" in made.at_rate(0.3).classes["a"].note


def test_thresholds_of_earlier_versions_stay_as_they_were():
    old = {
        "method": "good",
        "false_alarm_rate": 0.01,
        "classes": {
            "a": {
                "image": 2.0,
                "pixel": 3.0,
                "image_typical": 1.0,
                "pixel_typical": 1.5,
                "images": 3,
                "note": "rank",
            }
        },
        "good_scores": {"a": [1.0, 1.1, 1.2]},
        "good_maxima": {"a": [2.0, 2.1, 2.2]},
        "sources": {"a": "held out"},
        "image_scales": {"a": {"centre": 0.0, "spread": 0.1, "images": 30}},
        "pixel_scales": {"a": {"centre": 0.0, "spread": 0.1, "images": 30}},
    }
    old["unknown"] = old["classes"]["a"]
    read = Calibration.from_json(old)
    limit = read.threshold("a")
    assert (limit.image, limit.pixel, limit.joint) == (2.0, 3.0, False)
    assert not limit.is_anomalous(1.5, 9.0), "its rate was that of scores alone"
    assert read.at_rate(0.05).threshold("a").joint
    assert read.p_value(9.0, 9.0, "a") == (0.25, 0.25)
    del old["sources"]
    with pytest.raises(KeyError):
        Calibration.from_json(old)


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
    assert not fixed.classes["a"].joint and fixed.classes["a"].rate is None
    assert fixed.at_rate(made.false_alarm_rate) == made


@settings(max_examples=60)
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


@given(calibrations(), st.lists(st.tuples(st.floats(0.1, 50.0), st.floats(0.1, 100.0)), max_size=5))
def test_defects_only_raise_a_threshold_and_lose_none_that_it_found(make, defects):
    before = make()
    after = before.with_defects("a", defects)
    one, other = before.classes["a"], after.classes["a"]
    assert other.image >= one.image and other.pixel >= one.pixel and other.rate == one.rate
    for defect in defects:
        assert other.is_anomalous(*defect) or not one.is_anomalous(*defect)
    assert {**after.classes, "a": one} == before.classes and after.unknown == before.unknown
    assert after.at_rate(before.false_alarm_rate).classes == after.classes
    assert after.at_rate(0.5 * before.false_alarm_rate) == make().at_rate(
        0.5 * before.false_alarm_rate
    )


def test_a_clear_gap_is_used_but_not_all_of_it():
    good = [float(score) for score in np.linspace(1.0, 1.5, 50)]
    made = calibrate({"a": good}, {"a": good}, {"a": "folds"}, 0.1)
    limit = made.classes["a"].image
    near = made.with_defects("a", [(1.6, 1.6)]).classes["a"]
    assert limit < 1.5 < near.image < 1.6 and near.raised > 0 and "known defects" in near.note
    far = made.with_defects("a", [(100.0, 100.0)]).classes["a"]
    assert near.image < far.image <= made.at_rate(0.01).classes["a"].image * (1 + 1e-5)
    missed = made.with_defects("a", [(1.0, 1.0)])
    assert missed == made, "no threshold falls"
    further = made.with_defects("a", [(1.6, 1.6)]).knowing("a", [1.2], [1.2]).classes["a"]
    assert further.raised == 0.0, "of other good images the gap is another"
