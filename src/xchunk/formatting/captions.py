"""The words on drawings and plots: requests and what they touch, the steps of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from xchunk.core.access import PRESETS, AccessPattern, parse_access
from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.plan import ArrayPlan, Stage
from xchunk.core.suggest import VariableSuggestion
from xchunk.core.units import format_bytes, format_count
from xchunk.errors import InvalidChunksError
from xchunk.formatting.describe import counted, dims, lengths, times
from xchunk.formatting.scene import placed

__all__ = [
    "Node",
    "after",
    "amplified",
    "arrow",
    "drawn_notes",
    "flow_nodes",
    "request_of",
    "touched",
    "uses",
]


def uses(layouts: Iterable[ArrayLayout], layout: ArrayLayout) -> list[AccessPattern]:
    """The presets whose dims a variable has, each with dims of its own."""
    layouts = list(layouts)
    out: list[AccessPattern] = []
    for name in PRESETS:
        try:
            (pattern,) = parse_access(name, layouts)
        except InvalidChunksError:  # none of the dims is of that kind
            continue
        own = pattern.on(layout)
        several = math.prod(layout.sizes[d] for d in own.whole) > 1
        if several and own.whole not in [p.whole for p in out]:
            out.append(own)
    return out


def request_of(pattern: AccessPattern, layout: ArrayLayout) -> tuple[tuple[int, int], ...]:
    """Place one request of a use where its drawing shows: first element and stop by dim."""
    return placed(layout.shape, pattern.on(layout).request_shape(layout))


def touched(layout: ArrayLayout, request: Sequence[tuple[int, int]]) -> str:
    """Say what one request touches, and what that makes it decode."""
    if layout.chunks is None:
        return ""
    spans = [a.touched(*s) for a, s in zip(layout.read_grid.axes, request, strict=True)]
    n = math.prod(len(t) for t in spans)
    said = f"touches {format_count(n)} of {counted(layout.n_chunks, 'chunk')}"
    factor = amplified(layout, request)
    often = times(factor).replace(" ", "\N{NO-BREAK SPACE}")
    return f"{said}, decodes {often} what it needs" if factor > 1 else said


def amplified(layout: ArrayLayout, request: Sequence[tuple[int, int]]) -> float:
    """Elements decoded for one request, for each element that it needs."""
    grid, factor = layout.read_grid, 1.0
    for axis, (start, stop) in zip(grid.axes, request, strict=True):
        parts = axis.touched(start, stop)
        if parts and stop > start:
            factor *= (axis.bounds(parts[-1])[1] - axis.bounds(parts[0])[0]) / (stop - start)
    return factor


def drawn_notes(layout: ArrayLayout, picked: Sequence[int], true: bool, dense: bool) -> list[str]:
    """Say what is drawn, and where the drawing is not the array."""
    names = [layout.dims[d] for d in picked]
    out = [f"{layout.name} ({dims({n: layout.sizes[n] for n in names})})"]
    if layout.ndim > len(picked):
        out.append(f"{counted(layout.ndim - len(picked), 'shorter dim')} not drawn")
    if dense:
        out.append("chunks are finer than drawn")
    if not true:
        out.append("short sides drawn longer than they are")
    return out


def after(v: VariableSuggestion) -> ArrayLayout:
    """A variable as it is once the suggestion is followed: stored anew, or with dask blocks."""
    if v.action == "stage":
        return replace(
            v.layout,
            chunks=v.target_chunks,
            shards=v.target_shards,
            dask_chunks=None,
            format="zarr3",
        )
    blocks = tuple(
        v.chunks.get(d, -1) if v.chunks.get(d, -1) != -1 else n for d, n in v.layout.sizes.items()
    )
    grid = Grid.of(v.layout.shape, blocks)
    return replace(
        v.layout,
        dask_chunks=tuple(
            a.parts or tuple(a.bounds(i)[1] - a.bounds(i)[0] for i in range(a.count))
            for a in grid.axes
        ),
    )


@dataclass(frozen=True)
class Node:
    """One array on the way from the source to the target."""

    title: str
    """``source``, ``scratch`` or ``target``."""
    chunks: str
    """What it is cut into."""
    parts: str
    """What its chunks lie in, or what they are packed with; empty where there is nothing to say."""


def flow_nodes(array: ArrayPlan) -> list[Node]:
    """The arrays of a plan, from the source to the target."""
    job = array.job
    source = lengths(job.source.chunks) if job.source_chunked else "contiguous"
    kind = "dask blocks" if job.blocks else "chunks" if job.source_chunked else ""
    nodes = [Node("source", f"{source} {kind}".strip(), "")]
    for stage in array.stages:
        s = stage.scratch
        if s is None:
            shards = "" if job.units.chunks == job.target.chunks else lengths(job.units.chunks)
            parts = f"in shards of {shards}" if shards else ""
            nodes.append(Node("target", f"{lengths(job.target.chunks)} chunks", parts))
            continue
        words = [] if s.shards is None else [f"one object for each {lengths(s.shards)}"]
        words += [] if s.compressor == "none" else [s.compressor]
        nodes.append(Node("scratch", f"{lengths(s.chunks)} pieces", ", ".join(words)))
    return nodes


def arrow(stage: Stage, threads: int) -> tuple[tuple[str, ...], ...]:
    """What one stage does: what it reads, by which tasks, and what it writes."""
    work = stage.work
    read = format_bytes(work.decoded_bytes + work.scratch_read_bytes)
    written = format_bytes(work.encoded_bytes + work.scratch_write_bytes)
    decodes = (counted(work.decodes, "decode"),) if work.decodes else ()
    return (
        (f"reads {read}", *decodes),
        (
            counted(work.tasks, "task"),
            f"box {lengths(stage.boxes.chunks)}",
            f"peak {format_bytes(stage.projected_mem * threads)}",
        ),
        (f"writes {written}", counted(work.objects, "object")),
    )
