"""The arithmetic of predicted times, on counters made up by hand."""

from dataclasses import replace

import pytest
import torch
from operators import emulated
from operators.cases import Shape
from operators.refine import refine_case

# Round figures: 10 multiprocessors of 1 GHz, 1000 GB/s.
DEVICE = emulated.Device("made up", "90", 1000.0, 10.0, 10, 1.0, 100 * 1024)
EMPTY = dict.fromkeys(("requests", "bytes", "sectors", "wavefronts", "conflicts"), 0)


def requests(**values):
    return {**EMPTY, **values}


def counted(blocks_run, common=0, grid=20):
    """A line of the emulator: each block reads 64 sectors of its own and writes 32."""
    return {
        "case": "refine forward, float32",
        "kernel": "refine_forward_kernel",
        "grid": [grid, 1, 1],
        "block": [128, 1, 1],
        "blocks_run": blocks_run,
        "dynamic_shared": 3000,
        "declared_shared": 96,
        "global": {
            "read": requests(
                requests=8 * blocks_run, bytes=2048 * blocks_run, sectors=64 * blocks_run
            ),
            "written": requests(requests=4 * blocks_run, sectors=32 * blocks_run),
            "atomic": EMPTY,
            "distinct_sectors_read": common + 64 * blocks_run,
            "distinct_sectors_written": 32 * blocks_run,
        },
        "shared": {
            "read": requests(
                requests=40 * blocks_run, wavefronts=50 * blocks_run, conflicts=10 * blocks_run
            ),
            "written": requests(requests=6 * blocks_run, wavefronts=6 * blocks_run),
        },
        "barriers": blocks_run,
        "shuffles": 24 * blocks_run,
    }


@pytest.fixture
def launch():
    return emulated.launch_of(counted(2), counted(4))


def test_a_sample_stands_for_the_whole_launch(launch):
    assert (launch.blocks, launch.warps, launch.shared) == (20, 4, 3096)
    assert launch.loads == 20 * 8
    assert launch.sectors == 20 * 96
    assert launch.wavefronts == 20 * 56
    assert launch.read == 20 * 64
    assert launch == emulated.launch_of(counted(20), counted(20))


def test_common_sectors_come_from_memory_once():
    launch = emulated.launch_of(counted(2, common=100), counted(4, common=100))
    assert launch.read == 100 + 20 * 64
    assert launch.block_read == 100 + 64


@pytest.mark.parametrize(
    ("registers", "shared", "resident"),
    [
        (32, 3096, 16),  # 64 warps at most
        (128, 3096, 4),  # 65536 registers, 4096 a warp
        (32, 50 * 1024, 1),  # of 100 KiB, as 1 KiB a block is the system's
    ],
)
def test_blocks_of_a_multiprocessor(launch, registers, shared, resident):
    predicted = emulated.predict(replace(launch, shared=shared), registers, DEVICE)
    assert predicted.resident == resident


def test_times_of_each_resource(launch):
    times = emulated.predict(launch, 128, DEVICE, flops=5e6).times
    assert tuple(times) == emulated.RESOURCES
    assert times["memory"] == pytest.approx(20 * 96 * 32 / (0.9 * 1000) / 1e3)
    assert times["L2"] == pytest.approx(20 * 64 * 32 / 5120 / 1e3)
    # Two blocks on each multiprocessor: 24 clocks of sectors, 56 passes, 24 shuffles.
    assert times["load/store unit"] == pytest.approx(2 * (24 + 56 + 24) / 1e3)
    assert times["arithmetic"] == pytest.approx(5e6 / 10 / 1e6)
    # A warp: 2 loads of 500 clocks, 8 together; 10 of shared memory, 4 together; 6 shuffles.
    assert times["latency"] == pytest.approx((2 / 8 * 500 + 10 / 4 * 29 + 29 + 30) / 1e3)


def test_idle_multiprocessors_help_nobody(launch):
    half = replace(launch, blocks=5)
    full, few = (emulated.predict(x, 128, DEVICE, flops=5e6) for x in (launch, half))
    assert few.times["arithmetic"] == 2 * full.times["arithmetic"]
    assert few.times["memory"] == full.times["memory"]
    assert few.occupancy == full.occupancy / 2


def test_waves(launch):
    many = replace(launch, blocks=41)
    assert emulated.predict(many, 128, DEVICE).waves == 2  # 40 blocks at once
    assert emulated.predict(replace(many, blocks=40), 128, DEVICE).waves == 1


def test_bytes_in_flight(launch):
    # 20 blocks of 4 warps, 8 requests of 256 bytes each; 500 ns times 1000 GB/s.
    predicted = emulated.predict(launch, 128, DEVICE)
    assert predicted.in_flight == pytest.approx(20 * 4 * 8 * 256 / 500e3)


def test_share_of_bank_conflicts(launch):
    assert emulated.predict(launch, 128, DEVICE).conflicts == pytest.approx(10 / 56)


def test_the_slowest_resource_decides(launch):
    predicted = emulated.predict(launch, 128, DEVICE, flops=1e9)
    assert predicted.limit == "arithmetic"
    assert predicted.time == pytest.approx(100 + emulated.LAUNCH_US)


def test_loads_ahead_wait_beside_the_others(launch, monkeypatch):
    kernel = replace(emulated.KERNELS["refine_forward_kernel"], ahead=0.75)
    monkeypatch.setitem(emulated.KERNELS, "refine_forward_kernel", kernel)
    predicted = emulated.predict(launch, 128, DEVICE)
    # Of 125 clocks for loads a quarter is waited for; the others' 131.5 hide the rest.
    assert predicted.times["latency"] == pytest.approx((125 / 4 + 131.5) / 1e3)


def test_rows_of_a_case(launch):
    case = refine_case(Shape(16, 216, 28, 28), torch.float32, "channels_last")
    page = "## sm_90: 1 kernels\n\n| `refine_forward_kernel<float, float, 4>` | 96 | 0 |\n"
    row = next(emulated.rows(case, {"forward": [launch], "backward": []}, DEVICE, page))
    assert row.limit_us == pytest.approx(case.forward_bytes / 900 / 1e3)
    assert row.main.times["memory"] == pytest.approx(row.limit_us)  # never less than must move
    assert row.time == pytest.approx(row.limit_us + emulated.LAUNCH_US)
    assert str(row).startswith("| refine | 16 | float32 | forward | 20 | 5 | 1 | ")


def test_kernels_are_in_the_compilers_report():
    page = (emulated.RESULTS / "ptxas.md").read_text()
    for device in emulated.DEVICES:
        names = emulated.registers_of(page, device.architecture)
        for name, kernel in emulated.KERNELS.items():
            for t, w in (("float", 4), ("BFloat16", 8)):
                assert f"{name}<{kernel.types.format(t=t, w=w)}>" in names
