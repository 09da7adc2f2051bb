"""Random Datasets: what `apply`, `append` and `write_region` make is what the user has.

The oracle is xarray and numpy in memory. Each example is written, verified, reopened and compared.
An error of ours, or a warning that says what is not kept, is right as well; other values never
are. ``XCHUNK_EXAMPLES=10000 pytest tests/properties`` looks for longer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xchunk

EXAMPLES = int(os.environ.get("XCHUNK_EXAMPLES", "40"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
pytestmark = [
    pytest.mark.timeout(max(300, 10 * EXAMPLES)),
    # xarray's and zarr's own words on odd data, and ours on what is not kept
    *(
        pytest.mark.filterwarnings(f"ignore::{name}")
        for name in (
            "xarray.SerializationWarning",
            "UserWarning",
            "RuntimeWarning",
            "FutureWarning",
        )
    ),
]
DIMS = ("t", "y", "x")


# ---- random data --------------------------------------------------------------------------


def _floats(dtype: str) -> st.SearchStrategy[Any]:
    width = 8 * np.dtype(dtype).itemsize
    return st.floats(width=width, allow_nan=True, allow_infinity=True)


def _strings(most: int = 6) -> st.SearchStrategy[str]:
    # zarr's fixed strings end at NUL, as numpy's do
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=most)


def _moments(unit: str) -> st.SearchStrategy[np.datetime64]:
    per_second = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}[unit]
    low, high = -2 * 10**9 * per_second, 4 * 10**9 * per_second
    made = st.integers(low, high).map(lambda n: np.datetime64(n, unit))
    return st.one_of(made, st.just(np.datetime64("NaT", unit)))


def _lengths(unit: str) -> st.SearchStrategy[np.timedelta64]:
    made = st.integers(-(10**12), 10**12).map(lambda n: np.timedelta64(n, unit))
    return st.one_of(made, st.just(np.timedelta64("NaT", unit)))


KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "bool": ("?", st.booleans()),
    **{d: (d, st.integers(np.iinfo(d).min, np.iinfo(d).max)) for d in ("i1", "i2", "i4", "i8")},
    **{d: (d, st.integers(0, np.iinfo(d).max)) for d in ("u1", "u2", "u4", "u8")},
    "f2": ("f2", _floats("f2")),
    "f4": ("f4", _floats("f4")),
    "f8": ("f8", _floats("f8")),
    "big f8": (">f8", _floats("f8")),
    "c16": ("c16", st.complex_numbers(allow_nan=True)),
    "datetime s": ("M8[s]", _moments("s")),
    "datetime us": ("M8[us]", _moments("us")),
    "datetime ns": ("M8[ns]", _moments("ns")),
    "timedelta": ("m8[ns]", _lengths("ns")),
    "text": (object, _strings()),
    "fixed text": ("U6", _strings()),
    "bytes": ("S4", st.binary(max_size=4).map(lambda b: b.rstrip(b"\0"))),
    "cftime": (
        object,
        st.builds(
            cftime.Datetime360Day, st.integers(1, 3000), st.integers(1, 12), st.integers(1, 30)
        ),
    ),
}

#: Encodings that a user may give, or that may be left; None: none.
ENCODINGS: tuple[dict[str, Any] | None, ...] = (
    None,
    None,
    {"dtype": "i2", "scale_factor": 0.1, "add_offset": 5.0, "_FillValue": -9999},
    {"dtype": "u1", "_FillValue": 255},
    {"_FillValue": -1},
    {"dtype": "f4"},
    {"dtype": "i4", "units": "seconds since 2000-01-01"},
    {"units": "days since 1900-01-01", "calendar": "standard"},
    {"units": "days", "dtype": "i4"},
    {"dtype": "S3"},
    {"scale_factor": np.float32(0.01)},
)

#: Attributes that look like those that steer decoding.
ATTRS = st.dictionaries(
    st.sampled_from(["long_name", "units", "valid_min", "comment", "levels"]),
    st.one_of(
        st.sampled_from(["K", "m s-1", "seconds since launch", ""]),
        st.integers(-5, 5),
        st.just(np.float32(0.1)),
        st.just([1, 2]),
    ),
    max_size=2,
)


@st.composite
def variables(draw: Any, sizes: dict[str, int]) -> xr.Variable:
    kind, elements = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    dims = draw(st.lists(st.sampled_from(DIMS), unique=True, max_size=3))
    shape = tuple(sizes[d] for d in dims)
    if kind is object:
        flat = [draw(elements) for _ in range(int(np.prod(shape)))]
        values = np.empty(len(flat), object)
        values[:] = flat
        values = values.reshape(shape)
    else:
        values = draw(hnp.arrays(kind, shape, elements=elements))
    made = xr.Variable(dims, values, draw(ATTRS))
    encoding = draw(st.sampled_from(ENCODINGS))
    made.encoding = dict(encoding or {})
    return made


@st.composite
def datasets(draw: Any, least: int = 0) -> xr.Dataset:
    sizes = {d: draw(st.integers(max(1, least if d == "t" else 1), 7)) for d in DIMS}
    made = {f"v{i}": draw(variables(sizes)) for i in range(draw(st.integers(1, 3)))}
    coords: dict[str, Any] = {}
    if draw(st.booleans()):
        coords["t"] = ("t", np.arange(sizes["t"]) * 6)
    if draw(st.booleans()):
        start = np.datetime64("2001-01-01", "ns")
        coords["t"] = ("t", start + np.arange(sizes["t"]) * np.timedelta64(6, "h"))
    if draw(st.booleans()):
        coords["lat"] = ("y", np.linspace(-1, 1, sizes["y"]))
    ds = xr.Dataset(made, coords, draw(ATTRS))
    for dim, size in sizes.items():
        if dim not in ds.dims and dim not in coords:
            ds[f"along_{dim}"] = (dim, np.arange(size, dtype="i4"))
    return ds


# ---- the oracle ---------------------------------------------------------------------------


def same(found: xr.Variable, wanted: xr.Variable) -> bool:
    """Whether two variables have the same values for a user, whatever they are stored as."""
    if found.shape != wanted.shape or found.dims != wanted.dims:
        return False
    a, b = np.asarray(found.values), np.asarray(wanted.values)
    if a.dtype.kind in "OUST" or b.dtype.kind in "OUST":
        return [_text(v) for v in a.ravel()] == [_text(v) for v in b.ravel()]
    if a.dtype.kind in "mM" or b.dtype.kind in "mM":
        return a.dtype.kind == b.dtype.kind and bool(np.all((a == b) | (np.isnat(a) & np.isnat(b))))
    both_nan = (a != a) & (b != b)  # noqa: PLR0124 - the test for NaN that all dtypes know
    return bool(np.all((a == b) | both_nan))


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.rstrip(b"\0")
    return value


def rounded(variable: xr.Variable) -> float:
    """Return by how much a packing that was asked for may round; 0 where none was."""
    own = variable.encoding
    kind = variable.dtype.kind
    packed = "scale_factor" in own or (str(own.get("dtype", ""))[:1] in "iu" and kind == "f")
    return float(own.get("scale_factor", 1.0)) * 0.51 if packed else 0.0


def close(found: xr.Variable, wanted: xr.Variable) -> bool:
    if same(found, wanted):
        return True
    own = wanted.encoding
    a, b = np.asarray(found.values), np.asarray(wanted.values)
    if wanted.dtype.kind in "mM" or wanted.dtype == object:
        return False
    if own.get("dtype") == "f4" and b.dtype.kind == "f":
        return bool(np.all((a == b.astype("f4")) | ((a != a) & (b != b))))  # noqa: PLR0124
    most = rounded(wanted)
    if not most or a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return False
    # a packed variable keeps its missing values, and rounds the others
    fine = np.abs(a.astype("f8") - b.astype("f8")) <= most + 1e-6 * np.abs(b.astype("f8"))
    return bool(np.all(fine | ((a != a) & (b != b))))  # noqa: PLR0124


def as_read(target: Path) -> xr.Dataset:
    """Open a store as users do, but for attributes that look like a time's and are none.

    They were given, and are kept and named in a note; xarray opens no store that has them.
    """
    raw = xr.open_zarr(target, decode_cf=False)
    odd = {n for n, v in raw.variables.items() if "launch" in str(v.attrs.get("units"))}
    return xr.open_zarr(target, decode_times={n: n not in odd for n in raw.variables})


def compare(out: Any, wanted: xr.Dataset, said: str = "") -> None:
    """Compare all variables but those of which it is said that they are not kept."""
    assert set(out.variables) == set(wanted.variables)
    for name, variable in wanted.variables.items():
        if f"{name}: " in said:
            continue
        found = out.variables[name]
        assert close(found, variable), (
            f"{name} ({variable.dtype}, encoding {variable.encoding}): "
            f"{found.values!r} is not {variable.values!r}"
        )
        kept = {k: v for k, v in variable.attrs.items() if k not in ("units", "calendar")}
        for key, value in kept.items():
            assert np.all(np.asarray(found.attrs.get(key)) == np.asarray(value)), (name, key)


def attempt(do: Callable[[], Any]) -> Any:
    """Do it; None where it is refused in our words, or said not to be kept."""
    out, said = heard_doing(do)
    return None if said else out


def heard_doing(do: Callable[[], Any]) -> tuple[Any, str]:
    """Do it; None where it is refused in our words. Return what is said not to be kept as well."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            out = do()
        except xchunk.XchunkError as error:
            assert str(error)
            return None, ""
    changed = [w for w in heard if issubclass(w.category, xchunk.LayoutChangeWarning)]
    return out, " ".join(str(w.message) for w in changed)


def in_folder(test: Callable[[Path], None]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="xchunk-property-"))
    try:
        test(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare(ds: xr.Dataset, way: str, folder: Path, zarr_format: int) -> xr.Dataset | None:
    """Give a Dataset as users have it: in memory, chunked, opened from a store, or joined."""
    if way == "memory":
        return ds
    if way == "dask":
        return ds.chunk(t=2)
    plain = ds.copy()
    if way.endswith("plain"):
        plain = ds.drop_encoding()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if way.startswith("stored"):
                plain.to_zarr(folder / "in.zarr", zarr_format=zarr_format, consolidated=False)
                stored = xr.open_zarr(folder / "in.zarr", consolidated=False)
                stored.copy().load()
                return stored
            half = max(1, ds.sizes["t"] // 2)
            parts = [plain.isel(t=slice(0, half)), plain.isel(t=slice(half, None))]
            for i, part in enumerate(parts):
                part.to_zarr(folder / f"{i}.zarr", zarr_format=zarr_format, consolidated=False)
            opened = [xr.open_zarr(folder / f"{i}.zarr", consolidated=False) for i in range(2)]
            return xr.concat(
                opened,
                "t",
                data_vars="minimal",
                coords="minimal",
                compat="override",
                join="override",
            )
        except Exception:  # noqa: BLE001 - what xarray cannot store or join is no example
            return None


WAYS = ("memory", "dask", "stored", "stored plain", "joined", "joined plain")


def apply_and_compare(
    ds: xr.Dataset, way: str, zarr_format: int, chunks: dict[str, int], folder: Path
) -> bool:
    """Rechunk a Dataset and compare the result; return whether it was written as it is."""
    source = prepare(ds, way, folder, zarr_format)
    if source is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = source.load() if way.startswith(("memory", "dask")) else source.compute()
    target = folder / "out.zarr"
    out, said = heard_doing(
        lambda: source.chunking.apply(
            chunks,
            store=target,
            zarr_format=zarr_format,
            max_mem="30MB",
            verify=True,
            progress=False,
        )
    )
    if out is None:
        return False
    compare(out, wanted, said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(as_read(target), wanted, said)
        again = as_read(target)
    xchunk.verify(again, target)
    return not said


# ---- the properties -----------------------------------------------------------------------


#: What random Datasets have found: values, their encoding, whether they are written.
FOUND: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "a number under a dtype of bytes": (np.array(0.0), {"dtype": "S3"}, False),
    "text under a dtype of bytes": (np.array(["ab", "cdef"]), {"dtype": "S3"}, False),
    "text under booleans": (np.array(["ab", ""]), {"dtype": "bool"}, False),
    "dates under units of another calendar": (
        np.array([cftime.Datetime360Day(1, 1, 30)], dtype=object),
        {"units": "days since 1900-01-01", "calendar": "standard"},
        False,
    ),
    "numbers under units of times": (
        np.array([1.5, 2.5]),
        {"units": "days since 1900-01-01", "calendar": "standard"},
        True,
    ),
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("way", ["memory", "dask"])
@pytest.mark.parametrize("case", FOUND)
def test_what_was_found(case: str, way: str, zarr_format: int, tmp_path: Path) -> None:
    values, encoding, written = FOUND[case]
    ds = xr.Dataset({"v": (("y",) * values.ndim, values, {}, encoding), "w": ("t", [1, 2])})
    assert apply_and_compare(ds, way, zarr_format, {}, tmp_path) is written


@SETTINGS
@given(ds=datasets(least=2), data=st.data())
def test_apply(ds: xr.Dataset, data: st.DataObject) -> None:
    way = data.draw(st.sampled_from(WAYS))
    zarr_format = data.draw(st.sampled_from([2, 3]))
    chunks = {d: data.draw(st.sampled_from([-1, 1, 2, 3])) for d in DIMS if d in ds.dims}

    in_folder(lambda folder: apply_and_compare(ds, way, zarr_format, chunks, folder))


@SETTINGS
@given(ds=datasets(least=4), data=st.data())
def test_append(ds: xr.Dataset, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, ds.sizes["t"] - 1))
    zarr_format = data.draw(st.sampled_from([2, 3]))
    chunk = data.draw(st.sampled_from([1, 2, 3]))

    def run(folder: Path) -> None:
        target = folder / "out.zarr"
        first, second = ds.isel(t=slice(0, at)), ds.isel(t=slice(at, None))
        written = attempt(
            lambda: first.chunking.apply(
                {"t": chunk} if "t" in first.dims else {},
                store=target,
                zarr_format=zarr_format,
                max_mem="30MB",
                progress=False,
            )
        )
        if written is None:
            return
        before = written.load()
        moving = [n for n, v in ds.variables.items() if "t" not in v.dims]
        out = attempt(
            lambda: second.drop_vars(moving).chunking.append(
                target, dim="t", max_mem="30MB", verify=True, progress=False
            )
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = as_read(target)
        compare(found, ds if out is not None else before)

    in_folder(run)


@SETTINGS
@given(ds=datasets(least=4), data=st.data())
def test_write_region(ds: xr.Dataset, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, ds.sizes["t"] - 1))
    stop = data.draw(st.integers(start + 1, ds.sizes["t"]))
    operation = data.draw(st.sampled_from(["same", "reversed", "rolled", "from the store"]))

    def run(folder: Path) -> None:
        target = folder / "out.zarr"
        written = attempt(
            lambda: ds.chunking.apply(
                {"t": 2} if "t" in ds.dims else {}, store=target, max_mem="30MB", progress=False
            )
        )
        if written is None:
            return
        before = written.load()
        source = ds if operation == "same" else before
        if operation == "from the store":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                source = as_read(target)
        fixed = [n for n, v in ds.variables.items() if "t" not in v.dims or n == "t"]
        new = source.drop_vars(fixed)
        if "t" not in new.dims:
            return  # nothing has the dim
        new = new.isel(t=slice(start, stop))
        if operation in ("reversed", "from the store"):
            new = new.isel(t=slice(None, None, -1))
        elif operation == "rolled":
            new = new.roll(t=1)
        values = new.compute()
        out = attempt(
            lambda: new.chunking.write_region(
                target,
                region={"t": slice(start, stop)},
                max_mem="30MB",
                verify=True,
                progress=False,
            )
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = as_read(target).load()
        if out is not None:
            part = found.isel(t=slice(start, stop))
            compare(part.drop_vars(set(part.variables) - set(values.variables)), values)
        else:
            compare(found, before)

    in_folder(run)
