"""The words and numbers that text, HTML and plots share: one phrase for each fact."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout, StoredPart
from xchunk.core.memory import PAUSE, SPILL, TARGET, TERMINATE, MemoryBudget
from xchunk.core.suggest.access import PRESETS, AccessPattern, parse_access
from xchunk.core.units import format_bytes, format_count
from xchunk.display.shapes import placed
from xchunk.errors import InvalidChunksError

if TYPE_CHECKING:
    from xchunk.core.suggest.suggestion import VariableSuggestion

#: What each action means, in a few words.
ACTIONS = {
    "load": "load into memory, no dask",
    "chunk": "chunk lazily",
    "stage": "rechunk to zarr first",
}

#: Bytes up to which a variable is told of in one line with others: bounds, grid mappings, labels.
SMALL = 1_000_000

#: What became of each job of a batch.
STATUSES = {
    "done": "done",
    "skipped": "done before",
    "planned": "planned",
    "failed": "failed",
    "interrupted": "interrupted",
    "waiting": "not run",
}

#: What each kind of stage does.
STAGES = {
    "direct": "source → target",
    "read": "source → scratch",
    "move": "scratch → scratch",
    "write": "scratch → target",
    "verify-source": "source read back",
    "verify-target": "target read back",
}

#: dask's thresholds, as parts of a worker's limit.
MARKS = ((TARGET, "target"), (SPILL, "spill"), (PAUSE, "pause"), (TERMINATE, "terminate"))


def plain(text: object) -> str:
    """Make any text safe for one line of a terminal: control characters become escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def counted(n: int, one: str, many: str = "") -> str:
    """Count things: ``1 box``, ``1,200 boxes``."""
    return f"{format_count(n)} {one if n == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Name things in a line: the first ones, and how many more there are."""
    more = len(names) - most
    said = ", ".join(map(plain, names[:most] if more > 1 else names))
    return f"{said} and {more} more" if more > 1 else said


def names_of(names: Iterable[str], width: int = 40) -> str:
    """Name the things of one row in a few columns: ``t2m, tp``, ``t2m +11``."""
    first, *others = map(plain, names)
    said = ", ".join((first, *others))
    if not others or len(said) <= width:
        return said
    return f"{first} +{len(others)}"


def lengths(values: Iterable[object]) -> str:
    """Lengths by dim: ``(1460, 25, 24)``."""
    items = [str(v) for v in values]
    return "(" + ", ".join(items) + ("," if len(items) == 1 else "") + ")"


def _lengths(parts: int | Sequence[int]) -> str:
    """One dim's chunk lengths: ``7``, or the range that irregular ones lie in."""
    if isinstance(parts, int):
        return str(parts)
    lengths = [p for p in parts if p] or [0]
    if len(set(lengths[:-1])) <= 1 and lengths[-1] <= lengths[0]:
        return str(lengths[0])
    return f"{min(lengths)}…{max(lengths)}"


def dims(sizes: Mapping[str, int]) -> str:
    """The dims with their sizes: ``time: 240, lat: 37``."""
    return ", ".join(f"{plain(d)}: {n}" for d, n in sizes.items()) or "scalar"


def dtypes(layout: ArrayLayout) -> str:
    """The dtype that a user sees and, where it differs, the one that is stored."""
    if layout.dtype == layout.stored_dtype:
        return str(layout.dtype)
    return f"{layout.stored_dtype} → {layout.dtype}"


def chunks(layout: ArrayLayout) -> str:
    """The stored chunks by dim, or what the store has instead of chunks."""
    if not layout.ndim:
        return "scalar"
    if layout.chunks is not None and not layout.reader:
        return lengths(_lengths(c) for c in layout.chunks)
    if layout.reader:
        return f"read through {layout.reader}, one block at a time"
    if layout.format == "memory":
        return "in memory"
    if layout.format == "dask":
        return "computed by dask"
    return "contiguous"


def shards(layout: ArrayLayout) -> str:
    """The shards by dim; empty where there are none."""
    return "" if layout.shards is None else lengths(layout.shards)


def codecs(layout: ArrayLayout) -> str:
    """The codecs in the order of encoding; ``none`` where the bytes are as they are."""
    return " + ".join(plain(c) for c in layout.codecs) or "none"


def where(layout: ArrayLayout) -> str:
    """The format, and the number of files where there are several."""
    return layout.format + (f", {counted(layout.files, 'file')}" if layout.files > 1 else "")


def stored(layout: ArrayLayout) -> str:
    """The stored chunks, how many there are and how large one is in memory."""
    if layout.format == "memory" and not layout.reader and layout.dtype.kind in "UOT":
        return f"{chunks(layout)} (xarray loads texts of netCDF as it opens them)"
    if layout.chunks is None or not layout.ndim:
        return chunks(layout)
    each = "" if layout.n_chunks == 1 else " each"
    size, seen = layout.chunk_nbytes, ""
    if layout.dtype.itemsize != layout.stored_dtype.itemsize:
        size = size // layout.dtype.itemsize * layout.stored_dtype.itemsize
        seen = f", {format_bytes(layout.chunk_nbytes)} in memory"
    of = f"{counted(layout.n_chunks, 'chunk')}, {format_bytes(size)}{each}{seen}"
    return f"{chunks(layout)}  {of}"


def on_disk(layout: ArrayLayout) -> str:
    """Bytes on disk, their ratio, and the chunks that are there and missing."""
    if layout.stored_nbytes is None or layout.present_chunks is None:
        return "not counted"
    said = format_bytes(layout.stored_nbytes)
    if layout.stored_nbytes:
        ratio = layout.raw_nbytes / layout.stored_nbytes
        said += f" of {format_bytes(layout.raw_nbytes)} (ratio {ratio:.3g})"
    if not layout.ndim or not layout.is_chunked:
        return said
    what = "chunk" if layout.shards is None else "shard"
    total = sum(math.prod(Grid.of(p.shape, p.chunks).counts) for p in layout.parts if p.chunks)
    if layout.shards is not None:
        total = layout.write_grid.count
    missing = total - layout.present_chunks
    if missing <= 0:
        return f"{said}, all {counted(total, what)}"
    return f"{said}, {format_count(missing)} of {counted(total, what)} missing"


def unlike(layout: ArrayLayout) -> list[str]:
    """Say what differs between the files that a variable is joined of."""
    if len(layout.parts) < 2:
        return []
    told: dict[str, Callable[[StoredPart], str]] = {
        "dtype": lambda p: p.dtype,
        "chunks": lambda p: "contiguous" if p.chunks is None else lengths(p.chunks),
        "codecs": lambda p: " + ".join(p.codecs) or "none",
    }
    for key in dict.fromkeys(key for part in layout.parts for key, _ in part.packing):
        told[key] = lambda p, key=key: dict(p.packing).get(key, "none")  # type: ignore[misc]
    out = []
    for what, tell in told.items():
        kinds: dict[str, list[str]] = {}
        for part in layout.parts:
            kinds.setdefault(tell(part), []).append(part.place)
        if len(kinds) > 1:
            said = [
                f"{kind} in {at[0]}"
                if len(at) == 1
                else f"{kind} in {counted(len(at), 'file')} (first {at[0]})"
                for kind, at in kinds.items()
            ]
            verb = "differ" if what.endswith("s") else "differs"
            out.append(f"{layout.name}: {what} {verb}: {'; '.join(said[:4])}")
    return out


def dask_blocks(layout: ArrayLayout) -> str:
    """The dask blocks by dim and how many there are; empty where it is not a dask array."""
    if layout.dask_chunks is None:
        return ""
    grid = Grid.of(layout.shape, layout.dask_chunks)
    return f"{lengths(_lengths(c) for c in layout.dask_chunks)}  {counted(grid.count, 'block')}"


def is_cut(layout: ArrayLayout) -> bool:
    """Whether a variable lies in several stored chunks or dask blocks: worth a drawing."""
    blocks = layout.dask_chunks or ()
    return layout.n_chunks > 1 or any(len(parts) > 1 for parts in blocks)


def misfit(layout: ArrayLayout) -> str:
    """What it costs that dask blocks cut stored chunks; empty where they do not."""
    if layout.dask_chunks is None or layout.chunks is None or not layout.size:
        return ""
    blocks, read = Grid.of(layout.shape, layout.dask_chunks), layout.read_grid
    times = blocks.pairs(read) / max(1, read.count)
    if times <= 1:
        return ""
    return f"dask blocks cut stored chunks: each is read {times:.3g} times"


def dim_chunks(sizes: Mapping[str, int], by_dim: Mapping[str, int | tuple[int, ...]]) -> str:
    """Suggested chunks by dim, in words where a dim is whole: ``time: all 240, lat: 10``."""
    out = []
    for dim, chunk in by_dim.items():
        size = sizes.get(dim)
        whole = chunk == -1 or (isinstance(chunk, int) and size is not None and chunk >= size)
        shown = f"all {size}" if whole and size is not None else _lengths(chunk)
        out.append(f"{plain(dim)}: {shown}")
    return ", ".join(out) or "scalar"


def times(factor: float) -> str:
    """A factor, to three digits or as a whole number: ``1.5 ×``, ``29,040 ×``."""
    return f"{format_count(factor) if factor >= 1000 else format(factor, '.3g')} ×"


def growth(v: VariableSuggestion, budget: MemoryBudget) -> int:
    """Bytes by which one worker grows, as the suggestion says it or as its tasks make up."""
    return v.worker_mem or v.projected_mem * (v.threads or budget.threads)


@dataclass(frozen=True)
class Fill:
    """A memory bar: parts of a whole, and marks on it; all from 0 to 1."""

    held: float
    """What the process holds before any data."""
    grown: float
    """What it grows by."""
    marks: tuple[tuple[float, str], ...]
    """Thresholds with their names."""
    caption: str
    """The bar in words."""
    is_past: bool = False
    """Whether it passes one of the marks."""


def fill(budget: MemoryBudget, growth: int) -> Fill:
    """Set a growth of one worker against its budget.

    Where the limit of the worker is known, the whole is that limit and the marks are
    dask's thresholds; else the whole is ``max_mem``.
    """
    part = budget.fraction_of_limit(growth)
    if part is None or budget.memory is None:
        part = growth / budget.max_mem
        caption = f"{format_bytes(growth)} of {format_bytes(budget.max_mem)} ({part:.0%})"
        return Fill(0.0, min(1.0, part), (), caption)
    held = min(1.0, budget.reserved / budget.memory)
    words = (
        f"{format_bytes(budget.reserved + growth)} of {format_bytes(budget.memory)} ({part:.0%})"
    )
    passed = [name for mark, name in MARKS if part > mark + 0.005]
    if passed:
        words += f", past {passed[-1]}"
    return Fill(held, max(0.0, min(1.0, part) - held), MARKS, words, bool(passed))


def folded(said: str) -> str:
    """Fold lines for the terminal; paths and words stay whole, so that they can be copied."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    return "\n".join(
        textwrap.fill(
            line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for line in said.splitlines()
    )


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
