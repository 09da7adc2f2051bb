"""Looking at this process a few times a second: what its threads do, and what it holds.

A thread of its own wakes up, looks at the stacks of all threads (`sys._current_frames`, which
is there for this) and at what the system tells of them, and sleeps again. It takes well below
a hundredth of one processor.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xchunk.core.stacks import Stack, resolved, state_of, task_part
from xchunk.engine.limits import resident_bytes

__all__ = ["INTERVAL", "Sampled", "Sampler"]

#: Seconds between two looks, and the most where looking would take too much.
INTERVAL, _RARELY = 0.05, 0.25

#: Part of the process's CPU time that looking may take. Where the process hardly runs, a part of
#: the processor instead, so that one that waits for a store is looked at all the same.
_OWN, _LEAST_RUN = 0.015, 0.2

#: Looks that are kept for the picture of the memory; beyond, every other one is let go.
_KEPT = 4_000

#: Frames of a stack that are looked at, and seconds by which a late look shows a taken lock.
_DEEPEST, _LATE = 200, 0.002

_THREADS, _MACHINE = Path("/proc/self/task"), Path("/proc/stat")


@dataclass
class Sampled:
    """What was seen of one process; plain values, that they can be sent."""

    process: str
    """Host and number of the process."""
    states: dict[str, float] = field(default_factory=dict)
    """Seconds of tasks' threads by what they did."""
    memory: list[tuple[float, int, list[Any]]] = field(default_factory=list)
    """Time since 1970, bytes of the process, and what the owner of the sampler adds."""
    cpu: float = 0.0
    """Seconds of CPU time."""
    starved: float = 0.0
    """Seconds in which threads waited for a processor."""
    crowded: float = 0.0
    """Those of them in which other processes had it."""
    looks: int = 0
    """Number of looks."""
    late: int = 0
    """Those that had to wait for the interpreter's lock."""
    own: float = 0.0
    """Seconds of CPU time that the looks took."""
    began: float = 0.0
    """Time since 1970 of the first look."""


class Sampler(threading.Thread):
    """Looks at this process until it is stopped.

    Parameters
    ----------
    more : callable, optional
        Called at each look; what it returns is kept beside the process's memory.
    """

    def __init__(self, more: Callable[[], list[Any]] | None = None) -> None:
        super().__init__(name="xchunk-observe", daemon=True)
        self.seen = Sampled(f"{os.uname().nodename}-{os.getpid()}", began=time.time())
        self._more = more
        self._ended = threading.Event()
        self._cpu, self._machine = time.process_time(), _machine()
        self._waits: dict[int, tuple[float, float]] = {}
        self._every = 1

    def stop(self) -> Sampled:
        """Stop, and return what was seen."""
        self._ended.set()
        if self.is_alive():
            self.join(timeout=5)
        self.seen.cpu = time.process_time() - self._cpu
        self._look_at_waits()
        self.seen.starved = sum(last - first for first, last in self._waits.values())
        # threads of one process also wait for each other
        others = _machine() - self._machine - self.seen.cpu
        self.seen.crowded = min(self.seen.starved, max(0.0, others))
        return self.seen

    def run(self) -> None:
        """Look, until it is stopped."""
        me = threading.get_native_id()
        first = last = time.monotonic()
        waited, interval = _waited(me), INTERVAL
        while not self._ended.wait(interval):
            now, before = time.monotonic(), waited
            waited = _waited(me)
            # what is not the system's delay is the interpreter's
            late = now - last - interval - (waited - before)
            self.seen.looks += 1
            self.seen.late += late > _LATE
            self._look(now - last)
            self.seen.own = time.thread_time()
            last = time.monotonic()
            run = max(time.process_time() - self._cpu, _LEAST_RUN * (last - first))
            too_much = self.seen.own > _OWN * run
            interval = min(_RARELY, interval * 1.5) if too_much else max(INTERVAL, interval / 1.5)

    def _look(self, seconds: float) -> None:
        stacks = self._stacks()
        inside: dict[int, Stack] = {}
        others: list[Stack] = []
        for ident, stack in stacks.items():
            part = task_part(stack)
            if part is None:
                others.append(stack)
            else:
                inside[ident] = part
        native = {t.ident: t.native_id for t in threading.enumerate()}
        states = self.seen.states
        for ident, stack in inside.items():
            state = _doing(stack, others, native.get(ident))
            states[state] = states.get(state, 0.0) + seconds
        if self.seen.looks % 10 == 1:
            for tid in native.values():
                if tid is not None and tid not in self._waits and tid != self.native_id:
                    self._waits[tid] = (now := _waited(tid), now)
        if self.seen.looks % self._every == 0:
            more = self._more() if self._more is not None else []
            self.seen.memory.append((time.time(), resident_bytes(), more))
        if len(self.seen.memory) > _KEPT:
            del self.seen.memory[::2]
            self._every *= 2
        if self.seen.looks % 10 == 0:
            self._look_at_waits()

    def _stacks(self) -> dict[int, Stack]:
        """The stacks of all threads but this one, the innermost function first."""
        out: dict[int, Stack] = {}
        me = threading.get_ident()
        for ident, top in sys._current_frames().items():  # noqa: SLF001 - documented, for this use
            if ident == me:
                continue
            stack: list[tuple[str, str]] = []
            frame: Any = top
            while frame is not None and len(stack) < _DEEPEST:
                code = frame.f_code
                stack.append((code.co_filename, code.co_name))
                frame = frame.f_back
            out[ident] = stack
        return out

    def _look_at_waits(self) -> None:
        for tid, (first, last) in self._waits.items():
            self._waits[tid] = (first, max(last, _waited(tid)))


def _doing(stack: Stack, others: Sequence[Stack], tid: int | None) -> str:
    """What a task's thread does, also by what the system says of it."""
    state = state_of(stack)
    if state == "zarr":
        return resolved(others)
    if state == "file":
        return "file-codec" if _is_running(tid) else "file-store"
    return "blocked" if state == "compute" and not _is_running(tid) else state


def _waited(tid: int) -> float:
    """Seconds that a thread waited for a processor; 0 where the system does not tell."""
    try:
        return int((_THREADS / str(tid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _machine() -> float:
    """CPU-seconds of all processes since the start, stolen ones too; 0 where they are not told."""
    try:
        told = _MACHINE.read_text().partition("\n")[0].split()[1:9]
        user, nice, system, _idle, _io, irq, softirq, stolen = map(int, told)
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def _is_running(tid: int | None) -> bool:
    """Whether a thread runs or could; taken to be so where the system does not tell."""
    try:
        text = (_THREADS / str(tid) / "stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "R"
