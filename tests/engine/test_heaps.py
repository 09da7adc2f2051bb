"""Buffers of boxes; and the allocator gives back what the next tasks do not count."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import xchunk.engine.heaps
from xchunk.engine.heaps import Buffers, Heaps


def test_a_buffer_is_not_used_again_after_an_error() -> None:
    """Other requests of the box that failed may still write into it."""
    buffers = Buffers()
    with buffers.borrow((4, 4), np.dtype("f4")) as good:
        pass
    with pytest.raises(OSError, match="lost"), buffers.borrow((4, 4), np.dtype("f4")) as bad:  # noqa: PT012
        assert np.shares_memory(bad, good)
        raise OSError("lost")
    with buffers.borrow((4, 4), np.dtype("f4")) as fresh:
        assert not np.shares_memory(fresh, bad)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def heaps() -> Iterator[Heaps]:
    """Have heaps of which nothing is known, and the allocator as it was."""
    if not xchunk.engine.heaps.steady(0):
        pytest.skip("only glibc's heaps are steered")
    yield Heaps()
    xchunk.engine.heaps.heaps.trim()


#: What the next task may keep, how many tasks run at once then, and whether values lie apart.
NEXT: dict[str, tuple[int, int, bool]] = {
    "holds less": (1_000_000, 1, False),
    "one of more": (60_000_000, 4, False),
    "lies apart": (60_000_000, 1, True),
}


@pytest.mark.parametrize("then", NEXT.values(), ids=NEXT)
def test_what_another_thread_has_freed_is_given_back(
    heaps: Heaps, then: tuple[int, int, bool]
) -> None:
    kept, before = 60_000_000, _resident()

    def task() -> None:
        with heaps.keep(kept, 1, apart=False):
            # of a moderate size: larger blocks are the kernel's own
            np.empty(28_000_000, dtype="u1").fill(1)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(task).result()
        nbytes, threads, apart = then
        with heaps.keep(nbytes, threads, apart=apart):
            xchunk.engine.heaps.give_back()  # what is not at the end
            assert _resident() < before + 8_000_000


def test_heaps_keep_what_suits_the_task_that_holds_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        xchunk.engine.heaps, "steady", lambda n, apart=False: asked.append(n) or False
    )
    heaps = Heaps()
    with heaps.keep(5, 2, apart=False), heaps.keep(30, 2, apart=False):
        assert asked[-1] == 5
    with heaps.keep(30, 2, apart=False):
        assert asked[-1] == 30
