"""The reference itself, against PyTorch and SciPy; and the compiled operators in its place."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.operators import gradients, normal, points
from scipy.ndimage import map_coordinates

import grad.ops
from grad.ops import Jitter, reference

CORNERS = pytest.mark.parametrize("align_corners", [False, True])
PADDINGS = pytest.mark.parametrize("padding", ["zeros", "border"])


@CORNERS
@PADDINGS
def test_interpolate_is_grid_sample(align_corners, padding):
    coords, grid = points(100, (4, 5), align_corners), normal(4, 5, 6)
    options = {"align_corners": align_corners, "padding": padding}

    def grid_sample(coords, grid):
        image, places = grid.permute(2, 0, 1)[None], coords[None, None]
        out = F.grid_sample(image, places, align_corners=align_corners, padding_mode=padding)
        return out[0, :, 0].T

    ours = gradients(functools.partial(reference.interpolate, **options), (coords, grid))
    torchs = gradients(grid_sample, (coords, grid))
    for actual, expected in zip(ours[0] + ours[1], torchs[0] + torchs[1], strict=True):
        assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(5,), (4, 3), (3, 2, 4), (2, 3, 2, 4)])
@CORNERS
@PADDINGS
def test_interpolate_is_scipys(sizes, align_corners, padding):
    coords, grid = points(60, sizes, align_corners), normal(*sizes, 2)
    out = reference.interpolate(coords, grid, align_corners=align_corners, padding=padding)
    size, x = np.array(sizes[::-1]), coords.numpy()
    cells = (x + 1) / 2 * (size - 1) if align_corners else ((x + 1) * size - 1) / 2
    mode = {"zeros": "grid-constant", "border": "nearest"}[padding]
    for c in range(2):
        expected = map_coordinates(grid[..., c].numpy(), cells[:, ::-1].T, order=1, mode=mode)
        assert np.allclose(out[:, c], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_gradients_of_project_are_the_numerical_ones(dims):
    sizes = (3, 2, 4, 3)[:dims]
    inputs = (
        normal(4, 3),
        normal(dims, 3, seed=1),
        normal(dims, seed=2),
        normal(*sizes, 2, seed=3),
    )
    call = functools.partial(
        reference.project, jitter=Jitter(std=0.3), jitter_state=torch.tensor([1, 2])
    )
    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("mode", ["combined", "mse", "cosine", "none"])
def test_refine_is_the_refined_map_scored(mode):
    """Loss and score from the map F~ itself, which refine never makes."""
    features, prediction = normal(50, 12), normal(50, 12) + 4 * normal(50, 12, seed=1)
    m = F.mse_loss(prediction, features, reduction="none").mean(dim=1)
    close, cosine = (m <= 10).double(), F.cosine_similarity(prediction, features)
    assert 0 < close.sum() < 50
    s = {"combined": 0.3 * close + 0.7 * cosine, "mse": close, "cosine": cosine, "none": 0 * m}
    refined = s[mode][:, None] * features + (1 - s[mode][:, None]) * prediction
    loss, score = reference.refine(features, prediction, mode=mode)
    assert torch.allclose(reference.refined_map(features, prediction, mode=mode), refined)
    assert float(loss) == pytest.approx(float(F.mse_loss(refined, features)), rel=1e-9)
    assert torch.allclose(score, (refined - features).norm(dim=1), rtol=1e-9, atol=1e-12)


class TinyModel(torch.nn.Module):
    """Both heads, both lookups, a linear layer for the fusion, refinement: all of the operators."""

    def __init__(self, ops, mode="combined"):
        super().__init__()
        torch.manual_seed(0)
        self.ops, self.mode = ops, mode
        self.whole = torch.nn.Linear(6, 2)
        self.hidden = torch.nn.Linear(6, 8)
        self.coords = torch.nn.Linear(8, 2)
        self.fusion = torch.nn.Linear(12, 6)
        self.global_grid = torch.nn.Parameter(0.2 * torch.randn(4, 4, 9 * 6))
        self.local_grid = torch.nn.Parameter(0.2 * torch.randn(8, 8, 6))

    def forward(self, features, state):
        rows = features.flatten(0, 1)
        both = self.ops.lookup(
            torch.tanh(self.whole(features.mean(dim=1))),
            self.global_grid,
            torch.tanh(self.hidden(rows)),
            self.coords.weight,
            self.coords.bias,
            self.local_grid,
            jitter=Jitter(),
            jitter_state=state,
        )
        return self.ops.refine(rows, self.fusion(both), mode=self.mode)


def train(ops, device, mode):
    model = TinyModel(ops, mode).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(20):
        features = normal(4, 9, 6, seed=step, dtype=torch.float32, device=device)
        loss, score = model(features, torch.tensor([step, 7], device=device))
        optimizer.zero_grad()
        (loss + 0.01 * score.mean()).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("mode", ["combined", "none"])
def test_twenty_training_steps_with_kernels_equal_twenty_without(device, mode):
    losses, parameters = train(grad.ops, device, mode)
    true_losses, true_parameters = train(reference, device, mode)
    assert losses == pytest.approx(true_losses, rel=1e-4)
    assert min(losses[-3:]) != losses[0]
    for actual, expected in zip(parameters, true_parameters, strict=True):
        assert float((actual - expected).norm()) <= 1e-4 * float(expected.norm())


PROGRAM = """
import os, sys, torch
from grad.ops import Jitter, interpolate, jitter_noise, lookup, project, refine, refined_map
if os.environ.get("GRAD_REFERENCE") == "1":  # must not even load the library
    assert "grad._C" not in sys.modules and not hasattr(torch.ops.grad_anomaly, "project")
torch.manual_seed(0)
state = torch.tensor([3, 4])
hidden, weight, bias = torch.randn(300, 21), torch.randn(2, 21) / 5, torch.randn(2)
grid, whole = torch.randn(5, 5, 37), torch.randn(3, 3, 100 * 37)
leaves = [t.requires_grad_() for t in (hidden, weight, bias, grid, whole)]
coords = torch.tanh(torch.randn(3, 2))
out = lookup(coords, whole, hidden, weight, bias, grid, jitter=Jitter(), jitter_state=state)
loss, score = refine(torch.randn(300, 74), out)
results = [out, loss, score, refined_map(out, 2 * out), jitter_noise(state, 99, 4, Jitter())]
results += torch.autograd.grad(loss + score.sum(), leaves)
half = [t.detach().bfloat16() for t in leaves]
results += [project(*half[:4]).float(), interpolate(coords, half[4]).float()]
torch.save([r.detach() for r in results], {path!r})
"""


def results_of_a_process(path: Path, **environment: str) -> list[torch.Tensor]:
    program = PROGRAM.format(path=str(path))
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=variables, check=True)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "environment", [{"GRAD_CPU": "baseline"}, {"GRAD_CPU": "avx2"}, {"GRAD_REFERENCE": "1"}]
)
def test_every_instruction_set_and_the_reference_give_the_same(tmp_path, environment):
    """GRAD_CPU chooses the clone of the kernels, GRAD_REFERENCE plain PyTorch."""
    exec(PROGRAM.format(path=str(tmp_path / "best.pt")), {})
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    results = results_of_a_process(tmp_path / "other.pt", **environment)
    for index, (actual, expected) in enumerate(zip(results, best, strict=True)):
        # The last two are rounded to bfloat16, where one float32 ulp can become one of 2^-8.
        tolerance = 1e-5 if index < len(best) - 2 else 1e-3
        error = float((actual - expected).norm() / expected.norm())
        assert error <= tolerance, f"result {index}: {error:.1e}"
