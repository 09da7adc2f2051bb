"""The allocator: buffers for boxes, and what the heaps of threads keep.

Boxes are read into buffers that are handed from task to task, and chunks come from heaps, so that
neither grows under our feet.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# glibc gives every thread a heap of its own, keeps what was freed there for that thread alone, and
# raises the size from which a block comes from the kernel, up to 32 MB, as such blocks are freed.
# Chunks are decoded in whichever thread is free, so the heaps of a handful of threads each keep the
# chunks of some moment, which no model of a task's buffers can know: a rechunk was measured at 2 to
# 3 times its budget. Giving every chunk back to the kernel keeps the promise too, but took half as
# much time again as all the codecs. So chunks of a moderate size come from the heap; what the heaps
# hold free is given back between reading and writing a box; and boxes come from the kernel. What is
# free at the end of a thread's heap stays for its next box, and is given back with `Heaps`.
#
# The settings belong to the process, cannot be read back, and stay when a run is over. With
# ``XCHUNK_KEEP_MALLOC=1`` the allocator is left alone, and the memory promise does not hold.
#: Blocks of this size and more are the kernel's own; the largest size that glibc takes.
_MMAP_THRESHOLD = 32 * 1024**2
#: The same where each chunk, or each value, is freed in another thread than it came from.
_APART_THRESHOLD = 64 * 1024
#: What a heap keeps free at its end: at least, so that not every small block moves it, and at
#: most.
_LEAST_TRIM, _MOST_TRIM = 256 * 1024, 64 * 1024**2
#: From this size on it is worth asking for huge pages, which are 2 MB.
_HUGE = 8 * 1024**2
# the parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def steady(in_flight: int, *, apart: bool = False) -> bool:
    """Fix the allocator's thresholds, for the whole process.

    - ``in_flight``: bytes of the chunks that a task holds at once: a heap may keep as many when
      they are free.
    - ``apart``: whether chunks are freed in other threads than they came from, and lie in the heaps
      of those until then: many on their way to and from far stores, or long strings, each with
      memory of its own. They are taken from the kernel one by one.
    - returns: whether it was done: it is glibc's own, and does nothing elsewhere.
    """
    libc = _glibc()
    if libc is None:
        return False
    trim = _LEAST_TRIM if apart else max(_LEAST_TRIM, min(in_flight, _MOST_TRIM))
    own = _APART_THRESHOLD if apart else _MMAP_THRESHOLD
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, own) and libc.mallopt(_M_TRIM_THRESHOLD, trim))


def give_back() -> None:
    """Give the kernel what the heaps of all threads hold free, but for the ends of those heaps."""
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


#: How many times larger than a box its buffer may be.
_ROOMY = 1.25


class Buffers:
    """Buffers that tasks of this process take and give back; as many as tasks at once."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """Hand out memory of a shape, whatever it holds."""
        if dtype.hasobject or dtype.kind == "T":
            yield np.empty(shape, dtype=dtype)
            return
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self._lock:
            raw = self._take(nbytes)
        # Not given back after an error: requests that ran beside the one that failed may still
        # be under way on zarr's event loop, and read from the buffer or write into it.
        yield raw[:nbytes].view(dtype).reshape(shape)
        with self._lock:
            self._free.append(raw)

    def _take(self, nbytes: int) -> NDArray[np.uint8]:
        fitting = [b for b in self._free if nbytes <= b.nbytes <= _ROOMY * nbytes]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self._free = [b for b in self._free if b is not best]
            return best
        # idle ones of another stage, smaller or larger, only take room
        self._free.clear()
        return new_buffer(nbytes)

    def clear(self) -> None:
        """Give the kernel what nobody has."""
        with self._lock:
            self._free.clear()


#: Bytes of a block whose release makes glibc look at the end of the heap that it lies in: more than
#: 64 kB.
_PLUG = 80 * 1024


class Heaps:
    """What the heaps of this process keep free at their ends: what suits the tasks that run.

    `give_back` reaches the ends of no heap but the main thread's. glibc looks at one only when a
    large block of that heap is freed. So each thread leaves such a block here, its plug. All are
    freed when the next tasks hold less than those before them, or when more or fewer run at once:
    else what the heaps have kept would come on top of what these tasks hold.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[tuple[int, int, bool]] = []
        self._now = (0, 0, False)
        self._plugs: dict[int, NDArray[np.uint8]] = {}

    @contextmanager
    def keep(self, nbytes: int, threads: int, *, apart: bool) -> Iterator[None]:
        """Let each heap keep so much while a task runs, or less where others hold less."""
        asked = nbytes, threads, apart
        with self._lock:
            self._asked.append(asked)
            least, at_once, any_apart = zip(*self._asked, strict=True)
            self._settle((min(least), min(at_once), any(any_apart)))
        try:
            yield
        finally:
            with self._lock:
                self._asked.remove(asked)

    def _settle(self, now: tuple[int, int, bool]) -> None:
        if now[0] < self._now[0] or now[1:] != self._now[1:]:
            self._trim()
        self._now = now
        # before the task holds anything: what lies below its plug would not be at the end
        if steady(now[0], apart=now[2]) and not now[2]:
            own = threading.get_ident()
            if own not in self._plugs:
                self._plugs[own] = np.empty(_PLUG, dtype=np.uint8)

    def trim(self) -> None:
        """Give the kernel what all threads keep: buffers, and the ends of heaps."""
        with self._lock:
            self._trim()
            steady(self._now[0], apart=self._now[2])

    def trim_own(self) -> None:
        """Give the kernel the end of this thread's heap, where a chunk was read as it is stored.

        What was small may lie where the chunk had its place, so that the next one is put elsewhere,
        and the end is held besides it.
        """
        own = threading.get_ident()
        with self._lock:
            if own in self._plugs:
                steady(0)
                del self._plugs[own]
                steady(self._now[0], apart=self._now[2])
                if not self._now[2]:
                    self._plugs[own] = np.empty(_PLUG, dtype=np.uint8)

    def _trim(self) -> None:
        buffers.clear()
        steady(0)
        self._plugs.clear()


#: Those of this process.
buffers = Buffers()
heaps = Heaps()
