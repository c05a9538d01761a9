"""The benchmarks compare the same work, and report what they promise."""

import json
import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from common import timing
from operators import eager, harness, report, sanitize
from operators import grid as bench_grid
from operators import refine as bench_refine
from operators.cases import Shape, difference

from grad.system.errors import GradError

CPU = torch.device("cpu")
LAYOUTS = ("channels_last", "NCHW")
KEYS = {
    *("op", "pass", "device", "dtype", "layout", "shape", "ms", "eager_ms", "compiled_ms"),
    *("limit_ms", "limit_share", "gb_per_s", "peak_bytes", "spread", "eager_ratio"),
    *("compiled_ratio", "torch", "threads", "commit", "copy_gb_per_s"),
}


def shape(dims=None, resolution=None):
    return Shape(3, 6, 5, 4, dims, resolution)


def all_cases(dtype=torch.float64):
    for dims, layout in product((2, 3, 4), LAYOUTS):
        small, whole = shape(dims, 5), shape(dims, 3)
        yield bench_grid.interpolate_case(small, dtype, layout)
        yield bench_grid.project_case(small, dtype, layout)
        yield bench_grid.global_case(whole, dtype, layout)
    yield bench_grid.project_case(shape(2, 8), dtype, "NCHW converted")
    for layout in LAYOUTS:
        yield bench_grid.lookup_case(shape(2, 8), dtype, layout)
    for layout in (*LAYOUTS, "NCHW converted"):
        yield bench_refine.refine_case(shape(), dtype, layout)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setitem(timing.COPY_BYTES, "cpu", 2**20)
    monkeypatch.setitem(timing.SAMPLE_MS, "cpu", 0.01)
    monkeypatch.setattr(timing, "CACHE_BYTES", 2**10)


@pytest.mark.parametrize("case", list(all_cases()), ids=lambda case: case.title)
def test_eager_and_ours_compute_the_same(case):
    assert difference(case, CPU) < 1e-9


def test_values_are_not_trivial():
    """The refinement's threshold and the grid's borders are on both sides of some pixels."""
    generator = torch.Generator().manual_seed(0)
    case = bench_refine.refine_case(Shape(4, 216, 7, 7), torch.float32, "NCHW")
    features, prediction = case.arguments(generator)
    close = (prediction - features).square().mean(dim=1) <= 10
    assert 0.1 < close.float().mean() < 0.9
    case = bench_grid.project_case(Shape(4, 216, 7, 7, 2, 8), torch.float32, "NCHW")
    hidden, weight, bias, _ = case.arguments(generator)
    coords = torch.tanh(torch.nn.functional.conv2d(hidden, weight, bias))
    assert coords.std() > 0.3 and coords.abs().max() > 1 - 1 / 8


def test_different_work_is_refused(fast):
    """Eager with the other meaning of the borders must not be timed."""
    case = bench_grid.interpolate_case(shape(2, 5), torch.float32, "NCHW")

    def other(coords, grid):
        copies = grid.repeat(coords.shape[0], 1, 1, 1)
        points = coords.permute(0, 2, 3, 1)
        return (torch.nn.functional.grid_sample(copies, points, align_corners=True),)

    with pytest.raises(GradError, match="different things"):
        list(bench(fast_options()).rows(replace(case, eager=other)))


def test_time_below_an_empty_kernel_is_refused(fast):
    runner = bench(fast_options())
    runner.floor_ms = 1e6
    case = bench_refine.refine_case(shape(), torch.float32, "NCHW")
    with pytest.raises(GradError, match="empty kernel"):
        list(runner.rows(case))


def test_four_axes_of_eager_are_its_three_axes_twice():
    """The lookup that torch lacks, against torch's where the fourth axis has one cell only."""
    grid = torch.randn(1, 6, 1, 5, 5, 5, dtype=torch.float64)
    coords = torch.rand(3, 4, 2, 2, dtype=torch.float64) * 2 - 1
    coords[:, 3] = 0  # the centre of the only cell
    four = eager.local_lookup(coords, grid)
    three = eager.local_lookup(coords[:, :3], grid[:, :, 0])
    torch.testing.assert_close(four, three)


def fast_options(**changes):
    options = harness.parse("test", ["--quick", "--device", "cpu"])
    return replace(options, **changes)


def bench(options):
    runner = harness.Bench(options)
    runner.budget = {"seconds": 0.0, "least": 2, "most": 2}
    return runner


def few_cases(options):
    """One of each operator."""
    yield bench_grid.project_case(shape(2, 8), torch.float32, "channels_last")
    yield bench_grid.global_case(shape(2, 4), torch.bfloat16, "NCHW")
    yield bench_grid.lookup_case(shape(2, 8), torch.float32, "NCHW")
    yield bench_refine.refine_case(shape(), torch.float32, "NCHW converted")


def test_command_writes_table_and_json(fast, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness.Bench, "__init__", _quick_bench(harness.Bench.__init__))
    path = tmp_path / "rows.json"
    goals = (*bench_grid.GOALS, *bench_refine.GOALS)
    arguments = ["--quick", "--device", "cpu", "--json", str(path)]
    assert harness.run("title", few_cases, goals, arguments) == 0
    rows = json.loads(path.read_text())
    assert [(row["op"], row["pass"]) for row in rows] == [
        *product(("project", "global", "lookup", "refine"), ("forward", "backward", "both"))
    ]
    for row in rows:
        assert row.keys() >= KEYS
        assert row["ms"] > 0 and row["eager_ms"] > 0 and row["compiled_ms"] is None
        assert row["limit_share"] == pytest.approx(row["limit_ms"] / row["ms"])
        assert row["peak_bytes"] > 0 and row["device"] == "cpu"
    assert rows[0]["shape"] == {
        **{"batch": 3, "channels": 6, "height": 5, "width": 4},
        **{"dims": 2, "resolution": 8},
    }
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[:-3])) <= 120
    assert re.search(r"^project +B3 C6 2-D R8 +float32 +channels_last +forward ", shown, re.M)
    assert "project forward + backward, x eager" in shown


def _quick_bench(init):
    def quick(self, options):
        init(self, options)
        self.budget = {"seconds": 0.0, "least": 2, "most": 2}

    return quick


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--quick", "--full"], "not allowed with"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--threads", "two"], "invalid int value"),
        (["--json", "/no/such/folder/rows.json"], "does not exist"),
    ],
)
def test_bad_option_is_one_sentence(arguments, sentence, capsys):
    assert harness.run("title", lambda _: [], (), [*arguments, "--device", "cpu"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and sentence in shown.err
    assert len(shown.err.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_sentence(capsys):
    assert harness.run("title", lambda _: [], (), ["--device", "cuda"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "batches"), [("cpu", {16, 64}), ("cuda", {16, 64, 512})])
def test_full_has_every_size_of_the_paper(device, batches):
    options = fast_options(quick=False, full=True, device=torch.device(device))
    cases = list(bench_grid.cases(options))
    for op in ("project", "global", "lookup"):
        found = {
            (c.shape.batch, c.dtype, c.layout)
            for c in cases
            if c.op == op and c.paper and "converted" not in c.layout
        }
        layouts = ("NCHW",) if op == "global" else LAYOUTS
        assert found == set(product(batches, (torch.float32, torch.bfloat16), layouts))
    others = {(c.shape.dims, c.shape.resolution, c.shape.channels) for c in cases if not c.paper}
    assert others >= set(product((3,), (8,), (64, 768))) | set(product((4,), (4, 8), (64, 768)))
    papers = [case.paper for case in cases]
    assert papers == sorted(papers, reverse=True)


def test_bytes_that_must_move():
    size = Shape(16, 216, 28, 28, 2, 8)
    project = bench_grid.project_case(size, torch.bfloat16, "NCHW")
    maps, grid = 16 * 28 * 28 * 216 * 2, 64 * 216 * 2
    assert project.bytes_of("forward") == 2 * maps + grid
    assert project.bytes_of("backward") == 3 * maps + 2 * grid
    refine = bench_refine.refine_case(Shape(16, 216, 28, 28), torch.float32, "NCHW")
    assert refine.bytes_of("both") == 5 * 2 * maps + 16 * 28 * 28 * 4
    whole = bench_grid.global_case(replace(size, resolution=4), torch.float32, "NCHW")
    assert whole.bytes_of("both") == 2 * 2 * maps + 3 * 16 * 28 * 28 * 216 * 4


def test_peak_memory_counts_the_result_and_what_was_freed():
    kept = torch.ones(250_000)

    def call(_):
        return (kept * 2) + 1  # two tensors of a megabyte at once, one of them the result

    assert timing.peak_bytes(call, CPU) == pytest.approx(2e6, abs=1e4)
    assert timing.peak_bytes(lambda _: kept.add_(1), CPU) < 1e4


def test_ratio_is_of_the_same_rounds():
    ours = timing.Timing((1.0, 10.0, 2.0))
    theirs = timing.Timing((3.0, 30.0, 6.0))
    assert theirs.ratio_to(ours) == pytest.approx(3.0)
    assert ours.ms == 2.0
    assert timing.Timing((2.0, 2.0, 2.0)).spread == 0.0


def test_goals_name_what_is_missed(fast):
    rows = [
        row
        for row in bench(fast_options()).rows(
            bench_grid.project_case(shape(2, 8), torch.float32, "NCHW")
        )
        if row.pass_ == "both"
    ]
    reached, missed = (
        list(report._standing([replace(rows[0], eager_ratio=ratio)], bench_grid.GOALS))
        for ratio in (5.5, 0.9)
    )
    assert any("5.50" in line and "reached" in line for line in reached)
    assert any("0.90" in line and "MISSED" in line for line in missed)
    assert any(line.startswith("slower than eager: project") for line in missed)


def test_no_case_begins_after_the_time_is_over(fast):
    runner = bench(fast_options(seconds=-1.0))
    assert harness.measure_all(runner, list(few_cases(None))) == []
    assert "4 of 4 cases were not measured" in runner.notes[0]


def test_program_for_memory_checkers_covers_every_operator():
    work = list(sanitize.all_work())
    titles = {(item.title.split()[0], item.dtype) for item in work}
    for op in ("interpolate", "project", "lookup", "refine", "refined_map"):
        assert {dtype for name, dtype in titles if name == op} >= set(sanitize.DTYPES)
    for item in work[:: len(work) // 12]:
        assert sanitize.error_of(item, CPU) <= sanitize.TOLERANCE[item.dtype], item.title
