"""What copy tasks of a process hold together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import xchunk.engine.copy
from xchunk.core.memory import TaskRequests
from xchunk.stores.in_flight import Room


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
