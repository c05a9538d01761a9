"""Drift is said where scores change, and seldom where they don't."""

import numpy as np
import pytest

from grad.score.drift import STAKES, DriftWatch
from grad.score.false_alarms import GoodScores


def scores(chance, images, shift=0.0):
    """(N, 2): image scores and maxima, log-normal, so many spreads higher than usual."""
    units = chance.normal(size=(images, 1)) + 0.3 * chance.normal(size=(images, 2))
    return np.exp(0.1 * (units + shift))


def watch(chance, good, stream):
    """At which image drift shows; None: at none."""
    known = scores(chance, good)
    watching = DriftWatch(GoodScores(known[:, 0], known[:, 1]), seed=int(chance.integers(2**31)))
    found = [i for i, image in enumerate(stream) if watching.add(*image)]
    assert len(found) <= 1, "it is said once"
    assert watching.images == len(stream) and watching.drifted == bool(found)
    return found[0] if found else None


@pytest.mark.parametrize("good", [10, 100])
@pytest.mark.parametrize("defects", [0.0, 0.05])
def test_silent_where_nothing_changes(good, defects):
    chance = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        stream = scores(chance, 400)
        stream[chance.random(400) < defects] *= 2
        alarms += watch(chance, good, stream) is not None
    assert alarms <= 2, f"one watch in {STAKES:.0f} is expected"


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_a_change_half_way_shows_soon(shift):
    chance = np.random.default_rng(1)
    delays = []
    for _ in range(30):
        stream = np.concatenate([scores(chance, 100), scores(chance, 100, shift)])
        delays.append(watch(chance, 100, stream) - 100)
    assert min(delays) >= 0 and np.median(delays) < 40


def test_equal_scores_are_no_drift():
    same = GoodScores([1.0] * 50, [2.0] * 50)
    watching = DriftWatch(same)
    assert not any(watching.add(1.0, 2.0) for _ in range(1000))


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("grad.score.drift._REMEMBERED", 5)
    watching = DriftWatch(GoodScores([1.0] * 3, [2.0] * 3))
    for score in np.linspace(0.5, 1.5, 20):
        watching.add(float(score), 2.0)
    assert len(watching._ranked) == 8
