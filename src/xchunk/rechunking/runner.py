"""A rechunk that is bound to its stores: run in stages, resumed, and committed last."""

from __future__ import annotations

import itertools
import random
import re
import uuid
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore

from xchunk.core import __version__
from xchunk.core.grid import Grid, Vacant, vacant_boxes
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.stages import ArrayPlan, RechunkPlan
from xchunk.core.redact import safe_cause
from xchunk.engine.budget import needs_of
from xchunk.engine.cluster import current_client
from xchunk.engine.copy import StageSpec, scratch_dtype
from xchunk.engine.graph import Chain, Engine, Report, refuse_blind_workers, run_chains
from xchunk.errors import (
    ResumeMismatchError,
    SourceError,
    StageFailedError,
    VerificationError,
    XchunkWarning,
)
from xchunk.rechunking.resume import Standing, compare
from xchunk.sources.refs import SplicedRef, ZarrRef
from xchunk.stores.adapter import (
    asking_once,
    beside,
    have_keys,
    is_near,
    list_prefix,
    open_array,
)
from xchunk.stores.overlay import Unpublished
from xchunk.stores.stores import (
    describe,
    groups_above,
    is_fault_of_store,
    local_path,
    reaching,
)
from xchunk.targets.encode import Assembled
from xchunk.targets.fsync import Confirming, flush
from xchunk.targets.journal import Header, Journal
from xchunk.targets.location import FEW, Site
from xchunk.targets.metadata import (
    TargetArray,
    TargetMetadata,
    commit,
    tell_above,
    write_arrays,
)
from xchunk.targets.ownership import forget, lease, sweep_partials
from xchunk.targets.scratch import LEASES, MARKER, Workspace, is_lost_mark, make_marker

#: Keys that are looked for before all are listed: where they are all there, so are most others.
_TRIED = 6
#: The most keys that are listed; an array of more is taken for complete.
_MOST = 500_000
#: fsspec's names of stores that list what they hold.
_LISTING = {"file", "local", "memory", "s3", "s3a", "gs", "gcs", "abfs", "az", "adl"}


def find_vacant(
    source: ZarrRef, target: ZarrRef, origin: Sequence[int], stages: Sequence[Grid]
) -> tuple[tuple[frozenset[int], ...], bytes]:
    """Find the boxes of each stage of a copy that nothing is stored in.

    - ``source``, ``target``: what is copied, and where to; both arrays are there.
    - ``origin``: first element of what is copied, along each dim of the source; empty: the first.
    - ``stages``: the boxes of each stage.
    - returns ``vacant``: the numbers of the vacant boxes, one set for each stage; empty where all
      boxes are to be copied.
    - returns ``fill``: the bits of each value in them.
    """
    if not lists_all(source.store):
        return (), b""
    old = open_array(source.store, source.path, source.zarr_format, mode="r")
    new = open_array(target.store, target.path, target.zarr_format, mode="r")
    fill = _fill_bits(old)
    if fill is None or fill != _fill_bits(new) or is_lost_mark(fill):
        return (), b""
    found = present_chunks(source)
    if found is None:
        return (), b""
    return vacant_boxes(*found, origin or (0,) * len(old.shape), stages), fill


def _fill_bits(array: Any) -> bytes | None:
    dtype = np.dtype(array.dtype)
    if array.fill_value is None or dtype.hasobject or dtype.kind == "T":
        return None
    return np.asarray(array.fill_value, dtype=dtype).tobytes()


def present_chunks(ref: ZarrRef) -> tuple[Grid, NDArray[np.int64]] | None:
    """List the objects that an array is stored in, where some are missing.

    - ``ref``: the array.
    - returns: the grid of its chunks (shards, where it has them), and the indices of those that are
      there, of shape ``(n, dims)``; None where a few of them tell that the array is complete, where
      there are too many to list, or where the store cannot tell.
    """
    if not lists_all(ref.store):
        return None
    array = open_array(ref.store, ref.path, ref.zarr_format, mode="r")
    grid = _grid(array)
    if grid is None or grid.count < 2:
        return None
    dice = random.Random(0)  # noqa: S311 - a choice of samples
    tried = {dice.randrange(grid.count) for _ in range(_TRIED)}
    prefix = f"{ref.path}/" if ref.path else ""
    keys = [prefix + array.metadata.encode_chunk_key(grid.index(i)) for i in sorted(tried)]
    there = [k for k, found in zip(keys, have_keys(ref.store, keys), strict=True) if found]
    if len(there) == len(keys):
        return None
    found = list_prefix(ref.store, prefix, limit=min(_MOST, grid.count + _TRIED) + 100)
    document = f"{prefix}{'zarr.json' if ref.zarr_format == 3 else '.zarray'}"
    if len(found) >= _MOST or {document, *there}.difference(found):
        # a list that misses what is there would lose data
        return None
    places = (_index(key.removeprefix(prefix), grid) for key in found)
    indices = np.fromiter(itertools.chain.from_iterable(p for p in places if p), dtype=np.int64)
    return grid, indices.reshape(-1, len(grid.axes))


def lists_all(store: Store) -> bool:
    """Whether a store is one that lists all of its keys: servers of HTTP, for one, do not."""
    if isinstance(store, LocalStore | MemoryStore):
        return True
    protocols = getattr(getattr(store, "fs", None), "protocol", ())
    names = {protocols} if isinstance(protocols, str) else set(protocols)
    if type(store).__name__ == "ObjectStore":
        return type(getattr(store, "store", None)).__name__ != "HTTPStore"
    return bool(names & _LISTING)


def _grid(array: Any) -> Grid | None:
    try:
        units = array.shards or array.chunks
    except NotImplementedError:
        # a rectilinear grid: its chunks have no one length
        return None
    return Grid.of(array.shape, units) if array.ndim and all(array.shape) else None


def _index(key: str, grid: Grid) -> tuple[int, ...] | None:
    """Read the index of a chunk from its key: ``c/0/1``, ``c.0.1``, ``0/1`` or ``0.1``."""
    parts = re.split(r"[/.]", key)
    if parts[0] == "c":
        parts = parts[1:]
    if len(parts) != len(grid.axes) or not all(p.isdecimal() for p in parts):
        return None
    at = tuple(map(int, parts))
    return at if all(i < n for i, n in zip(at, grid.counts, strict=True)) else None


#: Called before a commit with a store that shows what is about to be visible to all.
Check = Callable[[Store], None]

#: Called with a committed store.
Ready = Callable[[Store], None]

#: Writes what is bound into a transaction of its store, and commits it.
Transaction: TypeAlias = "Callable[[Rechunk, Report | None, Check | None], Store]"


@dataclass(frozen=True)
class BoundArray:
    """One array of a rechunk: what is copied, where to, and how."""

    target: TargetArray
    """What is written, with its chunks."""
    plan: ArrayPlan
    """The stages by which it is copied."""

    @property
    def assembled(self) -> Assembled:
        """What is written."""
        return self.target.assembled


@dataclass(frozen=True)
class Rechunk:
    """A plan bound to its source and target; made by `xchunk.rechunking.bind`, run by `run`."""

    plan: RechunkPlan
    """What will happen."""
    site: Site
    """Where the target is made."""
    copies: tuple[BoundArray, ...]
    """The arrays, in the order in which they run."""
    metadata: TargetMetadata
    """The target's metadata documents."""
    header: Header
    """What the journal will say of this run."""
    allowed: MemoryBudget
    """What the tasks of one worker may take now; a plan that is resumed may be of another."""
    resume: bool = True
    """Whether boxes that an earlier run has written are kept."""
    scratch: Store | None = None
    """Where scratch data go; None: to the target's own store."""
    engine: Engine | None = None
    """What plans and copies instead of xchunk's own planner and tasks."""
    transaction: Transaction | None = None
    """What runs it where the store has transactions of its own, which need no lease or journal."""

    def run(
        self,
        *,
        report: Report | None = None,
        check: Check | None = None,
        ready: Ready | None = None,
    ) -> Store:
        """Copy everything and commit; return the committed store.

        The target cannot be opened before it is complete. What an earlier run of the same
        source, plan and target has written is not copied again. If a box fails, what is
        written stays for the next run.

        - ``report``: called with each finished box.
        - ``check``: called before the commit with a store that shows the target as it will be.
          Where it raises, nothing is committed, and what was to be replaced stays.
        - ``ready``: called with the committed store while what is temporary is deleted, where the
          store is far; elsewhere it is not called. It must not raise.
        - raises `TargetExistsError` if the target is there and was not to be overwritten, or
          another run is at work.
        - raises `ResumeMismatchError` if an earlier run left boxes of another source, plan or
          target.
        - raises `StageFailedError` if a box could not be copied.
        """
        if self.transaction is not None:
            return self.transaction(self, report, check)
        return self._run(report, check, None if is_near(self.site.store) else ready)

    def _run(
        self,
        report: Report | None,
        check: Check | None,
        ready: Ready | None = None,
    ) -> Store:
        site = self.site
        path = local_path(site.store)
        existed = path is None or path.exists()
        with reaching(site.store), asking_once():
            home = site.occupy()
        with lease(home) as held:
            began = False
            try:
                with asking_once():
                    store, complete = site.settle(self.header.digest)
                    chains = [] if complete else self._begin(store)
                began = True
                if not complete:
                    with beside(lambda: self._write_beside(store)):
                        self._copy_boxes(store, chains, report)
                if check is not None:
                    shown = store if complete else Unpublished(store, self.metadata.groups)
                    checked(check, shown, "" if complete else _refused(site.store))
                if not complete:
                    held.check()
                if not complete or store is not site.store:
                    # nobody is to read new chunks by old metadata
                    tell_above(self._above, {})
                if not complete:
                    self._commit(store)
                final = site.publish(store)
                tell_above(self._above, {**self.metadata.arrays, **self.metadata.groups})
            except BaseException as error:
                if not began and not self._has_boxes():
                    with suppress(Exception):
                        site.abandon(home, self.header, held.key, existed=existed)
                    if is_fault_of_store(error):
                        raise SourceError(f"{_failed(error)} Nothing was copied.") from safe_cause(
                            error
                        )
                    raise
                explain(error, _hint(site))
                if is_fault_of_store(error):
                    raise StageFailedError(f"{_failed(error)} {_hint(site)}") from safe_cause(error)
                raise
            try:
                flush([final])
                with nullcontext() if ready is None else beside(partial(ready, final)):
                    self._workspace(final).leave()
                    held.retire()
                    site.leave(home, held.key)
                held.gone = True
            except Exception as error:
                if not is_fault_of_store(error):
                    raise
                warnings.warn(
                    f"{describe(final)} is complete, but scratch data could not be deleted "
                    f"({error}). 'xchunk clean {describe(final)} --delete' tries again.",
                    XchunkWarning,
                    stacklevel=2,
                )
        return final

    def _begin(self, store: Store) -> list[Chain]:
        """Write all that stands before the first box; return what is to be copied."""
        journal, workspace = Journal(store), self._workspace(store)
        standing = self._standing(journal)
        if not standing.boxes:
            self._start_anew(store, standing)
        for place in (Workspace(store), *([] if self.scratch is None else [workspace])):
            if place.read_marker() is None:
                place.create(target=self.plan.target)
        for path in standing.changed:
            forget(store, path)
        if standing.earlier is not None:
            journal.forget_doubtful(standing.earlier)
        # when the target is complete, the journal may be gone, which could tell whose it is
        marker = make_marker(target=self.plan.target, committed=self.header.digest)
        journal.write(self.header, version=__version__, beside={MARKER: marker})
        client = current_client()
        if client is not None:
            refuse_blind_workers(client, store, MARKER)
            if self.scratch is not None:
                refuse_blind_workers(client, self.scratch, MARKER)
        return self._remaining(workspace, journal, standing)

    def _remaining(self, workspace: Workspace, journal: Journal, standing: Standing) -> list[Chain]:
        """Return what is to be copied; arrays of which all boxes are written are not."""
        finished = standing.finished or {}
        chains = [
            self._chain(c, workspace, journal, finished.get(c.assembled.path, ()))
            for c in self.copies
            if c.plan.stages
        ]
        return [c for c in chains if c.remaining(len(c.stages) - 1)]

    def _workspace(self, store: Store) -> Workspace:
        """Return where scratch data go: to a store of their own, other runs may go as well."""
        if self.scratch is None:
            return Workspace(store)
        return Workspace(self.scratch, self.header.digest[:16])

    def _standing(self, journal: Journal) -> Standing:
        if not self.resume:
            return Standing()
        return compare(journal, self.header)

    def _start_anew(self, store: Store, standing: Standing) -> None:
        """Delete what earlier runs left of an unfinished target."""
        if Workspace(store).read_marker() is None or _is_untouched(store):
            return
        earlier = standing.earlier or self.header
        if not self.resume:
            with suppress(ResumeMismatchError):
                earlier = Journal(store).read() or self.header
        self.site.discard(store, earlier)
        if earlier is not self.header:
            self.site.discard(store, self.header)

    def _has_boxes(self) -> bool:
        """Return whether an earlier run's boxes are there, which an error must not take away."""
        try:
            journal = Journal(self.site.working)
            earlier = journal.read()
            return earlier is not None and any(map(journal.has_boxes, earlier.arrays.values()))
        except Exception:  # noqa: BLE001 - where it cannot be told, nothing is deleted
            return True

    def _copy_boxes(self, store: Store, chains: Sequence[Chain], report: Report | None) -> None:
        if report is not None:
            for chain in chains:
                for stage, done in zip(chain.stages, chain.finished, strict=False):
                    for box in sorted(done):
                        report(stage.key, box, 0)
        run = run_chains if self.engine is None else self.engine.run
        journal, stores = Journal(store), (store, self.scratch)
        with Confirming(lambda: journal.confirm([self.scratch]), stores):
            run(chains, threads=self.allowed.threads, client=current_client(), report=report)

    def _write_beside(self, store: Store) -> None:
        """Do what has to be done before the commit, and can be done while boxes are copied."""
        write_arrays(store, self.metadata)
        # found now, so that the commit need not wait for it
        _ = self._above

    @cached_property
    def _above(self) -> list[tuple[Store, str]]:
        """The groups that the target lies in, with its path in each."""
        return [*groups_above(self.site.store)]

    def _commit(self, store: Store) -> None:
        sweep_partials(store, [c.assembled.path for c in self.copies], self.metadata.groups)
        flush([store])
        commit(store, self.metadata)

    def _chain(
        self,
        copy: BoundArray,
        workspace: Workspace,
        journal: Journal,
        finished: tuple[frozenset[int], ...],
    ) -> Chain:
        one, run = copy.assembled, uuid.uuid4().hex[:12]
        final = self.metadata.unpublished(journal.store, one.path)
        facts = self.header.arrays[one.path]
        fitting = self.allowed.max_mem // max(1, copy.plan.projected_mem)
        specs: list[StageSpec] = []
        scratches: list[ZarrRef] = []
        source: Any = one.ref
        grids = [stage.boxes for stage in copy.plan.stages]
        vacant: tuple[frozenset[int], ...] = ()
        fill = b""
        # a cluster runs tasks again of which the worker is lost, also those that were done
        places = (journal.store, workspace.store)
        spends = current_client() is None and None not in map(local_path, places)
        if isinstance(one.ref, ZarrRef) and self.engine is None:
            vacant, fill = find_vacant(one.ref, final, one.origin, grids)
        for number, stage in enumerate(copy.plan.stages):
            target = final
            if stage.scratch is not None:
                target = workspace.scratch_array(
                    copy.plan.name, number, one.shape, scratch_dtype(one.dtype), stage.scratch
                )
                scratches.append(target)
            specs.append(
                StageSpec(
                    run=run,
                    label=f"xchunk-{stage.kind}-{copy.plan.name}",
                    array=copy.plan.name,
                    number=number,
                    source=source,
                    target=target,
                    origin=one.origin if number == 0 and one.origin else (0,) * len(one.shape),
                    boxes=stage.boxes,
                    dtype=one.dtype,
                    from_scratch=number > 0,
                    to_scratch=stage.scratch is not None,
                    spends=number > 0 and spends,
                    reads=stage.buffers.reads,
                    writes=stage.buffers.writes,
                    waits=copy.plan.threads > self.allowed.threads,
                    requests=stage.buffers.requests,
                    at_once=stage.buffers.read_unit if number == 0 and _in_parts(one) else None,
                    unit=_unit(one),
                    threads=max(1, min(copy.plan.threads, fitting)),
                    vacant=Vacant(grids[number - 1], vacant[number - 1], fill)
                    if number and vacant and vacant[number - 1]
                    else None,
                    marks=journal.marks(facts, number),
                    needs=needs_of(self.allowed, copy.plan.projected_mem, copy.plan.threads),
                )
            )
            source = target

        def clean() -> None:
            journal.drop_scratch(facts)
            for scratch in scratches:
                workspace.remove_scratch(scratch)

        if copy is self.copies[-1] and local_path(workspace.store) is None:
            # it goes with the rest of the workspace, when the target is complete
            scratches.clear()

        blocks = None if one.ref is not None or one.variable is None else one.variable.data
        if vacant:
            done = finished or (frozenset(),) * len(vacant)
            finished = tuple(a | b for a, b in zip(done, vacant, strict=True))
        return Chain(tuple(specs), blocks, clean if scratches else None, finished)


def _is_untouched(store: Store) -> bool:
    """Return whether a far store holds no more than what every run begins with."""
    if local_path(store) is not None:
        return False
    keys = list_prefix(store, "", limit=FEW)
    return len(keys) < FEW and all(k == MARKER or k.startswith(f"{LEASES}/") for k in keys)


def checked(check: Check, store: Store, hint: str) -> None:
    """Check a store before it is committed; add to what it raises what becomes of the store."""
    try:
        check(store)
    except VerificationError as error:
        if hint and error.args:
            error.args = (f"{error.args[0]}\n{hint}", *error.args[1:])
        raise


def _refused(store: Store) -> str:
    return (
        f"Nothing was committed: {describe(store)} cannot be opened, or is what it was. What is "
        "written is kept; resume=False (--no-resume) copies all of it anew, and "
        f"'xchunk clean {describe(store)} --delete' deletes it."
    )


def explain(error: BaseException, hint: str) -> None:
    """Add to an error how the run is resumed, and how it is cleaned up."""
    if isinstance(error, StageFailedError) and error.args:
        error.args = (f"{error.args[0]} {hint}", *error.args[1:])
    elif not isinstance(error, VerificationError):
        error.add_note(hint)


def _hint(site: Site) -> str:
    place, beside = describe(site.store), site.beside
    with suppress(Exception):
        if beside is not None and beside.is_interrupted:
            return (
                f"The new store is complete, and was being put in place: nothing can be opened at "
                f"{place} until the same call, or 'xchunk clean {place} --delete', has done so."
            )
    return (
        f"What is written is kept: the same call resumes. 'xchunk clean {place} --delete' deletes "
        "it."
    )


def _failed(error: BaseException) -> str:
    return f"the target could not be written: {type(error).__name__}: {error}."


def _unit(one: Assembled) -> tuple[int, ...]:
    """Elements of a chunk along each dim; none where it is not told, or is that of a part only."""
    if one.info is None or isinstance(one.ref, SplicedRef):
        return ()
    return tuple(c if isinstance(c, int) else 1 for c in one.info.chunks or ())


def _in_parts(one: Assembled) -> bool:
    """Whether a box is read part by part: the reader would hold all of it besides the box."""
    plain = not one.dtype.hasobject and one.dtype.kind != "T" and bool(one.shape)
    if not plain or one.info is None:
        return False
    return one.info.chunks is None or (one.info.shards is not None and not one.info.by_chunk)
