import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from grad.allocator import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("no glibc")
    sys.exit()
for number in range(20):
    if number == 16:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(policy):
    """Pages that the system had to hand out for four tensors of 200 MB, after 16 others.

    glibc finds the memory of an aligned block again only once its neighbours are free too.
    """
    command = [sys.executable, "-c", PROGRAM, policy]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_large_tensors_get_the_memory_of_those_before():
    kept = faults("keep")
    if kept == "no glibc":
        pytest.skip("the C library is not glibc")
    pages = 200_000_000 // resource.getpagesize()
    assert int(kept) < pages // 10
