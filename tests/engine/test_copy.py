"""The buffers of copy tasks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import xchunk.engine.copy
from xchunk.core.memory import TaskRequests
from xchunk.stores.in_flight import Room


def test_a_buffer_is_not_used_again_after_an_error() -> None:
    """Other requests of the box that failed may still write into it."""
    buffers = xchunk.engine.copy._Buffers()
    with buffers.borrow((4, 4), np.dtype("f4")) as good:
        pass
    with pytest.raises(OSError, match="lost"), buffers.borrow((4, 4), np.dtype("f4")) as bad:  # noqa: PT012
        assert np.shares_memory(bad, good)
        raise OSError("lost")
    with buffers.borrow((4, 4), np.dtype("f4")) as fresh:
        assert not np.shares_memory(fresh, bad)


@pytest.mark.parametrize("kinds", [(2,), (3,), (1, 4), (2, 3, 4)], ids=str)
def test_tasks_of_several_plans_hold_no_more_than_all_of_the_memory(kinds: tuple[int, ...]) -> None:
    """A task of a plan for n tasks at once holds an nth of the budget."""
    room, lock, now, most = xchunk.engine.copy._Memory(), threading.Lock(), [0.0], [0.0]

    def task(threads: int) -> None:
        with room.share(threads):
            with lock:
                now[0] += 1 / threads
                most[0] = max(most[0], now[0])
            threading.Event().wait(0.001)
            with lock:
                now[0] -= 1 / threads

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(task, kinds * 20))
    assert most[0] == pytest.approx(1, abs=1e-9) or most[0] < 1
    assert now[0] == pytest.approx(0, abs=1e-9)
    with room.share(1):
        pass


def test_a_task_that_needs_all_of_the_memory_is_not_passed_for_ever() -> None:
    room, order = xchunk.engine.copy._Memory(), []
    begun = threading.Event()

    def large() -> None:
        begun.set()
        with room.share(1):
            order.append("large")

    def small() -> None:
        with room.share(2):
            order.append("small")

    with ThreadPoolExecutor(2) as pool:
        with room.share(2):
            first = pool.submit(large)
            begun.wait()
            while not room._queue:
                threading.Event().wait(0.001)
            second = pool.submit(small)
            while len(room._queue) < 2:
                threading.Event().wait(0.001)
            assert order == []
        first.result()
        second.result()
    assert order == ["large", "small"]


def test_tasks_alike_take_all_of_the_memory_together() -> None:
    """No share is taken beside them, and who waits for one is not passed by more of them."""
    memory, order = xchunk.engine.copy._Memory(), []
    room = Room(2, TaskRequests())

    def alike(key: str, name: str) -> None:
        with memory.together(key, lambda: room) as found:
            assert found is room
            order.append(name)

    def other() -> None:
        with memory.share(2):
            order.append("other")

    def queued(count: int) -> None:
        while len(memory._queue) < count:
            threading.Event().wait(0.001)

    with ThreadPoolExecutor(4) as pool:
        with memory.together("a", lambda: room), memory.together("a", lambda: room):
            waiting = [pool.submit(other)]
            queued(1)
            waiting.append(pool.submit(alike, "a", "a later"))
            queued(2)
            waiting.append(pool.submit(alike, "b", "b"))
            queued(3)
            assert order == []
        for one in waiting:
            one.result(timeout=60)
    assert order == ["other", "a later", "b"]
    with memory.share(1):
        pass


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def heaps() -> Iterator[xchunk.engine.copy._Heaps]:
    """Have heaps of which nothing is known, and the allocator as it was."""
    if not xchunk.engine.copy.steady(0):
        pytest.skip("only glibc's heaps are steered")
    yield xchunk.engine.copy._Heaps()
    xchunk.engine.copy._heaps.trim()


#: What the next task may keep, how many tasks run at once then, and whether values lie apart.
NEXT: dict[str, tuple[int, int, bool]] = {
    "holds less": (1_000_000, 1, False),
    "one of more": (60_000_000, 4, False),
    "lies apart": (60_000_000, 1, True),
}


@pytest.mark.parametrize("then", NEXT.values(), ids=NEXT)
def test_what_another_thread_has_freed_is_given_back(
    heaps: xchunk.engine.copy._Heaps, then: tuple[int, int, bool]
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
            xchunk.engine.copy.give_back()  # what is not at the end
            assert _resident() < before + 8_000_000


def test_heaps_keep_what_suits_the_task_that_holds_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        xchunk.engine.copy, "steady", lambda n, apart=False: asked.append(n) or False
    )
    heaps = xchunk.engine.copy._Heaps()
    with heaps.keep(5, 2, apart=False), heaps.keep(30, 2, apart=False):
        assert asked[-1] == 5
    with heaps.keep(30, 2, apart=False):
        assert asked[-1] == 30
