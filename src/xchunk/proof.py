"""Proving that a zarr store holds what a dataset holds: stored bits and metadata.

Source and target are each read once, in boxes that suit them, and compared by the digests of
the pieces that both boxes have (`xchunk.engine.digest`), on the scheduler and in the budget
of a rechunk.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from xchunk._typing import ProgressLike
from xchunk.core.grid import Grid
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan import Limits, plan_array
from xchunk.core.units import format_bytes, format_count
from xchunk.engine.copy import StageSpec
from xchunk.engine.digest import Unreadable, common_pieces, pieces_of
from xchunk.engine.run import Chain, current_client, run_chains
from xchunk.errors import SourceError, VerificationError
from xchunk.faults import dims_faults, group_faults, metadata_faults, unit_faults
from xchunk.jobs import copy_job, may_scratch, with_blocks
from xchunk.storage.assemble import Assembled, assemble
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stored import StoredInfo, open_stored
from xchunk.storage.stores import describe, is_zarr
from xchunk.storage.target import TargetArray
from xchunk.storage.twins import homes_in_tree
from xchunk.storage.unpacked import stored_unpacked
from xchunk.storage.zarr_io import get_key

__all__ = ["Proof", "prove", "prove_arrays"]

#: Differences of one variable that an error names; the others are counted.
_NAMED = 5


@dataclass(frozen=True)
class Proof:
    """What was compared, and found equal."""

    target: str
    """The store, in words."""
    variables: tuple[str, ...]
    """Paths of the variables."""
    nbytes: int
    """Bytes of all variables, as stored before codecs."""
    pieces: int
    """Pieces whose digests were compared."""

    def __str__(self) -> str:
        return (
            f"{self.target} holds what the source holds: {len(self.variables)} variables, "
            f"{format_bytes(self.nbytes)}, equal bit by bit"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as JSON types."""
        return {
            "target": self.target,
            "variables": list(self.variables),
            "nbytes": self.nbytes,
            "pieces": self.pieces,
        }


@dataclass(frozen=True)
class _Pair:
    """A variable and the stored array that should hold it, with the grids to compare them by."""

    source: Assembled
    target: ZarrRef
    info: StoredInfo
    source_boxes: Grid
    target_boxes: Grid
    pieces: Grid
    threads: int
    concurrency: int


def prove(
    groups: Mapping[str, xr.Dataset],
    store: Store,
    *,
    budget: MemoryBudget,
    progress: ProgressLike | None = None,
) -> Proof:
    """Compare a committed zarr store with the Datasets that it was made of.

    Parameters
    ----------
    groups : mapping
        The Dataset of each group's path; ``""`` is the root.
    store : zarr store
        The target. It may hold more than the source.
    budget : MemoryBudget
        What the tasks of one worker may take.
    progress : ProgressLike, optional
        Told of each box that was read, and entered already.

    Returns
    -------
    Proof

    Raises
    ------
    SourceError
        If the target is not there.
    VerificationError
        If anything differs: each variable is named, with regions and storage keys.
    """
    zarr_format = _format_of(store)
    faults: list[str] = []
    sources: list[Assembled] = []
    homes = homes_in_tree(groups)
    for path, ds in groups.items():
        known = stored_unpacked(ds, store, path, zarr_format)
        assembled, attrs = assemble(
            ds, zarr_format=zarr_format, group=path, unpack=known, homes=homes[path]
        )
        faults += group_faults(store, path, attrs, zarr_format)
        sources += assembled
    return prove_arrays(sources, store, budget=budget, progress=progress, faults=faults)


def prove_arrays(
    sources: Sequence[Assembled],
    store: Store,
    *,
    budget: MemoryBudget,
    progress: ProgressLike | None = None,
    faults: Sequence[str] = (),
) -> Proof:
    """Compare a committed zarr store with arrays that are assembled already, as `prove` does.

    Parameters
    ----------
    sources : sequence of Assembled
        What the store should hold.
    store, budget, progress
        As in `prove`.
    faults : sequence of str
        Differences that are known already.
    """
    zarr_format = _format_of(store)
    faults = list(faults)
    pairs: list[_Pair] = []
    for one in sources:
        ref = ZarrRef(store, one.path, zarr_format)
        try:
            info = open_stored(ref).info
        except SourceError:
            faults.append(f"{one.path or 'the array'}: is not in the target")
            continue
        differing = metadata_faults(one, info) + dims_faults(one, ref)
        faults += differing
        if one.shape == info.shape and not any("dtype" in d for d in differing):
            pairs.append(_pair(one, ref, info, budget))
    digests = _digests(pairs, budget, progress)
    for pair in pairs:
        faults += _value_faults(pair, digests)
    if faults:
        raise VerificationError(
            f"{describe(store)} does not hold what the source holds:\n  " + "\n  ".join(faults)
        )
    return Proof(
        target=describe(store),
        variables=tuple(p.source.path or "array" for p in pairs),
        nbytes=sum(int(np.prod(p.info.shape)) * p.info.dtype.itemsize for p in pairs),
        pieces=sum(p.pieces.count for p in pairs),
    )


def _format_of(store: Store) -> int:
    if not is_zarr(store):
        raise SourceError(
            f"{describe(store)} is no complete zarr store: its root has no metadata. It may be "
            "an unfinished target; run the rechunk again."
        )
    return 3 if get_key(store, "zarr.json") is not None else 2


def _pair(one: Assembled, ref: ZarrRef, info: StoredInfo, budget: MemoryBudget) -> _Pair:
    chunks = tuple(c if isinstance(c, int) else max(c) for c in info.chunks or ())
    target = TargetArray(one, chunks, info.shards)
    source = with_blocks(target, budget)
    job = copy_job(replace(target, assembled=source), ref.store)
    limits = Limits() if may_scratch(source) else Limits(scratch=False)
    plan = plan_array(job, budget, limits=limits)
    first, last = (plan.stages[0].boxes, plan.stages[-1].boxes) if plan.stages else (job.units,) * 2
    pieces = common_pieces(first, last)
    return _Pair(source, ref, info, first, last, pieces, plan.threads, plan.concurrency)


def _digests(
    pairs: list[_Pair], budget: MemoryBudget, progress: ProgressLike | None
) -> dict[tuple[str, int], Any]:
    run = uuid.uuid4().hex[:12]
    chains = []
    boxes: dict[str, tuple[str, str, Grid, int]] = {}
    for pair in pairs:
        if not pair.source.shape or all(pair.source.shape):
            chains += _chains(pair, run)
            path, itemsize = pair.source.path, pair.info.dtype.itemsize
            for side, grid in (("source", pair.source_boxes), ("target", pair.target_boxes)):
                boxes[f"xchunk-verify-{side}-{path}"] = (path, f"verify-{side}", grid, itemsize)
    done = dict.fromkeys(boxes, 0)
    found: dict[tuple[str, int], Any] = {}

    def collect(label: str, box: int, value: Any) -> None:
        found[label, box] = value
        if progress is not None:
            name, stage, grid, itemsize = boxes[label]
            done[label] += 1
            nbytes = itemsize * math.prod(s.stop - s.start for s in grid.region(box))
            progress.update(
                name=name, stage=stage, done=done[label], total=grid.count, nbytes=nbytes
            )

    run_chains(chains, threads=budget.threads, client=current_client(), report=collect)
    return found


def _chains(pair: _Pair, run: str) -> list[Chain]:
    one = pair.source
    common: dict[str, Any] = {
        "run": run,
        "target": None,
        "pieces": pair.pieces,
        "threads": pair.threads,
        "concurrency": pair.concurrency,
    }
    source = StageSpec(
        label=f"xchunk-verify-source-{one.path}",
        source=one.ref,
        origin=one.origin or (0,) * len(one.shape),
        boxes=pair.source_boxes,
        dtype=one.dtype,
        **common,
    )
    target = StageSpec(
        label=f"xchunk-verify-target-{one.path}",
        source=pair.target,
        origin=(0,) * len(one.shape),
        boxes=pair.target_boxes,
        dtype=pair.info.dtype,
        **common,
    )
    blocks = None if one.ref is not None or one.variable is None else one.variable.data
    return [Chain((source,), blocks), Chain((target,))]


def _value_faults(pair: _Pair, digests: Mapping[tuple[str, int], Any]) -> list[str]:
    path = pair.source.path
    sides = []
    for side, boxes in (("source", pair.source_boxes), ("target", pair.target_boxes)):
        by_piece: dict[tuple[int, ...], bytes] = {}
        for i in range(boxes.count):
            found = digests.get((f"xchunk-verify-{side}-{path}", i), ())
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
    for number, index in enumerate(bad):
        named += [
            f"{path}: {fault}"
            for fault in unit_faults(pair.source, pair.target, pair.info, pair.pieces, index)
        ]
        if len(named) >= _NAMED and number + 1 < len(bad):
            named.append(f"{path}: and {format_count(len(bad) - number - 1)} more regions differ")
            break
    return named
