"""glibc's allocator, told to keep what is freed for the next large tensor.

By default it returns blocks above 32 MB to the system as soon as they are freed, as well as what is
free at the end of the heap. A training step allocates the same large tensors again and again, and
the system hands out their memory a page at a time, cleared, at the first touch: a third and more of
the time of operators that do nothing but move memory.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory of up to 2 GB; returns whether its C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return all([mallopt(option, _MOST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)])
