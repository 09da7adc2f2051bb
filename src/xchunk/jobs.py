"""What the planner is asked: assembled variables with the chunks that they get, as copy jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import zarr
from zarr.abc.store import Store

from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import DECODE_COPIES, FILE_COPIES, MemoryBudget, codec_copies
from xchunk.core.plan import CopyJob
from xchunk.core.spec import chunks_for_store, parse_chunks, shards_for_store
from xchunk.core.suggest import Suggestion
from xchunk.errors import InvalidChunksError
from xchunk.storage.assemble import Assembled
from xchunk.storage.codecs import codec_names
from xchunk.storage.local_files import is_in_files
from xchunk.storage.refs import ZarrRef
from xchunk.storage.shard_files import takes_one_by_one
from xchunk.storage.stored import StoredInfo
from xchunk.storage.target import TargetArray
from xchunk.storage.workspace import can_shard_raw_bytes
from xchunk.storage.zarr_io import has_fused_pipeline, is_near

__all__ = [
    "Wishes",
    "choose_target",
    "chunks_by_variable",
    "copy_job",
    "may_scratch",
    "with_blocks",
]

#: Bytes that one element of an array of objects (strings of any length) is taken to have.
_OBJECT_BYTES = 64
#: Bytes up to which an array is copied directly: staging it would cost more than it saves.
_SMALL = 4_000_000


def may_scratch(one: Assembled) -> bool:
    """Keep small arrays, of which many are copied side by side, and objects out of scratch."""
    return math.prod(one.shape) * _itemsize(one) > _SMALL and not _holds_objects(one)


def chunks_by_variable(
    what: Suggestion | Mapping[Any, Any] | None, layouts: Sequence[ArrayLayout]
) -> dict[str, dict[str, Any]]:
    """Return what is said of each variable's stored chunks: ``{variable: {dim: n}}``."""
    if what is None:
        raise InvalidChunksError(
            "nothing says how to chunk. Give chunks such as {'time': -1}, a suggestion, or "
            "access='timeseries'."
        )
    if isinstance(what, Suggestion):
        known = {layout.name: layout for layout in layouts}
        return {
            name: dict(zip(known[name].dims, v.target_chunks, strict=True))
            for name, v in what.variables.items()
            if name in known and len(v.target_chunks) == known[name].ndim
        }
    return parse_chunks(what, layouts)


@dataclass(frozen=True)
class Wishes:
    """What is asked of the target's layout."""

    what: Any
    """The suggestion or the chunks, as the user gave them."""
    chunks: Mapping[str, Mapping[str, Any]]
    """Chunks by variable and dim."""
    shards: Mapping[str, Mapping[str, Any]]
    """Shards by variable and dim."""
    zarr_format: int
    """2 or 3."""


def choose_target(
    one: Assembled, layout: ArrayLayout, wishes: Wishes, budget: MemoryBudget
) -> TargetArray:
    """Choose a variable's chunks and shards: as asked, as suggested, or as they are stored."""
    if len(one.shape) != layout.ndim:
        # the encoding adds or takes a dim (characters of strings): one chunk of each of those
        return TargetArray(one, tuple(max(1, n) for n in one.shape), None)
    layout = replace(layout, stored_dtype=one.dtype)
    named = wishes.chunks.get(one.path, {})
    chunks = chunks_for_store(layout, named, itemsize=_itemsize(one))
    shards = shards_for_store(layout, wishes.shards.get(one.path, {}), chunks)
    if shards is None and wishes.zarr_format == 3 and layout.ndim:
        shards = _suggested_shards(one.path, wishes.what, chunks)
        shards = shards or _kept_shards(layout, chunks, budget)
    return TargetArray(one, chunks, shards)


def _suggested_shards(name: str, what: Any, chunks: Sequence[int]) -> tuple[int, ...] | None:
    if not isinstance(what, Suggestion) or name not in what.variables:
        return None
    shards = what.variables[name].target_shards
    if shards is None or any(s % c for s, c in zip(shards, chunks, strict=True)):
        return None
    return tuple(shards)


def _kept_shards(
    layout: ArrayLayout, chunks: Sequence[int], budget: MemoryBudget
) -> tuple[int, ...] | None:
    """Keep a sharded source's object size: its shards rounded up to whole chunks, if they fit."""
    if layout.shards is None:
        return None
    shards = tuple(
        -(-min(s, max(n, 1)) // c) * c
        for s, c, n in zip(layout.shards, chunks, layout.shape, strict=True)
    )
    nbytes = math.prod(shards) * layout.stored_dtype.itemsize
    return shards if 4 * nbytes <= budget.per_task else None


def _itemsize(one: Assembled) -> int:
    return _OBJECT_BYTES if _holds_objects(one) else one.dtype.itemsize


def _holds_objects(one: Assembled) -> bool:
    return bool(one.dtype.hasobject or one.dtype.kind == "T")


def with_blocks(target: TargetArray, budget: MemoryBudget) -> Assembled:
    """Make a computed variable a dask array of regular blocks.

    Values that are not dask's yet (in memory, or lazy in a backend), and those that do not go
    through scratch, are cut into unions of whole write units, so that they are written directly.
    """
    one = target.assembled
    if one.variable is None:
        return one
    variable = one.variable
    units = target.shards or target.chunks
    if variable.chunks is None or not may_scratch(one):
        room = max(budget.per_task // 4, 1)
        blocks = list(units)
        for i in reversed(range(len(blocks))):
            nbytes = math.prod(blocks) * _itemsize(one)
            most = max(1, room // max(1, nbytes))
            blocks[i] = min(blocks[i] * most, max(1, one.shape[i]))
            if blocks[i] < one.shape[i]:
                blocks[i] = max(units[i], blocks[i] // units[i] * units[i])
    else:
        blocks = [max(1, *sizes) if sizes else 1 for sizes in variable.chunks]
    chunked = variable.chunk(dict(zip(one.dims, blocks, strict=True)))
    return replace(one, variable=chunked)


def copy_job(
    target: TargetArray,
    store: Store | None = None,
    *,
    scratch: Store | None = None,
    made: Callable[[], zarr.Array[Any]] | None = None,
) -> CopyJob:
    """Return what the planner has to know of one variable, and of the stores it goes to.

    Parameters
    ----------
    target : TargetArray
        The variable, and its chunks in the target.
    store : zarr store, optional
        Where it is written.
    scratch : zarr store, optional
        Where its scratch data go; the same store by default.
    made : callable, optional
        Opens the array that it becomes, for its metadata; asked only where they make a difference.
    """
    one = target.assembled
    grid = Grid.of(one.shape, target.chunks)
    units = Grid.of(one.shape, target.shards) if target.shards is not None else grid
    codecs = codec_names(one.encoding)
    stores = (one.ref.store if isinstance(one.ref, ZarrRef) else None, store)
    near = all(s is None or is_near(s) for s in stores)
    temporary = store if scratch is None else scratch
    scratch_files = temporary is not None and is_in_files(temporary) and not _holds_objects(one)
    by_chunk = False
    if target.shards is not None or codecs == () or not has_fused_pipeline():
        in_files = store is not None and is_in_files(store)
        by_chunk = made is not None and in_files and takes_one_by_one(made())
    short = scratch_files and by_chunk and one.info is not None and one.info.by_chunk
    write_copies = codec_copies(codecs)[1] if codecs is not None else None
    raw = short and codecs == () and one.info is not None and not one.info.codecs
    common: dict[str, Any] = {
        "name": one.path or "array",
        "shape": one.shape,
        "itemsize": _itemsize(one),
        "target": grid,
        "units": units,
        "fused": near and (has_fused_pipeline() or short),
        "scratch_files": scratch_files,
        "unit_files": by_chunk,
        "near": near,
        "shardable": one.dtype.itemsize in (1, 2, 4, 8) or can_shard_raw_bytes(),
        "write_copies": FILE_COPIES if raw else write_copies,
        "raw_files": raw,
    }
    if one.info is None:
        blocks = (one.variable.chunks or ()) if one.variable is not None else ()
        source = Grid.of(one.shape, [c if len(c) > 1 else -1 for c in blocks])
        return CopyJob(**common, source=source, source_compressed=False, blocks=True)
    if one.info.chunks is None:
        rows = [Axis.regular(n, 1) for n in one.shape[:-1]]
        rows += [Axis.regular(n, -1) for n in one.shape[-1:]]
        return CopyJob(
            **common, source=Grid(tuple(rows)), source_chunked=False, source_compressed=False
        )
    axes = [
        _cut(Axis.of(n, c), start, count)
        for n, c, start, count in zip(
            one.info.shape, one.info.chunks, one.origin, one.shape, strict=True
        )
    ]
    return CopyJob(
        **common,
        source=Grid(tuple(axes)),
        source_sharded=one.info.shards is not None and not one.info.by_chunk,
        source_compressed=bool(one.info.codecs),
        read_copies=_read_copies(one.info),
    )


def _read_copies(info: StoredInfo) -> float:
    """What is held for each byte of a chunk that is read; by the short way gzip's is no more."""
    copies = codec_copies(info.codecs)[0]
    return min(copies, DECODE_COPIES) if info.by_chunk else copies


def _cut(stored: Axis, start: int, count: int) -> Axis:
    """Return the stored chunks as a box sees them, which may cut the first and the last."""
    if stored.is_regular and start % stored.chunk == 0:
        return Axis.regular(count, stored.chunk)
    parts = [
        min(stored.bounds(i)[1], start + count) - max(stored.bounds(i)[0], start)
        for i in stored.touched(start, start + count)
    ]
    return Axis.of(count, parts)
