"""``.chunking`` on Dataset, DataArray and DataTree: checks what is asked, and hands it on.

xarray keeps an accessor's instance on the object, also after edits in place and when the
object is pickled. So it holds the object only, and caches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import xarray as xr

from xchunk._typing import Access, ByteSize, ZarrFormat
from xchunk.errors import InvalidChunksError

if TYPE_CHECKING:
    from xchunk.core.cost import Rates
    from xchunk.core.findings import CheckReport
    from xchunk.core.measured import MeasuredRates
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.plan import Limits, RechunkPlan
    from xchunk.core.suggest import Suggestion
    from xchunk.proof import Proof
    from xchunk.rechunk import Rechunk
    from xchunk.storage.layouts import LayoutReport

__all__ = ["ChunkingAccessor", "DataArrayChunking", "DataTreeChunking", "DatasetChunking"]

T = TypeVar("T", xr.Dataset, xr.DataArray, xr.DataTree)

What = Any


class ChunkingAccessor(Generic[T]):
    """How the data are stored, which chunks fit, and rechunking to them."""

    _obj: T

    def __init__(self, obj: T):
        self._obj = obj

    def _groups(self) -> dict[str, xr.Dataset]:
        raise NotImplementedError

    def _back(self, groups: dict[str, xr.Dataset]) -> T:
        raise NotImplementedError

    def layout(self) -> LayoutReport:
        """Tell how every variable is stored.

        Returns
        -------
        LayoutReport
            One `ArrayLayout` for each variable; iterable, with ``to_dict`` and ``to_dataframe``.
            Nothing but metadata is read.
        """
        from xchunk.formatting import shown
        from xchunk.storage.layouts import read_layouts

        return shown(read_layouts(self._groups()))

    def budget(
        self, memory: ByteSize | MemoryBudget | None = None, max_mem: ByteSize | None = None
    ) -> MemoryBudget:
        """Tell what the tasks of one worker may take.

        Parameters
        ----------
        memory : int or str, optional
            The limit of one worker of the active ``distributed.Client`` (of this process where
            there is none), of which dask's target fraction is used. Detected by default. A
            budget is taken as it is.
        max_mem : int or str, optional
            Bytes by which one worker may grow at its peak, all its tasks together, taken as
            they are. Overrides ``memory``.

        Raises
        ------
        InvalidChunksError
            If a size cannot be understood.
        MemoryBudgetError
            If the limit leaves nothing for data.
        """
        from xchunk.core.memory import MemoryBudget
        from xchunk.engine.budget import detect_budget
        from xchunk.engine.run import current_client

        if isinstance(memory, MemoryBudget):
            return memory
        return detect_budget(memory, max_mem, client=current_client())

    def suggest(
        self,
        access: Access | None = None,
        *,
        workload: Callable[[T], Any] | None = None,
        memory: ByteSize | MemoryBudget | None = None,
        max_mem: ByteSize | None = None,
        rates: Rates | None = None,
        passes: float = 1,
        reduce: str | Sequence[str] = (),
        rolling: Mapping[str, int] | None = None,
        groupby: str | Sequence[str] | None = None,
        resample: Mapping[str, Any] | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
    ) -> Suggestion:
        """Suggest chunks that fit the memory, for the way the data will be used.

        Parameters
        ----------
        access : str, mapping or list, optional
            A preset, ``"timeseries"``, ``"map"``, ``"profile"`` or ``"scan"``, whose dims are
            found from CF metadata; or the dims that one request needs, whole (-1), so many
            elements of them or a slice of labels: ``{"time": -1, "lat": slice(60, 40)}``; or a
            list of these with weights: ``[("timeseries", 0.7), ("map", 0.3)]``. A scan by default.
        workload : callable, optional
            Instead of all that describes a use: what will be computed, as a function of the
            object that returns something lazy. Its graphs for many chunks are simulated; the
            function itself meets noise in place of what is stored.
        memory, max_mem : int or str, optional
            As in `budget`.
        rates : Rates, optional
            How fast the store and the codecs are, as `probe` measures it; defaults otherwise.
        passes : float
            How many times the data are used like this; what a rechunk costs is weighed with it.
        reduce : str or sequence of str
            Dims that the operation reduces, as in ``ds.mean(reduce)``.
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
        """
        from xchunk.core.suggest import suggest_dataset
        from xchunk.uses import by_position, group_edges

        if workload is not None:
            if access is not None or reduce or rolling or groupby or resample or groups:
                raise InvalidChunksError(
                    "workload= tells all of the use: give it alone, without access= and the like."
                )
            from xchunk.simulate.workload import suggest_workload

            return suggest_workload(
                self._groups(),
                self.layout().layouts,
                workload,
                self._back,
                self.budget(memory, max_mem),
                rates=rates,
            )
        datasets = list(self._groups().values())
        return suggest_dataset(
            self.layout().layouts,
            "scan" if access is None else by_position(access, datasets),
            self.budget(memory, max_mem),
            rates=rates,
            passes=passes,
            reduce=reduce,
            rolling=rolling,
            groups=group_edges(datasets, groupby=groupby, resample=resample, groups=groups),
        )

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
            metadata are read, and values that are in memory already.

        Raises
        ------
        InvalidChunksError
            If only one of ``store`` and ``region`` is given, or the region makes no sense.
        SourceError
            If the store is not there.
        """
        from xchunk.diagnose.facts import check
        from xchunk.formatting import shown

        found = check(
            self._groups(),
            self.budget(memory, max_mem),
            store=store,
            region=region,
            rates=rates,
            storage_options=storage_options,
        )
        return shown(found)

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
            Bytes that are read and encoded at the most, decoded.
        seconds : float
            Seconds after which no further sample is taken.

        Raises
        ------
        InvalidChunksError
            If there is no such variable, or none of its chunks may be read.
        SourceError
            If nothing is stored, or it cannot be read.
        """
        from xchunk.diagnose.probe import probe
        from xchunk.formatting import shown

        return shown(probe(self._groups(), variable=variable, max_bytes=max_bytes, seconds=seconds))

    def plan(
        self,
        what: What = None,
        *,
        store: Any,
        access: Access | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        shards: Mapping[str, Any] | None = None,
        zarr_format: ZarrFormat | None = None,
        overwrite: bool = False,
        resume: bool = True,
        rates: Rates | None = None,
        limits: Limits | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> RechunkPlan:
        """Tell what `apply` with the same arguments would do; nothing is written.

        Returns
        -------
        RechunkPlan
            The stages, boxes, tasks, bytes, objects and peak memory for each variable.
        """
        rechunk, _ = self._bind(
            what,
            store,
            access=access,
            memory=memory,
            max_mem=max_mem,
            shards=shards,
            zarr_format=zarr_format,
            overwrite=overwrite,
            resume=resume,
            rates=rates,
            limits=limits,
            storage_options=storage_options,
        )
        return rechunk.plan

    def apply(
        self,
        what: What = None,
        *,
        store: Any = None,
        access: Access | None = None,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
        shards: Mapping[str, Any] | None = None,
        zarr_format: ZarrFormat | None = None,
        overwrite: bool = False,
        resume: bool = True,
        verify: bool = False,
        progress: bool = True,
        rates: Rates | None = None,
        limits: Limits | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> T:
        """Chunk lazily, or rechunk to a zarr store inside the memory budget.

        Without ``store`` the result has the chunks as dask chunks and nothing is written. With
        it, everything is written to a zarr store with the chunks, in stages, on the active
        ``distributed.Client`` or on dask's threads, and the store is opened.

        Parameters
        ----------
        what : Suggestion or mapping, optional
            A suggestion, or chunks: ``{dim: n}`` for all variables or ``{variable: {dim: n}}``;
            -1 is the whole dim. Dims that are not named keep their chunks.
        store : str, path or zarr store, optional
            The target. It cannot be opened before it is complete.
        access : str or mapping, optional
            Instead of ``what``: the use for which chunks are suggested, as in `suggest`.
        memory, max_mem : int or str, optional
            As in `budget`.
        shards : mapping, optional
            Shards to store, said like chunks; zarr v3 only.
        zarr_format : {2, 3}, optional
            The source's format, or 3 where it is no zarr.
        overwrite : bool
            Whether a zarr store that is there is replaced. Nothing else ever is.
        resume : bool
            Whether to go on where an earlier run of the same call was stopped; if not, what it
            left is deleted, and everything is copied.
        verify : bool
            Whether the target is read back and compared with the source bit by bit.
        progress : bool
            Whether a progress bar is shown.
        rates, limits : optional
            How fast things are, and the most tasks and objects of a plan.
        storage_options : mapping, optional
            What fsspec needs to reach a URL.

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
            If a box could not be copied. What is written stays: the same call goes on there.
        VerificationError
            If what was read back differs.
        """
        if store is None:
            return self._lazily(what, access=access, memory=memory, max_mem=max_mem, rates=rates)
        from xchunk.core.suggest import Suggestion
        from xchunk.formatting.progress import Progress
        from xchunk.lazy import tell_threads
        from xchunk.run import run_rechunk

        rechunk, what = self._bind(
            what,
            store,
            access=access,
            memory=memory,
            max_mem=max_mem,
            shards=shards,
            zarr_format=zarr_format,
            overwrite=overwrite,
            resume=resume,
            rates=rates,
            limits=limits,
            storage_options=storage_options,
        )
        if isinstance(what, Suggestion):
            tell_threads(what)
        groups = run_rechunk(
            rechunk, self._groups(), what, verify=verify, progress=Progress(enabled=progress)
        )
        return self._back(groups)

    def verify(
        self,
        store: Any,
        *,
        memory: ByteSize | None = None,
        max_mem: ByteSize | None = None,
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
        """
        from xchunk.proof import prove
        from xchunk.storage.stores import open_store

        target = open_store(store, read_only=True, storage_options=storage_options)
        return prove(self._groups(), target, budget=self.budget(memory, max_mem))

    def _bind(
        self, what: What, store: Any, *, access: Any, memory: Any, max_mem: Any, **options: Any
    ) -> tuple[Rechunk, What]:
        """Bind what is asked; also return the suggestion, where that was made of ``access``."""
        from xchunk.rechunk import bind
        from xchunk.resume import planning_budget

        allowed = self.budget(memory, max_mem)
        budget = allowed
        if options["resume"]:
            budget = planning_budget(
                store,
                allowed,
                overwrite=options["overwrite"],
                storage_options=options["storage_options"],
            )
        if what is None and access is not None:
            what = self.suggest(access, memory=budget, rates=options["rates"])
        bound = bind(self._groups(), what, store, budget=budget, allowed=allowed, **options)
        return bound, what

    def _lazily(self, what: What, *, access: Access | None, **options: Any) -> T:
        from xchunk.core.spec import parse_chunks
        from xchunk.core.suggest import Suggestion
        from xchunk.lazy import chunk_lazily, tell_threads

        if what is None:
            what = self.suggest(access, **options)
        if isinstance(what, Suggestion):
            staged = [v.name for v in what.variables.values() if v.action == "stage"]
            if staged:
                raise InvalidChunksError(
                    f"the suggestion is to rechunk {', '.join(map(repr, staged))} on disk first, "
                    "which needs a store: give store='somewhere.zarr'. To chunk lazily all the "
                    "same, give the chunks themselves: apply(suggestion.lazy_chunks)."
                )
            tell_threads(what)
            chunks: Mapping[str, Mapping[str, Any]] = what.chunks
        else:
            chunks = parse_chunks(what, self.layout().layouts)
        out = {}
        for path, ds in self._groups().items():
            prefix = f"{path}/" if path else ""
            out[path] = chunk_lazily(
                ds, {n.removeprefix(prefix): c for n, c in chunks.items() if n.startswith(prefix)}
            )
        return self._back(out)

    def __repr__(self) -> str:
        from xchunk.formatting import text

        return text.layout_report(self.layout())

    def _repr_html_(self) -> str:
        from xchunk.formatting import html

        return html.layout_report(self.layout())


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
        return name if isinstance(name, str) and name not in self._obj.coords else "data"

    def _groups(self) -> dict[str, xr.Dataset]:
        return {"": self._obj.to_dataset(name=self._name)}

    def _back(self, groups: dict[str, xr.Dataset]) -> xr.DataArray:
        return groups[""][self._name].rename(self._obj.name)


@xr.register_datatree_accessor("chunking")  # type: ignore[no-untyped-call]
class DataTreeChunking(ChunkingAccessor[xr.DataTree]):
    """How a tree of groups is stored, which chunks fit, and rechunking to them."""

    def _groups(self) -> dict[str, xr.Dataset]:
        return {node.path.strip("/"): node.to_dataset(inherit=False) for node in self._obj.subtree}

    def _back(self, groups: dict[str, xr.Dataset]) -> xr.DataTree:
        return xr.DataTree.from_dict({f"/{path}": ds for path, ds in groups.items()})
