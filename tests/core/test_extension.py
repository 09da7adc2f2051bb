"""Windows and lead-ins against brute force: every element is looked at one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xchunk.core.grid import Axis, Grid
from xchunk.core.plan.window import Extension, Span
from xchunk.errors import InvalidChunksError


@st.composite
def spans(draw: st.DrawFn, grows: bool | None = None) -> Span:
    size = draw(st.integers(0, 23))
    unit = draw(st.integers(1, 9))
    append = draw(st.booleans()) if grows is None else grows
    start = size if append else draw(st.integers(0, size))
    most = 17 if append else size - start
    return Span(size, unit, start, draw(st.integers(0, most)))


@given(spans())
def test_the_window_is_the_smallest_union_of_whole_units(span: Span) -> None:
    new = set(range(span.start, span.stop))
    units = {e // span.unit for e in new}
    window = [e for e in range(span.new_size) if e // span.unit in units]
    assert list(range(span.first, span.last)) == window
    assert span.lead == sum(e < span.start for e in window)
    assert span.trail == sum(e >= span.stop for e in window)
    assert span.first % span.unit == 0
    # no old value is outside of what there was
    assert all(e < span.size for e in window if e not in new)


@given(spans(), st.integers(1, 7))
def test_the_window_is_cut_as_it_is_read(span: Span, chunk: int) -> None:
    parts = span.parts(Axis.regular(span.count, chunk))
    assert parts.size == span.length
    edges = {parts.bounds(i)[0] for i in range(parts.count)} | {span.length}
    source = {span.lead + e for e in range(0, span.count, chunk)}
    assert source <= edges


@st.composite
def extensions(draw: st.DrawFn) -> Extension:
    grown = draw(st.integers(-1, 2))
    ndim = draw(st.integers(max(1, grown + 1), 3))
    if grown < 0:
        return Extension(tuple(draw(spans(grows=False)) for _ in range(ndim)))
    rest = st.builds(lambda n, unit: Span(n, unit, 0, n), st.integers(1, 9), st.integers(1, 9))
    return Extension(
        tuple(draw(spans(grows=True)) if i == grown else draw(rest) for i in range(ndim))
    )


@settings(max_examples=60)
@given(extensions(), st.lists(st.integers(1, 2), min_size=3, max_size=3))
def test_boxes_get_old_and_new_values(ext: Extension, times: list[int]) -> None:
    old_shape = tuple(s.size for s in ext.spans)
    old = np.arange(int(np.prod(old_shape)), dtype="i8").reshape(old_shape)
    new_shape = tuple(s.count for s in ext.spans)
    new = -1 - np.arange(int(np.prod(new_shape)), dtype="i8").reshape(new_shape)
    # what is stored beyond the end, which nobody may ever read
    before = np.full(ext.new_shape, 10**9)
    before[tuple(slice(n) for n in old_shape)] = old
    wanted = before.copy()
    wanted[tuple(slice(s.start, s.stop) for s in ext.spans)] = new

    got = before.copy()
    writers: dict[tuple[int, ...], int] = {}
    boxes = Grid.of(ext.shape, [s.unit * t for s, t in zip(ext.spans, times, strict=False)])
    for number in range(boxes.count):
        box = boxes.region(number)
        values = np.full([r.stop - r.start for r in box], 77)
        for part, source in zip(ext.split(box), (before, new), strict=True):
            if part is not None:
                there, here = part
                assert all(t.stop <= n for t, n in zip(there, source.shape, strict=True))
                values[here] = source[there]
        assert not (values == 77).any()
        at = tuple(slice(r.start + o, r.stop + o) for r, o in zip(box, ext.origin, strict=True))
        got[at] = values
        for unit in itertools.product(
            *(
                {e // s.unit for e in range(a.start, a.stop)}
                for a, s in zip(at, ext.spans, strict=True)
            )
        ):
            assert writers.setdefault(unit, number) == number
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("size", "unit", "start", "count"),
    [(5, 0, 5, 1), (5, 2, 6, 1), (5, 2, -1, 1), (5, 2, 0, -1)],
    ids=["no unit", "a gap", "before the start", "a negative count"],
)
def test_what_makes_no_sense_is_refused(size: int, unit: int, start: int, count: int) -> None:
    with pytest.raises(InvalidChunksError):
        Span(size, unit, start, count)


def test_ninety_steps_in_chunks_of_sixty() -> None:
    span = Span(90, 60, 90, 45)
    assert (span.first, span.last, span.lead, span.trail) == (60, 135, 30, 0)
