"""How the numbers are measured: time per call, extra memory, copy bandwidth of one device."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[int], object]  # runs the work once, on the input set of that number

CACHE_BYTES = 2**26  # of a CPU, more than most have for one core
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
SAMPLE_MS = {"cpu": 4.0, "cuda": 1.0}  # what one sample should take at least
MAX_QUEUE = 64  # calls in one sample
CYCLES_PER_SECOND = 3e9  # of a device's clock, more than any has


@dataclass(frozen=True)
class Timing:
    """Time per call.

    Args:
        samples: milliseconds per call, one of each round.
        host_bound: on CUDA, whether the device had to wait for the host even though launches were
            queued ahead; the time is then that of the host.
    """

    samples: tuple[float, ...]
    host_bound: bool = False

    @property
    def ms(self) -> float:
        """Median, milliseconds."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, relative to the median."""
        if len(self.samples) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return (high - low) / self.ms

    def ratio_to(self, other: Timing) -> float:
        """Median over rounds of this time by the other's in the same round."""
        return statistics.median(a / b for a, b in zip(self.samples, other.samples, strict=True))


class Stopwatch:
    """Times one call: wall clock on the CPU, events on CUDA.

    CUDA work is queued behind a kernel that only waits, so that the device runs the calls back to
    back and neither Python nor launch latency is in the time. Whether the wait was long enough is
    checked, and it is made longer where it was not.
    """

    def __init__(self, call: Call, device: torch.device) -> None:
        self.call = call
        self.device = device
        self.host_bound = False
        for index in range(2):  # compile, choose algorithms, fill the allocator's cache
            call(index)
        synchronize(device)
        start = time.perf_counter()
        call(0)
        host = time.perf_counter() - start
        synchronize(device)
        whole = time.perf_counter() - start
        wanted = SAMPLE_MS[device.type] / (1e3 * max(whole, 1e-6))
        self.count = max(1, min(MAX_QUEUE, round(wanted)))
        if device.type == "cuda":
            self.count = max(self.count, 4)
            self._wait_cycles = int(CYCLES_PER_SECOND * self.count * host)
            self.sample()
            self.host_bound = False

    def sample(self) -> float:
        """Milliseconds per call, the mean of a few calls in a row."""
        if self.device.type == "cpu":
            return 1e3 * self._seconds(self.count) / self.count
        for attempt in range(5):
            milliseconds, starved = self._queue()
            if not starved:
                return milliseconds
            if attempt < 2:
                self._wait_cycles *= 2
            else:  # the queue may be full of launches
                self.count = max(1, self.count // 2)
        self.host_bound = True
        return milliseconds

    def _seconds(self, count: int) -> float:
        start = time.perf_counter()
        for index in range(count):
            self.call(index)
        synchronize(self.device)
        return time.perf_counter() - start

    def _queue(self) -> tuple[float, bool]:
        """Milliseconds per call, and whether the device was ready before the host was."""
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(self.device):
            torch.cuda._sleep(self._wait_cycles)
            start.record()
            for index in range(self.count):
                self.call(index)
            starved = start.query()
            stop.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(stop) / self.count, starved


def measure_rounds(
    calls: dict[str, Call], device: torch.device, *, seconds: float, least: int, most: int
) -> dict[str, Timing]:
    """Time several calls in turn, so that all of them see the same state of the machine.

    Args:
        calls: what to time, by name.
        seconds: no new round starts after this time.
        least, most: number of rounds.
    """
    watches = {name: Stopwatch(call, device) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    end = time.perf_counter() + seconds
    for number in range(most):
        if number >= least and time.perf_counter() > end:
            break
        first = number % len(names)  # nobody always runs after the same other
        for name in names[first:] + names[:first]:
            samples[name].append(watches[name].sample())
    return {name: Timing(tuple(samples[name]), watch.host_bound) for name, watch in watches.items()}


def copy_bandwidth(device: torch.device, bytes_: int | None = None) -> float:
    """Bytes a second, read plus written, of a copy too large for any cache."""
    size = COPY_BYTES[device.type] if bytes_ is None else bytes_
    source = torch.ones(size // 4, device=device)  # ones: memory that is really there
    target = torch.ones_like(source)
    timing = measure_rounds(
        {"copy": lambda _: target.copy_(source)}, device, seconds=1.0, least=5, most=20
    )
    return 2 * size / (1e-3 * timing["copy"].ms)


def launch_floor(device: torch.device) -> float:
    """Milliseconds of the smallest kernel; work that takes less did not run on this stream."""
    if device.type == "cpu":
        return 0.0
    one = torch.zeros(1, device=device)
    timing = measure_rounds({"add": lambda _: one.add_(1)}, device, seconds=0.5, least=5, most=20)
    return timing["add"].ms


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most memory that torch's allocator held during one call above what it held before.

    Outputs count, as the call's result is alive. On the CPU this comes from torch's profiler:
    buffers that a library takes from the system itself are not seen.
    """
    call(0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call(0)
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        del result
        return peak
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        _no_stderr(),  # the profiler writes lines of its own there
        torch.profiler.profile(activities=activities, profile_memory=True) as profile,
    ):
        result = call(0)
    del result
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def input_sets(bytes_: int, device: torch.device) -> int:
    """How many sets of inputs of this size in turn are too large for the cache together."""
    cache = CACHE_BYTES
    if device.type == "cuda":
        cache = 3 * torch.cuda.get_device_properties(device).L2_cache_size
    return max(2, min(16, -(-cache // max(bytes_, 1))))


def total_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of the tensors' elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """What any library writes to the standard error goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
