"""Wrong arguments: which one, what was expected, what came; nothing is computed from nonsense."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grad.ops import Jitter, interpolate, jitter_noise, lookup, project, refine, refined_map

STATE = torch.tensor([1, 2])
DOUBLE, HALF, LONG = torch.float64, torch.float16, torch.int64


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


def head(**changes):
    arguments = {
        "hidden": ones(6, 5),
        "weight": ones(2, 5),
        "bias": ones(2),
        "grid": ones(3, 4, 7),
    }
    return {**arguments, **changes}


def both(**changes):
    arguments = head(**{"global_coords": ones(3, 1), "global_grid": ones(4, 14)})
    arguments["local_grid"] = arguments.pop("grid")
    return {**arguments, **changes}


def noise(state=STATE, rows=3, dims=2):
    return {"state": state, "rows": rows, "dims": dims, "jitter": Jitter()}


# Call, arguments, and what its message must contain: the argument, what was expected, what came.
SHAPES = [
    (interpolate, {"coords": ones(6, 3), "grid": ones(3, 4, 7)}, ["coords", "D = 2", "(6, 3)"]),
    (interpolate, {"coords": ones(6), "grid": ones(3, 7)}, ["coords", "(N, D)", "(6"]),
    (interpolate, {"coords": ones(6, 1), "grid": ones(7)}, ["grid", "(R_D, ..., R_1, C)", "(7"]),
    (
        interpolate,
        {"coords": ones(6, 5), "grid": ones(2, 2, 2, 2, 2, 3)},
        ["grid", "1 to 4 spatial axes", "(2, 2, 2, 2, 2, 3)"],
    ),
    (
        interpolate,
        {"coords": ones(6, 2), "grid": ones(0, 2, 3)},
        ["grid", "at least one cell", "(0, 2, 3)"],
    ),
    (project, head(hidden=ones(6)), ["hidden", "(N, Ch)", "(6"]),
    (project, head(weight=ones(3, 5)), ["weight", "(2, 5)", "(3, 5)"]),
    (project, head(weight=ones(2, 4)), ["weight", "(2, 5)", "(2, 4)"]),
    (project, head(bias=ones(3)), ["bias", "(2,)", "(3"]),
    (project, head(bias=ones(2, 1)), ["bias", "(2,)", "(2, 1)"]),
    (project, head(grid=ones(7)), ["grid", "(R_D, ..., R_1, C)", "(7"]),
    (
        project,
        head(jitter=Jitter(), jitter_state=ones(4, dtype=LONG)),
        ["jitter_state", "(2,) or (3,) int64", "(4"],
    ),
    (
        project,
        head(jitter=Jitter(), jitter_state=ones(2)),
        ["jitter_state", "(2,) or (3,) int64", "(2"],
    ),
    (lookup, both(global_coords=ones(3, 2)), ["global_coords", "D = 1", "(3, 2)"]),
    (lookup, both(global_grid=ones(14)), ["global_grid", "(R_D, ..., R_1, C)", "(14"]),
    (lookup, both(global_grid=ones(4, 15)), ["global_grid", "P * C", "(4, 15)"]),
    (lookup, both(local_grid=ones(7)), ["local_grid", "(R_D, ..., R_1, C)", "(7"]),
    (lookup, both(weight=ones(1, 5)), ["weight", "(2, 5)", "(1, 5)"]),
    (refine, {"features": ones(6, 4), "prediction": ones(6, 5)}, ["features", "(6, 5)", "(6, 4)"]),
    (refine, {"features": ones(6), "prediction": ones(6)}, ["prediction", "(N, C)", "(6"]),
    (
        refined_map,
        {"features": ones(6, 4), "prediction": ones(5, 4)},
        ["features", "(5, 4)", "(6, 4)"],
    ),
    (jitter_noise, noise(state=ones(2)), ["state", "(2,) or (3,) int64", "(2"]),
    (jitter_noise, noise(dims=5), ["dims", "1 to 4", "5"]),
    (jitter_noise, noise(dims=0), ["dims", "1 to 4", "0"]),
    (jitter_noise, noise(rows=-1), ["rows", "at least 0", "-1"]),
]


@pytest.mark.parametrize(("call", "arguments", "parts"), SHAPES)
def test_wrong_shapes_are_named(device, call, arguments, parts):
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with pytest.raises(ValueError) as raised:
        call(**moved)
    message = str(raised.value).splitlines()[0]
    for part in parts:
        assert part in message, message


PAIRS = "float16, bfloat16, float32 or float64"
DTYPES = [
    (
        interpolate,
        {"coords": ones(6, 1), "grid": ones(3, 7, dtype=LONG)},
        ["grid", PAIRS, "int64"],
    ),
    (
        interpolate,
        {"coords": ones(6, 1, dtype=LONG), "grid": ones(3, 7)},
        ["coords", "int64"],
    ),
    (
        interpolate,
        {"coords": ones(6, 1, dtype=torch.complex64), "grid": ones(3, 7)},
        ["coords", "complex64"],
    ),
    (
        project,
        head(hidden=ones(6, 5, dtype=HALF), grid=ones(3, 4, 7, dtype=DOUBLE)),
        ["hidden", "grid", "float16", "float64"],
    ),
    (project, head(grid=ones(3, 4, 7, dtype=HALF)), ["hidden", "grid", "float32", "float16"]),
    (project, head(weight=ones(2, 5, dtype=LONG)), ["weight", "int64"]),
    (project, head(bias=ones(2, dtype=LONG)), ["bias", "int64"]),
    (lookup, both(global_grid=ones(4, 14, dtype=DOUBLE)), ["global_grid", "float32", "float64"]),
    (lookup, both(local_grid=ones(3, 4, 7, dtype=HALF)), ["local_grid", "float32", "float16"]),
    (
        refine,
        {"features": ones(6, 4, dtype=HALF), "prediction": ones(6, 4)},
        ["features", "prediction", "float32", "float16"],
    ),
    (
        refine,
        {"features": ones(6, 4, dtype=LONG), "prediction": ones(6, 4, dtype=LONG)},
        ["features", "prediction", PAIRS, "int64"],
    ),
]


@pytest.mark.parametrize(("call", "arguments", "parts"), DTYPES)
def test_wrong_dtypes_are_named(device, call, arguments, parts):
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with pytest.raises(TypeError) as raised:
        call(**moved)
    message = str(raised.value).splitlines()[0]
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (
            interpolate,
            {"coords": ones(6, 1), "grid": ones(3, 7), "padding": "reflection"},
            "padding must be 'zeros' or 'border', got 'reflection'",
        ),
        (project, head(padding=None), "padding must be 'zeros' or 'border', got None"),
        (
            refine,
            {"features": ones(6, 4), "prediction": ones(6, 4), "mode": "both"},
            "mode must be one of 'combined', 'mse', 'cosine', 'none', got 'both'",
        ),
    ],
)
def test_wrong_options_are_named(call, arguments, message):
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_images_that_do_not_share_the_rows_evenly():
    """2 images and 3 rows: as many values as there should be, but P = 1.5 pixels an image."""
    arguments = both(
        global_coords=ones(2, 1),
        global_grid=ones(4, 3),
        hidden=ones(3, 5),
        local_grid=ones(3, 4, 2),
    )
    with pytest.raises(ValueError, match=r"global_grid .*(3, 5).*, got \(4, 3\)"):
        lookup(**arguments)


def test_mixed_devices_are_named(device):
    if device.type != "cuda":
        pytest.skip("no GPU on this machine")
    for name in ("weight", "bias", "grid"):
        moved = {k: v if k == name else v.to(device) for k, v in head().items()}
        with pytest.raises(ValueError, match=rf"{name} must be on the device of hidden, cuda:0"):
            project(**moved)
    with pytest.raises(ValueError, match="coords must be on the device of grid"):
        interpolate(ones(6, 1), ones(3, 7).to(device))
    with pytest.raises(ValueError, match="features must be on the device of prediction"):
        refine(ones(6, 4), ones(6, 4).to(device))
    with pytest.raises(ValueError, match="jitter_state must be on the device of hidden"):
        moved = {k: v.to(device) for k, v in head().items()}
        project(**moved, jitter=Jitter(), jitter_state=STATE)


def test_backward_operators_check_what_they_are_given(device):
    """They can be called directly: no wild reads where a gradient has another shape or type."""
    ops = torch.ops.grad_anomaly
    coords, grid = ones(6, 1).to(device), ones(3, 7).to(device)
    hidden, weight, bias, cells = (t.to(device) for t in head().values())
    features = ones(6, 4).to(device)
    _, _, sums = ops.refine(features, features, 0.3, 0.7, 10.0)
    flags, noise = (False, False), (None, 0.0, 0.0, False)
    _, activations = ops.project(hidden, weight, bias, cells, *noise, *flags)
    local = (hidden, weight, bias, cells)
    rest = (*noise, *flags, *[True] * 4, False)
    one = torch.ones((), device=device)
    wrong = [
        (
            "grad_out",
            ops.interpolate_backward,
            (ones(6, 8), coords, grid, *flags, True, True, False),
        ),
        (
            "grad_out",
            ops.interpolate_backward,
            (ones(7, 6), coords, grid, *flags, True, True, False),
        ),
        (
            "grad_out",
            ops.project_backward,
            (ones(6, 8), *local, activations, *rest),
        ),
        ("activations", ops.project_backward, (ones(6, 7), *local, activations[:5], *rest)),
        ("activations", ops.project_backward, (ones(6, 7), *local, activations.double(), *rest)),
        ("sums", ops.refine_backward, (one, None, features, features, sums[:5], 0.3, 0.7, 10.0)),
        (
            "sums",
            ops.refine_backward,
            (one, None, features, features, sums.double(), 0.3, 0.7, 10.0),
        ),
        (
            "grad_loss",
            ops.refine_backward,
            (ones(3), None, features, features, sums, 0.3, 0.7, 10.0),
        ),
        (
            "grad_score",
            ops.refine_backward,
            (one, ones(5), features, features, sums, 0.3, 0.7, 10.0),
        ),
    ]
    for name, operator, arguments in wrong:
        arguments = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
        if operator is ops.refine_backward:
            arguments += [True, True]
        with pytest.raises((ValueError, TypeError), match=rf"^\W*{name} must"):
            operator(*arguments)


def test_messages_are_one_line_of_words():
    """As a user sees them: the last line of the traceback, with shape, dtype and device."""
    program = (
        "import torch, grad.ops\n"
        "grad.ops.interpolate(torch.zeros(12544, 3), torch.zeros(8, 8, 216))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "coords must be (N, D) with D = 2" in done.stderr
    assert "got (12544, 3) float32 on cpu" in done.stderr
