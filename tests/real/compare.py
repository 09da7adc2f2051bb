"""Whether a rechunked store holds what its source holds, to the last bit.

Both are read twice: as stored (nothing decoded, so that a wrong packing, fill value or unit
cannot hide behind its own decoder) and as a user sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

#: Opens the source; called with ``decode_cf=False`` for the stored values, and without.
Opener = Callable[..., xr.Dataset]


def opener(path: str | Path, engine: str = "netcdf4") -> Opener:
    """Open one file, as stored or as decoded."""

    def open_it(**kwargs: Any) -> xr.Dataset:
        return xr.open_dataset(path, engine=engine, **kwargs)

    return open_it


def assert_same(
    source: str | Path | Opener,
    target: str | Path,
    *,
    zarr_format: int,
    chunks: Mapping[str, Mapping[str, int]] | None = None,
    computed: bool = False,
) -> None:
    """Fail, naming the variable, unless the target is a faithful copy of the source.

    Parameters
    ----------
    source : path or callable
        A file, or what opens the source and passes keywords on to xarray.
    target : path
        The zarr store.
    zarr_format : {2, 3}
        The format that the store must have.
    chunks : mapping, optional
        ``{variable: {dim: n}}`` that was asked for; -1 is the whole dim.
    computed : bool
        Whether the values were encoded as ``to_zarr`` does, which gives floats a ``_FillValue``
        of NaN where they had none.
    """
    open_source = source if callable(source) else opener(source)
    group = zarr.open_group(str(target), mode="r", use_consolidated=True)
    assert group.metadata.zarr_format == zarr_format

    with (
        open_source(decode_cf=False) as stored,
        xr.open_zarr(target, decode_cf=False, chunks=None) as copied,
    ):
        assert set(copied.variables) == set(stored.variables)
        _assert_attrs("the root", stored.attrs, copied.attrs)
        for name, variable in stored.variables.items():
            copy = copied.variables[name]
            added = copy.attrs.get("_FillValue") if computed else None
            if "_FillValue" not in variable.attrs and added is not None and np.isnan(added):
                del copy.attrs["_FillValue"]
            _assert_stored(str(name), variable, copy)
            _assert_fill(str(name), variable, group[str(name)])

    with open_source() as seen, xr.open_zarr(target, chunks=None) as decoded:
        _assert_decoded(seen, decoded)
        for name in seen.coords:
            if seen[name].ndim == 1:
                array = group[str(name)]
                unit = array.shards or array.chunks
                assert unit == (max(1, seen[name].size),), f"{name}: split into {unit}"

    for name, wanted in (chunks or {}).items():
        array = group[name]
        dims = xr.open_zarr(target, chunks=None)[name].dims
        for dim, found, size in zip(dims, array.chunks, array.shape, strict=True):
            n = wanted.get(str(dim))
            if n is not None:
                assert found == (size if n == -1 else min(n, size)), f"{name}, {dim}: {found}"


def _assert_stored(name: str, source: xr.Variable, copy: xr.Variable) -> None:
    assert copy.dims == source.dims, name
    assert copy.shape == source.shape, name
    a, b = source.to_numpy(), copy.to_numpy()
    if _is_text(a):
        assert _is_text(b), f"{name}: {b.dtype} is no text"
        assert a.tolist() == b.tolist(), name
    else:
        assert b.dtype.newbyteorder("=") == a.dtype.newbyteorder("="), f"{name}: {b.dtype}"
        differ = np.flatnonzero(_bits(a) != _bits(b))
        if differ.size:
            where = np.unravel_index(differ[0] // a.dtype.itemsize, a.shape)
            raise AssertionError(
                f"{name}: stored bits differ first at {tuple(map(int, where))}: "
                f"{a[where]!r} became {b[where]!r}"
            )
    _assert_attrs(name, source.attrs, copy.attrs)


def _assert_fill(name: str, source: xr.Variable, array: zarr.Array) -> None:
    """A missing chunk of the copy must read as what is missing in the source."""
    fill = source.attrs.get("_FillValue")
    if fill is not None and array.metadata.zarr_format == 2:
        # Format 2 has one fill value for both; format 3 keeps the attribute, compared above.
        assert _equal(fill, array.fill_value), f"{name}: fill {fill!r} became {array.fill_value!r}"


def _assert_decoded(source: xr.Dataset, copy: xr.Dataset) -> None:
    xr.testing.assert_identical(source.load(), copy.load())
    assert set(copy.coords) == set(source.coords)
    for name, variable in source.variables.items():
        other = copy.variables[name]
        if not _is_text(variable.to_numpy()):
            assert other.dtype == variable.dtype, f"{name}: decodes to {other.dtype}"
        for key in ("units", "calendar", "scale_factor", "add_offset"):
            a, b = variable.encoding.get(key), other.encoding.get(key)
            assert _equal(a, b), f"{name}: encoding {key} {a!r} became {b!r}"


def _assert_attrs(where: str, source: Mapping[str, Any], copy: Mapping[str, Any]) -> None:
    assert set(copy) == set(source), f"{where}: attributes {sorted(set(copy) ^ set(source))}"
    for key, value in source.items():
        assert _equal(value, copy[key]), f"{where}: {key}: {value!r} became {copy[key]!r}"


def _equal(a: Any, b: Any) -> bool:
    """Compare two attributes; JSON keeps the number, not its width."""
    if a is None or b is None:
        return a is b
    if isinstance(a, str | bytes) or isinstance(b, str | bytes):
        return type(a) is type(b) and bool(a == b)
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "U" or b.dtype.kind in "UO":
        return bool(a.tolist() == b.tolist())
    kinds = {a.dtype.kind.replace("u", "i"), b.dtype.kind.replace("u", "i")}
    # an attribute of one element is a number, whether or not it is wrapped
    return len(kinds) == 1 and bool(np.array_equal(a.ravel(), b.ravel(), equal_nan=kinds == {"f"}))


def _is_text(a: np.ndarray) -> bool:
    return a.dtype.kind in "UTO"


def _bits(a: np.ndarray) -> np.ndarray:
    native = np.ascontiguousarray(a).astype(a.dtype.newbyteorder("="), copy=False)
    return native.reshape(-1).view(np.uint8)
