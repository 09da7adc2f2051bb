"""Where new data go in an existing array, and which old values are written with them.

Arrays are written in whole units (chunks, or shards). Where the new data do not begin or end
with a unit, the old values of that unit are read and written together with the new ones::

    old      |----------|----------|----
    new                            (   -------|----------|---)
    window                         |----------|----------|---|
                                    lead-in

The *window* is the smallest union of whole units that holds the new data. It begins with a unit,
so that a grid of units that starts at the window's first element is that of the array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from xchunk.core.grid import Axis, ceildiv
from xchunk.errors import InvalidChunksError

#: Where a part of a box lies: in the array that it is read from, and in the box.
Part: TypeAlias = tuple[tuple[slice, ...], tuple[slice, ...]]


@dataclass(frozen=True)
class Span:
    """New data along one dim of an existing array."""

    size: int
    """Elements that the array has before."""
    unit: int
    """Elements of a write unit, at least 1."""
    start: int
    """Where the new data begin."""
    count: int
    """Elements of the new data."""

    def __post_init__(self) -> None:
        if self.unit < 1 or self.count < 0 or not 0 <= self.start <= self.size:
            raise InvalidChunksError(
                f"{self.count} elements cannot be put at {self.start} of a dim of {self.size} "
                f"elements in units of {self.unit}"
            )

    @property
    def stop(self) -> int:
        """Where the new data end."""
        return self.start + self.count

    @property
    def new_size(self) -> int:
        """Elements that the array has afterwards."""
        return max(self.size, self.stop)

    @property
    def grows(self) -> bool:
        """Whether the array is longer afterwards."""
        return self.new_size > self.size

    @property
    def first(self) -> int:
        """Where the window begins: the start of the unit in which the new data begin."""
        return self.start // self.unit * self.unit

    @property
    def last(self) -> int:
        """Where the window ends: the end of a unit, or of the array."""
        if not self.count:
            return self.first
        return min(ceildiv(self.stop, self.unit) * self.unit, self.new_size)

    @property
    def length(self) -> int:
        """Elements of the window."""
        return self.last - self.first

    @property
    def lead(self) -> int:
        """Old elements of the window before the new data."""
        return self.start - self.first if self.count else 0

    @property
    def trail(self) -> int:
        """Old elements of the window after the new data."""
        return self.last - self.stop if self.count else 0

    def parts(self, source: Axis) -> Axis:
        """Return the window cut as it is read: old elements, the source's chunks, old elements."""
        if not self.lead and not self.trail:
            return source
        inner = [b - a for a, b in (source.bounds(i) for i in range(source.count))]
        # old values are read in parts as long as the source's, so that these bound the memory
        lead, trail = (
            [min(source.chunk, n - i) for i in range(0, n, source.chunk)]
            for n in (self.lead, self.trail)
        )
        return Axis.of(self.length, [*lead, *inner, *trail])


@dataclass(frozen=True)
class Extension:
    """New data in an existing array: one `Span` for each dim.

    Where the array grows along one dim, the new data have all of the others.
    """

    spans: tuple[Span, ...]
    """The dims in order."""

    def __post_init__(self) -> None:
        growing = [s for s in self.spans if s.grows]
        parts = [s for s in self.spans if not s.grows and s.count < s.size]
        if len(growing) > 1 or (growing and parts):
            raise InvalidChunksError("an array can grow along one dim only, with all of the others")

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements of the window along each dim."""
        return tuple(s.length for s in self.spans)

    @property
    def origin(self) -> tuple[int, ...]:
        """First element of the window in the array."""
        return tuple(s.first for s in self.spans)

    @property
    def start(self) -> tuple[int, ...]:
        """First element of the new data in the array."""
        return tuple(s.start for s in self.spans)

    @property
    def new_shape(self) -> tuple[int, ...]:
        """Elements of the array afterwards."""
        return tuple(s.new_size for s in self.spans)

    @property
    def has_old(self) -> bool:
        """Whether old values are read and written again."""
        return any(s.lead or s.trail for s in self.spans)

    def split(self, box: Sequence[slice]) -> tuple[Part | None, Part | None]:
        """Report where the values of a box come from.

        - returns: what is read of the old array, and what is read of the new data; None: nothing.
          The first has to be read before the second, which may lie within it.
        """
        new: list[tuple[slice, slice]] = []
        old: list[tuple[slice, slice]] = []
        inside = True
        for span, r in zip(self.spans, box, strict=True):
            first, last = r.start + span.first, r.stop + span.first
            a, b = max(first, span.start), min(last, span.stop)
            new.append((slice(a - span.start, b - span.start), slice(a - first, b - first)))
            inside = inside and (a, b) == (first, last)
            # what lies beyond the array's old end is new, whatever is stored there
            end = min(last, span.size)
            if span.grows:
                end = min(end, span.start)
            old.append((slice(first, end), slice(0, end - first)))
        return (
            None if inside or _is_empty(old) else _part(old),
            None if _is_empty(new) else _part(new),
        )


def _is_empty(pairs: Sequence[tuple[slice, slice]]) -> bool:
    return any(there.stop <= there.start for there, _ in pairs)


def _part(pairs: Sequence[tuple[slice, slice]]) -> Part:
    return tuple(there for there, _ in pairs), tuple(here for _, here in pairs)
