"""``.chunking`` on Dataset, DataArray and DataTree: checks what is asked, and hands it on.

xarray keeps an accessor's instance on the object, also after edits in place and when the
object is pickled. So it holds the object only, and caches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import xarray as xr

from xchunk.core.types import Access, ByteSize, ProgressLike
from xchunk.errors import InvalidChunksError
from xchunk.rechunking.options import Place, RechunkOptions, suggests_keywords, takes

if TYPE_CHECKING:
    from xchunk.core.cost import MeasuredRates, Rates
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.reports.comparison import RechunkComparison
    from xchunk.core.reports.graph import GraphReport
    from xchunk.core.reports.rules import CheckReport
    from xchunk.core.suggest.suggestion import Suggestion
    from xchunk.rechunking.run import RechunkJob
    from xchunk.rechunking.runner import Rechunk
    from xchunk.rechunking.verify import Proof
    from xchunk.sources.layouts import LayoutReport

__all__ = [
    "ChunkingAccessor",
    "DataArrayChunking",
    "DataTreeChunking",
    "DatasetChunking",
]

T = TypeVar("T", xr.Dataset, xr.DataArray, xr.DataTree)


@suggests_keywords
class ChunkingAccessor(Generic[T]):
    """How the data are stored, which chunks fit, and rechunking to them."""

    _obj: T

    def __init__(self, obj: T):
        self._obj = obj

    def _groups(self) -> dict[str, xr.Dataset]:
        raise NotImplementedError

    def _back(self, groups: dict[str, xr.Dataset]) -> T:
        raise NotImplementedError

    def layout(self, *, count: bool = False) -> LayoutReport:
        """Show how every variable is stored.

        Parameters
        ----------
        count : bool
            Whether bytes on disk and chunks that are there are counted: indexes of files are
            read, and folders listed. Otherwise nothing but metadata is read.

        Returns
        -------
        LayoutReport
            One `ArrayLayout` for each variable; iterable, with ``to_dict`` and ``to_dataframe``.

        Examples
        --------
        >>> ds.chunking.layout()["t2m"].chunks
        (1, 40, 80)
        """
        from xchunk.sources.layouts import read_layouts
        from xchunk.targets.append.existing import warn_of_half_written

        groups = self._groups()
        warn_of_half_written(groups)
        return read_layouts(groups, count=count)

    def budget(
        self, memory: ByteSize | MemoryBudget | None = None, max_mem: ByteSize | None = None
    ) -> MemoryBudget:
        """Return what the tasks of one worker may take.

        Parameters
        ----------
        memory : int or str, optional
            The limit of one worker of the active ``distributed.Client`` (of this process where
            there is none), of which dask's target fraction is used. Detected by default. A
            budget is used as given.
        max_mem : int or str, optional
            Bytes by which one worker may grow at its peak, all its tasks together, used as
            given. Overrides ``memory``.

        Raises
        ------
        InvalidChunksError
            If a size cannot be understood.
        MemoryBudgetError
            If the limit leaves nothing for data.

        Examples
        --------
        >>> ds.chunking.budget(max_mem="1GB").max_mem
        1000000000
        """
        return self._budget(memory, max_mem)

    def _budget(
        self,
        memory: ByteSize | MemoryBudget | None,
        max_mem: ByteSize | None,
        *,
        looking: bool = False,
    ) -> MemoryBudget:
        """Find the budget; one for looking only is found however much is held already."""
        from xchunk.core.memory import MemoryBudget
        from xchunk.engine.budget import detect_budget
        from xchunk.engine.cluster import current_client

        if isinstance(memory, MemoryBudget):
            return memory
        return detect_budget(memory, max_mem, client=current_client(), looking=looking)

    def suggest(
        self,
        access: Access | None = None,
        *,
        workload: Callable[[T], Any] | None = None,
        memory: ByteSize | MemoryBudget | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
        passes: float = 1,
        reduce: str | Sequence[str] | Mapping[str, str] = (),
        rolling: Mapping[str, int] | None = None,
        groupby: str | Sequence[str] | None = None,
        resample: Mapping[str, Any] | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        growing: str | Mapping[str, int] | None = None,
        seconds: float | None = None,
    ) -> Suggestion:
        """Suggest chunks that fit the memory, for the way the data will be used.

        Parameters
        ----------
        access : str, mapping or list, optional
            A preset, ``"timeseries"``, ``"map"``, ``"profile"`` or ``"scan"``, whose dims are
            found from CF metadata; or the dims that one request needs, whole (-1), so many
            elements of them or a slice of labels: ``{"time": -1, "lat": slice(60, 40)}``; or
            random samples of a shape: ``{"samples": {"time": 24, "lat": 64, "lon": 64}}``; or a
            list of these with weights: ``[("timeseries", 0.7), ("map", 0.3)]``. A scan by default.
        workload : callable, optional
            Instead of all that describes a use: what will be computed, as a function of the
            object that returns something lazy and writes nothing. Its graphs for many chunks
            are simulated; the function itself meets noise in place of what is stored.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.
        passes : float
            How many times the data are used like this; what a rechunk costs is weighed with it.
        reduce : str, sequence of str or mapping, optional
            Dims that the operation reduces, as in ``ds.mean(reduce)``, or for each the method
            that does it, whose copies of a block are then reckoned: ``{"time": "std"}``. Named
            so, ``"corr"`` and ``"cov"``, which go over the dim twice, also have room for what is
            held of both variables in between.
        rolling : mapping, optional
            Lengths of moving windows: ``{"time": 24}``.
        groupby : str or sequence of str, optional
            As for ``ds.groupby``: ``"time.month"``. Blocks end where a round of the groups ends,
            if stored chunks do.
        resample : mapping, optional
            As for ``ds.resample``: ``{"time": "MS"}``. Blocks end where periods end, if stored
            chunks do.
        groups : mapping, optional
            The positions by dim at which groups end, where they are known.
        growing : str or mapping, optional
            The dim along which the store will grow; or for it the elements of one append:
            ``{"time": 744}``. Stored chunks then hold a few appends, not all there is by now.
        seconds : float, optional
            What simulating a workload may take on the clock, after which the best found so far is
            taken. By default as much as a quiet machine does in 6, counted, so that a busy one
            gives the same advice.

        Returns
        -------
        Suggestion
            For each variable whether to ``load``, ``chunk`` or ``stage`` it, with chunks and
            reasons. Nothing but metadata is read.

        Raises
        ------
        InvalidChunksError
            If the pattern names what is not there, or a preset's dims cannot be found.
        MemoryBudgetError
            If nothing fits.

        Examples
        --------
        >>> ds.chunking.suggest("timeseries", max_mem="20MB").variables["t2m"].chunks
        {'time': 360, 'lat': 20, 'lon': 80}
        """
        from xchunk.core.suggest.suggestion import objects_notes
        from xchunk.opening.groups import suggest_groups
        from xchunk.rechunking.bind import unwritten_of

        notes: tuple[str, ...] = tuple(unwritten_of(self._groups()))
        if workload is not None:
            if access is not None or reduce or rolling or groupby or resample or groups or growing:
                raise InvalidChunksError(
                    "workload= tells all of the use: give it alone, without access= and the like."
                )
            from xchunk.simulate.workload import suggest_workload

            simulated: Suggestion = suggest_workload(
                self._groups(),
                self.layout().layouts,
                workload,
                self._back,
                self.budget(memory, max_mem),
                rates=rates,
                passes=passes,
                seconds=seconds,
            )
            return replace(simulated, notes=(*objects_notes(simulated), *notes))
        made: Suggestion = suggest_groups(
            self._groups(),
            self.layout().layouts,
            access,
            self.budget(memory, max_mem),
            groupby=groupby,
            resample=resample,
            edges=groups,
            rates=rates,
            passes=passes,
            reduce=reduce,
            rolling=rolling,
            growing=growing,
        )
        return replace(made, notes=(*made.notes, *objects_notes(made), *notes))

    def check(
        self,
        *,
        store: Any = None,
        region: Mapping[str, slice] | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> CheckReport:
        """Check how the data are stored, chunked by dask and about to be written.

        Parameters
        ----------
        store : str, path or zarr store, optional
            Where a region is to be written.
        region : mapping, optional
            The region, as for ``to_zarr``: ``{"time": slice(0, 24)}``.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.
        storage_options : mapping, optional
            What fsspec needs to reach a URL.

        Returns
        -------
        CheckReport
            The findings, the worst first; each with what it leads to and a remedy as code. Only
            metadata are read, values that are in memory already, and up to eight chunks of each
            variable of netCDF that names no fill value.

        Raises
        ------
        InvalidChunksError
            If only one of ``store`` and ``region`` is given, or the region makes no sense.
        SourceError
            If the store is not there.

        Examples
        --------
        >>> [finding.code for finding in ds.chunking.check().findings][-2:]
        ['stored-chunks-too-small', 'time-chunk-of-one']
        """
        from xchunk.diagnose.check import check

        return check(
            self._groups(),
            self._budget(memory, max_mem, looking=True),
            store=store,
            region=region,
            rates=rates,
            storage_options=storage_options,
        )

    def probe(
        self, variable: str | None = None, *, max_bytes: ByteSize = "256MB", seconds: float = 1.0
    ) -> MeasuredRates:
        """Measure how fast the store, its codec and a target's codec are, in about a second.

        A few stored chunks are read and decoded, by one thread and by two, and encoded in
        memory; nothing is written. The result goes into ``suggest``, ``plan`` and ``apply`` as
        ``rates=``, and says in words whether it is the store, the codec or a lock.

        Parameters
        ----------
        variable : str, optional
            The variable that is read; the largest that is stored by default.
        max_bytes : int or str
            Bytes that are read and encoded at most, decoded.
        seconds : float
            Seconds after which no further sample is taken.

        Raises
        ------
        InvalidChunksError
            If there is no such variable, or none of its chunks may be read.
        SourceError
            If nothing is stored, or it cannot be read.

        Examples
        --------
        >>> rates = ds.chunking.probe()
        >>> ds.chunking.suggest("timeseries", rates=rates, max_mem="20MB").action
        'chunk'
        """
        from xchunk.diagnose.probe import probe

        return probe(self._groups(), variable=variable, max_bytes=max_bytes, seconds=seconds)

    def compare_rechunk(
        self,
        what: Suggestion | Mapping[Any, Any],
        *,
        variable: str | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
    ) -> RechunkComparison:
        """Compare dask's own rechunk, by tasks and by p2p, with lazy blocks and a staged copy.

        Parameters
        ----------
        what : Suggestion or mapping
            The dask chunks that are wanted: ``{dim: n}`` or ``{variable: {dim: n}}``; -1 is the
            whole dim.
        variable : str, optional
            The variable that is compared; the largest that the chunks concern by default.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.

        Returns
        -------
        RechunkComparison
            Tasks, memory of a worker, disk and time of each way. Only metadata are read.

        Raises
        ------
        InvalidChunksError
            If the chunks do not fit the variables, or concern none of them.

        Examples
        --------
        >>> ways = ds.chunking.compare_rechunk({"time": -1, "lat": 10}, max_mem="1GB").ways
        >>> [way.name for way in ways]
        ['lazy', 'tasks', 'p2p', 'staged']
        """
        from xchunk.diagnose.check import compare_rechunk

        budget = self._budget(memory, max_mem, looking=True)
        return compare_rechunk(self._groups(), what, budget, variable=variable, rates=rates)

    def graph(
        self,
        *,
        workload: Callable[[T], Any] | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
    ) -> GraphReport:
        """Report what dask's graph of this object holds before it runs.

        Parameters
        ----------
        workload : callable, optional
            What will be computed, as a function of the object that returns something lazy. Its
            graph is built, with larger and smaller blocks too, on stand-ins for what is
            stored; without it, the graph is the object's own, and other blocks are estimated.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.

        Returns
        -------
        GraphReport
            Tasks of each layer, where it widens, aggregates and rechunks, the longest chain,
            bytes in and out, the predicted peak, and what other chunks would change. Nothing
            is computed.

        Raises
        ------
        InvalidChunksError
            If nothing is lazy, or the workload fails.

        Examples
        --------
        >>> ds.chunking.graph(workload=lambda ds: ds.t2m.mean("time")).run_tasks
        482
        """
        budget = self._budget(memory, max_mem, looking=True)
        if workload is not None:
            from xchunk.diagnose.graph import graph_of_workload

            return graph_of_workload(
                self._groups(), workload, self._back, budget=budget, rates=rates
            )
        from xchunk.diagnose.graph import graph_report

        return graph_report(self._obj, budget=budget, rates=rates)

    @takes(leave_out=("chunks",))
    def plan(
        self,
        chunks: Suggestion | Mapping[Any, Any] | None = None,
        *,
        store: Any,
        **options: Any,
    ) -> RechunkJob[T]:
        """Plan what `apply` with the same arguments does; nothing is written.

        Parameters
        ----------
        chunks : Suggestion or mapping, optional
            As in `apply`.
        store : str, path or zarr store
            As in `apply`.
        {options}

        Returns
        -------
        RechunkJob
            The stages, boxes, tasks, bytes, objects and peak memory for each variable;
            ``job.run()`` runs that plan.

        Examples
        --------
        >>> job = ds.chunking.plan({"time": -1}, store="series.zarr", max_mem="1GB")
        >>> job.work.decodes
        363
        >>> out = job.run(verify=True, progress=False)
        """
        return self._plan(store, RechunkOptions(chunks=chunks, **options))

    @takes(leave_out=("chunks",))
    def apply(
        self,
        chunks: Suggestion | Mapping[Any, Any] | None = None,
        *,
        store: Any = None,
        verify: bool = False,
        progress: bool | ProgressLike = True,
        **options: Any,
    ) -> T:
        """Chunk lazily, or rechunk to a zarr store within the memory budget.

        Without ``store`` the result has the chunks as dask chunks and nothing is written. With
        it, everything is written to a zarr store with the chunks, in stages, on the active
        ``distributed.Client`` or on dask's threads, and the store is opened.

        Parameters
        ----------
        chunks : Suggestion or mapping, optional
            A suggestion, or chunks: ``{dim: n}`` for all variables or ``{variable: {dim: n}}``,
            in a tree ``{"/group/variable": {dim: n}}`` or ``{"/group": {dim: n}}``; -1 is the
            whole dim. Dims that are not named keep their chunks.
        store : str, path or zarr store, optional
            The target. It cannot be opened before it is complete.
        verify : bool
            Whether the target is read back and compared with the source bit by bit.
        progress : bool or object
            Whether a progress bar is shown; or an object that is called for each box instead, a
            context manager with a method ``update(*, name, stage, done, total, nbytes)``.
        {options}

        Returns
        -------
        Dataset, DataArray or DataTree
            Like the object, with dask chunks that match.

        Raises
        ------
        InvalidChunksError, EncodingError, MemoryBudgetError, TargetExistsError
            If it cannot be done as it is asked; nothing is left behind.
        ResumeMismatchError
            If the target is the unfinished one of another source, plan or target.
        StageFailedError
            If a box could not be copied. What is written stays, and the same call resumes.
        VerificationError
            If what was read back differs.

        Examples
        --------
        >>> out = ds.chunking.apply({"time": -1}, store="out.zarr", progress=False)
        >>> out.t2m.encoding["chunks"]
        (360, 40, 80)

        >>> ds.chunking.apply(access="map").chunks["lat"]  # lazily
        (40,)
        """
        asked = RechunkOptions(chunks=chunks, **options)
        if store is None:
            return self._lazily(asked)
        from xchunk.rechunking.run import start

        return start(self._plan(store, asked), verify=verify, progress=progress)

    @takes(layout=False)
    def plan_append(
        self, store: Any, *, dim: str, check_labels: bool = True, **options: Any
    ) -> RechunkJob[T]:
        """Plan what `append` with the same arguments does; nothing is written.

        Parameters
        ----------
        store, dim, check_labels
            As in `append`.
        {options}

        Returns
        -------
        RechunkJob
            As from `plan`.

        Examples
        --------
        >>> job = new.chunking.plan_append("archive.zarr", dim="time")
        >>> out = job.run(progress=False)
        """
        place = Place(append_dim=dim, check_labels=check_labels)
        return self._plan(store, RechunkOptions(**options), place)

    @takes(layout=False)
    def append(
        self,
        store: Any,
        *,
        dim: str,
        check_labels: bool = True,
        verify: bool = False,
        progress: bool | ProgressLike = True,
        **options: Any,
    ) -> T:
        """Append these data to a zarr store along a dim.

        Chunks, attributes and encodings stay those of the store. Readers see the new length
        when everything is written.

        Parameters
        ----------
        store : str, path or zarr store
            The store, which exists.
        dim : str
            The dim along which the store grows.
        check_labels : bool
            Whether labels are refused that the store has already, or that do not follow its
            last one.
        verify : bool
            As in `apply`; what was appended is compared.
        progress : bool or object
            As in `apply`.
        {options}

        Returns
        -------
        Dataset, DataArray or DataTree
            All of the store, opened.

        Raises
        ------
        InvalidChunksError, EncodingError, MemoryBudgetError, SourceError
            If the data do not fit the store; nothing is written.
        ResumeMismatchError
            If another append to the store was stopped half way.
        StageFailedError, VerificationError
            As in `apply`.

        Examples
        --------
        >>> out = new.chunking.append("archive.zarr", dim="time", progress=False)
        >>> out.sizes["time"]
        390
        """
        from xchunk.rechunking.run import start

        job = self.plan_append(store, dim=dim, check_labels=check_labels, **options)
        return start(job, verify=verify, progress=progress)

    @takes(layout=False)
    def plan_region(
        self,
        store: Any,
        *,
        region: Mapping[str, Any] | str,
        check_labels: bool = True,
        **options: Any,
    ) -> RechunkJob[T]:
        """Plan what `write_region` with the same arguments does; nothing is written.

        Parameters
        ----------
        store, region, check_labels
            As in `write_region`.
        {options}

        Returns
        -------
        RechunkJob
            As from `plan`.

        Examples
        --------
        >>> job = part.chunking.plan_region("archive.zarr", region="auto")
        >>> out = job.run(progress=False)
        """
        place = Place(region=region, check_labels=check_labels)
        return self._plan(store, RechunkOptions(**options), place)

    @takes(layout=False)
    def write_region(
        self,
        store: Any,
        *,
        region: Mapping[str, Any] | str,
        check_labels: bool = True,
        verify: bool = False,
        progress: bool | ProgressLike = True,
        **options: Any,
    ) -> T:
        """Write these data to a region of a zarr store, in place.

        Chunks, attributes and encodings stay those of the store. Until it is done, readers may
        see old and new values side by side.

        Parameters
        ----------
        store : str, path or zarr store
            The store, which exists.
        region : mapping or "auto"
            Where the data go: ``{"time": slice(0, 24)}``. ``"auto"``, for all dims or for one,
            finds the place by the labels.
        check_labels : bool
            Whether labels that differ from the store's are refused.
        verify : bool
            As in `apply`; what was written is compared.
        progress : bool or object
            As in `apply`.
        {options}

        Returns
        -------
        Dataset, DataArray or DataTree
            All of the store, opened.

        Raises
        ------
        InvalidChunksError, EncodingError, MemoryBudgetError, SourceError
            If the data do not fit the store or the region; nothing is written.
        ResumeMismatchError
            If another write to the store was stopped half way.
        StageFailedError, VerificationError
            As in `apply`.

        Examples
        --------
        >>> out = part.chunking.write_region("archive.zarr", region="auto", progress=False)
        >>> out.sizes["time"]
        360
        """
        from xchunk.rechunking.run import start

        job = self.plan_region(store, region=region, check_labels=check_labels, **options)
        return start(job, verify=verify, progress=progress)

    def verify(
        self,
        store: Any,
        *,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        progress: bool | ProgressLike = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Proof:
        """Compare a zarr store with this object, stored bits and metadata.

        Both are read once, box by box within the budget, on the active Client or dask's threads.

        Parameters
        ----------
        store : str, path or zarr store
            What `apply` wrote.
        memory, max_mem : int or str, optional
            As in `budget`.
        progress : bool or object
            As in `apply`.
        storage_options : mapping, optional
            What fsspec needs to reach a URL.

        Returns
        -------
        Proof
            What was compared.

        Raises
        ------
        SourceError
            If the store is not there, or not complete.
        VerificationError
            If anything differs; names each variable, region and storage key.

        Examples
        --------
        >>> print(ds.chunking.verify("copy.zarr"))
        copy.zarr holds what the source holds: 4 variables, 4.61 MB, equal bit by bit
        """
        from xchunk.rechunking.verify import prove
        from xchunk.stores.stores import open_store

        target = open_store(store, read_only=True, storage_options=storage_options)
        budget, shown = self.budget(memory, max_mem), _progress(progress)
        with shown:
            return prove(self._groups(), target, budget=budget, progress=shown)

    def _plan(
        self, store: Any, options: RechunkOptions, place: Place | None = None
    ) -> RechunkJob[T]:
        from xchunk.rechunking.append import bind_extension, whole_store
        from xchunk.rechunking.bind import bind
        from xchunk.rechunking.resume import planning_budget
        from xchunk.rechunking.run import RechunkJob
        from xchunk.rechunking.transactions import in_session
        from xchunk.sources.layouts import expect_all
        from xchunk.sources.trace import file_systems_of
        from xchunk.stores.adapter import asking_once, beside, is_near
        from xchunk.stores.object_stores import share_descriptions
        from xchunk.stores.overlay import file_system_of
        from xchunk.stores.stores import open_store

        groups, within = self._groups(), ""
        if place is not None:
            options.refuse_layout()
        store = open_store(store, storage_options=options.storage_options)
        share_descriptions(file_system_of(store), file_systems_of(groups))
        if place is not None:
            store, groups, within = whole_store(store, groups)
        allowed = budget = self.budget(options.memory, options.max_mem)
        bound: Rechunk
        with asking_once():
            if options.resume:
                with nullcontext() if is_near(store) else beside(partial(expect_all, groups)):
                    budget = planning_budget(store, allowed, overwrite=options.overwrite)
            if options.chunks is None and options.access is not None:
                suggested = self.suggest(options.access, memory=budget, rates=options.rates)
                options = replace(options, chunks=suggested)
            if place is None:
                bound = bind(groups, store, options, budget=budget, allowed=allowed)
            else:
                bound = replace(
                    bind_extension(groups, store, place, options, budget=budget, allowed=allowed),
                    within=within,
                )
        bound = in_session(bound, options.message, commits=options.commit)
        return RechunkJob(bound.plan, bound, self._groups(), self._back, _progress, options.chunks)

    def _lazily(self, options: RechunkOptions) -> T:
        from xchunk.core.chunkspec import parse_chunks
        from xchunk.core.suggest.suggestion import Suggestion
        from xchunk.rechunking.lazy import (
            below,
            chunk_as_suggested,
            chunk_lazily,
            tell_threads,
            warn_of_reading,
        )

        asked = options.chunks
        if asked is None:
            asked = self.suggest(
                options.access,
                memory=options.memory,
                max_mem=options.max_mem,
                rates=options.rates,
            )
        if isinstance(asked, Suggestion):
            staged = [v.name for v in asked.variables.values() if v.action == "stage"]
            if staged:
                raise InvalidChunksError(
                    f"the suggestion is to rechunk {', '.join(map(repr, staged))} on disk first, "
                    "which needs a store: give store='somewhere.zarr'. To chunk lazily all the "
                    "same, give the chunks themselves: apply(suggestion.lazy_chunks)."
                )
            tell_threads(asked)
            chunks, found = asked.chunks, asked.variables
            return self._back(
                {
                    path: chunk_as_suggested(ds, below(path, found), below(path, chunks))
                    for path, ds in self._groups().items()
                }
            )
        layouts = self.layout().layouts
        given = parse_chunks(asked, layouts)
        warn_of_reading(layouts, given)
        return self._back(
            {path: chunk_lazily(ds, below(path, given)) for path, ds in self._groups().items()}
        )

    def __repr__(self) -> str:
        from xchunk.display.render import as_text
        from xchunk.display.reports import accessor

        return as_text(accessor(self.layout()))

    def _repr_html_(self) -> str:
        from xchunk.display.render import as_html
        from xchunk.display.reports import accessor

        return as_html(accessor(self.layout()))


def _progress(wanted: bool | ProgressLike) -> ProgressLike:
    """Return what shows the progress."""
    from xchunk.display.progress import Progress

    return Progress(enabled=wanted) if isinstance(wanted, bool) else wanted


@xr.register_dataset_accessor("chunking")  # type: ignore[no-untyped-call]
class DatasetChunking(ChunkingAccessor[xr.Dataset]):
    """How a Dataset is stored, which chunks fit, and rechunking to them."""

    def _groups(self) -> dict[str, xr.Dataset]:
        return {"": self._obj}

    def _back(self, groups: dict[str, xr.Dataset]) -> xr.Dataset:
        return groups[""]


@xr.register_dataarray_accessor("chunking")  # type: ignore[no-untyped-call]
class DataArrayChunking(ChunkingAccessor[xr.DataArray]):
    """How a DataArray is stored, which chunks fit, and rechunking to them."""

    @property
    def _name(self) -> str:
        name = self._obj.name
        if isinstance(name, str) and name not in self._obj.coords:
            return name
        taken = {*self._obj.coords, *self._obj.dims}
        return next(
            n
            for n in ("data", "values", *map("data_{}".format, range(len(taken) + 1)))
            if n not in taken
        )

    def _groups(self) -> dict[str, xr.Dataset]:
        return {"": self._obj.to_dataset(name=self._name)}

    def _back(self, groups: dict[str, xr.Dataset]) -> xr.DataArray:
        return groups[""][self._name].rename(self._obj.name)


@xr.register_datatree_accessor("chunking")  # type: ignore[no-untyped-call]
class DataTreeChunking(ChunkingAccessor[xr.DataTree]):
    """How a tree of groups is stored, which chunks fit, and rechunking to them."""

    def _groups(self) -> dict[str, xr.Dataset]:
        from xchunk.opening.groups import groups_of

        return groups_of(self._obj)

    def _back(self, groups: dict[str, xr.Dataset]) -> xr.DataTree:
        from xchunk.opening.groups import tree_of

        return tree_of(groups, self._obj.name)
