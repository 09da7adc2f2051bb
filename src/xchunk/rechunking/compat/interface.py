"""rechunker's interface on zarr 3: ``rechunk(...)`` plans, and ``.execute()`` rechunks.

The arguments have rechunker's names, order and meaning. What is behind them is xchunk's: the
target appears when it is complete, a run that was stopped resumes, and memory is
counted with the codecs.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import xarray as xr
import zarr
from zarr.abc.store import Store

from xchunk.core.memory import (
    GZIP_READ_COPIES,
    PROCESS_OVERHEAD,
    QUEUED,
    TASK_OVERHEAD,
    MemoryBudget,
)
from xchunk.core.plan.stages import Limits, RechunkPlan
from xchunk.core.types import ByteSize, EngineName, ZarrFormat
from xchunk.core.units import format_bytes, parse_bytes
from xchunk.engine.budget import detect_budget
from xchunk.engine.cluster import current_client
from xchunk.engine.graph import Engine
from xchunk.errors import InvalidChunksError, MemoryBudgetError
from xchunk.rechunking.compat.engine import load_engine
from xchunk.rechunking.compat.sources import (
    Bind,
    Target,
    Wanted,
    bind_dataset,
    bind_plain,
    find_target,
    in_order,
    open_scratch,
    prove_plain,
)
from xchunk.rechunking.resume import planning_budget
from xchunk.rechunking.runner import Rechunk
from xchunk.rechunking.verify import Proof, prove
from xchunk.sources.arrays import small_chunk_caches
from xchunk.stores.stores import describe, local_path
from xchunk.targets.location import state_of

#: What dask's own compute takes and what makes no difference here.
_WITHOUT_EFFECT = {"optimize_graph", "priority", "pure", "retries", "traverse"}
_ONE_BY_ONE = ("sync", "synchronous", "single-threaded")


def rechunk(  # noqa: PLR0917 - rechunker's order
    source: Any,
    target_chunks: Any,
    max_mem: ByteSize,
    target_store: Any,
    target_options: Mapping[str, Any] | None = None,
    temp_store: Any = None,
    temp_options: Mapping[str, Any] | None = None,
    executor: Any = "dask",
    array_name: str | None = None,
    *,
    engine: EngineName = "xchunk",
    zarr_format: ZarrFormat | None = None,
    overwrite: bool = False,
    resume: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Rechunked:
    """Plan to rechunk a zarr array or group, a dask array or a Dataset, as rechunker does.

    Scripts written for rechunker need another import only:
    ``from xchunk import rechunk``.

    Parameters
    ----------
    source : zarr.Array, zarr.Group, dask.array.Array or xarray.Dataset
        What is rechunked.
    target_chunks : tuple, mapping or None
        For one array a length for each dim, ``{dim: n}`` where its dims have names, or None to
        keep its chunks. For a group these by name of the array; arrays that are not named are
        left out. For a Dataset these by name of the variable, or ``{dim: n}`` for all variables;
        variables that are not named keep their chunks. -1 is the whole dim.
    max_mem : int or str
        Bytes by which one worker may grow. Where that is too little for the process and the
        codecs, it is taken as rechunker takes it, as the bytes of data of one task, if no chunk
        is larger; then what a worker takes is told when the result is shown.
    target_store : str, path, mapping, zarr store or zarr.Group
        Where the result goes. A single array is all of the store, or a member of a group.
    target_options : mapping, optional
        For one array what zarr is told of it: ``compressor`` or ``compressors``, ``filters``,
        ``serializer``, ``order``, ``fill_value``, ``shards`` and ``overwrite``; by name for a
        group. For a Dataset the encoding by name of the variable, as for ``to_zarr``.
    temp_store : str, path, mapping, zarr store or zarr.Group, optional
        Where scratch data go; to the target's own store by default. They are deleted at the
        end; the folder stays.
    temp_options : mapping, optional
        Checked, but without effect: how scratch data are stored is chosen by the planner.
    executor : {"dask", "python"} or executor
        ``"dask"`` runs on the active ``distributed.Client`` or on dask's threads, ``"python"``
        one task after the other. An executor object of rechunker's implies its engine.
    array_name : str, optional
        Name of the array where the target is a group and the source an array.
    engine : {"xchunk", "rechunker"}
        Whose planner and tasks are used. ``"rechunker"`` needs that package.
    zarr_format : {2, 3}, optional
        The source's format, or 3 where it is no zarr.
    overwrite : bool
        Whether an existing zarr store is replaced.
    resume : bool
        Whether to resume an earlier run of the same call that was stopped.
    storage_options : mapping, optional
        What fsspec needs to reach URLs.

    Returns
    -------
    Rechunked
        The plan; nothing is written before its ``execute()``.

    Raises
    ------
    InvalidChunksError, EncodingError, MemoryBudgetError, TargetExistsError
        If it cannot be done as it is asked.

    Examples
    --------
    >>> plan = xchunk.rechunk(array, (365, 10, 10), "1GB", "out.zarr")  # doctest: +SKIP
    >>> plan.execute()  # doctest: +SKIP
    """
    target_options, temp_store = in_order(target_options, temp_store)
    kind = _kind(source)
    if kind is not None and array_name is not None:
        raise InvalidChunksError(f"array_name is for a single array, and the source is a {kind}.")
    single = kind is None
    wanted = Wanted(target_chunks, target_options or {}, zarr_format, single=single)
    Wanted(None, temp_options or {}, zarr_format, single=single).check(source)
    wanted.check(source)
    target = find_target(target_store, array_name if single else "", storage_options)
    target = replace(target, overwrite=target.overwrite or overwrite or wanted.overwrite)
    scratch = None if temp_store is None else open_scratch(temp_store, storage_options)
    if isinstance(source, xr.Dataset):
        # what is done to the Dataset afterwards is not meant
        source = source.copy()
    chosen, one_by_one = _executor(executor, engine)
    asked = _Asked(source, wanted, max_mem, target, scratch, chosen, one_by_one, resume)
    return Rechunked(asked)


def _kind(source: Any) -> str | None:
    """Name what holds several arrays; None for a single one."""
    if isinstance(source, xr.Dataset):
        return "Dataset"
    if isinstance(source, zarr.Group):
        return "zarr group"
    if isinstance(source, zarr.Array | da.Array):
        return None
    raise InvalidChunksError(
        f"a {type(source).__name__} cannot be rechunked like this; give a zarr array or group, a "
        "dask array or a Dataset. DataArrays and DataTrees have .chunking.apply(…)."
    )


def _executor(executor: Any, engine: EngineName) -> tuple[Engine | None, bool]:
    """Return what copies, and whether one task runs at a time."""
    if executor is None or isinstance(executor, str):
        name = (executor or "dask").lower()
        if name not in ("dask", "python"):
            raise InvalidChunksError(
                f"executor={executor!r} is none of xchunk's: give 'dask' or 'python', or one of "
                "rechunker's executor objects."
            )
        return load_engine(engine), name == "python"
    if not (hasattr(executor, "prepare_plan") and hasattr(executor, "execute_plan")):
        raise InvalidChunksError(
            f"executor={executor!r} is no executor. Give 'dask' or 'python', or one of "
            "rechunker's executor objects."
        )
    return load_engine("rechunker", executor), False


@dataclass(frozen=True)
class _Asked:
    """All that is asked for, checked and ready to be bound as often as needed."""

    source: Any
    wanted: Wanted
    max_mem: ByteSize
    target: Target
    scratch: Store | None
    engine: Engine | None
    one_by_one: bool
    resume: bool

    def bind(self) -> Rechunk:
        """Plan, in the stricter meaning of ``max_mem`` if that is possible."""
        limit = parse_bytes(self.max_mem, "max_mem")
        with dask.config.set({"num_workers": 1}) if self.one_by_one else ExitStack():
            allowed = detect_budget(None, limit, client=current_client())
        budget = allowed
        if self.resume:
            budget = planning_budget(self.target.store, allowed, overwrite=self.target.overwrite)
        try:
            return self._bind(budget, Limits())
        except MemoryBudgetError as error:
            failed = error
        try:
            bound = self._bind(_of_data(limit, allowed), Limits(box=limit))
        except (MemoryBudgetError, InvalidChunksError):
            raise failed from None
        _refuse_large_chunks(bound, limit)
        growth = format_bytes(bound.plan.projected_mem)
        note = (
            f"max_mem={format_bytes(limit)} is taken as the data of one task: with codecs and "
            f"process, a worker grows by {growth}"
        )
        return replace(bound, plan=replace(bound.plan, notes=(*bound.plan.notes, note)))

    def _bind(self, budget: MemoryBudget, limits: Limits) -> Rechunk:
        how = Bind(self.target, budget, self.scratch, self.engine, self.resume, limits)
        if isinstance(self.source, xr.Dataset):
            return bind_dataset(self.source, self.wanted, how)
        return bind_plain(self.source, self.wanted, how)

    def prove(self, bound: Rechunk, store: Store) -> Proof:
        """Read source and target back, and compare them bit by bit."""
        if isinstance(self.source, xr.Dataset):
            return prove({"": self.source}, store, budget=bound.plan.budget)
        return prove_plain(bound, store)


def _of_data(nbytes: int, allowed: MemoryBudget) -> MemoryBudget:
    """Return the budget in which every task may hold so many bytes of data, and what goes along."""
    task = TASK_OVERHEAD + nbytes * (1 + GZIP_READ_COPIES * (1 + QUEUED))
    growth = int(PROCESS_OVERHEAD + allowed.threads * task)
    return replace(allowed, max_mem=max(growth, allowed.max_mem))


def _refuse_large_chunks(bound: Rechunk, limit: int) -> None:
    """Refuse what rechunker refuses: chunks that are larger than ``max_mem``."""
    for array in bound.plan.arrays:
        job = array.job
        sizes = {"target": job.units.box_elements * job.itemsize}
        if job.source_chunked and not job.blocks:
            sizes["source"] = job.source.box_elements * job.itemsize
        for side, nbytes in sizes.items():
            if nbytes > limit:
                raise MemoryBudgetError(
                    f"{job.name}: a chunk of the {side} has {format_bytes(nbytes)}, which is more "
                    f"than max_mem={format_bytes(limit)}. Nothing was written. Give max_mem="
                    f"{format_bytes(array.worker_mem)} or more, or smaller chunks.",
                    needed=array.worker_mem,
                    allowed=limit,
                    smallest=array.worker_mem,
                )


class Rechunked:
    """A rechunk that is planned, and done by `execute`; made by `rechunk`."""

    def __init__(self, asked: _Asked):
        self._asked = asked
        self._bound: Rechunk = asked.bind()
        self._done = False

    @property
    def plan(self) -> RechunkPlan:
        """The stages, boxes, tasks, bytes, objects and peak memory for each array."""
        return self._bound.plan

    def execute(self, *, verify: bool = False, **kwargs: Any) -> zarr.Array[Any] | zarr.Group:
        """Rechunk, and return the target.

        What is complete already is not copied again.

        Parameters
        ----------
        verify : bool
            Whether the target is read back and compared with the source bit by bit.
        **kwargs
            As for ``dask.compute``: ``num_workers``; a ``scheduler`` such as ``"threads"``,
            ``"sync"`` or a ``distributed.Client``.

        Returns
        -------
        zarr.Array or zarr.Group
            An array where the source is one, else a group; writable.

        Raises
        ------
        TargetExistsError
            If something was written to the target since it was planned.
        StageFailedError
            If a box could not be copied. What is written stays: the same call resumes.
        VerificationError
            If what was read back differs.
        """
        asked = self._asked
        with _scheduled(kwargs):
            if not (self._done and state_of(asked.target.store) == "complete"):
                # the source is looked at now: it may have been edited since it was planned
                self._bound = asked.bind()
                self._run(verify)
            elif verify:
                asked.prove(self._bound, asked.target.store)
        asked.target.refresh()
        return self._open()

    def _run(self, verify: bool) -> None:
        asked = self._asked

        def check(shown: Store) -> None:
            if verify:
                asked.prove(self._bound, shown)

        variables = getattr(asked.source, "variables", {}).values()
        with small_chunk_caches(variables):
            self._bound.run(check=check)
        path = None if asked.scratch is None else local_path(asked.scratch)
        if path is not None:
            # scripts delete it when they are done, as rechunker leaves that to them
            Path(path).mkdir(parents=True, exist_ok=True)
        self._done = True

    def _open(self) -> zarr.Array[Any] | zarr.Group:
        found: Any = zarr.open(self._asked.target.store, mode="r+")
        return found  # type: ignore[no-any-return]

    def _entries(self) -> Iterator[tuple[str, Any]]:
        asked = self._asked
        yield "Source", asked.source
        if any(len(a.stages) > 1 for a in self.plan.arrays):
            place = asked.scratch or asked.target.store
            yield "Intermediate", f"{describe(place)} (deleted at the end)"
        target = describe(asked.target.store)
        yield "Target", self._open() if self._done else f"{target} (not written yet)"

    def __repr__(self) -> str:
        lines = [f"* {kind:<12}: {_shown(what)}" for kind, what in self._entries()]
        notes = [f"* {'Note':<12}: {note}" for note in self.plan.notes]
        work = f"{self.plan.tasks} tasks, {format_bytes(self.plan.projected_mem)} for each worker"
        return "\n".join(["<Rechunked>", *lines, f"* {'Plan':<12}: {work}", *notes])

    def _repr_html_(self) -> str:
        parts = [(kind, _as_html(what)) for kind, what in self._entries()]
        parts.append(("Plan", _as_html(self.plan)))
        details = "".join(
            f"<details><summary><b>{kind}</b></summary>{body}</details>" for kind, body in parts
        )
        return f"<h2>Rechunked</h2>{details}"


def _shown(what: Any) -> str:
    return what if isinstance(what, str) else repr(what)


def _as_html(what: Any) -> str:
    own: Callable[[], str] | None = getattr(what, "_repr_html_", None)
    return own() if own is not None else f"<pre>{html.escape(_shown(what))}</pre>"


@contextmanager
def _scheduled(kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Take what ``dask.compute`` takes of where and how tasks run."""
    unknown = set(kwargs) - _WITHOUT_EFFECT - {"scheduler", "num_workers"}
    if unknown:
        raise InvalidChunksError(
            f"execute() does not take {', '.join(sorted(unknown))}. Give num_workers or a "
            "scheduler."
        )
    scheduler: Any = kwargs.get("scheduler")
    workers = kwargs.get("num_workers")
    with ExitStack() as stack:
        if hasattr(scheduler, "as_current"):
            stack.enter_context(scheduler.as_current())
        elif scheduler in _ONE_BY_ONE:
            workers = 1
        elif scheduler not in (None, "threads", "threading", "distributed"):
            raise InvalidChunksError(
                f"scheduler={scheduler!r} does not copy between stores here. Give 'threads', "
                "'sync' or a distributed.Client."
            )
        if workers is not None:
            stack.enter_context(dask.config.set({"num_workers": int(workers)}))
        yield
