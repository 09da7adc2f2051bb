"""Verification: that a store holds what a dataset holds, bit by bit, metadata included.

Source and target are each read once, in boxes that suit them, and compared by the digests of
the pieces that both boxes have (`xchunk.engine.copy`), on the scheduler and in the budget
of a rechunk.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from xchunk.core.grid import Grid
from xchunk.core.memory import MemoryBudget, TaskRequests
from xchunk.core.plan.choose import plan_array
from xchunk.core.plan.stages import Limits
from xchunk.core.shown import Shown
from xchunk.core.types import ByteSize, ProgressLike
from xchunk.core.units import format_bytes, format_count
from xchunk.engine.budget import needs_of
from xchunk.engine.cluster import Needs, current_client
from xchunk.engine.copy import (
    StageKey,
    StageSpec,
    Unreadable,
    as_stored,
    bytes_of,
    common_pieces,
    pieces_of,
)
from xchunk.engine.graph import Chain, run_chains
from xchunk.errors import EncodingError, SourceError, VerificationError, XchunkError
from xchunk.rechunking.bind import copy_job, may_scratch, with_blocks
from xchunk.rechunking.extending import BoundExtension
from xchunk.sources.arrays import open_stored, small_chunk_caches
from xchunk.sources.decoding import DECODING_KEYS, Decoding, is_time, same_attribute
from xchunk.sources.index_coords import homes_in_tree
from xchunk.sources.refs import StoredInfo, ZarrRef
from xchunk.stores.adapter import bits, get_key, get_keys, has_key, names_in, open_array, put_key
from xchunk.stores.stores import describe, is_zarr
from xchunk.targets.encode import Assembled, assemble, stored_unpacked
from xchunk.targets.location import state_of
from xchunk.targets.metadata import TargetArray

#: Attributes that say how values are decoded, those of times included.
HOW_DECODED = (*DECODING_KEYS, "units", "calendar", "dtype")
#: Attributes by which xarray and we say what is told otherwise in the source.
_OURS = ("_ARRAY_DIMENSIONS", "coordinates", "grid_mapping", *HOW_DECODED)
#: Names that a note lists.
_LISTED = 3
#: Parts of the names of codecs that round values on purpose.
_LOSSY = ("bitround", "quantize", "fixedscaleoffset", "astype", "zfp", "sz3", "jpeg", "lerc", "j2k")


@dataclass(frozen=True)
class Pair:
    """A variable and the stored array that should hold it, with the grids to compare them by."""

    source: Assembled
    target: ZarrRef
    info: StoredInfo
    source_boxes: Grid
    target_boxes: Grid
    pieces: Grid
    threads: int
    reads: tuple[int, int] = (1, 1)
    """Requests that are on their way at once within a task, for the source and the target."""
    waits: bool = False
    """Whether more tasks run at once than compute."""
    decoding: Decoding | None = None
    """How the target's values are decoded, where those that the user has are compared."""
    start: tuple[int, ...] = ()
    """Where the source lies in the target, if it is a part of it."""
    needs: Needs | None = None
    """What a worker must have to read a box of it."""

    def boxes(self, side: str) -> Grid:
        """Return the boxes in which one side is read."""
        return self.source_boxes if side == "source" else self.target_boxes


def metadata_faults(one: Assembled, info: StoredInfo, *, decoded: bool = False) -> list[str]:
    """Compare shape, dtype and attributes of a variable and a stored array.

    Where values are compared ``decoded``, how they are stored is not compared.
    """
    faults = []
    if one.shape != info.shape:
        faults.append(f"{one.path}: shape {one.shape} in the source, {info.shape} in the target")
    if not decoded and _kind(one.dtype) != _kind(info.dtype):
        faults.append(f"{one.path}: dtype {one.dtype} in the source, {info.dtype} in the target")
    # how format 2 names dims; they are compared as dims
    skipped = {"_ARRAY_DIMENSIONS", *(HOW_DECODED if decoded else ())}
    wanted = {str(k): v for k, v in one.attrs.items() if str(k) not in skipped}
    faults += attribute_faults(one.path, wanted, info.attrs)
    faults += [
        f"{one.path}: attribute {key!r} is {info.attrs[key]!r} in the target, and not in the "
        "source, so that its values are read as others"
        for key in DECODING_KEYS
        if key in info.attrs and key not in wanted and key not in skipped
    ]
    return faults


def besides(name: str, wanted: Collection[Any], found: Collection[str], what: str) -> list[str]:
    """Say what a target holds that its source has not, which is no fault: readers may see it."""
    more = sorted(set(found) - set(map(str, wanted)))
    if not more:
        return []
    rest = f" and {format_count(len(more) - _LISTED)} more" if len(more) > _LISTED else ""
    shown = ", ".join(map(repr, more[:_LISTED])) + rest
    return [f"{name} holds {what} that the source has not: {shown}"]


def attribute_faults(name: str, wanted: Mapping[Any, Any], found: Mapping[str, Any]) -> list[str]:
    """Compare attributes with those that are stored; JSON's names are strings."""
    faults = []
    for key, value in ((str(k), v) for k, v in wanted.items()):
        if key not in found:
            faults.append(f"{name}: attribute {key!r} is missing in the target")
        elif not same_attribute(value, found[key]):
            faults.append(
                f"{name}: attribute {key!r} is {value!r} in the source, {found[key]!r} in the "
                "target"
            )
    return faults


def _kind(dtype: np.dtype[Any]) -> Any:
    """Name a dtype without its byte order; strings of any length are all one."""
    if dtype.hasobject or dtype.kind == "T":
        return "string"
    if dtype.names is not None:
        # how the fields of a structure are padded is no part of its values
        return [(name, _kind(dtype[name])) for name in dtype.names]
    if dtype.subdtype is not None:
        return (_kind(dtype.subdtype[0]), dtype.shape)
    return dtype.newbyteorder("=").str


def dims_faults(one: Assembled, ref: ZarrRef) -> list[str]:
    """Compare the names of the dims."""
    array = open_array(ref.store, ref.path, ref.zarr_format, mode="r")
    stored: Any = getattr(array.metadata, "dimension_names", None)
    if stored is None:
        stored = array.attrs.get("_ARRAY_DIMENSIONS")
    # what has no names of its own is given these
    unnamed = tuple(f"dim_{i}" for i in range(len(one.shape)))
    if tuple(stored or unnamed) == (one.dims or unnamed):
        return []
    return [f"{one.path}: dims {one.dims} in the source, {stored} in the target"]


def role_faults(
    name: str, wanted: Mapping[str, Any], found: Mapping[str, Any], data: Collection[str]
) -> list[str]:
    """Find data variables that an attribute of the target makes coordinates of those who read it.

    - ``data``: names of the source's data variables in the same group.
    """
    named = str(wanted.get("coordinates", "")).split()
    turned = [n for n in str(found.get("coordinates", "")).split() if n in data and n not in named]
    return [
        f"{name}: attribute 'coordinates' is {found['coordinates']!r} in the target, so that "
        f"{one}, a data variable in the source, is read as a coordinate"
        for one in turned
    ]


def group_faults(
    store: Store,
    path: str,
    attrs: Mapping[str, Any],
    zarr_format: int,
    *,
    data: Collection[str],
    names: Collection[str],
) -> tuple[list[str], list[str]]:
    """Compare the attributes of a group, which has these data variables and variables.

    - returns: what differs, and what the target holds besides.
    """
    name = path or "the root group"
    try:
        group = zarr.open_group(
            store,
            path=path or None,
            mode="r",
            zarr_format=zarr_format,  # type: ignore[arg-type]
            use_consolidated=False,
        )
    except (FileNotFoundError, KeyError, ValueError) as error:
        return [f"{name}: cannot be opened in the target ({error})"], []
    found = dict(group.attrs)
    notes = besides(name, {*attrs, *_OURS}, found, "attributes")
    others = [n for n in names_in(store, path) if n not in names and not n.startswith(".")]
    key = "zarr.json" if zarr_format == 3 else ".zarray"
    found_there = get_keys(store, [f"{path}/{n}/{key}".lstrip("/") for n in others])
    arrays = [
        n
        for n, document in zip(others, found_there, strict=True)
        if document is not None and json.loads(document).get("node_type", "array") == "array"
    ]
    notes += besides(name, names, arrays, "arrays")
    return [*attribute_faults(name, attrs, found), *role_faults(name, attrs, found, data)], notes


def unit_faults(pair: Pair, index: tuple[int, ...]) -> list[str]:
    """Say for each chunk or shard of the target that a piece touches what is wrong with it."""
    ref, info = pair.target, pair.info
    array = open_array(ref.store, ref.path, ref.zarr_format, mode="r")
    units = Grid.of(array.shape, info.shards or info.chunks or ())
    bounds = [a.bounds(j) for a, j in zip(pair.pieces.axes, index, strict=True)]
    start = pair.start or (0,) * len(bounds)
    region = tuple(slice(a + s, b + s) for (a, b), s in zip(bounds, start, strict=True))
    whole = [(s, s + n) for s, n in zip(start, pair.source.shape, strict=True)]
    out = []
    for unit in pieces_of(units, region):
        limits = [axis.bounds(j) for axis, j in zip(units.axes, unit, strict=True)]
        part = tuple(
            slice(max(a, low), min(b, high))
            for (a, b), (low, high) in zip(limits, whole, strict=True)
        )
        key = f"{ref.path}/{array.metadata.encode_chunk_key(unit)}".lstrip("/")
        what = _fault_of(pair, key, part)
        if what is not None:
            out.append(f"{_words(part)}: the storage key {key} {what}")
    if out or _is_lossy(info):
        return out
    return [f"{_words(region)}: values differ"]


def _fault_of(pair: Pair, key: str, part: tuple[slice, ...]) -> str | None:
    ref, one = pair.target, pair.source
    start = pair.start or (0,) * len(part)
    own = tuple(slice(p.start - s, p.stop - s) for p, s in zip(part, start, strict=True))
    wanted = as_stored(_values(one, own), one.dtype)
    lost = not has_key(ref.store, key)
    try:
        # a chunk that is missing reads as the fill value
        have = open_stored(ref).read(part)
        have = have if pair.decoding is None else pair.decoding(have)
    except (XchunkError, ValueError, RuntimeError, OSError, TypeError, OverflowError) as error:
        return f"is torn: it cannot be decoded ({type(error).__name__}: {error})"
    if _is_lossy(pair.info):
        wanted = _there_and_back(wanted, ref)
    differs = _differs(wanted, have)
    if not differs.any():
        return None
    if wanted.dtype.hasobject and all(v is None or v != v for v in wanted[differs]):  # noqa: PLR0124
        return "holds empty texts, which are missing in the source: zarr has no missing texts"
    if lost:
        return "is lost: it is missing, and is not empty"
    at = int(np.argmax(differs))
    return (
        f"is altered: its values differ, such as {wanted.flat[at]!s}, which is read back as "
        f"{have.flat[at]!s}"
    )


def _is_lossy(info: StoredInfo) -> bool:
    """Return whether a user chose a codec that rounds values."""
    return any(part in name for name in info.codecs for part in _LOSSY)


def _there_and_back(values: NDArray[Any], ref: ZarrRef) -> NDArray[Any]:
    """Encode and decode one chunk or shard as the target's codecs do."""
    store = MemoryStore()
    name = "zarr.json" if ref.zarr_format == 3 else ".zarray"
    raw = get_key(ref.store, f"{ref.path}/{name}".lstrip("/"))
    if raw is None:
        return values
    metadata = json.loads(raw)
    metadata["shape"] = list(values.shape)
    put_key(store, name, json.dumps(metadata).encode())
    made = open_array(store, "", ref.zarr_format, mode="r+")
    made[...] = values
    return np.asarray(made[...])


def _differs(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Report for each value, in a row, whether it is another one bit by bit."""
    if a.shape != b.shape:
        return np.ones(1, dtype=bool)
    if a.dtype.names is not None and a.dtype.names == b.dtype.names and a.size:
        fields = [_differs(a[n], b[n]).reshape(a.size, -1).any(1) for n in a.dtype.names]
        return np.asarray(np.any(fields, 0), dtype=bool)
    if {a.dtype.kind, b.dtype.kind} & set("OTUS"):
        return np.array([bytes_of(x) != bytes_of(y) for x, y in zip(a.flat, b.flat, strict=True)])
    ours, theirs = (v.astype(v.dtype.newbyteorder("=")).ravel() for v in (a, b))
    if ours.dtype != theirs.dtype:
        return np.asarray(ours != theirs)
    return np.asarray(bits(ours) != bits(theirs))


def _values(one: Assembled, part: tuple[slice, ...]) -> NDArray[Any]:
    if one.ref is None:
        return np.asarray(one.variable[part].values if one.variable is not None else ())
    origin = one.origin or (0,) * len(part)
    shifted = [slice(p.start + o, p.stop + o) for p, o in zip(part, origin, strict=True)]
    return open_stored(one.ref).read(shifted)


def _words(region: tuple[slice, ...]) -> str:
    return "[" + ", ".join(f"{r.start}:{r.stop}" for r in region) + "]"


#: What is compared; the place of each is the number of its stage.
SIDES = ("source", "target")
#: Differences of one variable that an error names; the others are counted.
_NAMED = 5


@dataclass(frozen=True, repr=False)
class Proof(Shown, view="proof"):
    """What was compared, and found equal."""

    target: str
    """The store, in words."""
    variables: tuple[str, ...]
    """Paths of the variables."""
    nbytes: int
    """Bytes of all variables, as stored before codecs."""
    pieces: int
    """Pieces whose digests were compared."""
    notes: tuple[str, ...] = ()
    """What the target holds besides: attributes and arrays that the source has not."""

    def __str__(self) -> str:
        said = (
            f"{self.target} holds what the source holds: {len(self.variables)} variables, "
            f"{format_bytes(self.nbytes)}, equal bit by bit"
        )
        return "; ".join([said, *self.notes])


def prove(
    groups: Mapping[str, xr.Dataset],
    store: Store,
    *,
    budget: MemoryBudget,
    progress: ProgressLike | None = None,
) -> Proof:
    """Compare a committed zarr store with the Datasets that it was made of.

    - ``groups``: the Dataset of each group's path; ``""`` is the root.
    - ``store``: the target. It may hold more than the source.
    - ``budget``: what the tasks of one worker may take.
    - ``progress``: called for each box that was read, and entered already.
    - raises `SourceError` if the target is not there.
    - raises `VerificationError` if anything differs: each variable is named, with regions and
      storage keys.
    """
    variables = (v for ds in groups.values() for v in ds.variables.values())
    with small_chunk_caches(variables):
        return _prove(groups, store, budget, progress)


def _prove(
    groups: Mapping[str, xr.Dataset],
    store: Store,
    budget: MemoryBudget,
    progress: ProgressLike | None,
) -> Proof:
    zarr_format = _format_of(store)
    faults: list[str] = []
    notes: list[str] = []
    sources: list[Assembled] = []
    homes = homes_in_tree(groups)
    shown: dict[str, xr.Variable] = {}
    for path, ds in groups.items():
        known = stored_unpacked(ds, store, path, zarr_format)
        try:
            assembled, attrs = assemble(
                ds, zarr_format=zarr_format, group=path, unpack=known, homes=homes[path]
            )
        except EncodingError as error:
            raise _cannot_hold(store, error) from error
        names = [one.name for one in assembled]
        data = [one.name for one in assembled if not one.is_coord]
        how = {"data": data, "names": names}
        differing, more = group_faults(store, path, attrs, zarr_format, **how)
        faults += differing
        notes += more
        sources += assembled
        shown |= {one.path: ds.variables[one.name] for one in assembled}
    proof = prove_arrays(
        sources, store, budget=budget, progress=progress, faults=faults, shown=shown
    )
    return replace(proof, notes=(*notes, *proof.notes))


def prove_arrays(
    sources: Sequence[Assembled],
    store: Store,
    *,
    budget: MemoryBudget,
    progress: ProgressLike | None = None,
    faults: Sequence[str] = (),
    shown: Mapping[str, xr.Variable] | None = None,
) -> Proof:
    """Compare a committed zarr store with arrays that are assembled already, as `prove` does.

    - ``sources``: what the store should hold.
    - ``store``, ``budget``, ``progress``: as in `prove`.
    - ``faults``: differences that are known already.
    - ``shown``: the variables as the user has them, by path. Times and texts that are encoded are
      compared with what the store decodes to, so that no fault of the encoding is missed.
    """
    zarr_format = _format_of(store)
    faults, notes = list(faults), list[str]()
    pairs: list[Pair] = []
    parents = _times_of_bounds(sources)
    data: dict[str, list[str]] = defaultdict(list)
    for one in (s for s in sources if not s.is_coord):
        data[one.path.rpartition("/")[0]].append(one.name)
    for one in sources:
        ref = ZarrRef(store, one.path, zarr_format)
        try:
            info = open_stored(ref).info
        except SourceError:
            faults.append(f"{one.path or 'the array'}: is not in the target")
            continue
        decoding = _decoding(one, (shown or {}).get(one.path), info, parents.get(one.path, {}))
        differing = metadata_faults(one, info, decoded=decoding is not None)
        differing += dims_faults(one, ref)
        group = one.path.rpartition("/")[0]
        differing += role_faults(one.path, one.attrs, info.attrs, data[group])
        faults += differing
        notes += besides(one.path or "the array", {*one.attrs, *_OURS}, info.attrs, "attributes")
        if one.shape != info.shape or any(": dtype " in d for d in differing):
            continue
        if decoding is not None and shown is not None:
            variable = shown[one.path].to_base_variable()
            one = replace(one, ref=None, info=None, variable=variable, dtype=variable.dtype)  # noqa: PLW2901
        pairs.append(make_pair(one, ref, info, budget, decoding))
    try:
        faults += compare_pairs(pairs, budget, progress)
    except EncodingError as error:
        raise _cannot_hold(store, error) from error
    if faults:
        raise VerificationError(
            f"{describe(store)} does not hold what the source holds:\n  " + "\n  ".join(faults)
        )
    return Proof(
        target=describe(store),
        variables=tuple(p.source.path or "array" for p in pairs),
        nbytes=sum(int(np.prod(p.info.shape)) * p.info.dtype.itemsize for p in pairs),
        pieces=sum(p.pieces.count for p in pairs),
        notes=tuple(notes),
    )


def _cannot_hold(store: Store, error: EncodingError) -> VerificationError:
    # encoded like that, source and target would agree on values that are not the user's
    return VerificationError(
        f"{describe(store)} cannot hold what the source holds, by its encoding: {error}"
    )


def _format_of(store: Store) -> int:
    if not is_zarr(store):
        found = state_of(store)
        if found == "nothing":
            said = "there is nothing here. Nothing was compared. Check the path."
        elif found == "unfinished":
            said = "a rechunk to it was not finished. Run the same rechunk again, which resumes it."
        else:
            said = "it is no zarr store: its root has no metadata."
        raise SourceError(f"{describe(store)}: {said}")
    return 3 if get_key(store, "zarr.json") is not None else 2


def _times_of_bounds(sources: Sequence[Assembled]) -> dict[str, dict[str, Any]]:
    """Return the units and calendar that bounds have from what they bound, by path."""
    out = {}
    for parent in sources:
        name = parent.attrs.get("bounds", parent.attrs.get("climatology"))
        if isinstance(name, str) and is_time(parent.attrs):
            path = f"{parent.group}/{name}" if parent.group else name
            out[path] = {k: parent.attrs[k] for k in ("units", "calendar") if k in parent.attrs}
    return out


def _decoding(
    one: Assembled, shown: xr.Variable | None, info: StoredInfo, inherited: Mapping[str, Any]
) -> Decoding | None:
    """Report how a store's values are decoded, where that is what is to be compared.

    The same time may be stored in many ways: by other units, or as another dtype. So are times
    that were encoded anew, and those that the target stores otherwise than the source.
    """
    if shown is None or shown.dtype.kind not in "mMO" or shown.shape != info.shape:
        return None
    decoding = Decoding({**inherited, **info.attrs}, shown.dtype)
    if shown.dtype.kind == "O" and not is_time(decoding.attrs) and info.dtype.kind not in "OTU":
        return None
    alike = one.dtype == info.dtype and all(
        same_attribute(one.attrs.get(key), info.attrs.get(key)) for key in HOW_DECODED
    )
    return None if one.ref is not None and alike else decoding


def make_pair(
    one: Assembled,
    ref: ZarrRef,
    info: StoredInfo,
    budget: MemoryBudget,
    decoding: Decoding | None = None,
    *,
    start: tuple[int, ...] = (),
) -> Pair:
    """Find the boxes in which a variable and the array that should hold it are read."""
    chunks = tuple(c if isinstance(c, int) else max(c) for c in info.chunks or ())
    target = TargetArray(one, chunks, info.shards)
    source = with_blocks(target, budget)
    job = copy_job(replace(target, assembled=source), ref.store)
    limits = Limits() if may_scratch(source) else Limits(scratch=False)
    plan = plan_array(job, budget, limits=limits)
    first, last = (plan.stages[0].boxes, plan.stages[-1].boxes) if plan.stages else (job.units,) * 2
    reads = (1, 1)
    if plan.stages:
        reads = plan.stages[0].buffers.reads, plan.stages[-1].buffers.writes
    pieces = common_pieces(first, last)
    needs = needs_of(budget, plan.projected_mem, plan.threads)
    return Pair(
        source,
        ref,
        info,
        first,
        last,
        pieces,
        plan.threads,
        reads,
        plan.threads > budget.threads,
        decoding,
        start,
        needs,
    )


#: What was found, by the number of the pair, the side, and the number of the box.
_Found: TypeAlias = Mapping[tuple[int, str, int], Any]


def compare_pairs(
    pairs: list[Pair], budget: MemoryBudget, progress: ProgressLike | None
) -> list[str]:
    """Read both sides of each pair once, and name where they differ."""
    digests = _digests(pairs, budget, progress)
    return [fault for n, pair in enumerate(pairs) for fault in _value_faults(n, pair, digests)]


def _digests(
    pairs: list[Pair], budget: MemoryBudget, progress: ProgressLike | None
) -> dict[tuple[int, str, int], Any]:
    chains: list[Chain] = []
    places: dict[StageKey, tuple[int, str]] = {}
    for number, pair in enumerate(pairs):
        if pair.source.shape and not all(pair.source.shape):
            continue
        sides = _chains(pair)
        chains += sides.values()
        places |= {chain.stages[0].key: (number, side) for side, chain in sides.items()}
    done = dict.fromkeys(places, 0)
    found: dict[tuple[int, str, int], Any] = {}

    def collect(key: StageKey, box: int, value: Any) -> None:
        number, side = places[key]
        found[number, side, box] = value
        if progress is not None:
            pair = pairs[number]
            grid = pair.boxes(side)
            done[key] += 1
            items = math.prod(s.stop - s.start for s in grid.region(box))
            progress.update(
                name=pair.source.path,
                stage=f"verify-{side}",
                done=done[key],
                total=grid.count,
                nbytes=items * pair.info.dtype.itemsize,
            )

    run_chains(chains, threads=budget.threads, client=current_client(), report=collect)
    return found


def _chains(pair: Pair) -> dict[str, Chain]:
    one = pair.source
    common: dict[str, Any] = {
        # of its own for each pair: names of tasks do not tell "a-1" from "a_1"
        "run": uuid.uuid4().hex[:12],
        "array": one.path,
        "target": None,
        "pieces": pair.pieces,
        "threads": pair.threads,
        "waits": pair.waits,
        "needs": pair.needs,
    }
    source = StageSpec(
        label=f"xchunk-verify-source-{one.path}",
        number=SIDES.index("source"),
        source=one.ref,
        reads=pair.reads[0],
        requests=TaskRequests(pair.reads[0], read=1),
        origin=one.origin or (0,) * len(one.shape),
        boxes=pair.source_boxes,
        dtype=one.dtype,
        **common,
    )
    target = StageSpec(
        label=f"xchunk-verify-target-{one.path}",
        number=SIDES.index("target"),
        source=pair.target,
        reads=pair.reads[1],
        requests=TaskRequests(pair.reads[1], read=1),
        origin=pair.start or (0,) * len(one.shape),
        boxes=pair.target_boxes,
        dtype=pair.info.dtype,
        decoding=pair.decoding,
        **common,
    )
    blocks = None if one.ref is not None or one.variable is None else one.variable.data
    return {"source": Chain((source,), blocks), "target": Chain((target,))}


def _value_faults(number: int, pair: Pair, digests: _Found) -> list[str]:
    path = pair.source.path
    sides = []
    for side in ("source", "target"):
        boxes = pair.boxes(side)
        by_piece: dict[tuple[int, ...], bytes] = {}
        for i in range(boxes.count):
            found = digests.get((number, side, i), ())
            if isinstance(found, Unreadable):
                if side == "source":
                    raise SourceError(f"the source of {path} cannot be read: {found.why}")
                continue
            by_piece.update(zip(pieces_of(pair.pieces, boxes.region(i)), found, strict=True))
        sides.append(by_piece)
    wanted, have = sides
    bad = [index for index, digest in wanted.items() if have.get(index) != digest]
    if not bad:
        return []
    named: list[str] = []
    for place, index in enumerate(bad):
        named += [f"{path}: {fault}" for fault in unit_faults(pair, index)]
        if len(named) >= _NAMED and place + 1 < len(bad):
            named.append(f"{path}: and {format_count(len(bad) - place - 1)} more regions differ")
            break
    return named


def prove_extension(
    bound: BoundExtension, store: Store, *, progress: ProgressLike | None = None
) -> None:
    """Read back what was written, box by box within the budget, and compare it with the source.

    - ``bound``: what was written.
    - ``store``: the store as it is, or will be, with it.
    - ``progress``: called for each box that was read, and entered already.
    - raises `VerificationError` if anything differs: names each variable and region of the store.
    """
    budget = bound.plan.budget
    pairs = [
        make_pair(
            one,
            ZarrRef(store, path, bound.existing.zarr_format),
            bound.existing.arrays[path].info,
            budget,
            start=bound.extensions[path].start,
        )
        for path, one in bound.news.items()
        if all(one.shape)
    ]
    faults = compare_pairs(pairs, budget, progress)
    if faults:
        raise VerificationError(
            f"{describe(bound.store)} does not hold what was written to it:\n  "
            + "\n  ".join(faults[:10])
        )


def verify(
    source: xr.Dataset | xr.DataArray | xr.DataTree | str | os.PathLike[str],
    target: Any,
    *,
    memory: ByteSize | None = None,
    max_mem: ByteSize | None = None,
    progress: bool | ProgressLike = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Proof:
    """Compare a zarr store with its source, stored bits and metadata.

    Both are read once, box by box within the budget, on the active ``distributed.Client`` or
    on dask's threads.

    Parameters
    ----------
    source : Dataset, DataArray, DataTree, str or path
        What was rechunked. A path or URL is opened as the command line opens it.
    target : str, path or zarr store
        What it was rechunked to.
    memory, max_mem : int or str, optional
        As in ``ds.chunking.budget``.
    progress : bool or object
        As in ``ds.chunking.apply``.
    storage_options : mapping, optional
        What fsspec needs to reach URLs.

    Returns
    -------
    Proof
        What was compared.

    Raises
    ------
    SourceError
        If one of them is not there, or the target is not complete.
    VerificationError
        If anything differs; names each variable, region and storage key, and tells what is
        lost, torn or altered.

    Examples
    --------
    >>> xchunk.verify("maps.nc", "series.zarr")  # doctest: +SKIP
    """
    if isinstance(source, str | os.PathLike):
        from xchunk.opening.dataset import open_named

        source = open_named(os.fspath(source), options=storage_options)
    chunking: Any = getattr(source, "chunking", None)
    if chunking is None:
        raise SourceError(
            f"a {type(source).__name__} cannot be verified; give a Dataset, DataArray, DataTree, "
            "path or URL"
        )
    proof: Proof = chunking.verify(
        target,
        memory=memory,
        max_mem=max_mem,
        progress=progress,
        storage_options=storage_options,
    )
    return proof
