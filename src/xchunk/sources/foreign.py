"""Values that are neither numpy's nor dask's: pandas' types, units of pint, other arrays.

zarr has no place for them. What has a faithful form of numpy gets it, everything else is refused
with the way to convert it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import xarray as xr

from xchunk.errors import EncodingError

#: Bytes that one value is taken to have at least.
OBJECT_NBYTES = 64
#: Values side by side that are looked at in each place.
_RUN = 16
#: Places that are looked at: where each may read a stored chunk, and in memory.
_FEW, _MANY = 4, 64


def holds_objects(dtype: np.dtype[Any]) -> bool:
    """Return whether values of a dtype lie elsewhere in memory, each with a length of its own."""
    return bool(dtype.hasobject or dtype.kind == "T")


def sampled_nbytes(variable: xr.Variable, *, read: bool) -> int:
    """Return the bytes of memory for one value of a variable, by a few of them.

    - ``variable``: values of a dtype for which `holds_objects`.
    - ``read``: whether the values are known to be stored, so that a block of dask is cheap to have.
      One that is computed is not asked for.
    """
    from xchunk.sources.xarray_adapter import is_lazy

    if not variable.size or (variable.chunks is not None and not read):
        return OBJECT_NBYTES
    count = _FEW if variable.chunks is not None or is_lazy(variable) else _MANY
    places = range(min(count, max(1, *variable.shape, 1)))
    means = []
    for place in places:
        part = place / max(1, len(places) - 1)
        starts = [round(part * (n - 1)) for n in variable.shape]
        key = [slice(start, start + 1) for start in starts]
        if key:
            key[-1] = slice(starts[-1], starts[-1] + _RUN)
        values = np.asarray(variable[tuple(key)].values, dtype=object).ravel()
        means.append(sum(map(sys.getsizeof, values)) / len(values) + 8)
    return max(OBJECT_NBYTES, round(max(means)))


#: How pandas' types are converted by a user, by the name of the type.
_REMEDIES = {
    "interval": "store their middles, or their edges as two variables: {x} = [i.mid for i in {x}]",
    "category": "store the categories' values: {x} = {x}.astype(object)",
    "period": "store the times at which they begin: {x} = {x}.to_index().to_timestamp()",
    "datetime64": "take the time zone away: {x} = {x}.to_index().tz_convert(None)",
    "Int": "fill what is missing, or store floats: {x} = {x}.astype('float64')",
}

#: Arrays of other packages whose values are not to be had as numpy's, by the package: what they
#: are, and how a user converts them.
_ARRAYS = {
    "cubed": (
        "is computed by cubed, whose tasks are not dask's",
        (
            "compute it first: ds[{name!r}] = ds[{name!r}].compute(); or let cubed write it to a "
            "zarr store, and rechunk that"
        ),
    ),
    "sparse": (
        "holds sparse arrays (sparse), which zarr cannot hold",
        (
            "make them dense, block by block: ds[{name!r}] = ds[{name!r}].copy(data="
            "ds[{name!r}].chunk().data.map_blocks(lambda b: b.todense(), dtype=ds[{name!r}].dtype, "
            "meta=np.empty(0)))"
        ),
    ),
    "cupy": (
        "holds arrays of a graphics card (cupy)",
        "bring them back: ds = ds.as_numpy()",
    ),
    "virtualizarr": (
        "holds references to stored chunks (VirtualiZarr), and no values that can be read",
        (
            "write the references, ds.vz.to_kerchunk(...) or ds.vz.to_icechunk(...), and open "
            "those with xarray; or open it with loadable_variables=[{name!r}, ...]"
        ),
    ),
    "dask": (
        "is an array of dask's array expressions, which are of another kind than its arrays",
        (
            "turn them off before dask.array is imported: "
            "dask.config.set({{'array.query-planning': False}}); or compute it"
        ),
    ),
}


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of numpy for a dtype that may be one of pandas."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        return np.dtype(object)
    return found


def as_numpy(ds: xr.Dataset, group: str = "") -> xr.Dataset:
    """Give all variables values of numpy or dask; the Dataset is not changed.

    - raises `EncodingError` if values have no faithful form.
    """
    new: dict[Any, xr.Variable] = {}
    for name, variable in ds.variables.items():
        path = f"{group}/{name}" if group else str(name)
        if isinstance(ds.xindexes.get(name), xr.indexes.PandasMultiIndex):
            raise EncodingError(
                f"{path!r} belongs to an index of several levels (a MultiIndex), which zarr cannot "
                f"hold. Nothing was written. Give ds.reset_index({name!r}), or encode it with "
                "cf_xarray.encode_multi_index_as_compress."
            )
        _refuse_arrays(path, str(name), variable)
        if not isinstance(variable.dtype, np.dtype):
            new[name] = _of_pandas(path, str(name), variable)
        else:
            _refuse_units(path, str(name), variable)
    if not new:
        return ds
    out = ds.drop_indexes([n for n in new if n in ds.xindexes])
    out = out.assign({n: v for n, v in new.items() if n not in ds.coords})
    coords = xr.Coordinates({n: v for n, v in new.items() if n in ds.coords}, indexes={})
    return out.assign_coords(coords)


def refuse_in_blocks(name: str, variable: xr.Variable) -> None:
    """Refuse arrays that blocks of dask cannot hold as they are.

    xarray puts cubed's tasks into dask's, and drops units from what is chunked already.

    - raises `EncodingError` if there is one.
    """
    from xchunk.sources.xarray_adapter import given_array

    if _package_of(given_array(variable)) in ("cubed", "virtualizarr"):
        _refuse_arrays(name, name, variable)
    _refuse_units(name, name, variable)


def _refuse_units(path: str, name: str, variable: xr.Variable) -> None:
    from xchunk.sources.xarray_adapter import given_array, has_units

    if not has_units(variable):
        return
    remedy = "Give ds.pint.dequantify(), which keeps the units as an attribute."
    if not hasattr(type(given_array(variable)), "magnitude"):
        # dequantify() leaves blocks of quantities as they are
        held = f"ds[{name!r}]"
        remedy = (
            "Chunk with ds.pint.chunk(...), not ds.chunk(...); or take the units out of dask's "
            f"blocks: {held} = {held}.copy(data={held}.data.map_blocks(lambda b: b.magnitude, "
            f"dtype={held}.dtype, meta=np.empty(0))).assign_attrs("
            f"units=str({held}.data._meta.units))."
        )
    raise EncodingError(
        f"{path!r} holds quantities with units (pint), which would be lost. Nothing was written. "
        f"{remedy}"
    )


def _refuse_arrays(path: str, name: str, variable: xr.Variable) -> None:
    from xchunk.sources.xarray_adapter import given_array

    data = given_array(variable)
    package = _package_of(data)
    if package == "dask" and not hasattr(data, "expr"):
        # one of dask's plain arrays is what its blocks will be
        package = _package_of(getattr(data, "_meta", None))
    if package in _ARRAYS:
        what, remedy = _ARRAYS[package]
        raise EncodingError(
            f"{path!r} {what}. Nothing was written. Convert it: {remedy.format(name=name)}."
        )


def _package_of(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _of_pandas(path: str, name: str, variable: xr.Variable) -> xr.Variable:
    dtype: Any = variable.dtype
    values: Any = variable.to_index() if variable.ndim == 1 else variable.data
    plain = getattr(dtype, "numpy_dtype", None)
    if isinstance(plain, np.dtype) and plain.kind in "iufb" and not values.isna().any():
        found = np.asarray(values).astype(plain)
        return xr.Variable(variable.dims, found, variable.attrs, variable.encoding)
    how = next((r for key, r in _REMEDIES.items() if str(dtype).lstrip("Uu").startswith(key)), None)
    if isinstance(plain, np.dtype):
        how = _REMEDIES["Int"]
    remedy = (how or "convert them: {x} = {x}.astype(object)").format(x=f"ds[{name!r}]")
    raise EncodingError(
        f"{path!r} holds values of a type of pandas, {dtype}, which zarr cannot hold. Nothing was "
        f"written. Convert them first: {remedy}."
    )
