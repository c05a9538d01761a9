"""Several processes that work as one: who is who, who does what, how results come together.

``torchrun --nproc-per-node N -m grad.train ...`` starts N processes on a machine, or on several
machines, and tells each its number. In a process that was started alone everything here does
nothing and returns at once, so callers need no second path.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from grad.system.errors import GradError, StoppedElsewhere

T = TypeVar("T")

# One process may decode or judge images for long while the others wait for it. They don't wait for
# a process that died: its connections close.
_PATIENCE = timedelta(days=7)

_control: Any = None  # the group for objects and barriers; tensors of training go over the default


class ProcessLost(GradError):
    """Another process of this run ended before its work was done.

    Args:
        reason: how that came to be known.
        advice: what to do, beside looking for that process's own message.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(
            f"Another process of this run ended before its work was done ({reason}): look for its "
            f"own message{advice and '; '}{advice}."
        )
        self.reason = reason


def is_launched() -> bool:
    """Whether torchrun, or a launcher like it, has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _is_started() else 0


def size() -> int:
    """How many processes there are, on all machines."""
    return dist.get_world_size() if _is_started() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def local_device(device: torch.device) -> torch.device:
    """The device of this process on its machine: ``cuda`` becomes the GPU of its number.

    Raises:
        GradError: one GPU was chosen for several processes, or there are too few.
    """
    if device.type != "cuda" or not is_launched():
        return device
    number, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if str(device) != "cuda":
        raise GradError(
            f"--device {device} is one GPU for several processes: give --device cuda, and each "
            "process takes its own."
        )
    if number >= found:
        raise GradError(
            f"There are {found} GPUs for {os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes "
            "on this machine: start as many processes as there are GPUs."
        )
    return torch.device("cuda", number)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other processes of the launch, where there are any, and leave them at the end.

    The first process that comes upon an error raises it; the others, which come upon the same or
    upon its consequences, raise :class:`StoppedElsewhere`.

    Args:
        device: of this process; CUDA talks over NCCL, a CPU over gloo.

    Raises:
        ProcessLost: another process died; this one would wait for it in vain.
    """
    if not is_launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    global _control
    _control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        with advising(""), _ended_politely():
            yield
            barrier()
    except GradError as error:
        if isinstance(error, StoppedElsewhere) or _is_first_to_say():
            raise
        raise StoppedElsewhere from error
    else:
        dist.destroy_process_group()
    finally:
        _control = None


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Where another process is lost, say what to do about it.

    Args:
        advice: a clause in the imperative, without a full stop.

    Raises:
        ProcessLost: in place of what the connection to a lost process raises.
    """
    try:
        yield
    except ProcessLost as error:
        if not advice:
            raise
        raise ProcessLost(error.reason, advice) from error
    except RuntimeError as error:
        if size() == 1 or not _is_connection_lost(error):
            raise
        raise ProcessLost("its connection closed", advice) from error


def barrier() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        dist.barrier(group=_control)


def from_main(function: Callable[[], T]) -> T:
    """What a function returns in the main process, in all processes; only there it is called.

    Raises:
        StoppedElsewhere: it raised a GradError in the main process, which goes on with that one.
    """
    if size() == 1:
        return function()
    answer: list[Any] = [None, None]
    try:
        if is_main():
            answer[0] = function()
    except GradError as error:
        answer[1] = str(error)
        raise
    finally:
        dist.broadcast_object_list(answer, src=0, group=_control)
    if answer[1] is not None:
        raise StoppedElsewhere
    return answer[0]  # type: ignore[no-any-return]


def main_first(function: Callable[[], T]) -> T:
    """Call a function in the main process, then in the others: the first may fill a cache.

    Raises:
        StoppedElsewhere: it raised a GradError in the main process.
    """
    results: list[T] = []
    from_main(lambda: results.append(function()))
    return results[0] if results else function()


def gathered(item: T) -> list[T] | None:
    """The items of all processes by rank, in the main process; None in the others."""
    if size() == 1:
        return [item]
    items: list[Any] | None = [None] * size() if is_main() else None
    dist.gather_object(item, items, dst=0, group=_control)
    return items


def shared(item: T) -> list[T]:
    """The items of all processes by rank, in all processes."""
    if size() == 1:
        return [item]
    items: list[Any] = [None] * size()
    dist.all_gather_object(items, item, group=_control)
    return items


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's part of the items, a run of neighbours; all parts in a row are all items.

    Sizes differ by one at most; parts are empty where the items are fewer than the processes.
    """
    return items[shard_start(len(items)) : _start_of(rank() + 1, len(items))]


def shard_start(count: int) -> int:
    """The index of the first item of this process's part of ``count`` items."""
    return _start_of(rank(), count)


def turns(count: int) -> list[Sequence[int]]:
    """Indices of files that this process should make, in turns with a barrier after each.

    In the first turn each file is one process's. The second is for machines that don't share a
    folder: there each file is one process's of each machine, which finds it made or makes it.
    """
    if size() == 1:
        return [range(count)]
    here, number = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    return [shard(range(count)), range(number, count, here)]


def sum_(values: Tensor) -> Tensor:
    """Sum a tensor over the processes, in place."""
    if size() > 1:
        dist.all_reduce(values)
    return values


def _start_of(number: int, count: int) -> int:
    return count * number // size()


def _is_started() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_connection_lost(error: RuntimeError) -> bool:
    """Gloo has no exception type of its own."""
    if isinstance(error, dist.DistError):
        return True
    return any(word in str(error).lower() for word in ("gloo", "nccl", "connection"))


def _is_first_to_say() -> bool:
    """Whether no other process has raised an error; the launcher's store knows."""
    try:
        return dist.distributed_c10d._get_default_store().add("grad/errors", 1) == 1
    except RuntimeError:  # the store is gone too
        return True


@contextmanager
def _ended_politely() -> Iterator[None]:
    """While open, the launcher's SIGTERM, sent when another process failed, is an exception.

    After an error SIGTERM is ignored, so that there is time to say what was wrong; the launcher
    kills whoever takes too long.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ProcessLost("the launcher ends the others")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)
