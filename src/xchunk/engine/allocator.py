"""Keeping the C allocator from growing under our feet.

glibc raises the size from which it asks the kernel for a block of its own whenever such a
block is freed, up to 32 MB, and keeps freed blocks below that size in the heap of the thread
that freed them. Chunks of some megabytes then pile up in the heaps of a handful of threads,
which a task's model of its buffers cannot know: a rechunk was measured at 2 to 3 times its
budget. With a fixed threshold every chunk is given back to the kernel as it is freed.

The setting belongs to the process and cannot be read back, so that it stays when a run is
over; it costs other code nothing but page faults for its own large, short-lived blocks. Set
``XCHUNK_KEEP_MALLOC=1`` to leave the allocator alone; the memory promise then does not hold.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

__all__ = ["steady"]

#: Blocks of this size and more are the kernel's own: chunks are, small objects are not.
_THRESHOLD = 256 * 1024
# the parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@cache
def steady() -> bool:
    """Fix the allocator's thresholds, once in a process.

    Returns
    -------
    bool
        Whether it was done: it is glibc's own, and does nothing elsewhere.
    """
    if not sys.platform.startswith("linux") or os.environ.get("XCHUNK_KEEP_MALLOC"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    done = [mallopt(_M_MMAP_THRESHOLD, _THRESHOLD), mallopt(_M_TRIM_THRESHOLD, 2 * _THRESHOLD)]
    return all(done)
