import copy
import threading

import pytest
import torch
from helpers.features import add_branches, measure_statistics
from helpers.operators import assert_near
from helpers.tiny_model import SIZE, make_run
from torch import nn

from grad.detector import onednn
from grad.detector.checkpoint import load_checkpoint
from grad.detector.engine import Engine, Pipeline
from grad.model.grad import GRAD
from grad.system.errors import GradError

IMAGES = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_checkpoint(make_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def expected(loaded):
    with torch.inference_mode():
        return Pipeline(loaded.backbone, loaded.model, SIZE)(IMAGES)


def engine(loaded, device="cpu", precision="float32"):
    return Engine(
        loaded.backbone, loaded.model, SIZE, device=torch.device(device), precision=precision
    )


def test_the_pipeline_is_backbone_model_and_scoring(loaded, expected):
    maps, scores = expected
    assert maps.shape == (5, SIZE, SIZE) and scores.shape == (5,)
    assert maps.dtype == scores.dtype == torch.float32
    assert (scores <= maps.amax(dim=(1, 2))).all() and (scores > 0).all()


@pytest.mark.parametrize("joined", [True, False])
def test_the_engine_computes_what_the_pipeline_does(loaded, expected, device, joined, monkeypatch):
    if not joined:
        monkeypatch.setattr(onednn, "is_available", lambda: False)
    fast = engine(loaded, device)
    norms = [m for m in fast._pipeline.modules() if isinstance(m, nn.BatchNorm2d)]
    fused = [m for m in fast._pipeline.modules() if isinstance(m, onednn.FusedConv2d)]
    assert not norms and bool(fused) == (joined and device.type == "cpu")
    assert_near([t.cpu() for t in fast(IMAGES)], expected, 1e-5)
    assert next(loaded.backbone.parameters()).dtype == torch.float32  # untouched
    assert any(isinstance(m, nn.BatchNorm2d) for m in loaded.backbone.modules())


KINDS = [
    {"preset": "grad-tiny", "parts": "local"},
    {"preset": "grad-tiny", "parts": "global"},
    {"preset": "grad-tiny", "local": "vq", "global_": "attention"},
    {"preset": "grad-plus"},
    {"preset": "grad-plus", "context": 10},
    {"preset": "grad-tiny", "branches": True},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_every_kind_of_model(loaded, device, kind, precision, tolerance):
    torch.manual_seed(0)
    model = GRAD.from_preset(kind["preset"], *_shape(loaded), **_options(kind)).eval()
    if "context" in kind:
        measure_statistics(model)
    if "branches" in kind:
        with torch.no_grad():
            add_branches(model, loaded.backbone(IMAGES[:3]))
            assert len(set(model.branches.of_images(loaded.backbone(IMAGES)).tolist())) > 1
    with torch.inference_mode():
        expected = Pipeline(loaded.backbone, model, SIZE)(IMAGES)
    maps, scores = Engine(loaded.backbone, model, SIZE, device=device, precision=precision)(IMAGES)
    assert maps.dtype == scores.dtype == torch.float32
    assert_near([maps.cpu(), scores.cpu()], expected, tolerance)


def _options(kind):
    return {name: value for name, value in kind.items() if name not in ("preset", "branches")}


def _shape(loaded):
    s = loaded.model.settings
    return s.channels, s.height, s.width


def test_auto_is_what_thresholds_are_made_in(loaded):
    assert engine(loaded, precision="auto").precision == "float32"
    with pytest.raises(GradError, match="--precision half is none of auto, float32, bfloat16"):
        engine(loaded, precision="half")


def test_eight_bits_are_the_same_as_their_floats(loaded):
    fast = engine(loaded)
    levels = (IMAGES * 255).round().byte()
    for layout in (torch.contiguous_format, torch.channels_last):
        given = levels.contiguous(memory_format=layout)
        for a, b in zip(fast(given), fast(levels / 255), strict=True):
            assert torch.equal(a, b)


def test_other_shapes_are_refused(loaded):
    with pytest.raises(ValueError, match=r"images must be \(B, 3, 32, 32\), got \(1, 3, 40, 32\)"):
        engine(loaded)(torch.zeros(1, 3, 40, SIZE))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_many_threads_get_the_same_bits(loaded, device, precision):
    fast = engine(loaded, device, precision)
    fast.warm_up(1)
    alone = [tuple(t.clone() for t in fast(IMAGES[i : i + 1])) for i in range(5)]
    wrong = []

    def work(thread):
        for turn in range(20):
            i = (thread + turn) % 5
            found = fast(IMAGES[i : i + 1])
            if not all(torch.equal(a, b) for a, b in zip(found, alone[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_cuda_graph_computes_what_eager_does(loaded, precision):
    fast = engine(loaded, "cuda", precision)
    eager = [t.clone() for t in fast(IMAGES[:1])]
    fast.warm_up(1)
    assert set(fast._graphs) == {1}
    for given in (IMAGES[:1], (IMAGES[:1] * 255).round().byte(), IMAGES[:1].cuda()):
        assert_near([t.cpu() for t in fast(given)], [t.cpu() for t in eager], 2e-2)
    assert_near([t.cpu() for t in fast(IMAGES[:1])], [t.cpu() for t in eager], 1e-6)
    first = fast(IMAGES[:1])
    kept = [t.clone() for t in first]
    fast(IMAGES[1:2])  # results are no views of the graph's buffers
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


@pytest.mark.parametrize("part", ["backbone", "model"])
def test_weights_that_are_not_finite_are_refused(loaded, part):
    """A convolution fused with its activation takes NaN for zero: scores would not tell."""
    damaged = copy.deepcopy(loaded)
    values = dict(getattr(damaged, part).named_parameters())
    name, weight = next((n, w) for n, w in values.items() if "conv" in n)
    with torch.no_grad():
        weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(GradError, match=f"not finite, in {name}"):
        engine(damaged)
