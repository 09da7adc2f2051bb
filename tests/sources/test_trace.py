"""Tracing is right where it answers, answers where it can, and is silent elsewhere.

netCDF4 and h5py bring two copies of HDF5, which do not always live in one process. Here
only the engine named by ``XCHUNK_TEST_ENGINE`` is used (default: netcdf4), and one test
starts this file again, in a process of its own, for h5netcdf.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import operator
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.array.core import getter
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Alias, DataNode, Task, TaskRef
from zarr.storage import MemoryStore

from shared.processes import run_with_h5netcdf
from xchunk.sources import trace as tracing
from xchunk.sources.joint import JoinedArray
from xchunk.sources.refs import AxisPart, FileRef, JoinedRef, StoredRef, Traced, ZarrRef
from xchunk.sources.trace import can_trace, trace

HDF5 = os.environ.get("XCHUNK_TEST_ENGINE", "netcdf4")
#: The engine that reads the same file without the library.
OURS = "xchunk"
BACKENDS = [HDF5, OURS] if HDF5 == "h5netcdf" else ["zarr2", "zarr3", "memory", HDF5, OURS, "scipy"]
DIMS = ("t", "z", "y", "x")
SHAPE = (6, 1, 4, 5)
CHUNKS = (2, 1, 4, 3)


def make() -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """A small Dataset with each kind of decoding, and its encoding."""
    rng = np.random.default_rng(7)
    packed = rng.integers(-50, 50, SHAPE) * 0.5
    packed[rng.random(SHAPE) < 0.2] = np.nan
    plain = rng.standard_normal(SHAPE).astype("f4")
    ds = xr.Dataset(
        {
            "packed": (DIMS, packed, {"units": "K"}),
            "plain": (DIMS, plain),
            "other": (DIMS, plain + 1),
            "flag": (("y", "x"), rng.random((4, 5)) < 0.5),
            "when": (
                "t",
                np.datetime64("2000-01-01", "ns") + np.arange(6) * np.timedelta64(1, "h"),
            ),
            "scalar": ((), 4.5),
        },
        coords={"t": np.arange(6) * 10, "x": np.arange(5) * 0.25},
    )
    encoding: dict[str, dict[str, Any]] = {
        "packed": {"dtype": "i2", "scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -999},
        "plain": {"_FillValue": np.float32(-1e9)},
        "other": {"_FillValue": None},
        "when": {"dtype": "i4", "units": "minutes since 2000-01-01"},
    }
    return ds, encoding


def write(backend: str, folder: Path) -> Any:
    """Write it; returned is what opens it."""
    ds, encoding = make()
    if backend == "scipy":
        ds.to_netcdf(folder / "a.nc", engine="scipy", format="NETCDF3_64BIT", encoding=encoding)
        return str(folder / "a.nc")
    chunked = "chunksizes" if backend in (HDF5, OURS) else "chunks"
    for name in ("packed", "plain", "other"):
        encoding[name][chunked] = CHUNKS
    if backend in (HDF5, OURS):
        ds.to_netcdf(folder / "a.nc", engine=HDF5, group="deep/down", encoding=encoding)
        return str(folder / "a.nc")
    store = MemoryStore() if backend == "memory" else str(folder / "a.zarr")
    form = 2 if backend == "zarr2" else 3
    ds.to_zarr(store, encoding=encoding, zarr_format=form, consolidated=False)
    return store


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {b: write(b, tmp_path_factory.mktemp(b)) for b in BACKENDS}


def reopen(backend: str, source: Any, **how: Any) -> xr.Dataset:
    if backend in (HDF5, OURS, "scipy"):
        group = {} if backend == "scipy" else {"group": "deep/down"}
        library = {"library": HDF5} if backend == OURS else {}
        return xr.open_dataset(source, engine=backend, **group, **library, **how)
    return xr.open_dataset(source, engine="zarr", consolidated=False, **how)


MODES: dict[str, Callable[[str, Any], xr.Dataset]] = {
    "lazy": reopen,
    "uncached": lambda b, s: reopen(b, s, cache=False),
    "dask": lambda b, s: reopen(b, s, chunks={}),
    "inline": lambda b, s: reopen(b, s, chunks={}, inline_array=True),
    "chunked": lambda b, s: reopen(b, s).chunk(t=4, y=3),
}


def read_raw(backend: str, ref: ZarrRef | FileRef) -> tuple[str, xr.Variable]:
    """The stored variable as the backend gives it, and its name."""
    if isinstance(ref, ZarrRef):
        assert ref.zarr_format == (2 if backend == "zarr2" else 3)
        store = xr.backends.ZarrStore.open_group(ref.store, mode="r", consolidated=False)
        return ref.path, store.load()[0][ref.path].load()
    assert ref.engine == (HDF5 if backend == OURS else backend)
    if ref.engine == "scipy":
        opened = xr.backends.ScipyDataStore(ref.filename)
    elif ref.engine == "netcdf4":
        opened = xr.backends.NetCDF4DataStore.open(ref.filename, group=ref.group)
    else:
        opened = xr.backends.H5NetCDFStore.open(ref.filename, group=ref.group)
    with opened:
        return ref.variable, opened.load()[0][ref.variable].load()


def read_joined(backend: str, ref: StoredRef) -> tuple[str, xr.Variable]:
    """The same for arrays that are joined: the boxes that they give, put together by numpy."""
    if not isinstance(ref, JoinedRef):
        assert isinstance(ref, ZarrRef | FileRef)
        return read_raw(backend, ref)
    cells = np.empty([len(n) for n in ref.lengths], dtype=object)
    name, found = "", []
    for at, one, origin in zip(np.ndindex(cells.shape), ref.parts, ref.origins, strict=True):
        name, stored = read_raw(backend, one)
        found.append(stored)
        counts = [n[i] for n, i in zip(ref.lengths, at, strict=True)]
        own = [n for dim, n in enumerate(counts) if dim not in ref.new]
        box = stored.values[tuple(slice(o, o + n) for o, n in zip(origin, own, strict=True))]
        assert box.size == np.prod(counts)
        cells[at] = box.reshape(counts)
    dims = list(found[0].dims)
    for dim in ref.new:
        dims.insert(dim, f"new{dim}")
    return name, xr.Variable(dims, np.block(cells.tolist()), found[0].attrs)


def expected(backend: str, traced: Traced) -> np.ndarray[Any, Any]:
    """What the traced elements decode to, read anew and by xarray's own coders."""
    name, stored = read_joined(backend, traced.ref)
    assert stored.shape == traced.stored_shape
    assert stored.dtype == traced.stored_dtype
    keys: dict[Any, Any] = {stored.dims[axis]: at for axis, at in traced.fixed}
    for part in traced.axes:
        keys[stored.dims[part.stored_axis]] = part.start + part.step * np.arange(part.count)
    assert len(keys) == stored.ndim
    shown = [stored.dims[part.stored_axis] for part in traced.axes]
    part = stored.isel(keys).transpose(*shown)
    if not traced.decoders:
        return part.values
    return xr.conventions.decode_cf_variable(name, part).values


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def check(backend: str, variable: xr.Variable, answered: bool) -> Traced | None:
    """Tracing answers or not, as expected, leaves the data alone, and is right."""
    before = variable._data
    traced = trace(variable)
    assert variable._data is before
    assert (traced is not None) == answered
    if traced is not None:
        assert len(traced.decoders) == len(traced.decoding)
        assert same_bits(expected(backend, traced), variable.values)
    return traced


def edit(a: xr.DataArray, key: Any) -> xr.DataArray:
    a = a.copy()
    a[key] = 7.0
    return a


def reassign(ds: xr.Dataset, change: Callable[[Any], Any]) -> xr.DataArray:
    """The encoding still names the file, the data are others."""
    ds = ds.copy()
    ds.packed.data = change(ds.packed.data)
    return ds.packed


def by_number(block: Any, block_info: Any = None) -> Any:
    return block * block_info[0]["num-chunks"][0]


def swapped(a: xr.DataArray) -> Any:
    """The last two blocks change places; those along the first row and column stay."""
    whole = a.chunk(t=2, x=1).data
    low, high = whole[:4], whole[4:]
    return da.concatenate([low, da.concatenate([high[..., :3], high[..., 4:], high[..., 3:4]], -1)])


def first(a: Any, b: Any) -> Any:
    return a - b


def persisted(a: xr.DataArray) -> xr.DataArray:
    return a.persist() if a.chunks else a.load()


def optimized(a: xr.DataArray) -> xr.DataArray:
    return dask.optimize(a)[0] if a.chunks else a


def halves(a: xr.DataArray) -> list[xr.DataArray]:
    return [a.isel(t=slice(2)), a.isel(t=slice(2, None))]


# What shows elements of one stored array in even steps, and nothing else.
ANSWERED: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {
    "as-opened": lambda ds: ds.packed,
    "plain-float": lambda ds: ds.plain,
    "no-decoding": lambda ds: ds.other,
    "bool": lambda ds: ds.flag,
    "times": lambda ds: ds.when,
    "scalar": lambda ds: ds.scalar,
    "slice": lambda ds: ds.packed.isel(t=slice(1, 5), x=slice(2, None)),
    "negative-slice": lambda ds: ds.packed.isel(t=slice(-4, -1)),
    "steps": lambda ds: ds.packed.isel(t=slice(1, None, 2), x=slice(None, None, 3)),
    "reversed": lambda ds: ds.packed.isel(t=slice(None, None, -1), x=slice(3, None, -2)),
    "reversed-twice": lambda ds: ds.packed[::-1][::-1],
    "integer": lambda ds: ds.packed.isel(t=3),
    "integers": lambda ds: ds.packed.isel(t=-1, y=np.int64(2)),
    "all-integers": lambda ds: ds.packed[1, 0, 2, 3],
    "one-element": lambda ds: ds.packed.isel(t=slice(3, 4)),
    "list": lambda ds: ds.packed.isel(x=[1, 3]),
    "list-over-blocks": lambda ds: ds.packed.isel(t=[0, 2, 4]),
    "list-backwards": lambda ds: ds.packed.isel(t=[5, 4, 3, 2, 1, 0]),
    "list-of-negatives": lambda ds: ds.packed.isel(t=np.array([-3, -2, -1])),
    "sel": lambda ds: ds.packed.sel(t=slice(10, 40), x=0.5),
    "sel-list": lambda ds: ds.packed.sel(t=[0, 20, 40]),
    "sel-nearest": lambda ds: ds.packed.sel(t=33, method="nearest"),
    "sortby-descending": lambda ds: ds.packed.sortby("t", ascending=False),
    "head": lambda ds: ds.packed.head(t=3),
    "thin": lambda ds: ds.packed.thin(x=2),
    "squeeze": lambda ds: ds.packed.squeeze(),
    "transpose": lambda ds: ds.packed.transpose("x", "t", "z", "y"),
    "transpose-then-slice": lambda ds: ds.packed.transpose("y", "x", "z", "t")[1:3, ::-2],
    "transpose-then-integer": lambda ds: ds.packed.T[2, :, 0],
    "slice-then-transpose": lambda ds: ds.packed[1:, :, ::2, 3].T,
    "transpose-twice": lambda ds: ds.packed.T.T,
    "chunk": lambda ds: ds.packed.chunk(t=3, x=2),
    "chunk-of-slice": lambda ds: ds.packed[1:, :, ::-1].chunk(t=2),
    "chunk-one": lambda ds: ds.packed.chunk(-1),
    "rechunk-rechunk": lambda ds: ds.packed.chunk(t=4, x=5).chunk(t=1).chunk(t=5, y=2),
    "rechunk-slice-transpose": lambda ds: ds.packed.chunk(t=3)[1:5:2].T.chunk(x=2)[::-1],
    "rename": lambda ds: ds.rename(packed="q", t="time").q,
    "copy": lambda ds: ds.packed.copy(),
    "deep-copy": lambda ds: copy.deepcopy(ds).packed,
    "pickle": lambda ds: pickle.loads(pickle.dumps(ds.packed[1:].chunk(t=2))),
    "set-coords": lambda ds: ds.set_coords("packed").packed,
    "assign-attrs": lambda ds: ds.packed.assign_attrs(units="?"),
    "assign-coords": lambda ds: ds.packed.assign_coords(t=np.arange(6)),
    "drop-vars": lambda ds: ds.drop_vars("plain").packed,
    "merge": lambda ds: xr.merge([ds[["packed"]], ds[["plain"]]]).packed,
    "data-of-another": lambda ds: (
        ds.assign(packed=ds.packed.copy(data=ds.plain.variable._data)).packed
    ),
    "empty": lambda ds: ds.packed.isel(t=slice(0)),
}
# The same for dask arrays only: in lazy form these load the data.
ANSWERED_ON_DASK: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {
    "concat-of-halves": lambda ds: xr.concat(halves(ds.packed), "t"),
    "flip": lambda ds: ds.packed.copy(data=da.flip(ds.packed.data, 0)),
    "same-data": lambda ds: reassign(ds, lambda x: x),
    "roll-all-round": lambda ds: ds.packed.roll(t=6),
    "decoded-later": lambda ds: xr.decode_cf(ds.copy()).packed,
    # pydata/xarray raises an IndexError for this in lazy form
    "transpose-then-integers": lambda ds: ds.packed.T[2, 1, 0, 3],
}
REFUSED: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {
    "times-two": lambda ds: ds.packed * 2,
    "plus-zero": lambda ds: ds.packed + 0,
    "reassigned": lambda ds: reassign(ds, lambda x: x * 2),
    "reassigned-rolled": lambda ds: reassign(ds, lambda x: np.roll(x, 1, 0)),
    "where": lambda ds: ds.packed.where(ds.packed > 0),
    "fillna": lambda ds: ds.packed.fillna(0),
    "clip": lambda ds: ds.packed.clip(0, 3),
    "astype": lambda ds: ds.packed.astype("f4"),
    "astype-of-slice": lambda ds: ds.packed[1:].astype("f4"),
    "edited-first": lambda ds: edit(ds.packed, (0, 0, 0, 0)),
    "edited-last": lambda ds: edit(ds.packed, (-1, -1, -1, -1)),
    "edited-slice": lambda ds: edit(ds.packed, slice(1, 2)),
    "edited-then-slice": lambda ds: edit(ds.packed, (slice(2, 5),))[1:],
    "edited-then-rechunk": lambda ds: edit(ds.packed, (2, 0, 1)).chunk(t=3),
    "roll": lambda ds: ds.packed.roll(t=1),
    "roll-x": lambda ds: ds.packed.roll(x=2),
    "shift": lambda ds: ds.packed.shift(t=1),
    "pad": lambda ds: ds.packed.pad(t=1),
    "concat-swapped": lambda ds: xr.concat(halves(ds.packed)[::-1], "t"),
    "concat-twice": lambda ds: xr.concat([ds.packed, ds.packed], "t"),
    "concat-other": lambda ds: xr.concat([halves(ds.packed)[0], halves(ds.plain)[1]], "t"),
    "concat-new-dim": lambda ds: xr.concat([ds.packed, ds.packed], "n"),
    "expand-dims": lambda ds: ds.packed.expand_dims(n=2),
    "broadcast": lambda ds: ds.flag.broadcast_like(ds.packed),
    "stack": lambda ds: ds.packed.stack(s=("t", "x")),
    "coarsen": lambda ds: ds.packed.coarsen(t=2).mean(),
    "mean": lambda ds: ds.packed.mean("t"),
    "cumsum": lambda ds: ds.packed.cumsum("t"),
    "diff": lambda ds: ds.packed.diff("t"),
    "rolling": lambda ds: ds.packed.rolling(t=3).mean(),
    "interp": lambda ds: ds.packed.interp(t=[5, 15]),
    "isnull": lambda ds: ds.packed.isnull(),
    "uneven-list": lambda ds: ds.packed.isel(t=[0, 1, 4]),
    "repeated-list": lambda ds: ds.packed.isel(t=[2, 2]),
    "shuffled-list": lambda ds: ds.packed.isel(t=[3, 0, 5, 1]),
    "shuffled-blocks": lambda ds: ds.packed.isel(t=[4, 5, 0, 1, 2, 3]),
    "boolean-list": lambda ds: ds.packed.isel(t=np.array([True, True, False, False, True, True])),
    "pointwise": lambda ds: ds.packed.isel(
        t=xr.DataArray([0, 1, 2], dims="p"), x=xr.DataArray([2, 1, 0], dims="p")
    ),
    "uneven-transposed": lambda ds: ds.packed.T.isel(t=[0, 1, 4]),
    "loaded": lambda ds: ds.packed.load(),
    "computed": lambda ds: ds.packed.compute(),
    "persisted": lambda ds: persisted(ds.packed),
    "numpy": lambda ds: ds.packed.copy(data=np.zeros(SHAPE)),
    "index": lambda ds: ds.t,
    "map-blocks": lambda ds: ds.packed.copy(
        data=da.asarray(ds.packed.data).map_blocks(np.negative)
    ),
    "map-blocks-with-parameters": lambda ds: ds.packed.copy(
        data=da.asarray(ds.packed.data).map_blocks(functools.partial(np.clip, a_min=0, a_max=3))
    ),
    "map-blocks-by-number": lambda ds: ds.packed.copy(
        data=da.map_blocks(by_number, da.asarray(ds.packed.data), dtype="f8")
    ),
    "inner-blocks-swapped": lambda ds: ds.packed.copy(data=swapped(ds.packed)),
    "two-arrays": lambda ds: ds.packed.copy(
        data=da.blockwise(first, "tzyx", ds.packed.data, "tzyx", ds.plain.data, "tzyx", dtype="f8")
    ),
    "view": lambda ds: ds.packed.copy(data=da.asarray(ds.packed.data).view("i8")),
    "apply-ufunc": lambda ds: xr.apply_ufunc(np.sqrt, ds.packed.clip(0), dask="parallelized"),
    "full": lambda ds: xr.full_like(ds.packed, 1.0),
    "optimized-arithmetic": lambda ds: optimized(ds.packed * 2),
    "optimized-edit": lambda ds: optimized(edit(ds.packed, (0, 0, 0, 0))),
}


# All operations are tried on one backend in the two forms that differ most, and some on all;
# the rest of the cross product is slow to run and seldom tells more.
PLAIN = ("as-opened", "no-decoding", "bool", "times", "scalar", "reversed", "integers")
PLAIN += ("transpose-then-slice", "chunk", "reassigned", "edited-last", "loaded")


def cases(table: dict[str, Any], modes: tuple[str, ...] = tuple(MODES)) -> list[Any]:
    out = []
    for backend, mode, name in itertools.product(BACKENDS, modes, table):
        usual = mode in ("lazy", "dask")
        quick = (usual or backend == "memory") if name in PLAIN else usual and backend == "memory"
        marks = () if quick else pytest.mark.slow
        out.append(pytest.param(backend, mode, name, marks=marks, id=f"{backend}-{mode}-{name}"))
    return out


@pytest.mark.parametrize(("backend", "mode", "name"), cases(ANSWERED))
def test_answered(backend: str, mode: str, name: str, sources: dict[str, Any]) -> None:
    with MODES[mode](backend, sources[backend]) as ds:
        check(backend, ANSWERED[name](ds).variable, answered=True)


@pytest.mark.parametrize(
    ("backend", "mode", "name"), cases(ANSWERED_ON_DASK, ("dask", "inline", "chunked"))
)
def test_answered_on_dask(backend: str, mode: str, name: str, sources: dict[str, Any]) -> None:
    with MODES[mode](backend, sources[backend]) as ds:
        check(backend, ANSWERED_ON_DASK[name](ds).variable, answered=True)


@pytest.mark.parametrize(("backend", "mode", "name"), cases(REFUSED))
def test_refused(backend: str, mode: str, name: str, sources: dict[str, Any]) -> None:
    with MODES[mode](backend, sources[backend]) as ds:
        check(backend, REFUSED[name](ds).variable, answered=False)


def test_every_backend_names_what_it_opened(sources: dict[str, Any]) -> None:
    for backend, source in sources.items():
        with reopen(backend, source, chunks={}) as ds:
            traced = trace(ds.rename(packed="q").q.variable)
        assert traced is not None
        if backend in (HDF5, OURS, "scipy"):
            group = None if backend == "scipy" else "deep/down"
            engine = HDF5 if backend == OURS else backend
            assert traced.ref == FileRef(source, engine, group, "packed")
        else:
            assert isinstance(traced.ref, ZarrRef)
            assert traced.ref.path == "packed"
            # xarray opens its own, read-only view of a store, on the same data
            shared = getattr(traced.ref.store, "_store_dict", None)
            assert backend != "memory" or shared is source._store_dict
        assert traced.decoders == ("_apply_mask", "_scale_offset_decoding")[-len(traced.decoders) :]
        assert traced.is_box
        assert tuple(p.count for p in traced.axes) == traced.stored_shape


def test_single_file_of_open_mfdataset(sources: dict[str, Any]) -> None:
    how = {"group": "deep/down", "combine": "nested", "concat_dim": "t"}
    how |= {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    with xr.open_mfdataset([sources[HDF5]], engine=HDF5, **how) as ds:
        check(HDF5, ds.packed.variable, answered=True)


def test_several_files_are_joined(tmp_path: Path) -> None:
    ds, _ = make()
    for name in ("one", "two"):
        ds[["plain"]].to_netcdf(tmp_path / f"{name}.nc", engine=HDF5)
    with xr.open_mfdataset(
        [tmp_path / "one.nc", tmp_path / "two.nc"],
        engine=HDF5,
        combine="nested",
        concat_dim="t",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
    ) as both:
        check(HDF5, both.plain.variable, answered=True)
        check(HDF5, both.plain[:6].variable, answered=True)
        check(HDF5, both.plain[7:, :, 1].variable, answered=True)
        check(HDF5, both.plain[5:7].variable, answered=True)
        check(HDF5, both.plain[::2].variable, answered=False)
        check(HDF5, both.plain[::-1].variable, answered=False)


def pieces(ds: xr.Dataset) -> list[xr.Dataset]:
    """Three datasets of uneven lengths, with values of their own."""
    whole = xr.concat(
        [ds.assign(packed=ds.packed + n * 8, plain=ds.plain + n) for n in (0, 1)], "t"
    )
    return [whole.isel(t=slice(a, b)) for a, b in ((0, 4), (4, 5), (5, 12))]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The pieces in a file or store each; the second half of each dim x in others."""
    out: dict[str, list[Any]] = {}
    ds, encoding = make()
    encoding = {name: encoding[name] for name in ("packed", "plain")}
    for backend in BACKENDS:
        out[backend] = []
        for number, piece in enumerate(pieces(ds[["packed", "plain"]].drop_vars(["t", "x"]))):
            for half in (slice(3), slice(3, None)):
                one = piece.isel(x=half)
                folder = tmp_path_factory.mktemp(f"{backend}-{number}")
                own: dict[str, dict[str, Any]] = {name: {**encoding[name]} for name in encoding}
                chunked = "chunksizes" if backend in (HDF5, OURS) else "chunks"
                if backend != "scipy":
                    own["packed"][chunked] = (min(2 + number, one.sizes["t"]), 1, 3, 2)
                if backend in (HDF5, OURS, "scipy"):
                    engine = HDF5 if backend == OURS else backend
                    group = {} if backend == "scipy" else {"group": "deep/down"}
                    form: Any = {"format": "NETCDF3_64BIT"} if backend == "scipy" else {}
                    place: Any = str(folder / "a.nc")
                    one.to_netcdf(place, engine=engine, encoding=own, **group, **form)
                else:
                    place = MemoryStore() if backend == "memory" else str(folder / "a.zarr")
                    one.to_zarr(
                        place,
                        encoding=own,
                        zarr_format=2 if backend == "zarr2" else 3,
                        consolidated=False,
                    )
                out[backend].append(place)
    return out


Archive = list[list[xr.DataArray]]

#: What is done with a grid of arrays, three along t and two along x.
JOINED: dict[str, Callable[[Archive], xr.DataArray]] = {
    "along-t": lambda a: xr.concat([row[0] for row in a], "t"),
    "along-x": lambda a: xr.concat(a[0], "x"),
    "along-both": lambda a: xr.concat([xr.concat(row, "x") for row in a], "t"),
    "in-another-order": lambda a: xr.concat([row[1] for row in a[::-1]], "t"),
    "joined-twice": lambda a: xr.concat([xr.concat([a[0][0], a[1][0]], "t"), a[2][0]], "t"),
    "along-a-new-dim": lambda a: xr.concat([row[0].isel(t=slice(1)) for row in a], "n"),
    "along-a-new-last-dim": lambda a: xr.concat([row[0][:1] for row in a], "n").transpose(..., "n"),
    "sliced": lambda a: whole(a)[3:9, :, 1:, 2:4],
    "pieces-sliced": lambda a: xr.concat([a[0][0][2:], a[2][0][1:5]], "t"),
    "to-one-piece": lambda a: whole(a)[1:3, :, :, 3:],
    "transposed": lambda a: whole(a).transpose("x", "t", "z", "y"),
    "pieces-transposed": lambda a: xr.concat([row[0].T for row in a], "t"),
    "an-integer": lambda a: whole(a).isel(y=2),
    "an-integer-along-t": lambda a: whole(a).isel(t=4),
    "chunked": lambda a: whole(a).chunk(t=5, x=2),
    "chunked-all": lambda a: whole(a).chunk(-1),
    "chunked-and-sliced": lambda a: whole(a).chunk(t=5).isel(t=slice(2, None)).chunk(t=3),
    "renamed": lambda a: whole(a).rename("q", t="u"),
    "empty-piece": lambda a: xr.concat([a[0][0], a[1][0][:0], a[2][0]], "t"),
    "merged": lambda a: xr.merge([whole(a).rename("v"), xr.Dataset({"w": ("k", [1])})]).v,
    "copied": lambda a: whole(a).copy(),
}
NOT_JOINED: dict[str, Callable[[Archive], xr.DataArray]] = {
    "one-twice": lambda a: xr.concat([a[0][0], a[0][0]], "t"),
    "stepped": lambda a: whole(a)[::2],
    "reversed": lambda a: whole(a)[::-1],
    "rolled": lambda a: whole(a).roll(t=1),
    "shifted": lambda a: whole(a).shift(t=1),
    "padded": lambda a: whole(a).pad(t=1),
    "one-changed": lambda a: xr.concat([a[0][0], a[1][0] * 1, a[2][0]], "t"),
    "one-cast": lambda a: xr.concat([a[0][0], a[1][0].astype("f4")], "t"),
    "one-in-memory": lambda a: xr.concat(
        [a[0][0], a[1][0].copy(data=np.zeros(a[1][0].shape))], "t"
    ),
    "one-edited": lambda a: xr.concat([a[0][0], edit(a[2][0], (5, 0, 1, 1))], "t"),
    "edited": lambda a: edit(whole(a), (11, 0, 3, 4)),
    "one-missing": lambda a: xr.concat([a[0][0], xr.full_like(a[1][0], np.nan), a[2][0]], "t"),
    "filled": lambda a: whole(a).fillna(0),
    "repeated": lambda a: whole(a).isel(t=[0, 0, 5, 6]),
    "shuffled": lambda a: whole(a).isel(t=[6, 0, 5, 1]),
    "other-grids": lambda a: xr.concat(
        [a[0][0].assign_coords(x=[0, 1, 2]), a[1][0].assign_coords(x=[1, 2, 3])], "t", join="outer"
    ),
    "no-grid": lambda a: xr.concat(
        [xr.concat([a[0][0], a[0][1][..., 1:]], "x"), xr.concat([a[1][0][..., 1:], a[1][1]], "x")],
        "t",
    ),
    "expanded": lambda a: whole(a).expand_dims(n=2),
}


def whole(archive: Archive) -> xr.DataArray:
    return xr.concat([xr.concat(row, "x") for row in archive], "t")


JOINED_BACKENDS = [
    pytest.param(b, marks=() if b in ("memory", HDF5) else pytest.mark.slow) for b in BACKENDS
]


@pytest.mark.parametrize("backend", JOINED_BACKENDS)
@pytest.mark.parametrize("name", ["packed", "plain"])
@pytest.mark.parametrize("what", [*JOINED, *NOT_JOINED])
def test_joined(backend: str, name: str, what: str, archives: dict[str, list[Any]]) -> None:
    opened = [reopen(backend, place, chunks={})[name] for place in archives[backend]]
    grid = [opened[i : i + 2] for i in range(0, len(opened), 2)]
    if what == "one-cast" and name == "plain":
        return
    shown = {**JOINED, **NOT_JOINED}[what](grid)
    assert shown.chunks is not None
    check(backend, shown.variable, answered=what in JOINED)
    for ds in opened:
        ds.close()


def test_joined_arrays_of_our_own(archives: dict[str, list[Any]]) -> None:
    parts = np.empty((3, 2, 1, 1), dtype=object)
    for i, place in enumerate(archives[BACKENDS[0]]):
        variable = reopen(BACKENDS[0], place).packed.variable
        parts[i // 2, i % 2, 0, 0] = variable.transpose("t", "x", "z", "y")
    joined = JoinedArray.of(parts)
    data = da.from_array(joined, chunks=(5, 4, 1, 2), meta=np.empty((0,) * 4))
    for shown in (data, data[2:7], data.rechunk((12, 1, 1, 4))):
        check(BACKENDS[0], xr.Variable(("t", "x", "z", "y"), shown), answered=True)
    parts[1, 1, 0, 0] = parts[1, 1, 0, 0].load()
    changed = da.from_array(JoinedArray.of(parts), chunks=-1, meta=np.empty((0,) * 4))
    check(BACKENDS[0], xr.Variable(("t", "x", "z", "y"), changed), answered=False)


def test_one_file_decoded_otherwise(tmp_path: Path) -> None:
    stores = []
    for scale in (0.5, 0.25):
        store = MemoryStore()
        ds = xr.Dataset({"a": ("t", np.arange(4.0))})
        encoding = {"a": {"dtype": "i2", "scale_factor": scale, "_FillValue": -1}}
        ds.to_zarr(store, encoding=encoding, consolidated=False)
        stores.append(store)
    opened = [xr.open_zarr(s, consolidated=False).a for s in stores]
    check("memory", xr.concat(opened, "t").variable, answered=False)
    raw = [xr.open_zarr(s, consolidated=False, mask_and_scale=False).a for s in stores]
    check("memory", xr.concat(raw, "t").variable, answered=True)


def test_groups_whose_dask_arrays_share_a_name() -> None:
    store = MemoryStore()
    for group in ("one", "two"):
        ds = xr.Dataset({"a": ("x", np.arange(4.0))})
        ds.to_zarr(store, group=group, mode="a", consolidated=False)
    groups = xr.open_groups(store, engine="zarr", chunks={}, consolidated=False)
    found = [trace(groups[f"/{group}"].a.variable) for group in ("one", "two")]
    assert [t and t.ref.path for t in found] == ["one/a", "two/a"]


def test_rechunk_on_a_cluster(sources: dict[str, Any]) -> None:
    # The p2p method computes on a cluster only, but its layer is known without one.
    backend = BACKENDS[0]
    with reopen(backend, sources[backend], chunks={}) as ds:
        with dask.config.set({"array.rechunk.method": "p2p"}):
            shown = ds.packed[1:].chunk(t=4, x=1)
            changed = (ds.packed * 2).chunk(t=4, x=1)
        traced = trace(shown[::-2].variable)
        assert trace(changed.variable) is None
    assert traced is not None
    assert traced.axes[0] == AxisPart(0, 5, -2, 3)


def test_arrays_of_dask_itself() -> None:
    store = MemoryStore()
    make()[0][["plain"]].to_zarr(store, zarr_format=3, consolidated=False)
    array = da.from_zarr(store, component="plain")
    traced = check("memory", xr.Variable(DIMS, array[1:, :, ::-1]), answered=True)
    assert traced is not None
    assert traced.axes[2] == AxisPart(2, 3, -1, 4)


def fake_getitem(block: Any, index: Any) -> Any:
    return -block[index]


fake_getitem.__name__ = "getitem"
CUT = (slice(None), slice(None), slice(0, 2), slice(None))


@pytest.mark.parametrize(
    ("task", "answered"),
    [
        (Alias, True),
        (lambda key, old: old, True),
        (lambda key, old: Task(key, operator.getitem, TaskRef(old), CUT), True),
        (lambda key, old: Task(key, np.transpose, TaskRef(old), axes=(0, 1, 2, 3)), True),
        (lambda key, old: Task(key, np.transpose, TaskRef(old), axes=(0, 1, 3, 2)), False),
        (lambda key, old: Task(key, np.negative, TaskRef(old)), False),
        (lambda key, old: Task(key, fake_getitem, TaskRef(old), CUT), False),
        (lambda key, old: Task(key, operator.getitem, TaskRef(old), CUT[:3]), False),
        (lambda key, old: Task(key, operator.getitem, TaskRef(old), (*CUT, None)), False),
        (lambda key, old: Task(key, operator.getitem, TaskRef(old), (*CUT[:3], [0, 1])), False),
        (lambda key, old: Task(key, getter, TaskRef(old), CUT), True),
        (lambda key, old: Task(key, getter, TaskRef(old), CUT, lock=None), True),
        (lambda key, old: Task(key, getter, TaskRef(old), CUT, asarray=False), False),
        (lambda key, old: (np.negative, old), False),
        (lambda key, old: (operator.getitem, old, CUT), False),
        (lambda key, old: ("no such", 0, 0, 0, 0), False),
        (lambda key, old: DataNode(key, np.zeros(SHAPE)), False),
        (lambda key, old: np.zeros(SHAPE), False),
    ],
)
def test_tasks_made_by_hand(task: Any, answered: bool, sources: dict[str, Any]) -> None:
    backend = BACKENDS[-1]
    with reopen(backend, sources[backend]) as ds:
        old = ds.packed.chunk(-1).data
        node = task(("new", 0, 0, 0, 0), (old.name, 0, 0, 0, 0))
        cut = isinstance(node, Task) and CUT in node.args
        chunks = tuple((n,) for n in ((6, 1, 2, 5) if cut else SHAPE))
        graph = HighLevelGraph.from_collections("new", {("new", 0, 0, 0, 0): node}, [old])
        variable = xr.Variable(DIMS, da.Array(graph, "new", chunks, dtype="f8"))
        assert (trace(variable) is not None) == answered
        if answered:
            check(backend, variable, answered=True)


def test_chunks_that_are_not_those_of_the_blocks(sources: dict[str, Any]) -> None:
    backend = BACKENDS[-1]
    with reopen(backend, sources[backend]) as ds:
        old = ds.packed.chunk(t=4).data
        chunks = ((3, 3), *old.chunks[1:])
        assert trace(xr.Variable(DIMS, da.Array(old.dask, old.name, old.chunks, dtype="f8")))
        lying = da.Array(old.dask, old.name, chunks, dtype="f8")
        assert trace(xr.Variable(DIMS, lying)) is None


def test_optimized_graphs(sources: dict[str, Any]) -> None:
    # Simple ones keep their tasks; where tasks were fused, nothing is known any more.
    backend = BACKENDS[0]
    with reopen(backend, sources[backend], chunks={}) as ds:
        check(backend, optimized(ds.other.chunk(t=3)).variable, answered=True)
        check(backend, optimized(ds.other * 2).variable, answered=False)


def test_editing_the_parent_in_place_ends_what_was_traceable() -> None:
    store = MemoryStore()
    make()[0][["plain"]].to_zarr(store, consolidated=False)
    ds = xr.open_zarr(store, chunks=None, consolidated=False)
    chunked = ds.plain.chunk(t=2).variable
    assert trace(chunked) is not None
    ds.plain[0, 0, 0, 0] = 7.0
    assert trace(chunked) is None


def test_a_store_that_was_resized_is_refused() -> None:
    store = MemoryStore()
    make()[0][["plain"]].to_zarr(store, consolidated=False)
    opened = xr.backends.ZarrStore.open_group(store, mode="r+", consolidated=False)
    variable = xr.open_dataset(opened).plain.variable
    assert trace(variable) is not None
    opened.zarr_group["plain"].resize((7, *SHAPE[1:]))
    assert trace(variable) is not None  # what was opened is still as it was
    wrapper = variable._data
    while not hasattr(wrapper, "_array"):
        wrapper = wrapper.array
    wrapper._array.resize((8, *SHAPE[1:]))
    assert trace(variable) is None


def test_files_opened_in_unusual_ways_are_refused(tmp_path: Path, sources: dict[str, Any]) -> None:
    source = sources[HDF5]
    option = {"netcdf4": {"persist": True}, "h5netcdf": {"decode_vlen_strings": False}}[HDF5]
    with reopen(HDF5, source, **option) as ds:
        assert trace(ds.packed.variable) is None


def test_files_in_memory_are_refused(sources: dict[str, Any]) -> None:
    content = Path(sources[HDF5]).read_bytes()
    with xr.open_dataset(content, engine=HDF5, group="deep/down") as ds:
        assert trace(ds.packed.variable) is None


def test_a_trace_travels(sources: dict[str, Any]) -> None:
    backend = BACKENDS[0]
    with reopen(backend, sources[backend]) as ds:
        traced = trace(ds.packed.isel(t=slice(1, None)).variable)
    assert traced is not None
    assert pickle.loads(pickle.dumps(traced)) == traced


@pytest.mark.parametrize("change", ["scale_factor", "add_offset", "_FillValue", None])
def test_decoding_tells_parameters_apart(change: str | None) -> None:
    texts = []
    for round_ in range(2):
        ds, encoding = make()
        if round_ and change:
            encoding["packed"][change] *= 2
        store = MemoryStore()
        ds[["packed"]].to_zarr(store, encoding={"packed": encoding["packed"]}, consolidated=False)
        traced = trace(xr.open_zarr(store, chunks=None, consolidated=False).packed.variable)
        assert traced is not None
        texts.append(traced.decoding)
    assert (texts[0] == texts[1]) == (change is None)


@pytest.mark.parametrize("name", ["packed", "plain", "other", "when"])
def test_decoding_is_spelled_alike_in_all_formats(name: str, sources: dict[str, Any]) -> None:
    # zarr 2 stands apart: there a fill value is always masked.
    texts = set()
    for backend in set(BACKENDS) - {"zarr2"}:
        with reopen(backend, sources[backend]) as ds:
            traced = trace(ds[name].variable)
            assert traced is not None
            texts.add(traced.decoding)
    assert len(texts) == 1


def test_plain_opens_are_answered_without_their_blocks() -> None:
    import zarr

    store = MemoryStore()
    zarr.create_group(store).create_array(
        "a", shape=(400, 500), chunks=(1, 1), dtype="i2", dimension_names=("y", "x")
    )
    variable = xr.open_zarr(store, consolidated=False).a.variable
    assert variable.data.npartitions == 200_000
    for shown in (variable, variable.T, variable.T.T):
        traced = trace(shown)
        assert traced is not None
        assert not any(
            layer.is_materialized() for layer in list(shown.data.dask.layers.values())[1:]
        )


@pytest.mark.parametrize(
    "broken",
    [ImportError("moved"), RuntimeError("changed"), None],
    ids=["import", "fails", "wrong"],
)
def test_a_failed_self_check_turns_tracing_off(
    broken: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_fails() -> bool:
        if broken is not None:
            raise broken
        return False

    store = MemoryStore()
    make()[0][["plain"]].to_zarr(store, consolidated=False)
    variable = xr.open_zarr(store, consolidated=False).plain.variable
    assert trace(variable) is not None
    tracing._self_check.cache_clear()
    monkeypatch.setattr(tracing, "_check_blocks", check_fails)
    try:
        assert not can_trace(variable)
        assert trace(variable) is None
        # what is no dask array does not need dask's names
        assert trace(xr.open_zarr(store, chunks=None, consolidated=False).plain.variable)
    finally:
        tracing._self_check.cache_clear()


def test_without_private_names_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xchunk.sources.xarray_adapter", None)
    tracing._self_check.cache_clear()
    try:
        assert not can_trace(xr.Variable("x", [1]))
        assert not can_trace(xr.Variable("x", [1]).chunk())
    finally:
        tracing._self_check.cache_clear()


def test_the_self_checks_pass() -> None:
    assert tracing._check_lazy()
    assert tracing._check_blocks()


@pytest.mark.subprocess
@pytest.mark.skipif(HDF5 == "h5netcdf", reason="this is that process")
@pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="h5netcdf needs h5py here")
@pytest.mark.slow
def test_h5netcdf_in_a_process_of_its_own() -> None:
    run_with_h5netcdf(__file__)


def test_only_one_hdf5_is_loaded(sources: dict[str, Any]) -> None:
    assert ("netCDF4" in sys.modules) == (HDF5 == "netcdf4")
    assert HDF5 == "h5netcdf" or "h5py" not in sys.modules
