"""Memory of large tensors on the CPU: kept where it is freed, and in pages of 2 MB.

By default glibc returns blocks above 32 MB to the system as soon as they are freed, as well as what
is free at the end of the heap. A step or a prediction allocates the same large tensors again and
again, and the system hands out their memory a page of 4 KB at a time, cleared, at the first touch:
a third and more of the time of operators that do nothing but move memory.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1  # bytes; mallopt takes an int
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it when it first allocates a tensor


def suit_large_tensors() -> None:
    """Let this process, and those it starts, reuse freed memory and take it in huge pages.

    Every command does so. A program of one's own can, before its first tensor. Where the system has
    neither, it changes nothing.
    """
    use_huge_pages()
    keep_freed_memory()


def use_huge_pages() -> None:
    """Ask torch for transparent huge pages under tensors of 2 MB and more.

    It does nothing once torch has allocated a tensor, where the environment says otherwise
    (``THP_MEM_ALLOC_ENABLE=0``), or where Linux is set to never give them.
    """
    os.environ.setdefault(_HUGE_PAGES, "1")


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory of up to 2 GB; returns whether its C library can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):  # not glibc; Windows has no library of that name at all
        return False
    return all([mallopt(option, _MOST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)])
