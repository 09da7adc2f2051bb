"""Verification of every kind of variable: right data are proven, and each fault is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk

N = 12


def dataset(
    values: Any, dims: tuple[str, ...] = ("t",), attrs: Any = None, **enc: Any
) -> xr.Dataset:
    return xr.Dataset({"v": xr.Variable(dims, values, attrs, enc)})


def times(n: int = N, unit: str = "ns") -> np.ndarray:
    return (np.datetime64("2000-01-01") + np.arange(n) * np.timedelta64(6, "h")).astype(
        f"M8[{unit}]"
    )


def nan_payloads() -> np.ndarray:
    bits = np.arange(N, dtype="u4") + 0x7FC00000
    bits[::2] = np.float32(1).view("u4")  # zarr takes chunks of NaN only for empty ones
    return bits.view("f4")


def timed(**enc: Any) -> xr.Dataset:
    return dataset(times(), **enc)


def with_nat() -> np.ndarray:
    out = times()
    out[3] = np.datetime64("NaT")
    return out


def with_bounds() -> xr.Dataset:
    ds = xr.Dataset(
        {
            "v": (("t", "x"), np.arange(N * 3, dtype="f4").reshape(N, 3)),
            "t_bnds": (("t", "b"), np.stack([times(), times() + np.timedelta64(6, "h")], 1)),
        },
        {"t": times()},
    )
    ds.t.attrs["bounds"] = "t_bnds"
    ds.t.encoding = {"units": "hours since 1999-01-01", "calendar": "standard", "dtype": "f8"}
    return ds


def with_mapping() -> xr.Dataset:
    ds = dataset(np.arange(N, dtype="f4"), attrs={"units": "K"}, grid_mapping="crs")
    return ds.assign_coords(
        crs=((), np.int32(0), {"grid_mapping_name": "latitude_longitude", 1: "one"}),
        lat=("t", np.linspace(0, 1, N)),
    )


def with_index() -> xr.Dataset:
    ds = dataset(np.arange(N, dtype="f4"))
    return ds.assign_coords(t=np.arange(N) * 2.5, label=("t", list("abcdefghijkl")))


STRUCTURED = np.zeros(N, dtype=[("a", "i4"), ("b", "f8")])
STRUCTURED["a"] = np.arange(N)

CASES: dict[str, Callable[[], xr.Dataset]] = {
    "int8": lambda: dataset(np.arange(N, dtype="i1")),
    "uint64 to the end": lambda: dataset(np.array([2**64 - 1] * N, dtype="u8")),
    "big-endian ints": lambda: dataset(np.arange(N, dtype=">i4")),
    "float32 with nan payloads": lambda: dataset(nan_payloads()),
    "float64 with nan and -0": lambda: dataset(np.array([np.nan, -0.0, np.inf] * 4)),
    "float16": lambda: dataset(np.arange(N, dtype="f2")),
    "complex": lambda: dataset(np.arange(N) * (1 - 2j)),
    "bool": lambda: dataset(np.arange(N) % 2 == 0),
    "float32 with a fill": lambda: dataset(
        np.where(np.arange(N) % 3, np.arange(N), np.nan).astype("f4"), _FillValue=np.float32(-999)
    ),
    "packed by float64": lambda: dataset(
        np.arange(N) * 0.1 + 20,
        dtype="i2", scale_factor=0.1, add_offset=20.0, _FillValue=np.int16(-1),
    ),
    "packed by float32": lambda: dataset(
        (np.arange(N) * np.float32(0.1)).astype("f4"),
        dtype="i2",
        scale_factor=np.float32(0.1),
        _FillValue=np.int16(-1),
    ),
    "packed as unsigned": lambda: dataset(
        np.arange(N) * 20.0, dtype="i1", scale_factor=1.0, _FillValue=np.int8(-1), _Unsigned="true"
    ),
    "floats that mean ints": lambda: dataset(np.arange(N, dtype="f8"), dtype="i4", _FillValue=-9),
    "two missing markers": lambda: dataset(
        np.where(np.arange(N) % 3, np.arange(N), np.nan), dtype="f4",
        _FillValue=np.float32(-9), missing_value=np.float32(-9),
    ),
    "times in hours": lambda: timed(units="hours since 1900-01-01", dtype="i4"),
    "times in days as float": lambda: timed(units="days since 1970-01-01", dtype="f8"),
    "times without encoding": timed,
    "times in seconds of numpy": lambda: dataset(times(unit="s")),
    "times with nat": lambda: dataset(with_nat()),
    "times with nat and a fill": lambda: dataset(
        with_nat(), units="hours since 2000-01-01", dtype="f8", _FillValue=np.nan
    ),
    "units spelt otherwise": lambda: timed(units="hours since 2000-1-1 00:00:0.0", dtype="f8"),
    "undecoded times": lambda: dataset(
        np.arange(N), attrs={"units": "minutes since 2000-01-01 00:00:00", "calendar": "noleap"}
    ),
    "durations": lambda: dataset(np.arange(N) * np.timedelta64(1, "h").astype("m8[ns]")),
    "durations with units": lambda: dataset(
        np.arange(N) * np.timedelta64(1, "h").astype("m8[ns]"), units="hours", dtype="f8"
    ),
    "cftime": lambda: dataset(
        xr.date_range("2000-02-28", periods=N, calendar="noleap", use_cftime=True).values
    ),
    "cftime with units": lambda: dataset(
        xr.date_range("2000-02-28", periods=N, calendar="360_day", use_cftime=True).values,
        units="days since 1850-01-01",
        calendar="360_day",
        dtype="f8",
    ),
    "fixed strings": lambda: dataset(np.array(["a", "äöü", ""] * 4)),
    "strings of any length": lambda: dataset(np.array(["a", "äöü", ""] * 4, dtype=object)),
    "numpy's strings": lambda: dataset(
        np.array(["a", "äöü", ""] * 4, dtype=np.dtypes.StringDType())
    ),
    "bytes": lambda: dataset(np.array([b"ab", b"c", b""] * 4)),
    "no dims": lambda: dataset(np.float32(3), ()),
    "no dims, a time": lambda: dataset(np.datetime64("2000-01-01", "ns"), ()),
    "no dims, text": lambda: dataset(np.array("text"), ()),
    "empty": lambda: dataset(np.zeros((0, 3), "f4"), ("none", "x")),
    "empty times": lambda: dataset(np.zeros(0, "M8[ns]"), ("none",)),
    "odd attributes": lambda: dataset(
        np.arange(N),
        attrs={
            "list": [1, 2], "one": [1], "array": np.arange(3.0), "np": np.float32(0.1),
            1: "integer key", "flag_values": np.array([1, 2], "i1"), "nan": np.nan, "none": "",
            "bool": np.bool_(True), "text": np.str_("a"), "tuple": (1, 2), "nested": {"a": [1]},
        },
    ),
    "all nan": lambda: dataset(np.full(N, np.nan, "f4")),
    "zeros": lambda: dataset(np.zeros(N, "i4")),
}  # fmt: skip


def everything() -> xr.Dataset:
    """One variable of each kind: a fault is named by its variable."""
    out = {name.replace(" ", "_"): make().variables["v"] for name, make in CASES.items()}
    # sides are no part of names
    out["heat-source-flux"] = out["heat_source_flux"] = out["int8"]
    return xr.Dataset(out)


SETS: dict[str, Callable[[], xr.Dataset]] = {
    "every kind": everything,
    "bounds": with_bounds,
    "grid mapping": with_mapping,
    "index and labels": with_index,
}
#: Those of one variable are verified by themselves; all in one store take a minute.
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name == "every kind")) for name in SETS]


def chunks_of(ds: xr.Dataset) -> dict[str, int]:
    return {d: 5 for d in ds.dims if d == "t"}


def stored(make: Callable[[], xr.Dataset], path: Path, zarr_format: int) -> xr.Dataset:
    ds = make()
    ds.chunk({d: 4 for d in ds.dims if d == "t"}).to_zarr(path, zarr_format=zarr_format)
    return xr.open_zarr(path)


def not_lazy(make: Callable[[], xr.Dataset], path: Path, zarr_format: int) -> xr.Dataset:
    stored(make, path, zarr_format)
    return xr.open_zarr(path, chunks=None)


def computed(make: Callable[[], xr.Dataset], path: Path, zarr_format: int) -> xr.Dataset:
    ds = stored(make, path, zarr_format)
    out = ds.copy()
    for name, variable in ds.variables.items():
        if name not in ds.indexes:
            blocks = variable if variable.chunks is not None else variable.chunk()
            out[name].variable.data = blocks.data.map_blocks(np.array)
    return out


def joined(make: Callable[[], xr.Dataset], path: Path, zarr_format: int) -> xr.Dataset:
    ds = make()
    halves = [ds.isel(t=slice(0, 7)), ds.isel(t=slice(7, None))] if "t" in ds.dims else [ds]
    for i, half in enumerate(halves):
        half.to_zarr(path / str(i), zarr_format=zarr_format)
    parts = [xr.open_zarr(path / str(i)) for i in range(len(halves))]
    if "t" not in parts[0].dims:
        return parts[0]
    how = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}
    return xr.concat(parts, "t", combine_attrs="override", **how)


WAYS: dict[str, Callable[[Callable[[], xr.Dataset], Path, int], xr.Dataset]] = {
    "in memory": lambda make, _path, _fmt: make(),
    "in blocks": lambda make, _path, _fmt: make().chunk(),
    "stored": stored,
    "loaded": lambda make, path, fmt: stored(make, path, fmt).load(),
    "not lazy": not_lazy,
    "computed": computed,
    "joined": joined,
}


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["v2", "v3"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", EACH)
@pytest.mark.filterwarnings("ignore")
def test_right_data_are_proven(case: str, way: str, zarr_format: int, tmp_path: Path) -> None:
    ds = WAYS[way](SETS[case], tmp_path / "s.zarr", zarr_format)
    target = tmp_path / "t.zarr"
    out = ds.chunking.apply(
        chunks_of(ds), store=target, zarr_format=zarr_format, progress=False, verify=True
    )
    assert set(xchunk.verify(ds, target).variables) == set(ds.variables)
    assert out.sizes == ds.sizes


@pytest.mark.parametrize("other", ["loaded", "computed", "joined"])
@pytest.mark.parametrize("case", EACH)
@pytest.mark.filterwarnings("ignore")
def test_how_the_data_are_held_makes_no_difference(case: str, other: str, tmp_path: Path) -> None:
    first = stored(SETS[case], tmp_path / "a", 3)
    second = WAYS[other](SETS[case], tmp_path / "b", 3)
    for name, (one, two) in {"ab": (first, second), "ba": (second, first)}.items():
        target = tmp_path / f"{name}.zarr"
        one.chunking.apply(chunks_of(one), store=target, progress=False)
        assert xchunk.verify(two, target)


def native(dtype: Any, fill: Any = None) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind in "mM":
        values = np.arange(N).astype(dtype)
        values[3] = "NaT"
        return values
    values = np.zeros(N, dtype)
    values["a"] = np.arange(N)
    values["b"] = np.linspace(0, 1, N)
    return values


NATIVE = {
    "datetimes in ns": "M8[ns]",
    "datetimes in s": "M8[s]",
    "datetimes in days": "M8[D]",
    "durations in h": "m8[h]",
    "durations in ms": "m8[ms]",
    "a structure": np.dtype([("a", "i4"), ("b", "f8")]),
    "a padded structure": np.dtype([("a", "i1"), ("b", "f8")], align=True),
}


@pytest.mark.parametrize(("zarr_format", "to"), [(2, 2), (3, 2), (3, 3)], ids=str)
@pytest.mark.parametrize("case", NATIVE)
@pytest.mark.parametrize("loaded", [False, True], ids=["lazy", "loaded"])
@pytest.mark.filterwarnings("ignore")
def test_types_of_zarr_itself_are_proven(
    case: str, zarr_format: int, to: int, loaded: bool, tmp_path: Path
) -> None:
    values = native(NATIVE[case])
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=zarr_format)
    names: Any = {"dimension_names": ("t",)} if zarr_format == 3 else {}
    if zarr_format == 2 and values.dtype.names:
        names = {"fill_value": None}  # xarray cannot open a structure that has one
    made = group.create_array("v", shape=(N,), chunks=(4,), dtype=values.dtype, **names)
    made.attrs["_ARRAY_DIMENSIONS"] = ["t"]
    made[:] = values
    ds = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    if loaded:
        ds = ds.load()
    ds.chunking.apply(
        {"t": 5}, store=tmp_path / "t.zarr", zarr_format=to, progress=False, verify=True
    )
    assert xchunk.verify(ds, tmp_path / "t.zarr")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("blocks", [False, True], ids=["in memory", "in blocks"])
def test_single_bytes_are_proven(blocks: bool, tmp_path: Path) -> None:
    ds = dataset(np.array([b"a", b"c", b""] * 4))
    ds = ds.chunk() if blocks else ds
    ds.chunking.apply({"t": 5}, store=tmp_path / "t.zarr", progress=False, verify=True)


ENCODED_LATE = {
    "of one file": lambda path: xr.open_dataset(path / "0.nc", chunks={}),
    "of several": lambda path: xr.open_mfdataset(
        sorted(map(str, path.glob("*.nc"))), combine="nested", concat_dim="t",
        data_vars="minimal", coords="minimal", compat="override",
    ),
    "of several, by xchunk": lambda path: xchunk.open_dataset(
        sorted(map(str, path.glob("*.nc"))), {"t": -1}, combine="nested", concat_dim="t",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["i4", "f4", "f8", "i8"])
@pytest.mark.parametrize("opened", ENCODED_LATE)
def test_times_that_are_encoded_block_by_block(opened: str, dtype: str, tmp_path: Path) -> None:
    for i in range(2):
        times_of_file = times()[i * 6 : i * 6 + 6]
        xr.Dataset(
            {
                "XTIME": ("t", times_of_file, {"description": "minutes"}),
                "time_bnds": (("t", "b"), np.stack([times_of_file, times_of_file], 1)),
            }
        ).to_netcdf(
            tmp_path / f"{i}.nc",
            encoding={
                "XTIME": {"units": "minutes since 1999-12-30 00:00:00", "dtype": dtype},
                "time_bnds": {"units": "hours since 1999-12-30", "dtype": dtype},
            },
        )
    with ENCODED_LATE[opened](tmp_path) as ds:
        ds.chunking.apply({"t": 5}, store=tmp_path / "t.zarr", progress=False, verify=True)
        assert xchunk.verify(ds.load(), tmp_path / "t.zarr")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("filters", ["bitround", "quantize", "fixedscaleoffset", "astype"])
def test_filters_that_round_are_proven(filters: str, tmp_path: Path, rng: Any) -> None:
    import numcodecs

    made = {
        "bitround": numcodecs.BitRound(5),
        "quantize": numcodecs.Quantize(2, "f4"),
        "fixedscaleoffset": numcodecs.FixedScaleOffset(0, 10, "f4", "i2"),
        "astype": numcodecs.AsType("f2", "f4"),
    }[filters]
    ds = dataset(rng.random(N, dtype="f4"), filters=[made], compressors=None)
    target = tmp_path / "t.zarr"
    ds.chunking.apply({"t": 5}, store=target, zarr_format=2, progress=False, verify=True)
    zarr.open_group(target, mode="r+")["v"][3] += 1
    with pytest.raises(xchunk.VerificationError, match="v: "):
        xchunk.verify(ds, target)


def set_value(index: int, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        zarr.open_group(path, mode="r+")["v"][index] = value

    return change


def set_attribute(key: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        array = zarr.open_group(path, mode="r+")["v"]
        if value is None:
            del array.attrs[key]
        else:
            array.attrs[key] = value

    return change


def delete_chunk(path: Path) -> None:
    chunks = [p for p in path.rglob("*") if p.is_file() and p.name in ("1", "v.1")]
    assert len(chunks) == 1
    chunks[0].unlink()


def change_dtype(dtype: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        group = zarr.open_group(path, mode="r+")
        old = group["v"]
        values, attrs = old[:], dict(old.attrs)
        names: Any = {}
        if old.metadata.zarr_format == 3:
            names = {"dimension_names": old.metadata.dimension_names}
        group.create_array(
            "v", data=values.astype(dtype), overwrite=True, chunks=old.chunks, fill_value=None,
            **names,
        ).attrs.update(attrs)  # fmt: skip

    return change


SECONDS = {"units": "seconds since 2000-01-01", "dtype": "i8"}
PACKED = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": np.int16(-1)}

FAULTS: dict[str, tuple[Callable[[], xr.Dataset], Callable[[Path], None]]] = {
    "a value": (lambda: dataset(np.arange(N, dtype="f4")), set_value(3, 9)),
    "the sign of zero": (lambda: dataset(np.zeros(N) + 1), set_value(3, 1 + 2**-52)),
    "a payload": (lambda: dataset(nan_payloads()), set_value(3, nan_payloads()[5])),
    "a packed value": (lambda: dataset(np.arange(N) * 0.5, **PACKED), set_value(3, 4)),
    "a text": (lambda: dataset(np.array(["a", "b", "c"] * 4, dtype=object)), set_value(3, "b")),
    "a truth": (lambda: dataset(np.arange(N) % 2 == 0), set_value(0, False)),
    "a duration": (
        lambda: dataset(np.arange(N) * np.timedelta64(1, "h").astype("m8[ns]"), units="hours",
            dtype="i8"),
        set_value(3, 4),
    ),
    "a time by a second": (lambda: timed(**SECONDS), set_value(3, 3 * 6 * 3600 + 1)),
    "a time that wrapped": (lambda: timed(**SECONDS), set_value(3, 3 * 6 * 3600 - 2**32)),
    "no time as 1970": (
        lambda: dataset(with_nat(), units="hours since 1970-01-01", dtype="f8", _FillValue=-9.0),
        set_value(3, 0),
    ),
    "a cftime": (
        lambda: dataset(
            xr.date_range("2000-02-28", periods=N, calendar="360_day", use_cftime=True).values,
            units="days since 1850-01-01",
            dtype="i8",
        ),
        set_value(3, 3),
    ),
    "a lost chunk": (lambda: dataset(np.arange(N, dtype="f4") + 1), delete_chunk),
    "a lost chunk of times": (lambda: timed(**SECONDS), delete_chunk),
    "a shifted packing": (
        lambda: dataset(np.arange(N) * 0.5, **PACKED), set_attribute("add_offset", 1.0)
    ),
    "another packing": (
        lambda: dataset(np.arange(N) * 0.5, **PACKED), set_attribute("scale_factor", 0.25)
    ),
    "no packing": (
        lambda: dataset(np.arange(N) * 0.5, **PACKED), set_attribute("scale_factor", None)
    ),
    "a packing of what is not packed": (
        lambda: dataset(np.arange(N)), set_attribute("scale_factor", 2.0)
    ),
    "a second marker": (
        lambda: dataset(np.arange(N, dtype="f4")), set_attribute("missing_value", 3.0)
    ),
    "another unit": (
        lambda: dataset(np.arange(N), attrs={"units": "K"}), set_attribute("units", "degC")
    ),
    "other units of times": (
        lambda: timed(**SECONDS), set_attribute("units", "seconds since 2000-01-02")
    ),
    "times that are none": (lambda: timed(**SECONDS), set_attribute("units", None)),
    "another dtype": (lambda: dataset(np.arange(N, dtype="f4")), change_dtype("f8")),
    "unsigned": (lambda: dataset(np.arange(N, dtype="i4")), change_dtype("u4")),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["in memory", "in blocks", "stored"])
@pytest.mark.parametrize("zarr_format", [2, 3], ids=["v2", "v3"])
@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_found(case: str, zarr_format: int, way: str, tmp_path: Path) -> None:
    make, spoil = FAULTS[case]
    ds, target = WAYS[way](make, tmp_path / "s.zarr", zarr_format), tmp_path / "t.zarr"
    ds.chunking.apply({"t": 5}, store=target, zarr_format=zarr_format, progress=False)
    assert xchunk.verify(ds, target)
    spoil(target)
    with pytest.raises(xchunk.VerificationError, match="v: "):
        xchunk.verify(ds, target)


LOST_BY_ENCODING = {
    "times beyond int32": lambda: dataset(
        np.array(["2020-01-01", "2040-01-01"] * 6, "M8[ns]"), units="seconds since 1970-01-01",
        dtype="i4",
    ),
    "times rounded to float32": lambda: dataset(
        times() + np.timedelta64(53, "s"), units="seconds since 1970-01-01", dtype="f4"
    ),
    "no time in integers": lambda: dataset(
        with_nat(), units="seconds since 1970-01-01", dtype="i4"
    ),
    "no text": lambda: dataset(np.array(["Ulm", None, ""] * 4, dtype=object)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["in memory", "in blocks"])
@pytest.mark.parametrize("case", LOST_BY_ENCODING)
def test_what_an_encoding_cannot_hold_is_never_proven(case: str, way: str, tmp_path: Path) -> None:
    ds = WAYS[way](LOST_BY_ENCODING[case], tmp_path, 3)
    try:
        out = ds.chunking.apply({"t": 5}, store=tmp_path / "t", progress=False, verify=True)
    except (xchunk.EncodingError, xchunk.VerificationError):
        return
    # stored as another type that holds them
    xr.testing.assert_equal(out, ds)
