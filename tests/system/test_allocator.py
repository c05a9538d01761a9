import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, sys
import torch
from grad.system.allocator import keep_freed_memory

if not keep_freed_memory():
    print("no glibc")
    sys.exit()
for number in range(20):
    if number == 16:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HUGE = """
from pathlib import Path

from grad.system.command_line import run_command


def work():
    import torch

    tensor = torch.ones(50_000_000)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("AnonHugePages")))


run_command(work)
"""

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def output(program, **environment):
    command = [sys.executable, "-c", program]
    environment = os.environ | environment
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return result.stdout.strip()


def test_large_tensors_get_the_memory_of_those_before():
    """Pages that the system had to hand out for four tensors of 200 MB, after 16 others.

    glibc finds the memory of an aligned block again only once its neighbours are free too.
    """
    faults = output(FAULTS, THP_MEM_ALLOC_ENABLE="0")  # of pages of one size
    if faults == "no glibc":
        pytest.skip("the C library is not glibc")
    pages = 200_000_000 // resource.getpagesize()
    assert int(faults) < pages // 10


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="Linux gives no huge pages"
)
def test_commands_have_tensors_in_huge_pages_unless_the_environment_says_no(monkeypatch):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert int(output(HUGE)) > 100_000  # kB of 200,000
    if "[madvise]" in SETTING.read_text():  # else all of a program's memory is in them
        assert int(output(HUGE, THP_MEM_ALLOC_ENABLE="0")) < 100_000
