"""``.chunking`` on Dataset, DataArray and DataTree: checks what is asked, and hands it on.

xarray keeps an accessor's instance on the object, also after edits in place and when the
object is pickled. So it holds the object only, and caches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import xarray as xr

from xchunk._typing import Access, ByteSize, EngineName, ProgressLike, ZarrFormat
from xchunk.asking import Asking
from xchunk.errors import InvalidChunksError

if TYPE_CHECKING:
    from xchunk.bound import Rechunk
    from xchunk.core.cost import Rates
    from xchunk.core.plan import Limits, RechunkPlan
    from xchunk.proof import Proof

__all__ = ["ChunkingAccessor", "DataArrayChunking", "DataTreeChunking", "DatasetChunking"]

T = TypeVar("T", xr.Dataset, xr.DataArray, xr.DataTree)

What = Any


class ChunkingAccessor(Asking[T]):
    """How the data are stored, which chunks fit, and rechunking to them."""

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
        unpack: bool = False,
        resume: bool = True,
        rates: Rates | None = None,
        limits: Limits | None = None,
        scratch: Any = None,
        engine: EngineName = "xchunk",
        append_dim: str | None = None,
        region: Mapping[str, Any] | str | None = None,
        check_labels: bool = True,
        message: str | None = None,
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
            unpack=unpack,
            resume=resume,
            rates=rates,
            limits=limits,
            scratch=scratch,
            engine=engine,
            append_dim=append_dim,
            region=region,
            check_labels=check_labels,
            message=message,
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
        unpack: bool = False,
        resume: bool = True,
        verify: bool = False,
        progress: bool | ProgressLike = True,
        rates: Rates | None = None,
        limits: Limits | None = None,
        scratch: Any = None,
        engine: EngineName = "xchunk",
        append_dim: str | None = None,
        region: Mapping[str, Any] | str | None = None,
        check_labels: bool = True,
        message: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> T:
        """Chunk lazily, or rechunk to a zarr store inside the memory budget.

        Without ``store`` the result has the chunks as dask chunks and nothing is written. With
        it, everything is written to a zarr store with the chunks, in stages, on the active
        ``distributed.Client`` or on dask's threads, and the store is opened.

        Parameters
        ----------
        what : Suggestion or mapping, optional
            A suggestion, or chunks: ``{dim: n}`` for all variables or ``{variable: {dim: n}}``,
            in a tree ``{"/group/variable": {dim: n}}`` or ``{"/group": {dim: n}}``; -1 is the
            whole dim. Dims that are not named keep their chunks.
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
        unpack : bool
            Whether packed variables are stored as their decoded values, without ``scale_factor``
            and ``add_offset``; otherwise the packed numbers are copied as they are stored.
        resume : bool
            Whether to go on where an earlier run of the same call was stopped; if not, what it
            left is deleted, and everything is copied.
        verify : bool
            Whether the target is read back and compared with the source bit by bit.
        progress : bool or object
            Whether a progress bar is shown; or what is told of each box instead, a context
            manager with a method ``update(*, name, stage, done, total, nbytes)``.
        rates, limits : optional
            How fast things are, and the most tasks and objects of a plan.
        scratch : str, path or zarr store, optional
            Where scratch data go; to the target's own store by default.
        engine : {"xchunk", "rechunker"}
            Whose planner and tasks are used. ``"rechunker"`` needs that package; all else is
            the same.
        append_dim : str, optional
            The dim along which a store that is there is made longer by this. Its chunks,
            attributes and encodings stay; readers see the new length when all is written.
        region : mapping or "auto", optional
            Where this is written in a store that is there, in place, so that readers may see old
            and new values until it is done: ``{"time": slice(0, 24)}``; ``"auto"``, for all dims
            or for one, finds the place by the labels.
        check_labels : bool
            Whether labels that the store has already, or that do not go on where it ends
            (``append_dim``), or that are others than the store's (``region``) are refused.
        message : str, optional
            What the commit says, where the store is that of an icechunk session.
        storage_options : mapping, optional
            What fsspec needs to reach a URL.

        Returns
        -------
        Dataset, DataArray or DataTree
            Like the object, or all of the store that this was appended to, with dask chunks
            that match.

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
            unpack=unpack,
            resume=resume,
            rates=rates,
            limits=limits,
            scratch=scratch,
            engine=engine,
            append_dim=append_dim,
            region=region,
            check_labels=check_labels,
            message=message,
            storage_options=storage_options,
        )
        if isinstance(what, Suggestion):
            tell_threads(what)
        groups = run_rechunk(
            rechunk, self._groups(), what, verify=verify, progress=_progress(progress)
        )
        return self._back(groups)

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
        """
        from xchunk import formatting
        from xchunk.proof import prove
        from xchunk.storage.stores import open_store

        target = open_store(store, read_only=True, storage_options=storage_options)
        budget, shown = self.budget(memory, max_mem), _progress(progress)
        with shown:
            proof = prove(self._groups(), target, budget=budget, progress=shown)
        return formatting.shown(proof)

    def _bind(
        self, what: What, store: Any, *, access: Any, memory: Any, max_mem: Any, **options: Any
    ) -> tuple[Rechunk, What]:
        """Bind what is asked; also return the suggestion, where that was made of ``access``."""
        from xchunk.binding import bind
        from xchunk.extend import bind_extension, refuse_layout
        from xchunk.resume import planning_budget
        from xchunk.transactions import in_session

        message = options.pop("message")
        place = {k: options.pop(k) for k in ("append_dim", "region", "check_labels")}
        extends = place["append_dim"] is not None or place["region"] is not None
        if extends:
            refuse_layout(what, access=access, **options)
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
        if extends:
            kept = ("rates", "limits", "resume", "storage_options", "scratch")
            options = {**{k: options[k] for k in kept}, **place}
            made: Rechunk = bind_extension(
                self._groups(), store, budget=budget, allowed=allowed, **options
            )
        else:
            made = bind(self._groups(), what, store, budget=budget, allowed=allowed, **options)
        return in_session(made, message), what

    def _lazily(self, what: What, *, access: Access | None, **options: Any) -> T:
        from xchunk.core.spec import parse_chunks
        from xchunk.core.suggest import Suggestion
        from xchunk.lazy import chunk_lazily, tell_threads, warn_of_reading

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
            layouts = self.layout().layouts
            chunks = parse_chunks(what, layouts)
            warn_of_reading(layouts, chunks)
        out = {}
        for path, ds in self._groups().items():
            prefix = f"{path}/" if path else ""
            out[path] = chunk_lazily(
                ds, {n.removeprefix(prefix): c for n, c in chunks.items() if n.startswith(prefix)}
            )
        return self._back(out)

    def __repr__(self) -> str:
        from xchunk.formatting import text

        return text.accessor(self.layout())

    def _repr_html_(self) -> str:
        from xchunk.formatting import html

        return html.accessor(self.layout())


def _progress(wanted: bool | ProgressLike) -> ProgressLike:
    """Return what shows the progress."""
    from xchunk.formatting.progress import Progress

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
        return name if isinstance(name, str) and name not in self._obj.coords else "data"

    def _groups(self) -> dict[str, xr.Dataset]:
        return {"": self._obj.to_dataset(name=self._name)}

    def _back(self, groups: dict[str, xr.Dataset]) -> xr.DataArray:
        return groups[""][self._name].rename(self._obj.name)


@xr.register_datatree_accessor("chunking")  # type: ignore[no-untyped-call]
class DataTreeChunking(ChunkingAccessor[xr.DataTree]):
    """How a tree of groups is stored, which chunks fit, and rechunking to them."""

    def _groups(self) -> dict[str, xr.Dataset]:
        from xchunk.trees import groups_of

        return groups_of(self._obj)

    def _back(self, groups: dict[str, xr.Dataset]) -> xr.DataTree:
        from xchunk.trees import tree_of

        return tree_of(groups, self._obj.name)
