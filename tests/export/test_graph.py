"""The graph before it is written: what it computes, and that any batch and size can be traced."""

import json

import pytest
import torch
from helpers.exporting import SIZE, make_backbone, make_graph, make_model, noise

from grad.detector.engine import Pipeline
from grad.export.graph import UNKNOWN, columns, facts, trace
from grad.export.resize import resize
from grad.export.standard_operators import with_standard_operators
from grad.score.thresholds import calibrate
from grad.system.errors import GradError


@pytest.fixture(scope="module")
def backbone():
    return make_backbone()


@pytest.fixture(scope="module")
def loaded(backbone):
    return make_model(backbone)


def expected(loaded, images):
    """What :class:`grad.detector.engine.Pipeline` and the calibration say."""
    pipeline = Pipeline(loaded.backbone, loaded.model, SIZE)
    with torch.no_grad():
        maps, scores = pipeline(resize(images, SIZE) / 255.0)
    limits = [column.threshold for column in columns(loaded.calibration, None)]
    pairs = list(zip(scores.tolist(), maps.amax(dim=(1, 2)).tolist(), strict=True))
    return (
        maps,
        scores,
        torch.tensor([[limit.value(*pair) for limit in limits] for pair in pairs]),
        torch.tensor([[limit.is_anomalous(*pair) for limit in limits] for pair in pairs]),
    )


def assert_equal(actual, wanted):
    for a, e in zip(actual, wanted, strict=True):
        assert a.dtype == e.dtype
        if a.dtype == torch.bool:
            assert torch.equal(a, e)
        else:
            torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * float(e.abs().max()))


def test_graph_computes_what_the_pipeline_does(loaded):
    images = torch.from_numpy(noise(6, 90, 71))
    with torch.no_grad():
        actual = make_graph(loaded)(images)
    wanted = expected(loaded, images)
    assert_equal(actual, wanted)
    assert actual[0].shape == (6, SIZE, SIZE) and actual[2].shape == (6, 3)
    assert wanted[3].any() and not wanted[3].all()  # thresholds between the scores


def test_without_resize_the_graph_takes_floats(loaded):
    images = torch.from_numpy(noise(3, 90, 71))
    with torch.no_grad():
        actual = make_graph(loaded, resize="none")(resize(images, SIZE) / 255.0)
    assert_equal(actual, expected(loaded, images))


OPTIONS = [
    {},
    {"parts": "local", "local_dims": 1, "local_resolution": 5},
    {"parts": "local", "local_dims": 4, "local_resolution": 5, "refine": "none"},
    {"parts": "global", "global_dims": 1, "global_resolution": 3, "refine": "cosine"},
    {"local_dims": 3, "global_dims": 3, "global_resolution": 2, "refine": "mse"},
    {"local_dims": 1, "global_dims": 4, "global_resolution": 2},
    {"statistics": True, "context": 10},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_traces_take_any_batch_and_size(backbone, options):
    """Both the program with GRAD's own operators and the one with standard ones."""
    loaded = make_model(backbone, **options)
    program = trace(make_graph(loaded))
    own = {str(n.target) for n in program.graph.nodes if "grad_anomaly" in str(n.target)}
    assert own
    standard = with_standard_operators(program)
    assert not any("grad_anomaly" in str(node.target) for node in standard.graph.nodes)
    with torch.no_grad():
        for shape in ((1, 64, 64), (3, 50, 120), (5, 1, 7)):
            images = torch.from_numpy(noise(*shape))
            wanted = expected(loaded, images)
            assert_equal(program.module()(images), wanted)
            assert_equal(standard.module()(images), wanted)


def test_a_fixed_batch_is_fixed(loaded):
    module = trace(make_graph(loaded), batch=1).module()
    with torch.no_grad():
        module(torch.from_numpy(noise(1, 50, 60)))
        with pytest.raises((AssertionError, RuntimeError)):
            module(torch.from_numpy(noise(2, 50, 60)))


def test_columns(loaded):
    calibration = loaded.calibration
    named = columns(calibration, None)
    assert [column.name for column in named] == [*calibration.classes, UNKNOWN]
    assert named[-1].threshold == calibration.unknown
    (only,) = columns(calibration, "bottle")
    assert only.threshold == calibration.classes["bottle"]
    with pytest.raises(GradError, match=r"--class-name can is none of the model's.* bottle"):
        columns(calibration, "can")


def test_a_model_of_one_class_has_one_column():
    one = calibrate({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, {"a": "held out"}, 0.4)
    assert [column.name for column in columns(one, None)] == ["a"]


def test_facts_can_be_read_back(loaded):
    chosen = columns(loaded.calibration, None)
    found = facts(loaded.info, chosen, "graph")
    assert all(isinstance(value, str) for value in found.values())
    assert json.loads(found["classes"]) == ["bottle", "Schraube ä"]
    assert json.loads(found["columns"]) == [column.name for column in chosen]
    assert json.loads(found["thresholds"])[0]["image"] == chosen[0].threshold.image
    assert found["image_size"] == str(SIZE) and found["resize"] == "graph"
