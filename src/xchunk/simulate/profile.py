"""What one task takes: bytes that it keeps, inputs that it only views, its peak, its time.

A task is run once on noise of the right shapes. It is the user's own code that runs, so
whatever it raises is caught, and a task that would be too large is not run.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
import warnings
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xchunk.core.blocks import item_nbytes
from xchunk.simulate._dask import Key, TaskNode
from xchunk.simulate.signature import Signature
from xchunk.simulate.standin import RESERVED
from xchunk.simulate.values import Hole, Value, arrays_in, filled, root_of, value_of

__all__ = ["Profile", "Profiler"]

#: Tasks alike but for small contents, of which as many are run before one stands for all.
_ALIKE = 3

#: Seconds of a run up to which it is worth a second one for a better time.
_QUICK = 0.02


@dataclass(frozen=True)
class Profile:
    """What one task takes and gives."""

    value: Value
    """What its result is like."""
    own: int
    """Bytes of the result that no input owns."""
    views: tuple[int, ...]
    """Numbers of the inputs whose memory the result keeps."""
    peak: int
    """Bytes that it takes at its peak besides its inputs, its result included."""
    touched: int
    """Bytes of these that are more than reserved: the system gives no page before it is written."""
    seconds: float
    """Seconds that it takes, without reading."""
    measured: bool = True
    """Whether it was run; otherwise it is assumed to copy its inputs."""

    @property
    def kind(self) -> Hashable:
        """Equal for profiles that a replay cannot tell apart."""
        return (self.value.coarse, self.own, self.views)


@dataclass
class Profiler:
    """Runs one task for each signature."""

    cap: int
    """Bytes of inputs and reads beyond which a task is not run."""
    seconds: float
    """Seconds after which nothing more is run; what is left is assumed."""
    runs: int = 0
    """Tasks that were run."""
    assumed: int = 0
    """Signatures whose tasks were not run, or failed."""
    untried: int = 0
    """Bytes of the largest task that was not run because it is above the cap."""
    failure: str = ""
    """What the first task that failed said."""
    _spent: float = 0.0
    _found: dict[Hashable, Profile] = field(default_factory=dict)
    _alike: dict[Hashable, list[Profile]] = field(default_factory=lambda: defaultdict(list))

    def profile(self, task: TaskNode, signature: Signature, values: Mapping[Key, Value]) -> Profile:
        """Find what a task takes, by a run of one like it."""
        found = self._found.get(signature.strict)
        if found is not None:
            return found
        alike = self._alike[signature.coarse]
        if len(alike) >= _ALIKE and len({p.kind for p in alike}) == 1:
            return alike[0]
        inputs = [values[k] for k in signature.deps] + signature.literals
        read = sum(a.elements * item_nbytes(s.dtype) for s, a in signature.reads)
        nbytes = sum(v.nbytes for v in inputs) + read
        if nbytes > self.cap and all(v.known for v in inputs):
            self.untried = max(self.untried, nbytes)
        if nbytes > self.cap or self._spent > self.seconds:
            # one that is alike stands for it once there is no more time
            new = alike[0] if alike else self._assume(inputs, read, signature)
        else:
            new = self._run(task, signature, values, inputs, read)
        self._found[signature.strict] = new
        alike.append(new)
        return new

    def _run(
        self,
        task: TaskNode,
        signature: Signature,
        values: Mapping[Key, Value],
        inputs: list[Value],
        read: int,
    ) -> Profile:
        self.runs += 1
        begun = time.process_time()
        given = {k: filled(values[k].template) for k in signature.deps}
        owners = [{id(root_of(a)) for a in arrays_in(given[k])} for k in signature.deps]
        started = not tracemalloc.is_tracing()
        if started:
            tracemalloc.start(1)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                modules = len(sys.modules)
                result, peak, touched, seconds = _watched(task, given)
                if seconds < _QUICK or len(sys.modules) > modules:
                    # the first run of a function may import, and fill caches
                    del result
                    result, again, used, less = _watched(task, given)
                    peak, touched = min(peak, again), min(touched, used)
                    seconds = min(seconds, less)
        except Exception as error:
            self.failure = self.failure or f"{type(error).__name__}: {error}"
            return self._assume(inputs, read, signature)
        finally:
            if started:
                tracemalloc.stop()
            self._spent += time.process_time() - begun
        views, own = set(), 0
        seen: set[int] = set()
        for array in arrays_in(result):
            root = root_of(array)
            holder = next((i for i, ids in enumerate(owners) if id(root) in ids), None)
            if holder is not None:
                views.add(holder)
            elif id(root) not in seen:
                seen.add(id(root))
                own += int(getattr(root, "nbytes", array.nbytes))
        kept = tuple(sorted(views))
        return Profile(value_of(result), own, kept, max(peak, own), max(touched, own), seconds)

    def _assume(self, inputs: list[Value], read: int, signature: Signature) -> Profile:
        """Take a task to copy all its inputs into one array, as those that gather do."""
        self.assumed += 1
        nbytes = sum(v.nbytes for v in inputs) + read
        largest = max(inputs, key=lambda v: v.nbytes, default=None)
        if signature.reads:
            stored, asked = max(signature.reads, key=lambda r: r[1].elements)
            hole = Hole(asked.shape, stored.dtype)
            value = Value(hole, hole, hole, read, known=False)
        elif largest is None:
            value = value_of(None)
        else:
            value = replace(largest, known=False)
        temporary = max((s.temporary(a) for s, a in signature.reads), default=0)
        peak = nbytes + temporary
        return Profile(value, nbytes, (), peak, peak, nbytes / 2e9, measured=False)


def _watched(task: TaskNode, given: Mapping[Key, Any]) -> tuple[Any, int, int, float]:
    """Run a task; its result, bytes at its peak, those that are touched, and seconds."""
    tracemalloc.reset_peak()
    RESERVED.most = 0
    before = tracemalloc.get_traced_memory()[0]
    start = time.thread_time()
    result = task(given)
    seconds = time.thread_time() - start
    touched = tracemalloc.get_traced_memory()[1]
    return result, max(touched, RESERVED.most) - before, touched - before, seconds
