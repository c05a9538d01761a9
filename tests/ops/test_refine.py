"""Refinement: loss, score and their gradients against the formula as the paper writes it."""

import functools
import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from helpers.operators import (
    LAYOUTS,
    TOLERANCE,
    assert_as_exact_as_reference,
    assert_near,
    double,
    gradients,
    normal,
    strided,
)
from hypothesis import given, settings

from grad.ops import reference, refine, refined_map

MODES = ["combined", "mse", "cosine", "none"]
EVERY_MODE = pytest.mark.parametrize("mode", MODES)


def rows_of(rows, channels, *, dtype=torch.float64, device="cpu", seed=0):
    """F and F^; mean squared errors spread over both sides of tau = 10."""
    features = normal(rows, channels, seed=seed)
    distance = 5 * torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed)).double()
    prediction = features + distance * normal(rows, channels, seed=seed + 1)
    return features.to(device, dtype), prediction.to(device, dtype)


def eager(features, prediction, *, alpha=0.3, beta=0.7, tau=10.0, mode="combined"):
    """Equations 5 to 8 by the operators of torch, the refined map and all."""
    close = ((prediction - features).square().mean(dim=1) <= tau).to(features.dtype)
    cosine = F.cosine_similarity(prediction, features, dim=1)
    s = {
        "combined": alpha * close + beta * cosine,
        "mse": close,
        "cosine": cosine,
        "none": torch.zeros_like(close),
    }[mode][:, None]
    refined = s * features + (1 - s) * prediction
    return F.mse_loss(refined, features), torch.linalg.vector_norm(refined - features, dim=1)


@EVERY_MODE
@pytest.mark.parametrize("output", [0, 1], ids=["loss", "score"])
def test_gradient_is_the_numerical_one(device, mode, output):
    features, prediction = rows_of(12, 7, device=device)
    m = (features - prediction).square().mean(dim=1)
    assert (m < 10).any() and (m > 10).any()
    inputs = [features.requires_grad_(), prediction.requires_grad_()]
    call = functools.partial(refine, mode=mode)
    assert torch.autograd.gradcheck(lambda *t: call(*t)[output], inputs, nondet_tol=0.0)


@EVERY_MODE
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (301, 216), (7, 4099), (2000, 64)])
def test_agrees_with_the_papers_formula(device, mode, dtype, shape):
    inputs = rows_of(*shape, dtype=dtype, device=device)
    ours = gradients(functools.partial(refine, mode=mode), inputs)
    true = gradients(functools.partial(eager, mode=mode), double(inputs))
    if mode == "mse":  # where s is 1, loss, score and gradient are exact zeros, not small numbers
        kept = ((inputs[1] - inputs[0]).square().mean(dim=1) > 10).cpu()
        assert not ours[0][1].cpu()[~kept].any()
    tolerance = TOLERANCE[dtype]
    for actual, expected in zip(ours[0] + ours[1], true[0] + true[1], strict=True):
        scale = float(expected.norm()) or 1.0
        assert float((actual.cpu().double() - expected).detach().norm()) <= tolerance * scale


def test_other_weights(device):
    inputs = rows_of(50, 12, device=device)
    options = {"alpha": -0.4, "beta": 1.7, "tau": 3.0}
    ours = gradients(functools.partial(refine, **options), inputs)
    true = gradients(functools.partial(eager, **options), inputs)
    assert_near(ours[0] + ours[1], true[0] + true[1], 1e-12)


@EVERY_MODE
def test_gradients_of_loss_and_of_score_alone(device, mode):
    inputs = [t.requires_grad_() for t in rows_of(40, 9, device=device)]
    for index in (0, 1):
        ours, true = refine(*inputs, mode=mode)[index], eager(*inputs, mode=mode)[index]
        actual = torch.autograd.grad(ours.sum(), inputs)  # the score's gradient is expanded
        expected = torch.autograd.grad(true.sum(), inputs)
        for a, e in zip(actual, expected, strict=True):
            assert_near(a, e, 1e-11) if e.any() else assert_near(a, e, 0.0)


@settings(max_examples=50, derandomize=True)
@given(
    rows=st.integers(1, 80),
    channels=st.integers(1, 80),
    mode=st.sampled_from(["combined", "cosine", "none"]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_layout(device, rows, channels, mode, dtype, layouts, seed):
    inputs = rows_of(rows, channels, dtype=dtype, device=device, seed=seed)
    true = gradients(functools.partial(reference.refine, mode=mode), double(inputs))
    placed = [strided(t, layout) for t, layout in zip(inputs, layouts, strict=True)]
    ours = gradients(functools.partial(refine, mode=mode), placed)
    # A loss near 0 is a difference: errors count in units of the squared distance.
    scale = float((inputs[1] - inputs[0]).double().square().mean()) + 1
    for actual, expected in zip(ours[0] + ours[1], true[0] + true[1], strict=True):
        difference = (actual.detach().cpu().double() - expected.detach()).abs().max()
        assert float(difference) <= 10 * TOLERANCE[dtype] * scale
    assert_near(
        refined_map(*placed, mode=mode),
        reference.refined_map(*double(inputs), mode=mode),
        10 * TOLERANCE[dtype],
    )


def test_expanded_rows_are_read_in_place(device):
    features, prediction = rows_of(30, 8, device=device)
    one = features[:1].expand(30, 8)
    assert_near(refine(one, prediction), refine(one.contiguous(), prediction), 0.0)
    assert_near(refine(prediction, one), refine(prediction, one.contiguous()), 0.0)


@EVERY_MODE
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_zero_vectors_and_perfect_predictions(device, mode, dtype):
    """No NaN in loss, score and gradients where a norm or a distance is 0."""
    features, prediction = rows_of(8, 6, dtype=dtype, device=device)
    features[0] = 0
    prediction[1] = 0
    features[2] = prediction[2] = 0
    prediction[3] = features[3]
    features[4, 1:] = 0
    features[5] = -prediction[5]
    features[6] = 1e-12 if dtype not in (torch.float16,) else 0
    call = functools.partial(refine, mode=mode)
    (loss, score), results = gradients(call, (features, prediction))
    (true_loss, true_score), true = gradients(
        functools.partial(reference.refine, mode=mode), double((features, prediction))
    )
    assert score[2] == 0 and score[3] == 0
    assert loss.isfinite() and score.isfinite().all()
    assert all(t.isfinite().all() for t in results)
    assert not results[0][3].any() and not results[1][3].any()  # both at their minimum
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 2e-2)
    for actual, expected in zip(
        [loss, score, *results], [true_loss, true_score, *true], strict=True
    ):
        error = (actual.detach().cpu().double() - expected.detach()).abs().max()
        assert float(error) <= tolerance * max(1.0, float(expected.detach().abs().max()))


@EVERY_MODE
def test_gradients_of_nothing_but_zeros(device, mode):
    zeros = torch.zeros(5, 4, device=device)
    (loss, score), results = gradients(functools.partial(refine, mode=mode), (zeros, zeros.clone()))
    assert loss == 0 and not score.any() and not any(t.any() for t in results)


@pytest.mark.parametrize("refine", [refine, reference.refine], ids=["kernel", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mean_square_of_exactly_tau_counts_as_close(device, refine, dtype):
    features = torch.zeros(3, 4, device=device, dtype=dtype)
    prediction = torch.full((3, 4), 2.0, device=device, dtype=dtype)
    prediction[1, 0], prediction[2, 0] = 2.01, 1.99
    _, score = refine(features, prediction, tau=4.0, mode="mse")
    assert score[0] == 0 and score[1] > 0 and score[2] == 0


@EVERY_MODE
def test_nan_stays_in_its_row(device, mode):
    features, prediction = rows_of(40, 9, dtype=torch.float32, device=device)
    clean = refine(features, prediction, mode=mode)[1]
    features[3, 2], prediction[20, 0] = math.nan, math.nan
    features.requires_grad_(), prediction.requires_grad_()
    loss, score = refine(features, prediction, mode=mode)
    others = torch.ones(40, dtype=torch.bool, device=device)
    others[[3, 20]] = False
    assert loss.isnan() and score[~others].isnan().all()
    assert torch.equal(score[others], clean[others])
    for gradient in torch.autograd.grad(score.sum(), (features, prediction)):
        assert gradient[others].isfinite().all()
        assert gradient[~others].isnan().any(dim=1).all()


@EVERY_MODE
def test_refined_map_is_the_formula(device, mode):
    features, prediction = rows_of(60, 10, device=device)
    refined = refined_map(features.requires_grad_(), prediction, mode=mode)
    assert not refined.requires_grad
    assert_near(refined, reference.refined_map(features, prediction, mode=mode), 1e-12)
    loss, score = refine(features, prediction, mode=mode)
    distance = torch.linalg.vector_norm(refined - features, dim=1)
    assert torch.allclose(distance, score, rtol=1e-9, atol=1e-12)
    assert float(loss.detach()) == pytest.approx(float(F.mse_loss(refined, features).detach()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
@EVERY_MODE
def test_half_types_are_as_exact_as_pytorch(device, dtype, mixed, mode):
    features, prediction = rows_of(200, 72, device=device)
    inputs = features.to(torch.float32 if mixed else dtype), prediction.to(dtype)
    call = functools.partial(refine, mode=mode)
    formula = functools.partial(reference.refine, mode=mode)
    assert [t.dtype for t in call(*inputs)] == [torch.float32, torch.float32]
    assert_as_exact_as_reference(call, formula, inputs)


def test_half_features_are_summed_in_float(device):
    """Squares of 300 are out of float16's range."""
    features = torch.full((4, 500), 300.0, dtype=torch.float16, device=device)
    loss, score = refine(features, -features, mode="none")
    assert float(loss) == 600.0**2
    assert torch.allclose(score, torch.full_like(score, 600 * 500**0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast(device, dtype):
    """The prediction comes in 16 bits from a layer, the features stay float32."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 12).to(device)
    features = normal(30, 12, dtype=torch.float32, device=device)
    with torch.autocast(device.type, dtype=dtype):
        prediction = layer(features)
        loss, score = refine(features, prediction)
    assert prediction.dtype == dtype
    assert loss.dtype == score.dtype == torch.float32
    loss.backward()
    gradient = layer.weight.grad.clone()
    layer.zero_grad()
    reference.refine(features, layer(features))[0].backward()
    assert_near(gradient, layer.weight.grad, 0.1)


@pytest.mark.parametrize("needed", range(4))
def test_gradients_only_where_asked(device, needed):
    inputs = rows_of(50, 20, dtype=torch.float32, device=device)
    _, every = gradients(refine, inputs)
    asked = [t.detach().requires_grad_(bool(needed >> i & 1)) for i, t in enumerate(inputs)]
    loss, score = refine(*asked)
    if needed:
        weights = [normal(*t.shape, seed=1 + i).to(t) for i, t in enumerate((loss, score))]
        torch.autograd.backward([loss, score], weights)
    for i, tensor in enumerate(asked):
        assert (tensor.grad is not None) == bool(needed >> i & 1)
        if tensor.grad is not None:
            assert_near(tensor.grad, every[i], 1e-6)


def test_operator_with_no_gradient_asked(device):
    features, prediction = rows_of(5, 4, dtype=torch.float32, device=device)
    _, score, sums = torch.ops.grad_anomaly.refine(features, prediction, 0.3, 0.7, 10.0)
    one = torch.ones((), device=device)
    results = torch.ops.grad_anomaly.refine_backward(
        one, score, features, prediction, sums, 0.3, 0.7, 10.0, False, False
    )
    assert [t.numel() for t in results] == [0, 0]


@pytest.mark.parametrize("shape", [(0, 6), (4, 0), (0, 0)])
def test_nothing_to_refine(device, shape):
    """The mean over nothing is NaN, as in torch; shapes and gradients are in order."""
    inputs = [torch.zeros(shape, device=device) for _ in range(2)]
    (loss, score), results = gradients(refine, inputs)
    expected, _ = gradients(reference.refine, inputs)
    assert loss.isnan() and expected[0].isnan()
    assert_near(score, expected[1], 0.0)
    assert [t.shape for t in results] == [torch.Size(shape)] * 2


def test_rows_further_apart_than_two_to_the_31(device):
    rows, stride, channels = 4, 2**30, 5
    far = []
    for seed in (0, 1):
        memory = torch.empty(3 * stride + channels, dtype=torch.float16, device=device)
        matrix = memory.as_strided((rows, channels), (stride, 1))
        far.append(matrix.copy_(normal(rows, channels, seed=seed)))
    near = [t.contiguous() for t in far]
    assert_near(gradients(refine, far)[1], gradients(refine, near)[1], 0.0)
    assert_near(refine(*far), refine(*near), 0.0)
    assert_near(refined_map(*far), refined_map(*near), 0.0)
