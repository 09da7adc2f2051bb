"""What requests of several tasks hold together, and that none of them waits for ever."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from xchunk.core.memory import TaskRequests
from xchunk.stores.in_flight import Room, Turn

#: Boxes at once, what a task may have on its way, reads and writes of a task, bytes that are sent.
CASES: dict[str, tuple[int, TaskRequests, int, int, int]] = {
    "small requests": (2, TaskRequests(200, 10, 10, 1.0, 10), 17, 5, 4),
    "one request fills it": (1, TaskRequests(20, 10, 10, 1.0, 10), 7, 3, 9),
    "writes are large": (2, TaskRequests(100, 3, 45, 1.5, 45), 30, 4, 20),
    "reads are large": (2, TaskRequests(100, 45, 3, 1.0, 45), 6, 30, 3),
    "more boxes than cores": (8, TaskRequests(60, 7, 11, 1.1, 11), 9, 4, 10),
    "nothing to read": (2, TaskRequests(60, 7, 11, 1.1, 11), 0, 4, 10),
    "nothing to write": (2, TaskRequests(60, 7, 11, 1.1, 11), 9, 0, 0),
    "it grows as it is encoded": (2, TaskRequests(60, 7, 11, 1.0, 11), 9, 4, 13),
}


class Seen:
    """Counts what is on its way."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: dict[str, float] = {"bytes": 0, "boxes": 0}
        self.most = dict(self.now)

    def add(self, what: str, amount: float) -> None:
        with self.lock:
            self.now[what] += amount
            self.most[what] = max(self.most[what], self.now[what])


def task(room: Room, seen: Seen, reads: int, writes: int, nbytes: int) -> list[int]:
    async def request(held: float, answer: int = 0) -> Any:
        seen.add("bytes", held)
        await asyncio.sleep(random.random() / 500)
        seen.add("bytes", -held)
        return answer

    each = room.each
    got: list[int] = []
    with room.turn() as turn:
        ahead = turn.requests(partial(request, each.read, i) for i in range(reads))
        with turn.box():
            seen.add("boxes", 1)
            got += ahead
            for _ in range(writes):
                turn.send(lambda: (partial(request, nbytes * each.copies), nbytes))
            seen.add("boxes", -1)
        turn.settle()
    return got


@pytest.mark.parametrize("case", CASES)
def test_tasks_hold_no_more_than_there_is_room_for_and_all_of_them_end(case: str) -> None:
    boxes, each, reads, writes, nbytes = CASES[case]
    room, seen = Room(boxes, each), Seen()
    with ThreadPoolExecutor(2 * boxes + 2) as pool:
        done = [pool.submit(task, room, seen, reads, writes, nbytes) for _ in range(40)]
        assert [f.result(timeout=60) for f in done] == [list(range(reads))] * 40
    grown = max(0, nbytes * each.copies - each.write) * 2 * boxes
    assert seen.most["bytes"] <= room.nbytes + grown
    assert seen.most["boxes"] <= boxes
    assert (room.reading, room.sending, room.held) == (0, 0, 0)
    assert not room.line
    assert not [r for r in room.asking if not r.advance()]


def waiting(gate: threading.Event, begun: list[int]) -> Iterator[Callable[[], Any]]:
    async def request(i: int) -> int:
        begun.append(i)
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return i

    yield from (partial(request, i) for i in range(6))


def until(true: Callable[[], bool]) -> None:
    while not true():
        threading.Event().wait(0.001)


def test_the_next_box_is_read_ahead_by_half_of_the_room() -> None:
    room, gate = Room(1, TaskRequests(9, read=1, spare=1)), threading.Event()
    begun: list[int] = []
    gate.set()
    with room.turn() as first, first.box(), room.turn() as second:
        second.requests(waiting(gate, begun))
        until(lambda: len(begun) == 4)
        assert room.reading == 4
    assert room.reading == 0


def test_what_was_written_is_still_sent_while_the_next_box_is_read() -> None:
    room, gate = Room(1, TaskRequests(40, read=1, write=10, copies=1)), threading.Event()
    sent: list[int] = []
    calls = waiting(gate, sent)
    with room.turn() as first:
        with first.box():
            first.send(lambda: (next(calls), 5))
        with room.turn() as second, second.box():
            until(lambda: len(sent) == 1)
            assert room.sending == 5
            gate.set()
        first.settle()
    assert room.sending == 0


def fail(turn: Turn, how: str) -> None:
    async def lost() -> None:
        await asyncio.sleep(0.001)
        raise OSError("lost")

    def encode() -> tuple[Callable[[], Coroutine[Any, Any, None]], int]:
        if how == "encode":
            raise OSError("lost")
        return lost, 1

    with turn.box():
        if how == "read":
            list(turn.requests(iter([lost])))
        turn.send(encode)
    turn.settle()


@pytest.mark.parametrize("how", ["read", "encode", "send"])
def test_an_error_is_raised_when_nothing_is_on_its_way_any_more(how: str) -> None:
    room = Room(1, TaskRequests(40, read=1, write=10, copies=1))
    with pytest.raises(OSError, match="lost"), room.turn() as turn:
        fail(turn, how)
    assert (room.reading, room.sending, room.held) == (0, 0, 0)
