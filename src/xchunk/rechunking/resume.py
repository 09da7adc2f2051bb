"""Resuming: what an earlier run left, and whether its source and target are still the same.

They are JSON types, and hold neither values nor credentials: URLs lose what could be either.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import Store

from xchunk.core.grid import Axis, Grid
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.stages import ArrayPlan
from xchunk.core.redact import without_secrets
from xchunk.core.units import format_count
from xchunk.errors import ResumeMismatchError, TargetExistsError
from xchunk.sources.provenance import made_from
from xchunk.sources.refs import FileRef, JoinedRef, OneRef, SplicedRef, ZarrRef
from xchunk.sources.versions import stamp_of_file, stamp_of_objects
from xchunk.stores.adapter import ask_ahead, get_keys
from xchunk.stores.stores import describe, local_path, reaching
from xchunk.targets.encode import Assembled
from xchunk.targets.journal import Header, Journal, committed_digest, differences
from xchunk.targets.location import Site, state_of
from xchunk.targets.metadata import TargetArray, TargetMetadata
from xchunk.targets.scratch import Workspace

#: What says how an array is stored, in each format of zarr.
_DOCUMENTS = {3: ("zarr.json",), 2: (".zarray", ".zattrs")}
#: Arrays in remote stores, of those that one variable is computed from, whose objects are listed.
_MOST_REMOTE = 100
#: Lengths of chunks along a dim that are written out.
_MOST_LENGTHS = 100
#: Files of an array whose size and time are looked at; of larger arrays only the folders'.
_MOST_FILES = 50_000


def source_facts(one: Assembled) -> dict[str, Any]:
    """Return what the values of one variable are read or computed from."""
    facts: dict[str, Any] = {
        "shape": list(one.shape),
        "dtype": _dtype(one.dtype),
        "dims": list(one.dims),
    }
    if one.ref is None:
        data = None if one.variable is None else one.variable.data
        facts |= {"kind": "computed", "graph": str(getattr(data, "name", ""))}
        return facts if data is None else facts | {"data": _data_digest(data)}
    if one.info is not None:
        facts |= {
            "chunks": [_lengths(c) for c in one.info.chunks or ()] or None,
            "shards": None if one.info.shards is None else list(one.info.shards),
            "codecs": list(one.info.codecs),
            "attributes": _digest(one.info.attrs),
        }
    facts["origin"] = list(one.origin)
    ref = one.ref.new if isinstance(one.ref, SplicedRef) else one.ref
    if isinstance(ref, JoinedRef):
        return {"kind": "joined", **facts, **_joined_facts(ref)}
    if isinstance(ref, ZarrRef):
        return {"kind": "zarr", **facts, **_zarr_facts(ref)}
    return {"kind": "file", **facts, **_file_facts(ref)}


def _data_digest(data: Any) -> str:
    """Digest what computed values are made from: what is stored as it is now, and what is not."""
    refs, tokens = made_from(data)
    state = hashlib.sha256("\0".join(tokens).encode())
    remote = [r for r in refs if isinstance(r, ZarrRef) and local_path(r.store) is None]
    left_out = set(map(id, remote[_MOST_REMOTE:]))
    stamps = []
    for ref in refs:
        if isinstance(ref, FileRef):
            about = _file_facts(ref)
            stamps.append([about["file"], about.get("size"), about.get("changed")])
        elif id(ref) not in left_out:
            about = _zarr_stamp(ref)
            stamps.append([about["store"], ref.path, about.get("files"), about.get("objects")])
    # several handles of one store say the same
    for line in sorted({json.dumps(stamp) for stamp in stamps}):
        state.update(line.encode())
    return state.hexdigest()


def _joined_facts(ref: JoinedRef) -> dict[str, Any]:
    """Facts of all arrays that are joined: their number, a digest, and which is the first."""

    def facts_of(part: OneRef) -> dict[str, Any]:
        return _zarr_facts(part) if isinstance(part, ZarrRef) else _file_facts(part)

    state = hashlib.sha256(json.dumps([ref.lengths, ref.origins, ref.new]).encode())
    first = facts_of(ref.parts[0])
    state.update(json.dumps(first).encode())
    for part in ref.parts[1:]:
        state.update(json.dumps(facts_of(part)).encode())
    where: dict[str, Any] = {
        k: first[k] for k in ("file", "group", "variable", "store", "path") if k in first
    }
    return {**where, "arrays": len(ref.parts), "data": state.hexdigest()}


def _dtype(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.hasobject or dtype.kind == "T" else dtype.str


def _lengths(chunk: int | tuple[int, ...]) -> Any:
    """Say how a dim is cut; where joined files cut it in very many ways, by a digest."""
    if isinstance(chunk, int) or len(chunk) <= _MOST_LENGTHS:
        return chunk if isinstance(chunk, int) else list(chunk)
    return hashlib.sha256(json.dumps(chunk).encode()).hexdigest()


def _digest(value: Any) -> str:
    """Digest attributes, which may be anything: by what they show, arrays by their values."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {str(k): plain(v) for k, v in item.items()}
        if isinstance(item, np.ndarray | np.generic):
            return [str(item.dtype), repr(item.tolist())]
        return repr(item)

    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def _documents_of(ref: ZarrRef) -> list[str]:
    return [f"{ref.path}/{name}".lstrip("/") for name in _DOCUMENTS[ref.zarr_format]]


def _zarr_facts(ref: ZarrRef) -> dict[str, Any]:
    documents = [d or b"" for d in get_keys(ref.store, _documents_of(ref))]
    metadata = hashlib.sha256(b"\0".join(documents)).hexdigest()
    return {"path": ref.path, "metadata": metadata, **_zarr_stamp(ref)}


def _zarr_stamp(ref: ZarrRef) -> dict[str, Any]:
    facts: dict[str, Any] = {"store": without_secrets(describe(ref.store))}
    root = local_path(ref.store)
    if root is not None:
        facts["store"] = str(root.resolve())
        facts["files"] = _stamp_of_files(root / ref.path)
    elif (stamp := stamp_of_objects(ref)) is not None:
        facts["objects"] = stamp
    return facts


def _file_facts(ref: FileRef) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "file": without_secrets(ref.filename),
        "group": ref.group,
        "variable": ref.variable,
    }
    if ref.how is not None:
        facts["how"] = ref.how.token
    path = local_path(ref.filename)
    if path is not None and path.exists():
        stat = path.stat()
        facts |= {"file": str(path.resolve()), "size": stat.st_size, "changed": stat.st_mtime_ns}
    elif path is None and ref.engine == "h5netcdf":
        # netCDF's own URLs may be those of servers that compute what is asked for
        facts |= {"changed": stamp_of_file(ref)}
    return facts


def _stamp_of_files(folder: Path) -> str:
    """Digest names, sizes and times of the files below a folder, in whatever order they come."""
    total = 0
    for number, text in enumerate(_stamps(folder, files=True)):
        if number >= _MOST_FILES:
            # a file that is written anew changes the time of its folder, as zarr writes it
            total = sum(map(_number, _stamps(folder, files=False)))
            break
        total += _number(text)
    return hashlib.sha256(str(total).encode()).hexdigest()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest())


def _stamps(folder: Path, *, files: bool) -> Iterator[str]:
    stack = [str(folder)]
    while stack:
        here = stack.pop()
        # one by one: a folder may hold a million, which sorted would take 300 MB
        with suppress(OSError), os.scandir(here) as entries:
            if not files:
                yield f"{here}\0{os.stat(here).st_mtime_ns}\0"  # noqa: PTH116 - a string
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif files:
                    stat = entry.stat()
                    yield f"{entry.path}\0{stat.st_size}\0{stat.st_mtime_ns}\0"


#: What a detected budget may be smaller than that of the run that is resumed: a process is not
#: of exactly the same size each time.
_SLACK = 1.05
_NAMED = 5


def header_of(
    arrays: Sequence[tuple[TargetArray, ArrayPlan]],
    metadata: TargetMetadata,
    budget: MemoryBudget,
    scratch: Store | None = None,
    latency: float | None = None,
) -> Header:
    """Return the facts of a run, for its journal."""
    refs = [t.assembled.ref for t, _ in arrays if isinstance(t.assembled.ref, ZarrRef)]
    for store in {id(ref.store): ref.store for ref in refs}.values():
        ask_ahead(store, [key for r in refs if r.store is store for key in _documents_of(r)])
    most = max((plan.projected_mem for _, plan in arrays), default=0)
    return Header(
        arrays={
            target.assembled.path: {
                "source": source_facts(target.assembled),
                "plan": _plan_facts(plan) | _place_facts(scratch),
                "target": _target_facts(target, metadata),
            }
            for target, plan in arrays
        },
        groups=tuple(metadata.groups),
        documents=_plan_digest(metadata.groups),
        budget={**asdict(budget), "projected_mem": most, "latency": latency},
    )


def _plan_facts(plan: ArrayPlan) -> dict[str, Any]:
    return {
        "stages": [
            {
                "kind": stage.kind,
                "boxes": _grid_facts(stage.boxes),
                "scratch": None
                if stage.scratch is None
                else {
                    "chunks": list(stage.scratch.chunks),
                    "shards": None if stage.scratch.shards is None else list(stage.scratch.shards),
                    "compressor": stage.scratch.compressor,
                },
            }
            for stage in plan.stages
        ]
    }


def _place_facts(scratch: Store | None) -> dict[str, Any]:
    """Report where scratch data are, unless they are in the target's store."""
    return {} if scratch is None else {"scratch data in": without_secrets(describe(scratch))}


def _grid_facts(grid: Grid) -> list[Any]:
    def axis_facts(axis: Axis) -> Any:
        return axis.chunk if axis.parts is None else list(axis.parts)

    return [axis_facts(axis) for axis in grid.axes]


def _target_facts(target: TargetArray, metadata: TargetMetadata) -> dict[str, Any]:
    path = target.assembled.path
    own = {k: v for k, v in metadata.arrays.items() if k.rpartition("/")[0] == path}
    return {
        "format": metadata.zarr_format,
        "chunks": list(target.chunks),
        "shards": None if target.shards is None else list(target.shards),
        "metadata": _plan_digest(own),
    }


def _plan_digest(documents: Mapping[str, bytes]) -> str:
    state = hashlib.sha256()
    for key, value in sorted(documents.items()):
        state.update(f"{key}\0{len(value)}\0".encode() + value)
    return state.hexdigest()


def planning_budget(store: Store, budget: MemoryBudget, *, overwrite: bool) -> MemoryBudget:
    """Return the budget by which an unfinished target was planned, where this one allows it.

    Free memory differs from one moment to the next. By another budget, the plan would be another
    one, and nothing of what is written could be used.
    """
    site = Site(store, overwrite=overwrite)
    with reaching(store):
        site.expect()
    header = _unfinished(site)
    if header is None:
        return budget
    found = dict(header.budget)
    found.pop("latency", None)
    needed = found.pop("projected_mem", None)
    known = {f.name for f in fields(MemoryBudget)}
    slack = 1.0 if budget.origin == "max_mem" else _SLACK
    if not isinstance(needed, int) or needed > slack * budget.max_mem or set(found) - known:
        return budget
    return MemoryBudget(**found)


def planning_latency(site: Site) -> float | None:
    """Return the seconds of a request by which an unfinished target was planned, if one was."""
    header = _unfinished(site)
    latency = None if header is None else header.budget.get("latency")
    return float(latency) if isinstance(latency, int | float) else None


def _unfinished(site: Site) -> Header | None:
    with reaching(site.store):
        if Workspace(site.working).read_marker() is None:
            return None
        try:
            return Journal(site.working).read()
        except ResumeMismatchError:
            return None


@dataclass(frozen=True)
class Standing:
    """What an earlier run left, as far as this one can use it."""

    earlier: Header | None = None
    """What the earlier run did; None where there was none."""
    finished: Mapping[str, tuple[frozenset[int], ...]] | None = None
    """The boxes of each stage that are written, by path of the array."""
    changed: tuple[str, ...] = ()
    """Arrays that have to begin anew: they differ, and none of their boxes was written."""

    @property
    def boxes(self) -> int:
        """How many boxes need not be copied again."""
        return sum(len(f) for stages in (self.finished or {}).values() for f in stages)

    def note(self) -> list[str]:
        """Say in words that this run goes on with an earlier one."""
        if not self.boxes:
            return []
        done = format_count(self.boxes)
        return [f"an earlier run was stopped after {done} boxes, which are not copied again"]


def compare(journal: Journal, now: Header) -> Standing:
    """Compare an earlier run's journal with this run.

    - raises `ResumeMismatchError` if boxes were written of another source, plan or target.
    """
    earlier = journal.read()
    if earlier is None:
        return Standing()
    finished: dict[str, tuple[frozenset[int], ...]] = {}
    changed: list[str] = []
    faults: dict[str, list[str]] = {}
    for path, facts in earlier.arrays.items():
        wanted = now.arrays.get(path)
        if wanted == facts:
            finished[path] = journal.finished(earlier, facts)
        elif not journal.has_boxes(facts):
            changed.append(path)
        elif wanted is None:
            faults.setdefault("not written any more", []).append(path)
        else:
            for said in differences(facts, wanted):
                faults.setdefault(said, []).append(path)
    if faults:
        # what concerns most is said first, and once
        found = sorted(faults.items(), key=lambda one: -len(one[1]))
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        told = "; ".join(f"{_listed(paths)}: {said}" for said, paths in found[:_NAMED])
        raise ResumeMismatchError(
            f"{describe(journal.store)} is the unfinished target of another rechunk: "
            f"{told}{more}. Nothing was written. Call with what it was "
            "begun with to finish it, give resume=False (--no-resume) to start anew, or another "
            "target."
        )
    return Standing(earlier, finished, tuple(changed))


def _listed(paths: Sequence[str]) -> str:
    more = f" and {format_count(len(paths) - 3)} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{more}"


def refuse_other(site: Site, digest: str) -> None:
    """Refuse a complete target of ours that another run has made.

    - raises `TargetExistsError` if it is not what this run would commit, and is not to be
      overwritten.
    """
    if site.overwrite or state_of(site.store) != "committed":
        return
    if committed_digest(site.store) != digest:
        raise TargetExistsError(str(site.exists()))
