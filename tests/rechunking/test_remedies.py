"""Every remedy that is code is executed, on the data that provoked it, and leads to right data."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.core.reports import rules

QUIET: dict[str, Any] = {"max_mem": "60MB", "progress": False}


def weather(start: int, stop: int) -> xr.Dataset:
    """Some steps of a small reanalysis that never changes, from north to south."""
    time = pd.date_range("2000-01-01", periods=40)[start:stop]
    values = np.random.default_rng(5).random((40, 6, 8)).astype("f4")[start:stop]
    return xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), values, {"units": "K"}),
            "mask": (("lat", "lon"), np.arange(48.0).reshape(6, 8)),
            "area": ("lat", np.arange(6.0)),
        },
        {
            "time": time,
            "lat": np.linspace(60, 10, 6),
            "lon": np.arange(8),
            "height": (("lat", "lon"), np.arange(48.0).reshape(6, 8)),
            "orbit": 3,
        },
    )


def code_of(error: BaseException, *, of: str) -> str:
    """Find the code that an error offers: a call of a method, up to the bracket that closes it."""
    said = str(error)
    start = said.index(of)
    depth = 0
    for end in range(start, len(said)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(said[end], 0)
        if depth == 0 and said[end] in ")]}" and said[end + 1 : end + 2] != "[":
            return said[start : end + 1]
    raise AssertionError(f"no code in {said!r}")


def run(code: str, **names: Any) -> Any:
    """Run what an error offers, as a user does who copies it."""
    return eval(code, {"xr": xr, "xchunk": xchunk, **names})  # noqa: S307 - our own words


def hourly(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords(time=ds.time + pd.Timedelta("1h"))


#: What is done to the data, the code that is offered, and whether that is tried again on what it
#: makes: there may be a second thing that is wrong.
APPENDS: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "upside down": (lambda ds: ds.isel(lat=slice(None, None, -1)), "ds.sortby("),
    "from east to west": (lambda ds: ds.isel(lon=slice(None, None, -1)), "ds.sortby("),
    "any order": (lambda ds: ds.isel(lat=[3, 1, 0, 2, 5, 4]), "ds.sortby("),
    "no labels, upside down": (
        lambda ds: ds.isel(lat=slice(None, None, -1)).drop_vars(["lat", "lon"]),
        "ds.isel(",
    ),
    "another orbit": (lambda ds: ds.assign_coords(orbit=4), "ds.drop_vars("),
    "more variables": (lambda ds: ds.assign(extra=ds.t2m, more=ds.t2m), "ds.drop_vars("),
    "another order of dims": (lambda ds: ds.transpose("lat", "lon", "time"), "ds.transpose("),
    "another calendar": (
        lambda ds: ds.convert_calendar("noleap", use_cftime=True), "ds.convert_calendar("
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", APPENDS)
def test_remedies_of_an_append(case: str) -> None:
    change, of = APPENDS[case]
    weather(0, 10).to_zarr("s.zarr")
    store, ds = "s.zarr", change(weather(10, 20))
    with pytest.raises((xchunk.InvalidChunksError, xchunk.EncodingError)) as caught:
        ds.chunking.append(store, dim="time", **QUIET)
    assert "Nothing was written" in str(caught.value)
    mended = run(code_of(caught.value, of=of), ds=ds, store=store)
    mended.chunking.append(store, dim="time", verify=True, **QUIET)
    xr.testing.assert_equal(xr.open_zarr(store).load(), weather(0, 20))


def test_a_store_in_no_order_is_followed() -> None:
    mixed = [3, 1, 0, 2, 5, 4]
    weather(0, 10).isel(lat=mixed).to_zarr("s.zarr")
    store, ds = "s.zarr", weather(10, 20)
    with pytest.raises(xchunk.InvalidChunksError) as caught:
        ds.chunking.append(store, dim="time", **QUIET)
    mended = run(code_of(caught.value, of="ds.sel("), ds=ds, store=store)
    mended.chunking.append(store, dim="time", verify=True, **QUIET)
    xr.testing.assert_equal(xr.open_zarr(store).load(), weather(0, 20).isel(lat=mixed))


def test_another_grid_is_never_told_to_drop_its_labels() -> None:
    weather(0, 10).to_zarr("s.zarr")
    for name in ("lat", "lon", "height"):
        ds = weather(10, 20)
        ds = ds.assign_coords({name: ds[name] + 1})
        with pytest.raises(xchunk.InvalidChunksError, match="Regrid") as caught:
            ds.chunking.append("s.zarr", dim="time", **QUIET)
        assert "drop_vars" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_finer_times_go_to_a_new_store() -> None:
    weather(0, 10).to_zarr("s.zarr")
    ds = hourly(weather(10, 20))
    with pytest.raises(xchunk.EncodingError, match="finer units") as caught:
        ds.chunking.append("s.zarr", dim="time", **QUIET)
    (code,) = re.findall(r"\((ds\.time\.encoding\['units'\] = '[^']*')\)", str(caught.value))
    old = xr.open_zarr("s.zarr")
    run(
        code.replace("…", "2000-01-01").replace("['units'] = ", ".__setitem__('units', ") + ")",
        ds=old,
    )
    old.chunking.apply({"time": 5}, store="n.zarr", **QUIET)
    ds.chunking.append("n.zarr", dim="time", **QUIET)
    wanted = xr.concat([weather(0, 10), ds], "time", data_vars="minimal", coords="minimal")
    xr.testing.assert_equal(xr.open_zarr("n.zarr").load(), wanted)


@pytest.mark.filterwarnings("ignore")
def test_the_dtype_of_the_store_is_asked_for() -> None:
    weather(0, 10).to_zarr("s.zarr")
    ds = weather(10, 20)
    ds["t2m"] = ds.t2m.astype("f8") + 1e-12
    with pytest.raises(xchunk.EncodingError, match="exactly") as caught:
        ds.chunking.append("s.zarr", dim="time", **QUIET)
    code = code_of(caught.value, of=".astype(")
    ds["t2m"] = run(f"ds{code}", ds=ds.t2m)
    ds.chunking.append("s.zarr", dim="time", **QUIET)
    xr.testing.assert_allclose(xr.open_zarr("s.zarr").load(), weather(0, 20))


REGIONS: dict[str, tuple[Any, Any, str]] = {
    "other labels": ({"time": slice(0, 5)}, "region=", "region='auto'"),
    "words": ({"time": slice("a", "b")}, "region=", "region='auto'"),
}


@pytest.mark.parametrize("case", REGIONS)
def test_remedies_of_a_region(case: str) -> None:
    region, _, offered = REGIONS[case]
    weather(0, 20).to_zarr("s.zarr")
    new = weather(10, 15)[["t2m"]] * -1
    new.t2m.attrs = {"units": "K"}
    with pytest.raises(xchunk.InvalidChunksError) as caught:
        new.chunking.write_region("s.zarr", region=region, **QUIET)
    assert offered in str(caught.value)
    new.chunking.write_region("s.zarr", **run(f"dict({offered})"), **QUIET)
    wanted = weather(0, 20)
    wanted.t2m[10:15] *= -1
    xr.testing.assert_equal(xr.open_zarr("s.zarr").load(), wanted)


def test_a_label_that_stands_twice_is_no_place() -> None:
    def make(labels: list[float], value: float) -> xr.Dataset:
        return xr.Dataset({"v": ("t", np.full(len(labels), value))}, {"t": np.array(labels, "f8")})

    make([0, 1, 2, 2, 3, 1], 0).to_zarr("s.zarr")
    for labels in ([2.0], [0.0, 1.0]):
        with pytest.raises(xchunk.InvalidChunksError, match=r"more than once.*region=\{'t'"):
            make(labels, 5).chunking.write_region("s.zarr", region="auto", **QUIET)
    # both of them are one place, and a label besides is another
    make([2, 2, 3], 7).chunking.write_region("s.zarr", region="auto", **QUIET)
    make([2], 8).drop_vars("t").chunking.write_region("s.zarr", region={"t": slice(3, 4)}, **QUIET)
    assert xr.open_zarr("s.zarr").v.values.tolist() == [0, 0, 7, 8, 7, 0]


def test_labels_that_are_no_place_are_appended() -> None:
    weather(0, 20).to_zarr("s.zarr")
    with pytest.raises(xchunk.InvalidChunksError, match=r"append\(\)"):
        weather(20, 25).chunking.write_region("s.zarr", region="auto", **QUIET)
    weather(20, 25).chunking.append("s.zarr", dim="time", **QUIET)
    with pytest.raises(xchunk.InvalidChunksError, match="region='auto'"):
        weather(20, 25).chunking.append("s.zarr", dim="time", **QUIET)
    again = weather(20, 25).drop_vars(["mask", "area", "height", "orbit"])
    again.chunking.write_region("s.zarr", region="auto", **QUIET)
    xr.testing.assert_equal(xr.open_zarr("s.zarr").load(), weather(0, 25))


def stored(chunks: dict[str, int], **kwargs: Any) -> xr.Dataset:
    """Data of a megabyte, stored in chunks."""
    values = np.random.default_rng(5).random((300, 20, 30)).astype("f4")
    ds = xr.Dataset(
        {"t2m": (("time", "lat", "lon"), values)},
        {"time": pd.date_range("2000-01-01", periods=300)},
    )
    lengths = tuple(chunks[d] for d in ds.t2m.dims)
    encoding = {"t2m": {"chunks": lengths}, "time": {"chunks": (chunks["time"],)}}
    ds.to_zarr("s.zarr", encoding=encoding, **kwargs)
    return xr.open_zarr("s.zarr")


def packed(**encoding: Any) -> xr.Dataset:
    ds = stored({"time": 50, "lat": 20, "lon": 30}).load()
    ds["t2m"] = (ds.t2m.dims, ds.t2m.values * 1000)
    ds.t2m[3] = np.nan
    ds.t2m.encoding = encoding
    return ds


ONE = {"time": 1, "lat": 20, "lon": 30}
FIFTY = {"time": 50, "lat": 20, "lon": 30}
WHOLE = {"time": 300, "lat": 20, "lon": 30}


def sharded() -> xr.Dataset:
    ds = stored(WHOLE).load().drop_encoding()
    ds.to_zarr("sh.zarr", encoding={"t2m": {"chunks": (10, 20, 30), "shards": (100, 20, 30)}})
    return xr.open_zarr("sh.zarr")


def transposed_shards() -> xr.Dataset:
    """A shape whose values zarr keeps, and does not read in parts."""
    ds = stored(WHOLE)
    codecs = zarr.codecs
    array = zarr.open_group("tr.zarr", mode="w").create_array(
        "t2m", shape=ds.t2m.shape, chunks=(300, 20, 30), dtype="f4", compressors=None,
        filters=[codecs.TransposeCodec(order=(0, 1, 2))],
        serializer=codecs.ShardingCodec(chunk_shape=(30, 20, 30)), dimension_names=ds.t2m.dims,
    )  # fmt: skip
    array[...] = ds.t2m.values
    ds[["time"]].to_zarr("tr.zarr", mode="a", consolidated=False)
    return xr.open_zarr("tr.zarr", consolidated=False)


def two_layouts(**kwargs: Any) -> xr.Dataset:
    ds = stored(FIFTY).load().drop_encoding()
    ds["tp"] = -ds.t2m
    lengths = {"t2m": {"chunks": (50, 20, 30)}, "tp": {"chunks": (300, 5, 10)}}
    ds.to_zarr("m.zarr", encoding=lengths)
    return xr.open_zarr("m.zarr", **kwargs)


def in_a_tree() -> xr.DataTree:
    stored(ONE).load().drop_encoding().to_zarr("t.zarr", group="g", encoding={"t2m": {
        "chunks": (1, 20, 30)}})  # fmt: skip
    return xr.open_datatree("t.zarr", engine="zarr", chunks={})


def many_blocks() -> xr.Dataset:
    xr.Dataset({"t2m": ("x", np.arange(500.0))}).to_zarr("x.zarr", encoding={"t2m": {
        "chunks": (250,)}})  # fmt: skip
    return xr.open_zarr("x.zarr", chunks={"x": 1})


def two_packings() -> xr.Dataset:
    ds = stored(FIFTY).load().drop_encoding()
    for n, scale in enumerate((0.5, 0.25)):
        part = (ds.isel(time=slice(150 * n, 150 * (n + 1))) * 100).round() / 2
        part.t2m.encoding = {"dtype": "i4", "scale_factor": scale, "_FillValue": -1}
        part.to_netcdf(f"{n}.nc", engine="netcdf4")
    return xchunk.open_dataset(["0.nc", "1.nc"], max_mem="1GB")


#: The rule, the data that break it, and the budget for which they are checked.
FINDINGS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "small chunks": ("stored-chunks-too-small", lambda: stored(ONE), "1GB"),
    "small chunks in a tree": ("stored-chunks-too-small", in_a_tree, "1GB"),
    "small blocks in a tree": ("blocks-too-small", in_a_tree, "1GB"),
    "a split coordinate": ("split-coordinate", lambda: stored(ONE), "1GB"),
    "steps of one": ("time-chunk-of-one", lambda: stored(ONE), "1GB"),
    "chunks for one task at a time": ("stored-chunks-too-large", lambda: stored(WHOLE), "3MB"),
    "chunks for no task": ("stored-chunks-too-large", lambda: stored(WHOLE), "1MB"),
    "split chunks": ("split-stored-chunks", lambda: xr.open_zarr(
        stored(FIFTY).encoding["source"], chunks={"time": 30}), "1GB"),
    "rechunked later": ("rechunked-lazily", lambda: stored(FIFTY).chunk(time=30), "1GB"),
    "blocks within shards": ("blocks-cut-shards", sharded, "1GB"),
    "small blocks": ("blocks-too-small", lambda: stored(ONE), "1GB"),
    "large blocks": ("blocks-too-large", lambda: xr.open_zarr(
        stored(FIFTY).encoding["source"], chunks=WHOLE), "1MB"),
    "large blocks in memory": ("blocks-too-large", lambda: stored(FIFTY).load().drop_encoding()
        .chunk(WHOLE), "1MB"),
    "a task a value": ("too-many-tasks", many_blocks, "1GB"),
    "a task a value, in memory": ("too-many-tasks", lambda: many_blocks().load().drop_encoding()
        .chunk(x=1), "1GB"),
    "two ways of storing": ("mixed-layouts", lambda: two_layouts(chunks={"time": 100}), "1GB"),
    "two ways of blocks": ("blocks-disagree", two_layouts, "1GB"),
    "an encoding of other chunks": ("stale-chunks", lambda: stored(FIFTY).chunk(time=30), "1GB"),
    "an encoding of other shards": ("stale-chunks", lambda: sharded().chunk(time=30), "1GB"),
    "codecs of another format": ("codecs-of-zarr-2", lambda: stored(FIFTY, zarr_format=2), "1GB"),
    "a packing that is too narrow": ("stale-packing", lambda: packed(
        dtype="i2", scale_factor=0.01, _FillValue=-1), "1GB"),
    "nothing for what is missing": ("missing-without-fill", lambda: packed(
        dtype="i4", scale_factor=1.0), "1GB"),
    "files of two packings": ("files-packed-differently", two_packings, "1GB"),
    "transposed shards": ("transpose-before-shards", transposed_shards, "1GB"),
}  # fmt: skip

#: What is read by another package, or read as other values then: its own tests run the remedy.
ELSEWHERE = {
    "values-misread", "reader-not-known", "fill-read-as-values", "zeros-read-as-missing",
    "default-fill-read-as-values",
}  # fmt: skip

#: Those whose remedy is a workload or a worker for what is stored, which stays as it is.
SUGGESTS = {"steps of one", "chunks for no task"}

#: How variables are stored stays; what must be gone is what one chunks= for all of them did.
STAYS = {"mixed-layouts": "split-stored-chunks"}


def nodes(data: Any) -> dict[str, xr.Dataset]:
    return data.to_dict() if isinstance(data, xr.DataTree) else {"/": data}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", FINDINGS)
def test_remedies_of_findings(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, smaller in {"MANY": 200, "MANY_TASKS": 500, "SMALL_CHUNK": 500_000}.items():
        monkeypatch.setattr(rules, limit, smaller)
    code, make, max_mem = FINDINGS[case]
    ds = make()
    wanted = {path: one.compute() for path, one in nodes(ds).items()}
    first, *more = (f for f in ds.chunking.check(max_mem=max_mem) if f.code == code)
    names: dict[str, Any] = {"ds": ds, "xr": xr, "xchunk": xchunk}
    if case in SUGGESTS:
        suggestion = run(first.remedy, ds=ds)
        ds.chunking.apply(suggestion, store="better.zarr", progress=False)
    elif first.remedy.startswith("ds.chunking.apply("):
        names["ds"] = run(first.remedy, ds=ds)
    else:
        for one in (first, *more):
            exec(one.remedy, names)  # noqa: S102 - our own words
    if case not in SUGGESTS:
        found = names["ds"].chunking.check(max_mem=max_mem)
        assert STAYS.get(code, code) not in {f.code for f in found}
        for stale in (f for f in found if f.code == "stale-chunks"):
            exec(stale.remedy, names)  # noqa: S102 - our own words
        names["ds"].to_zarr("better.zarr", mode="w")
    for path, one in wanted.items():
        after = xr.open_zarr("better.zarr", group=path).load()
        near = 0.0 if not one else after.t2m.encoding.get("scale_factor", 0) / 2
        xr.testing.assert_allclose(after, one, rtol=0, atol=float(near))


#: The rule, the blocks of what is written, its part of the data, and the region that is named.
PARTS: dict[str, tuple[str, int | None, slice, slice]] = {
    "blocks that cut chunks": ("unsafe-region", 30, slice(50, 200), slice(50, 200)),
    "blocks of another start": ("unsafe-region", 50, slice(60, 160), slice(60, 160)),
    "one block within chunks": ("unsafe-region", 100, slice(60, 160), slice(60, 160)),
    "values within chunks": ("unsafe-region", None, slice(60, 160), slice(60, 160)),
    "more than fits": ("region-does-not-fit", None, slice(50, 200), slice(50, 150)),
    "less than asked for": ("region-does-not-fit", None, slice(50, 150), slice(50, 200)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PARTS)
def test_remedies_of_regions_that_are_checked(case: str) -> None:
    code, blocks, part, span = PARTS[case]
    old = stored(FIFTY).load()
    new = (old[["t2m"]] * -1).drop_vars("time")
    new.t2m.encoding = {}
    ds = new.isel(time=part) if blocks is None else new.isel(time=part).chunk(time=blocks)
    names: dict[str, Any] = {"ds": ds, "region": {"time": span}}
    (found,) = ds.chunking.check(store="s.zarr", region=names["region"], max_mem="1GB")
    assert found.code == code
    exec(found.remedy, names)  # noqa: S102 - our own words
    if "write_region" not in found.remedy:
        if code == "unsafe-region":
            names["ds"] = new.isel(names["region"])
        better, region = names["ds"], names["region"]
        assert not list(better.chunking.check(store="s.zarr", region=region, max_mem="1GB"))
        better.to_zarr("s.zarr", region=region)
    written = names["region"]["time"]
    wanted = old.copy(deep=True)
    least = slice(max(written.start, 50), min(written.stop, 200))
    wanted.t2m[least] *= -1
    xr.testing.assert_equal(xr.open_zarr("s.zarr").load(), wanted)


def test_every_rule_has_a_remedy_that_is_executed() -> None:
    calls = (n for n in ast.walk(ast.parse(inspect.getsource(rules))) if isinstance(n, ast.Call))
    found = [n.args[0] for n in calls if getattr(n.func, "id", "") == "Finding"]
    executed = {code for code, *_ in [*FINDINGS.values(), *PARTS.values()]}
    assert {n.value for n in found} == executed | ELSEWHERE


def small(**encoding: Any) -> xr.Dataset:
    ds = xr.Dataset(
        {"v": ("t", np.arange(6) * 1.1), "n": ("t", np.arange(6))},
        {"t": pd.date_range("2000-01-01", periods=6, freq="1h")},
    )
    for name, given in encoding.items():
        ds[name].encoding = given
    return ds


def large() -> xr.Dataset:
    values = da.from_array(np.arange(2e6).reshape(1000, 2000), chunks=-1)
    return xr.Dataset({"v": (("y", "x"), values * 2)})


def ragged() -> xr.Dataset:
    rows = np.empty(6, object)
    rows[:] = [np.arange(n) for n in range(6)]
    return small().assign(rows=("t", rows))


def of_its_target() -> xr.Dataset:
    small().to_zarr("o.zarr", mode="w")
    return xr.open_zarr("o.zarr")[["v"]] + 1


#: The data, the options that are refused, and the code or the option that the error offers.
ERRORS: dict[str, tuple[Callable[[], xr.Dataset], dict[str, Any], str]] = {
    "computed in large blocks": (large, {"max_mem": "20MB"}, r"(ds\.chunk\(\{.*\}\))"),
    "times that do not fit": (
        lambda: small(t={"dtype": "i1", "units": "seconds since 2000-01-01"}), {},
        r"(ds\['t'\] = ds\['t'\]\.drop_encoding\(\))",
    ),
    "numbers that do not fit": (
        lambda: small(v={"dtype": "i1", "scale_factor": 0.001}), {}, r"(unpack=True)"),
    "a name with a slash": (lambda: small().rename(v="a/v"), {}, r"(ds\.rename\(\{.*?\}\))"),
    "a dim with a number": (lambda: xr.Dataset({"v": ((0, 1), np.ones((4, 4)))}), {},
        r"(ds\.rename\(\{0: .*?\}\))"),
    "rows of any length": (ragged, {}, r"(ds\.drop_vars\('rows'\))"),
    "an encoding that is none": (
        lambda: small(t={"units": "fortnights since 2000"}), {},
        r"(ds\['t'\] = ds\['t'\]\.drop_encoding\(\))",
    ),
    "text of numbers": (
        lambda: small(n={"dtype": "str"}), {}, r"(del ds\['n'\]\.encoding\['dtype'\])"),
    "a store that exists": (
        lambda: small().chunking.apply({"t": 2}, store="e.zarr", **QUIET) and small(), {},
        r"(overwrite=True)",
    ),
    "its own target": (of_its_target, {"overwrite": True}, r"(ds\.load\(\))"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ERRORS)
def test_remedies_of_errors(case: str) -> None:
    make, options, offered = ERRORS[case]
    store = "o.zarr" if case == "its own target" else "e.zarr"
    ds = make()
    chunks = dict.fromkeys(ds.dims, 2)
    if case == "computed in large blocks":
        chunks = {"y": 100, "x": 100}
    options = {**QUIET, **options}
    with pytest.raises(xchunk.XchunkError) as caught:
        ds.chunking.apply(chunks, store=store, **options)
    (code,) = re.findall(offered, str(caught.value))[:1]
    if code.startswith("ds."):
        ds = run(code, ds=ds)
        if case == "a dim with a number":
            ds, chunks = ds.rename({1: "x"}), {"x": 2}
    elif " ds[" in code:
        exec(code, {"ds": ds})  # noqa: S102 - our own words
    else:
        options |= run(f"dict({code})")
    wanted = ds.compute()
    ds.chunking.apply(chunks, store=store, verify=True, **{"resume": False, **options})
    assert not [n for n in wanted.variables if n not in xr.open_zarr(store).variables]
    xr.testing.assert_equal(xr.open_zarr(store).load(), wanted)


@pytest.mark.filterwarnings("ignore")
def test_the_remedy_for_labels_that_stand_twice() -> None:
    small().isel(t=slice(0, 4)).to_netcdf("a.nc")
    small().isel(t=slice(3, 6)).to_netcdf("b.nc")
    with pytest.warns(xchunk.XchunkWarning, match="more than once") as caught:
        ds = xchunk.open_dataset(["a.nc", "b.nc"])
    (code,) = re.findall(r"(ds\.drop_duplicates\('t'\))", str(caught[0].message))
    run(code, ds=ds).chunking.apply({"t": 2}, store="j.zarr", verify=True, **QUIET)
    xr.testing.assert_equal(xr.open_zarr("j.zarr").load(), small())
