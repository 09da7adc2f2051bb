"""What the requests of a process's tasks may hold together, and whose turn it is.

A task that copies a box asks for its chunks, decodes them into the box, encodes what it writes,
and waits until that is sent. The box is needed in between only. So a few tasks hold one each
(`Turn.box`), while chunks of the next boxes are on their way already, and those of the last ones
still. What they hold is counted request by request (`Room`).

Nobody waits for ever:

- What is sent ends by itself, and gives back what it holds.
- Who holds a box decodes what it has asked for as it comes.
- Who waits for a box asks for so little that each who holds one can go on: `Room.ahead`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeAlias, TypeVar

from xchunk.core.memory import IN_FLIGHT, TaskRequests

T = TypeVar("T")

#: Makes a request.
Call: TypeAlias = Callable[[], Coroutine[Any, Any, T]]


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a store, on the loop that its sessions belong to."""
    try:
        from zarr.core.sync import sync
    except ImportError:
        return asyncio.run(coroutine)
    return sync(coroutine)


async def _own_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


class Room:
    """What tasks of one kind may hold together in this process."""

    def __init__(self, boxes: int, each: TaskRequests) -> None:
        self.boxes = boxes
        """Tasks that hold a box at once."""
        self.each = each
        """What one of them may have on its way; requests share what all of them may."""
        self.nbytes = max(1, boxes * each.shared)
        """Bytes of the requests of all."""
        self._most_ahead = self.nbytes - boxes * max(each.read, each.write)
        # what all requests so far have held; as much each way, before anything is known
        self._read = self._sent = self.nbytes
        self.reading = self.sending = self.held = 0
        self.lock = threading.RLock()
        self.has_box = threading.Condition(self.lock)
        self.has_bytes = threading.Condition(self.lock)
        self.hungry = 0
        """Tasks that wait for bytes and cannot go on without."""
        self.line: deque[Turn] = deque()
        """Tasks that wait for a box."""
        self.asking: deque[Requests[Any]] = deque()
        """What is asked for without a box, and not all on its way yet."""
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def ahead(self) -> int:
        """Bytes that may be asked for without a box.

        They are those that reading holds of all, as long as boxes are read as fast as they are
        sent. With more for either, boxes would wait for the other.
        """
        share = self._read / (self._read + self._sent)
        return min(self._most_ahead, int(share * self.nbytes))

    def fits(self, nbytes: float) -> bool:
        """Return whether a request may be made; one at a time always may."""
        used = self.reading + self.sending
        return not used or used + nbytes <= self.nbytes

    def give_back(self, *, read: int = 0, sent: int = 0) -> None:
        """Give back what requests have held; who waits for it goes on."""
        with self.lock:
            self.reading -= read
            self.sending -= sent
            self._read += read
            if self.hungry:
                self.has_bytes.notify_all()
            while self.asking and self.asking[0].advance():
                self.asking.popleft()

    def count_sent(self, taken: int, held: int) -> None:
        """Give back what something that is encoded has taken, but for what it holds."""
        with self.lock:
            self._sent += held
            self.give_back(sent=taken - held)

    def start(self, call: Call[T]) -> Future[T]:
        """Put a request on its way, on zarr's event loop."""
        if self._loop is None:
            self._loop = wait_for(_own_loop())
        if self._loop.is_running():
            return asyncio.run_coroutine_threadsafe(call(), self._loop)
        # zarr's loop is not to be had: one request after the other
        future: Future[T] = Future()
        try:
            future.set_result(wait_for(call()))
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            future.set_exception(error)
        return future

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Begin a task; when it ends, none of its requests is on its way any more."""
        turn = Turn(self)
        token = _turn.set(turn)
        try:
            yield turn
        finally:
            _turn.reset(token)
            turn.close()


class Turn:
    """One task among those that share a room."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.has_box = False
        self._reads: list[Requests[Any]] = []
        self._sent: deque[Future[None]] = deque()

    def requests(self, calls: Iterator[Call[T]]) -> Requests[T]:
        """Begin to read; what there is room for is on its way from now on."""
        reads: Requests[T] = Requests(self, calls)
        self._reads.append(reads)
        room = self.room
        with room.lock:
            if self.has_box:
                reads.advance()
            elif room.asking or not reads.advance():
                room.asking.append(reads)
        return reads

    @contextmanager
    def box(self) -> Iterator[None]:
        """Hold a box, in the order in which tasks come."""
        room = self.room
        with room.lock:
            room.line.append(self)
            try:
                room.has_box.wait_for(lambda: room.line[0] is self and room.held < room.boxes)
                room.held += 1
                self.has_box = True
            finally:
                room.line.remove(self)
                room.has_box.notify_all()
        try:
            yield
        finally:
            with room.lock:
                room.held -= 1
                self.has_box = False
                room.has_box.notify_all()

    def send(self, encode: Callable[[], tuple[Call[None], int]]) -> None:
        """Encode something and put it on its way, as soon as there is room for it.

        - ``encode``: returns what sends it, and its bytes.
        """
        room = self.room
        self._take(room.each.write)
        try:
            call, nbytes = encode()
            held = int(nbytes * room.each.copies)
            future = room.start(call)
        except BaseException:
            room.give_back(sent=room.each.write)
            raise
        room.count_sent(room.each.write, held)
        self._sent.append(future)
        future.add_done_callback(lambda _: room.give_back(sent=held))

    def _take(self, nbytes: int) -> None:
        room = self.room

        def has_room() -> bool:
            while self._sent and self._sent[0].done():
                self._sent.popleft().result()
            return room.fits(nbytes) and len(self._sent) < IN_FLIGHT

        with room.lock:
            room.hungry += 1
            try:
                room.has_bytes.wait_for(has_room)
                room.sending += nbytes
            finally:
                room.hungry -= 1

    def settle(self) -> None:
        """Wait until all is sent; raise what went wrong."""
        wait(self._sent)
        while self._sent:
            self._sent.popleft().result()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Take all that one task may have on its way, for requests that nobody counts."""
        room = self.room
        self._take(room.each.shared)
        try:
            with Room(1, room.each).turn() as turn, turn.box():
                yield
                turn.settle()
        finally:
            room.give_back(sent=room.each.shared)

    def close(self) -> None:
        """Wait until nothing is on its way any more."""
        for reads in self._reads:
            reads.close()
        wait(self._sent)


class Requests(Generic[T]):
    """What one task reads, in order; iterated, it hands out what they bring."""

    def __init__(self, turn: Turn, calls: Iterator[Call[T]]) -> None:
        self._turn, self._calls = turn, calls
        self._next = next(calls, None)
        self._under_way: deque[Future[T]] = deque()

    def advance(self) -> bool:
        """Put on its way what there is room for; return whether that is all. The room is locked."""
        room, turn = self._turn.room, self._turn
        read = room.each.read
        while self._next is not None:
            if len(self._under_way) >= IN_FLIGHT or not room.fits(read):
                return False
            # those that wait to send have a box; so has who may read more than a bit ahead of it
            if self._under_way and room.hungry:
                return False
            if not turn.has_box and (room.hungry or room.reading + read > room.ahead):
                return False
            room.reading += read
            try:
                self._under_way.append(room.start(self._next))
            except BaseException:
                room.reading -= read
                raise
            self._next = next(self._calls, None)
        return True

    def __iter__(self) -> Iterator[T]:
        room = self._turn.room
        while True:
            with room.lock:
                self.advance()
                while self._next is not None and not self._under_way:
                    room.hungry += 1
                    try:
                        room.has_bytes.wait()
                    finally:
                        room.hungry -= 1
                    self.advance()
                if not self._under_way:
                    return
                future = self._under_way[0]
            found = future.result()
            with room.lock:
                self._under_way.popleft()
                room.give_back(read=room.each.read)
            yield found

    def close(self) -> None:
        """Ask for nothing more, and wait for what is on its way."""
        room = self._turn.room
        with room.lock:
            self._next = None
            if self in room.asking:
                room.asking.remove(self)
        wait(self._under_way)
        left = len(self._under_way)
        self._under_way.clear()
        room.give_back(read=left * room.each.read)


#: Requests where nobody says how many.
_USUAL = TaskRequests(4, read=1)
#: The task of this thread.
_turn: ContextVar[Turn | None] = ContextVar("xchunk_turn", default=None)


@contextmanager
def this_turn() -> Iterator[Turn]:
    """Return the task of this thread; where none was begun, one that ends with this."""
    known = _turn.get()
    if known is not None:
        yield known
        return
    with Room(1, _USUAL).turn() as turn, turn.box():
        yield turn
        turn.settle()
