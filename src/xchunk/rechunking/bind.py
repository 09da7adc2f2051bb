"""Plans bound to stores: requests are checked, assembled and planned; nothing is written."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from xchunk.core.chunkspec import STORED_CHUNK, chunks_for_store, parse_chunks, shards_for_store
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import (
    DECODE_COPIES,
    ENCODE_COPIES,
    FETCH_COPIES,
    FILE_COPIES,
    OBSTORE_OVERHEAD,
    PROCESS_OVERHEAD,
    S3FS_DESCRIPTIONS,
    S3FS_OVERHEAD,
    SENT_COPIES,
    MemoryBudget,
    codec_copies,
)
from xchunk.core.plan.choose import plan_array
from xchunk.core.plan.stages import CopyJob, Limits, RechunkPlan
from xchunk.core.suggest.decision import MANY_OBJECTS, gathered, writable
from xchunk.core.suggest.lazy_pass import LOCKED
from xchunk.core.suggest.suggestion import Suggestion
from xchunk.core.types import Chunks, ZarrFormat
from xchunk.core.units import format_bytes, format_count
from xchunk.engine.cluster import current_client
from xchunk.engine.graph import Engine
from xchunk.errors import EncodingError, InvalidChunksError, MemoryBudgetError
from xchunk.rechunking.compat.engine import load_engine
from xchunk.rechunking.options import RechunkOptions
from xchunk.rechunking.resume import compare, header_of, planning_latency, refuse_other
from xchunk.rechunking.runner import BoundArray, Rechunk, lists_all
from xchunk.sources.foreign import holds_objects
from xchunk.sources.index_coords import homes_in_tree
from xchunk.sources.joint import Pieces
from xchunk.sources.layouts import read_layouts
from xchunk.sources.provenance import refuse_own_roots
from xchunk.sources.refs import FileRef, OneRef, StoredInfo, StoredRef, ZarrRef, ones_of
from xchunk.sources.trace import file_system_behind, trace
from xchunk.sources.xarray_adapter import token_of
from xchunk.stores.adapter import (
    asking_once,
    get_key,
    has_fused_pipeline,
    is_near,
    list_prefix,
)
from xchunk.stores.chunk_files import is_in_files
from xchunk.stores.icechunk import is_session, store_of
from xchunk.stores.object_stores import is_s3fs
from xchunk.stores.overlay import file_system_of, innermost
from xchunk.stores.shard_files import takes_one_by_one
from xchunk.stores.stores import (
    describe,
    latency_of,
    local_path,
    open_store,
    reaching,
    refuse_overlap,
    same_place,
)
from xchunk.targets.append.existing import warn_of_half_written
from xchunk.targets.codecs import codec_names, for_chunks
from xchunk.targets.encode import Assembled, assemble
from xchunk.targets.journal import Journal
from xchunk.targets.location import Site, state_of
from xchunk.targets.metadata import TargetArray, TargetMetadata, make_metadata
from xchunk.targets.ownership import is_safe_path
from xchunk.targets.scratch import PREFIX, can_shard_raw_bytes

_METADATA = ("zarr.json", ".zarray", ".zattrs")
#: Variables of which it is asked whether anything is stored, for advice.
_LOOKED_AT = 20


def is_unwritten(copy: BoundArray) -> bool:
    """Return whether no chunk of an array's source is stored."""
    return holds_nothing(copy.assembled.ref, copy.assembled.shape)


def holds_nothing(ref: StoredRef | None, shape: Sequence[int]) -> bool:
    """Return whether a zarr array has values and no chunk of them is stored.

    Where it would cost requests to ask, or the store cannot answer, it is not asked.
    """
    if not isinstance(ref, ZarrRef) or not math.prod(shape):
        return False
    if not (is_near(ref.store) and lists_all(ref.store)):
        return False
    prefix = f"{ref.path}/" if ref.path else ""
    found = list_prefix(ref.store, prefix, limit=len(_METADATA) + 1)
    return all(key.rpartition("/")[2] in _METADATA for key in found)


def unwritten_notes(copies: Sequence[BoundArray]) -> list[str]:
    """Say which sources hold nothing: their copies are made in no time, and hold nothing either."""
    return _unwritten([c.assembled.path for c in copies if is_unwritten(c)])


def unwritten_of(groups: Mapping[str, xr.Dataset]) -> list[str]:
    """Say the same of what some Datasets were opened from; the largest variables are looked at."""
    variables = [
        (f"{path}/{name}" if path else str(name), variable)
        for path, ds in groups.items()
        for name, variable in ds.variables.items()
        if name not in ds.xindexes
    ]
    variables.sort(key=lambda item: -item[1].size)
    found = []
    for path, variable in variables[:_LOOKED_AT]:
        traced = trace(variable)
        try:
            empty = traced is not None and holds_nothing(traced.ref, variable.shape)
        except Exception:  # noqa: BLE001 - advice is given where a store cannot be listed as well
            empty = False
        if empty:
            found.append(path)
    return _unwritten(found)


def _unwritten(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    of, its = ("it", "its") if len(paths) == 1 else ("them", "their")
    said = (
        f"{', '.join(paths[:3])}{more}: no chunk of {of} is stored, so that all of {its} values "
        "are the fill value. Is the source complete?"
    )
    return [said]


def full_disks(copies: Sequence[BoundArray], target: Store, scratch: Store | None) -> list[str]:
    """Say which disks of this machine may be too small for what is going to be written.

    Codecs may make it fit all the same, which nobody knows before: so it is said, not refused.
    """
    written = sum(c.plan.nbytes for c in copies if not is_unwritten(c))
    # the scratch data of one array exist at a time
    most = max((c.plan.scratch_nbytes for c in copies), default=0)
    asked: dict[Path, list[int]] = {}
    for store, nbytes in ((target, written), (scratch or target, most)):
        path = local_path(store)
        if path is not None and nbytes:
            asked.setdefault(_existing(path), []).append(nbytes)
    disks: dict[int, tuple[Path, int]] = {}
    for path, sizes in asked.items():
        device = path.stat().st_dev
        first, known = disks.get(device, (path, 0))
        disks[device] = (first, known + sum(sizes))
    out = []
    for path, needed in disks.values():
        free = shutil.disk_usage(path).free
        if needed > free:
            data = f"up to {format_bytes(needed)} are written, before codecs"
            data += f" ({format_bytes(most)} of them scratch data)" if most else ""
            out.append(
                f"the disk of {path} has {format_bytes(free)} free, and {data}. Make room, or "
                "give another place (store=, scratch=)"
            )
    return out


def many_objects(
    targets: Sequence[TargetArray],
    layouts: Sequence[ArrayLayout],
    budget: MemoryBudget,
    zarr_format: ZarrFormat,
) -> list[str]:
    """Say where very many objects are going to be written, and which shards make few of them."""
    total = sum(_count(t, t.shards) for t in targets)
    if total <= MANY_OBJECTS:
        return []
    known = {layout.name: layout for layout in layouts}
    least = max(_count(t, t.shards) for t in targets) // 10
    shards: dict[str, Chunks] = {}
    for t in targets:
        one, now = t.assembled, _count(t, t.shards)
        if now <= least or len(one.shape) != known[one.path].ndim:
            continue
        limit = writable(replace(known[one.path], stored_dtype=one.dtype), budget)
        few = MANY_OBJECTS * now // total
        found = gathered(one.shape, t.chunks, one.itemsize, limit=limit, objects=few)
        if found is not None and _count(t, found) < now:
            shards[one.path] = found
    after = sum(_count(t, shards.get(t.assembled.path, t.shards)) for t in targets)
    how = "Larger chunks, or more memory for shards, make fewer"
    if shards:
        three = "" if zarr_format == 3 else "zarr_format=3 and "
        how = f"With {three}shards={_by_dim(shards, targets)} they are {format_count(after)}"
    said = (
        f"{format_count(total)} objects (files) are written, besides scratch data: many file "
        "systems are slow with so many, and each is a request to an object store."
    )
    return [f"{said} {how}"]


def _count(target: TargetArray, shards: Chunks | None) -> int:
    return Grid.of(target.assembled.shape, shards or target.chunks).count


def _by_dim(shards: Mapping[str, Chunks], targets: Sequence[TargetArray]) -> dict[str, Any]:
    """Spell shards of some arrays as a user gives them, for all arrays at once where they agree."""
    own: dict[str, Any] = {}
    merged: dict[str, int] = {}
    for t in (t for t in targets if t.assembled.path in shards):
        one = t.assembled
        lengths = zip(one.dims, one.shape, shards[one.path], strict=True)
        own[one.path] = {d: -1 if s >= n else s for d, n, s in lengths}
        merged = own[one.path] | merged
    agree = all(spec.items() <= merged.items() for spec in own.values()) and all(
        merged.get(d, -1) == -1 or merged[d] % c == 0
        for t in targets
        for d, c in zip(t.assembled.dims, t.chunks, strict=True)
    )
    return merged if agree else own


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def looks_finished(bound: Rechunk, store: Store) -> bool:
    """Return whether a store is complete and has the very metadata that a rechunk would write.

    Names, shapes, chunks, codecs, attributes: all are the same. Values are not compared. A
    source that was written after the target is another one than it was made of, as far as that
    can be told from files.

    - ``bound``: the rechunk, bound to any other store.
    - ``store``: what is in the target's place.
    """
    if state_of(store) != "complete":
        return False
    documents = {**bound.metadata.arrays, **bound.metadata.groups}
    if any(get_key(store, key) != document for key, document in documents.items()):
        return False
    root = local_path(store)
    if root is None:
        return True
    made = max((root / key).stat().st_mtime_ns for key in bound.metadata.groups)
    refs = [ref for copy in bound.copies for ref in ones_of(copy.assembled.ref)]
    return all(path.stat().st_mtime_ns <= made for ref in refs for path in _files(ref))


def _files(ref: OneRef) -> list[Path]:
    """List what is written anew where a stored array is: its file; or its folders and metadata."""
    if isinstance(ref, FileRef):
        path = local_path(ref.filename)
        return [] if path is None or not path.exists() else [path]
    root = local_path(ref.store)
    if root is None:
        return []
    folder = root / ref.path
    found = (folder, folder / "c", *(folder / n for n in ("zarr.json", ".zarray", ".zattrs")))
    return [path for path in found if path.exists()]


#: Bytes up to which an array is copied directly: staging it would cost more than it saves.
_SMALL = 4_000_000
#: Bytes held for each byte of a block of strings while it is read: as stored, and as objects.
_OBJECT_COPIES = 2.0
#: The same of blocks that wait for further boxes that they are parts of, with those that are being
#: read. Measured: 2.0 to 2.2 of 400,000 texts of 200 characters, 2.2 to 2.4 of short ones.
_SHARED_COPIES = 2.4


def may_scratch(one: Assembled) -> bool:
    """Keep small arrays, of which many are copied side by side, and objects out of scratch."""
    return math.prod(one.shape) * one.itemsize > _SMALL and not holds_objects(one.dtype)


def chunks_by_variable(
    chunks: Suggestion | Mapping[Any, Any] | None, layouts: Sequence[ArrayLayout]
) -> dict[str, dict[str, Any]]:
    """Return what is said of each variable's stored chunks: ``{variable: {dim: n}}``."""
    if chunks is None:
        raise InvalidChunksError(
            "nothing says how to chunk. Give chunks such as {'time': -1}, a suggestion, or "
            "access='timeseries'."
        )
    if isinstance(chunks, Suggestion):
        known = {layout.name: layout for layout in layouts}
        return {
            name: dict(zip(known[name].dims, v.target_chunks, strict=True))
            for name, v in chunks.variables.items()
            if name in known and len(v.target_chunks) == known[name].ndim
        }
    return parse_chunks(chunks, layouts, small_whole=True)


def choose_target(
    one: Assembled,
    layout: ArrayLayout,
    options: RechunkOptions,
    budget: MemoryBudget,
    *,
    chunks: Mapping[str, Any],
    shards: Mapping[str, Any],
) -> TargetArray:
    """Choose a variable's chunks and shards: as asked, as suggested, or as they are stored.

    - ``one``: the variable.
    - ``layout``: how it is stored.
    - ``options``: what is asked, with the target's format.
    - ``budget``: what the tasks of one worker may take.
    - ``chunks``, ``shards``: lengths that are asked for it, by dim.
    """
    if len(one.shape) != layout.ndim:
        # the encoding adds or takes a dim (characters of strings): one chunk of each of those
        return TargetArray(one, tuple(max(1, n) for n in one.shape), None)
    layout = replace(layout, stored_dtype=one.dtype)
    # what nobody asked for is no reason to refuse a plan: the chunk, its copies and its source, and
    # what an older zarr has queued of them
    copies = 6 if has_fused_pipeline() else 12
    aim = min(STORED_CHUNK, max(250_000, (budget.max_mem - PROCESS_OVERHEAD) // copies))
    own = chunks_for_store(layout, chunks, itemsize=one.itemsize, aim=aim)
    encoding, large = for_chunks(one.encoding, math.prod(own) * one.itemsize)
    one = replace(one, encoding=encoding, notes=(*one.notes, *large))
    own_shards = shards_for_store(layout, shards, own)
    if own_shards is None and options.zarr_format == 3 and layout.ndim:
        own_shards = _suggested_shards(one.path, options.chunks, own)
        own_shards = own_shards or _kept_shards(layout, own, budget)
    return TargetArray(one, own, own_shards)


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
        room = max(budget.per_task // (8 if holds_objects(one.dtype) else 4), 1)
        blocks = list(units)
        for i in reversed(range(len(blocks))):
            nbytes = math.prod(blocks) * one.itemsize
            most = max(1, room // max(1, nbytes))
            blocks[i] = min(blocks[i] * most, max(1, one.shape[i]))
            if blocks[i] < one.shape[i]:
                blocks[i] = max(units[i], blocks[i] // units[i] * units[i])
    else:
        blocks = [max(1, *sizes) if sizes else 1 for sizes in variable.chunks]
    if variable.chunks is None and one.shape and not _has_workers():
        # dask would copy all of an array in memory, and load what is made as it is asked for
        import dask.array as da

        name = f"pieces-{tokenize(token_of(variable), blocks)}"
        held = da.from_array(Pieces(variable), chunks=tuple(blocks), name=name, meta=_meta(one))
        return replace(one, variable=xr.Variable(one.dims, held, one.attrs))
    if variable.chunks is not None and holds_objects(one.dtype):
        one = _with_shared(one, variable.chunks, blocks)
        if 8 * _SHARED_COPIES * one.shared_nbytes > budget.max_mem:
            # what is left for the boxes is less than they were made for
            blocks = [min(u, max(1, n)) for u, n in zip(units, one.shape, strict=True)]
            one = _with_shared(target.assembled, variable.chunks, blocks)
    chunked = variable.chunk(dict(zip(one.dims, blocks, strict=True)))
    return replace(one, variable=chunked)


def _with_shared(
    one: Assembled, chunks: Sequence[Sequence[int]], blocks: Sequence[int]
) -> Assembled:
    """Count what dask holds where it cuts and joins blocks of objects, which go through no scratch.

    A block that is a part of several boxes stays until the last of them is written: with it all
    blocks that those boxes are made of.
    """
    own = [Axis.of(n, c) for n, c in zip(one.shape, chunks, strict=True)]
    new = [Axis.regular(n, b) for n, b in zip(one.shape, blocks, strict=True)]
    if all(b.nests(a) for a, b in zip(own, new, strict=True)):
        return one
    extent = 1
    for a, b in zip(own, new, strict=True):
        touched = [a.touched(*b.bounds(i)) for i in range(min(b.count, _LOOKED_AT))]
        extent *= max((a.bounds(t[-1])[1] - a.bounds(t[0])[0] for t in touched if t), default=1)
    held = extent * one.itemsize
    said = (
        f"its {format_count(math.prod(a.count for a in own))} blocks of "
        f"{tuple(a.chunk for a in own)} are cut and joined by dask, which holds "
        f"{format_bytes(held)} of them at once: texts go through no scratch"
    )
    return replace(one, shared_nbytes=held, remarks=(*one.remarks, said))


def _has_workers() -> bool:
    """Whether blocks go to other processes, which are given each its own part."""
    return current_client() is not None


def _meta(one: Assembled) -> np.ndarray[Any, Any]:
    return np.empty((0,) * len(one.shape), dtype=one.dtype)


def name_smaller_blocks(target: TargetArray, job: CopyJob, error: MemoryBudgetError) -> None:
    """Add to an error that nothing fits the blocks in which the values should be computed."""
    dims, lengths = target.assembled.dims, _fitting(job, error.allowed)
    if target.assembled.shared_nbytes:
        chunks = dict(zip(dims, (axis.chunk for axis in job.units.axes), strict=True))
        held = format_bytes(target.assembled.shared_nbytes)
        said = (
            f"{error} Of this, dask holds {held} of blocks that it cuts and joins, since texts go "
            f"through no scratch: chunks that are whole blocks, instead of {chunks}, take less."
        )
        error.args = (said,)
        return
    if (
        error.allowed > PROCESS_OVERHEAD
        and job.blocks
        and math.prod(lengths) < job.source.box_elements
    ):
        chunks = dict(zip(dims, lengths, strict=True))
        error.args = (f"{error} Or compute it in smaller blocks: ds.chunk({chunks}).",)


def _fitting(job: CopyJob, max_mem: int) -> list[int]:
    """Shorten the blocks of what is computed until one fits, to whole write units if they can."""
    room = max(1, (max_mem - PROCESS_OVERHEAD) // (6 * job.itemsize))
    lengths = [axis.chunk for axis in job.source.axes]
    units = [axis.chunk for axis in job.units.axes]
    for smallest in (units, [1] * len(units)):
        for i, least in enumerate(smallest):
            others = math.prod(lengths) // max(1, lengths[i])
            fitting = max(1, room // max(1, others))
            if fitting < lengths[i]:
                lengths[i] = min(lengths[i], max(least, fitting // least * least))
    return lengths


def copy_job(
    target: TargetArray,
    store: Store | None = None,
    *,
    scratch: Store | None = None,
    made: Callable[[], zarr.Array[Any]] | None = None,
) -> CopyJob:
    """Return what the planner has to know of one variable, and of the stores it goes to.

    - ``target``: the variable, and its chunks in the target.
    - ``store``: where it is written.
    - ``scratch``: where its scratch data go; the same store by default.
    - ``made``: opens the array that it becomes, for its metadata; asked only where they make a
      difference.
    """
    one = target.assembled
    grid = Grid.of(one.shape, target.chunks)
    units = Grid.of(one.shape, target.shards) if target.shards is not None else grid
    codecs = codec_names(one.encoding)
    stores = {id(ref.store): ref.store for ref in ones_of(one.ref) if isinstance(ref, ZarrRef)}
    near = all(is_near(s) for s in (*stores.values(), *(() if store is None else (store,))))
    near = near and not any(ref.is_far for ref in ones_of(one.ref) if isinstance(ref, FileRef))
    temporary = store if scratch is None else scratch
    to = [s for s in (store, temporary) if s is not None]
    written = [file_system_of(s) for s in to]
    read = [file_system_behind(ref) for ref in ones_of(one.ref)]
    scratch_files = (
        temporary is not None and is_in_files(temporary) and not holds_objects(one.dtype)
    )
    by_chunk = False
    if target.shards is not None or codecs == () or not has_fused_pipeline():
        in_files = store is not None and is_in_files(store)
        by_chunk = made is not None and in_files and takes_one_by_one(made())
    short = scratch_files and by_chunk and one.info is not None and one.info.by_chunk
    write_copies = codec_copies(codecs)[1] if codecs is not None else None
    raw = near and short and codecs == () and one.info is not None and not one.info.codecs
    streamed = not near and (one.info is None or one.info.by_chunk)
    if streamed and made is not None:
        streamed = target.shards is None and takes_one_by_one(made())
    common: dict[str, Any] = {
        "name": one.path or "array",
        "shape": one.shape,
        "itemsize": one.itemsize,
        "target": grid,
        "units": units,
        "fused": near and (has_fused_pipeline() or short),
        "scratch_files": scratch_files,
        "unit_files": by_chunk,
        "near": near,
        "shardable": one.dtype.itemsize in (1, 2, 4, 8) or can_shard_raw_bytes(),
        "write_copies": FILE_COPIES if raw else write_copies,
        "raw_files": raw,
        "streamed": streamed,
        "sent_copies": max(map(_sent_copies, to), default=0.0),
        "clients": _clients(read, written, [*stores.values(), *to]),
    }
    if one.info is None:
        blocks = (one.variable.chunks or ()) if one.variable is not None else ()
        source = Grid.of(one.shape, [c if len(c) > 1 else -1 for c in blocks])
        copies = _OBJECT_COPIES if holds_objects(one.dtype) else None
        if copies is not None and one.shared_nbytes:
            block = max(1, source.box_elements * one.itemsize)
            copies = max(copies, _SHARED_COPIES * one.shared_nbytes / block)
        return CopyJob(
            **common, source=source, source_compressed=False, blocks=True, read_copies=copies
        )
    if one.info.chunks is None:
        rows = [Axis.regular(n, 1) for n in one.shape[:-1]]
        rows += [Axis.regular(n, -1) for n in one.shape[-1:]]
        return CopyJob(
            **common, source=Grid(tuple(rows)), source_chunked=False, source_compressed=False
        )
    axes = [
        Axis.of(n, c).within(start, count)
        for n, c, start, count in zip(
            one.info.shape, one.info.chunks, one.origin, one.shape, strict=True
        )
    ]
    return CopyJob(
        **common,
        source=Grid(tuple(axes)),
        serial=False if one.info.by_chunk else one.info.format in LOCKED or None,
        source_sharded=one.info.shards is not None and not one.info.by_chunk,
        source_compressed=bool(one.info.codecs),
        read_copies=FETCH_COPIES if streamed else _read_copies(one.info),
    )


def _sent_copies(store: Store) -> float:
    """What a store holds for each byte that it sends; 0: no more than what it was given."""
    inner = innermost(store)
    if isinstance(inner, FsspecStore):
        return SENT_COPIES
    # of others it is not known, nor measured
    return 0.0 if type(inner) in (LocalStore, MemoryStore, ObjectStore) else ENCODE_COPIES


def _clients(read: Sequence[Any], written: Sequence[Any], stores: Sequence[Store]) -> int:
    """Count what the clients of far stores take in a process that copies."""
    rust = OBSTORE_OVERHEAD if any(type(innermost(s)) is ObjectStore for s in stores) else 0
    if not any(is_s3fs(fs) for fs in (*read, *written)):
        return rust
    # what has read the source's metadata holds the descriptions; workers begin without
    here = any(is_s3fs(fs) and fs.session is not None for fs in read) and not _has_workers()
    return rust + S3FS_OVERHEAD + (0 if here else S3FS_DESCRIPTIONS)


def _read_copies(info: StoredInfo) -> float:
    """What is held for each byte of a chunk that is read; by the short way gzip's is no more."""
    if info.read_copies is not None:
        return info.read_copies
    copies = codec_copies(info.codecs)[0]
    return min(copies, DECODE_COPIES) if info.by_chunk else copies


#: Names that zarr gives to documents.
_RESERVED = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}


def source_format(groups: Mapping[str, xr.Dataset]) -> ZarrFormat:
    """Return the zarr format of the source, or 3 where it is no zarr."""
    formats = {layout.format for layout in read_layouts(groups)}
    return 2 if "zarr2" in formats and "zarr3" not in formats else 3


def bind(
    groups: Mapping[str, xr.Dataset],
    store: Any,
    options: RechunkOptions,
    *,
    budget: MemoryBudget,
    allowed: MemoryBudget | None = None,
    engine: Engine | None = None,
) -> Rechunk:
    """Plan a rechunk and bind it to its stores; nothing is written.

    - ``groups``: the Dataset of each group's path; ``""`` is the root.
    - ``store``: the target.
    - ``options``: how the data are rechunked.
    - ``budget``: what the tasks of one worker may take.
    - ``allowed``: what the tasks may take, where ``budget`` is that of an earlier run.
    - ``engine``: plans and copies instead of the engine that the options name.
    - raises `InvalidChunksError, EncodingError, MemoryBudgetError, TargetExistsError` if it cannot
      be done as it is asked.
    - raises `ResumeMismatchError` if the target is the unfinished one of another source, plan or
      target.
    """
    warn_of_half_written(groups)
    with asking_once():
        return _bind(groups, store, options, budget=budget, allowed=allowed, engine=engine)


def _bind(
    groups: Mapping[str, xr.Dataset],
    store: Any,
    options: RechunkOptions,
    *,
    budget: MemoryBudget,
    allowed: MemoryBudget | None,
    engine: Engine | None,
) -> Rechunk:
    transactional, zarr_format = is_session(store_of(store)), options.zarr_format
    if transactional and zarr_format == 2:
        raise EncodingError("icechunk stores zarr format 3 only. Leave zarr_format out.")
    if zarr_format is None:
        zarr_format = 3 if transactional else source_format(groups)
    options = replace(options, zarr_format=zarr_format)
    storage_options = options.storage_options
    site = Site(open_store(store, storage_options=storage_options), overwrite=options.overwrite)
    with reaching(site.store):
        site.check()
    report = read_layouts(groups)
    chunks = chunks_by_variable(options.chunks, report.layouts)
    shards = parse_chunks(options.shards or {}, report.layouts, "shards", small_whole=True)
    grouped: dict[str, tuple[list[TargetArray], dict[str, Any]]] = {}
    homes = homes_in_tree(groups)
    for path, ds in groups.items():
        assembled, attrs = assemble(
            ds, zarr_format=zarr_format, group=path, unpack=options.unpack, homes=homes[path]
        )
        own = [
            choose_target(
                one,
                report[one.path],
                options,
                budget,
                chunks=chunks.get(one.path, {}),
                shards=shards.get(one.path, {}),
            )
            for one in assembled
        ]
        grouped[path] = [replace(t, assembled=with_blocks(t, budget)) for t in own], attrs
    targets = [target for own, _ in grouped.values() for target in own]
    bound = bind_targets(
        targets,
        make_metadata(grouped, zarr_format=zarr_format),
        site,
        budget=budget,
        rates=options.rates,
        limits=options.limits,
        resume=options.resume,
        allowed=allowed,
        scratch=None
        if options.scratch is None
        else open_store(options.scratch, storage_options=storage_options),
        engine=engine or load_engine(options.engine),
    )
    notes = many_objects(targets, report.layouts, budget, zarr_format)
    return replace(bound, plan=replace(bound.plan, notes=(*bound.plan.notes, *notes)))


def bind_targets(
    targets: Sequence[TargetArray],
    metadata: TargetMetadata,
    site: Site,
    *,
    budget: MemoryBudget,
    rates: Rates | None = None,
    limits: Limits | None = None,
    resume: bool = True,
    allowed: MemoryBudget | None = None,
    scratch: Store | None = None,
    engine: Engine | None = None,
) -> Rechunk:
    """Plan how arrays are copied that are assembled already, as `bind` does; nothing is written.

    - ``targets``: the arrays with their chunks.
    - ``metadata``: what the target's metadata will be.
    - ``site``: where the target is made; checked already.
    - ``budget``, ``rates``, ``limits``, ``resume``, ``allowed``, ``scratch``, ``engine``: as in
      `bind`.
    """
    _refuse_odd_paths([target.assembled.path for target in targets])
    jobs = [
        copy_job(t, site.store, scratch=scratch, made=partial(metadata.array, t.assembled.path))
        for t in targets
    ]
    limits = limits or Limits()
    if rates is None:
        latency = planning_latency(site) if resume else None
        if latency is None:
            latency = _latency(targets, [site.store, *([] if scratch is None else [scratch])])
        rates = Rates.usual(near=all(job.near for job in jobs), latency=latency)
    copies: list[BoundArray] = []
    refused: list[MemoryBudgetError] = []
    changes: list[str] = []
    notes: list[str] = []
    for target, job in zip(targets, jobs, strict=True):
        one = target.assembled
        refuse_own_roots(one.path, one.ref, one.variable, site.store)
        own = limits if may_scratch(one) else replace(limits, scratch=False)
        try:
            if engine is not None and engine.takes(job, one.dtype):
                chosen = engine.plan(job, budget, rates=rates, limits=limits)
            else:
                chosen = plan_array(job, budget, rates=rates, limits=own)
        except MemoryBudgetError as error:
            name_smaller_blocks(target, job, error)
            refused.append(error)
            continue
        if own is not limits:
            # that no scratch may be used is our doing, and no plan that lost
            chosen = replace(chosen, runner_up="")
        if chosen.excess:
            notes.append(f"{one.path}: {chosen.excess}")
        copies.append(BoundArray(target, chosen))
        changes += [f"{one.path}: {note}" for note in one.notes]
        notes += [f"{one.path}: {remark}" for remark in one.remarks]
    if refused:
        # what is enough for the one that needs the most is enough for all
        raise max(refused, key=lambda error: error.smallest)
    copies.sort(key=lambda c: c.plan.nbytes)
    scratch = _own_scratch(scratch, site, copies)
    header = header_of(
        [(c.target, c.plan) for c in copies], metadata, budget, scratch, rates.latency
    )
    with reaching(site.store):
        refuse_other(site, header.digest)
        if resume and state_of(site.working) == "unfinished":
            notes += compare(Journal(site.working), header).note()
        notes += site.notes()
        notes += unwritten_notes(copies)
        notes += full_disks(copies, site.store, scratch)
    plan = RechunkPlan(
        arrays=tuple(c.plan for c in copies),
        budget=budget,
        rates=rates,
        target=describe(site.store),
        notes=(*changes, *notes),
        changes=tuple(changes),
    )
    return Rechunk(
        plan,
        site,
        tuple(copies),
        metadata,
        header,
        allowed=allowed or budget,
        resume=resume,
        scratch=scratch,
        engine=engine,
    )


#: Sources whose distance is measured; those of one rechunk mostly lie in one place.
_MEASURED = 3


def _latency(targets: Sequence[TargetArray], stores: Sequence[Store]) -> float | None:
    """Measure the seconds of a request to the farthest of the stores that a rechunk uses."""
    refs = (ref for t in targets for ref in ones_of(t.assembled.ref) if isinstance(ref, ZarrRef))
    sources = list({id(ref.store): ref.store for ref in refs}.values())
    return latency_of(*stores, *sources[:_MEASURED])


def _own_scratch(scratch: Store | None, site: Site, copies: Sequence[BoundArray]) -> Store | None:
    """Return the store for scratch data; None where that is the target's own, or none is needed."""
    needed = any(stage.scratch is not None for c in copies for stage in c.plan.stages)
    if scratch is None or not needed or same_place(scratch, site.store):
        return None
    refuse_overlap(scratch, site.store, "the scratch data")
    for copy in copies:
        one = copy.assembled
        refuse_own_roots(one.path, one.ref, one.variable, scratch)
    return scratch


def _refuse_odd_paths(paths: Sequence[str]) -> None:
    """Refuse names that would be read as something else in a zarr store, or lead out of it."""
    for path in paths:
        parts = path.split("/")
        if not path and len(paths) == 1:
            continue  # an array that is all of the store
        if not is_safe_path(path) or parts[0] == PREFIX or any(p in _RESERVED for p in parts):
            raise EncodingError(
                f"the name {path!r} cannot be a path in a zarr store. Nothing was written. "
                "Rename the variable or group first."
            )
