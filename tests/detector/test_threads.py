import itertools
import threading

import pytest
import torch

from grad.detector.threads import work_in_threads
from grad.system.devices import default_workers
from grad.system.errors import GradError


def doubled(group):
    return [2 * item for item in group]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_results_come_in_order_whatever_the_numbers(count, size, workers):
    found = work_in_threads(iter(range(count)), doubled, size=size, workers=workers)
    assert list(found) == [2 * item for item in range(count)]


def test_few_items_are_spread_over_the_threads():
    groups = []
    list(work_in_threads(iter(range(5)), lambda g: groups.append(g) or g, size=8, workers=2))
    assert sorted(map(len, groups)) == [2, 3]


def test_an_endless_source_is_read_as_far_as_needed():
    read = 0

    def items():
        nonlocal read
        while True:
            read += 1
            yield read

    found = work_in_threads(items(), doubled, size=2, workers=3)
    assert [next(found) for _ in range(20)] == [2 * item for item in range(1, 21)]
    assert read <= 20 + 2 * (3 + 2)
    found.close()
    assert not [thread for thread in threading.enumerate() if "grad-work" in thread.name]


def test_a_stream_may_be_dropped_in_a_thread_of_its_own():
    """As the garbage collector does, in whatever thread it happens to run."""
    begun, dropped, closed = (threading.Event() for _ in range(3))

    def work(group):
        if group == [0]:
            begun.wait()
        elif group == [1]:
            begun.set()
            dropped.wait()
            stream.close()
            closed.set()
        return group

    stream = work_in_threads(iter(range(9)), work, size=1, workers=2)
    assert next(stream) == 0
    dropped.set()
    assert closed.wait(timeout=30)


def test_an_error_of_the_source_comes_after_the_results_before_it():
    def items(count):
        yield from range(count)
        raise GradError("gone")

    for count in (0, 1, 2, 20):
        found = work_in_threads(items(count), doubled, size=2, workers=2)
        assert list(itertools.islice(found, count)) == [2 * item for item in range(count)]
        with pytest.raises(GradError, match="gone"):
            next(found)


def test_an_error_of_the_work_is_raised():
    def work(group):
        if 7 in group:
            raise GradError("seven")
        return group

    found = work_in_threads(iter(range(20)), work, size=2, workers=2)
    with pytest.raises(GradError, match="seven"):
        list(found)


def test_threads_share_torchs_and_others_keep_theirs():
    def numbers(items, seen):
        def work(group):
            seen.append(torch.get_num_threads())
            return group

        list(work_in_threads(iter(range(items)), work, size=1, workers=2))

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        alone, shared, later = [], [], []
        numbers(1, alone)
        numbers(8, shared)
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert alone == [4] and shared == [2] * 8 and later == [4]
        assert torch.get_num_threads() == 4
        assert default_workers(torch.device("cpu")) == 4
    finally:
        torch.set_num_threads(before)
