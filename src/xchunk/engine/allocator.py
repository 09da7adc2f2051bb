"""Keeping the C allocator from growing under our feet.

glibc gives every thread a heap of its own, and keeps what was freed there for that thread
alone; and it raises the size from which a block comes from the kernel, up to 32 MB, as such
blocks are freed. Chunks are read and decoded in whichever thread is free, so that the heaps of
a handful of threads each keep the chunks of some moment, which a task's model of its buffers
cannot know: a rechunk was measured at 2 to 3 times its budget.

Giving every chunk back to the kernel as it is freed keeps the promise too, but the pages of
the next chunk are then made anew: that took half as much time again as all the codecs. So
chunks of a moderate size come from the heap, which serves the next one from the same pages;
what the heaps hold free is given back between reading and writing a box, when other threads go
on; and boxes, which are large and kept, come from the kernel and stay out of it.

The settings belong to the process and cannot be read back, so that they stay when a run is
over; they cost other code nothing but page faults for its own large, short-lived blocks. Set
``XCHUNK_KEEP_MALLOC=1`` to leave the allocator alone; the memory promise then does not hold.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["give_back", "new_buffer", "steady"]

#: Blocks of this size and more are the kernel's own; the largest size that glibc takes.
_MMAP_THRESHOLD = 32 * 1024**2
#: What a heap keeps free at its end: at least, so that not every small block moves it, and at
#: most.
_LEAST_TRIM, _MOST_TRIM = 256 * 1024, 64 * 1024**2
#: From this size on it is worth asking for huge pages, which are 2 MB.
_HUGE = 8 * 1024**2
# the parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def steady(in_flight: int) -> bool:
    """Fix the allocator's thresholds, for the whole process.

    Parameters
    ----------
    in_flight : int
        Bytes of the chunks that a task holds at once: a heap may keep as many when they are
        free.

    Returns
    -------
    bool
        Whether it was done: it is glibc's own, and does nothing elsewhere.
    """
    libc = _glibc()
    if libc is None:
        return False
    trim = max(_LEAST_TRIM, min(in_flight, _MOST_TRIM))
    return bool(
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD) and libc.mallopt(_M_TRIM_THRESHOLD, trim)
    )


def give_back() -> None:
    """Give the kernel what the heaps of all threads hold free."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux") or os.environ.get("XCHUNK_KEEP_MALLOC"):
        return None
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def new_buffer(nbytes: int) -> NDArray[np.uint8]:
    """Take memory from the kernel itself, to which it returns as soon as it is let go."""
    memory = mmap.mmap(-1, max(1, nbytes))
    if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them: the same memory in small pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)
