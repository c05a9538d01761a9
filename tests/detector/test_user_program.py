"""A Detector inside other people's programs, with defaults of their own."""

import copy
import pickle

import pytest
import torch
from helpers.tiny_model import make_run, picture

from grad.detector import Detector


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return picture(tmp_path_factory.mktemp("images") / "part.png")


@pytest.fixture(scope="module")
def score(run, part):
    return load(run).predict(part).score


def load(run):
    return Detector.load(run, device="cpu", precision="float32")


@pytest.fixture
def defaults():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", [torch.float64, torch.bfloat16, "meta"])
def test_the_programs_defaults_change_nothing(run, part, score, what, when, defaults):
    detector = None if when == "before" else load(run)
    if what == "meta":
        torch.set_default_device(what)
    else:
        torch.set_default_dtype(what)
    result = (detector or load(run)).predict(part)
    assert (result.score, result.anomaly_map.dtype) == (score, torch.float32)
    assert torch.get_default_dtype() == (torch.float32 if what == "meta" else what)
    result.overlay()
    tiled = load(run).predict(part, tile=30).anomaly_map
    assert (tiled.shape, tiled.dtype) == (result.size, torch.float32)


def test_autocast_around_it_changes_nothing(run, part, score):
    detector = load(run)
    with torch.autocast("cpu", torch.bfloat16):
        assert detector.predict(part).score == score


def test_copies_work_and_pickles_are_refused_in_a_sentence(run, part, score):
    detector = load(run)
    for copied in (copy.copy(detector), copy.deepcopy(detector)):
        assert copied.predict(part).score == score
    with pytest.raises(TypeError, match=r"can't be pickled, .* grad\.Detector\.load"):
        pickle.dumps(detector)
    assert pickle.loads(pickle.dumps(detector.predict(part))).score == score


@pytest.mark.parametrize("options", [{"workers": -1}, {"workers": 0}, {"batch_size": 0}])
def test_numbers_that_are_none(run, part, options):
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(Exception, match=f"--{name} .* must be a whole number, 1 or more"):
        list(load(run).stream([part], **options))
