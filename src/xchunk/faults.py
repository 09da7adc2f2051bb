"""What is wrong with a target, found and named: metadata that differ, chunks lost, torn or altered.

Only looked into where digests differ, so that it may read a region of the source again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from xchunk.core.grid import Grid
from xchunk.engine.digest import pieces_of
from xchunk.errors import XchunkError
from xchunk.storage.assemble import Assembled
from xchunk.storage.refs import ZarrRef
from xchunk.storage.stored import StoredInfo, open_stored
from xchunk.storage.zarr_io import bits, has_key, open_array

__all__ = ["dims_faults", "group_faults", "metadata_faults", "unit_faults"]


def metadata_faults(one: Assembled, info: StoredInfo) -> list[str]:
    """Compare shape, dtype and attributes of a variable and a stored array."""
    faults = []
    if one.shape != info.shape:
        faults.append(f"{one.path}: shape {one.shape} in the source, {info.shape} in the target")
    if _kind(one.dtype) != _kind(info.dtype):
        faults.append(f"{one.path}: dtype {one.dtype} in the source, {info.dtype} in the target")
    for key, value in one.attrs.items():
        if key == "_ARRAY_DIMENSIONS":
            continue  # how format 2 names dims; they are compared as dims
        if key not in info.attrs:
            faults.append(f"{one.path}: attribute {key!r} is missing in the target")
        elif key != "_FillValue" and not _same(value, info.attrs[key]):
            faults.append(
                f"{one.path}: attribute {key!r} is {value!r} in the source, "
                f"{info.attrs[key]!r} in the target"
            )
    return faults


def _kind(dtype: np.dtype[Any]) -> str:
    """Name a dtype without its byte order; strings of any length are all one."""
    if dtype.hasobject or dtype.kind == "T":
        return "string"
    return dtype.newbyteorder("=").str


def _same(a: Any, b: Any) -> bool:
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype.kind in "fc" and y.dtype.kind in "fciu":
        return x.size == y.size and bool(np.array_equal(x.ravel(), y.ravel(), equal_nan=True))
    # JSON has no scalars of length one apart from scalars, and no numpy
    return bool(x.ravel().tolist() == y.ravel().tolist())


def dims_faults(one: Assembled, ref: ZarrRef) -> list[str]:
    """Compare the names of the dims."""
    array = open_array(ref.store, ref.path, ref.zarr_format, mode="r")
    stored: Any = getattr(array.metadata, "dimension_names", None)
    if stored is None:
        stored = array.attrs.get("_ARRAY_DIMENSIONS")
    # what has no names of its own is given these
    unnamed = tuple(f"dim_{i}" for i in range(len(one.shape)))
    if tuple(stored or unnamed) == (one.dims or unnamed):
        return []
    return [f"{one.path}: dims {one.dims} in the source, {stored} in the target"]


def group_faults(store: Store, path: str, attrs: Mapping[str, Any], zarr_format: int) -> list[str]:
    """Compare the attributes of a group."""
    name = path or "the root group"
    try:
        group = zarr.open_group(
            store,
            path=path or None,
            mode="r",
            zarr_format=zarr_format,  # type: ignore[arg-type]
            use_consolidated=False,
        )
    except (FileNotFoundError, KeyError, ValueError) as error:
        return [f"{name}: cannot be opened in the target ({error})"]
    found = dict(group.attrs)
    out = [f"{name}: attribute {k!r} is missing in the target" for k in attrs if k not in found]
    return out + [
        f"{name}: attribute {k!r} is {v!r} in the source, {found[k]!r} in the target"
        for k, v in attrs.items()
        if k in found and not _same(v, found[k])
    ]


def unit_faults(
    one: Assembled, ref: ZarrRef, info: StoredInfo, pieces: Grid, index: tuple[int, ...]
) -> list[str]:
    """Say for each chunk or shard of the target that a piece touches what is wrong with it."""
    array = open_array(ref.store, ref.path, ref.zarr_format, mode="r")
    units = Grid.of(info.shape, info.shards or info.chunks or ())
    bounds = [a.bounds(j) for a, j in zip(pieces.axes, index, strict=True)]
    region = tuple(slice(start, stop) for start, stop in bounds)
    out = []
    for unit in pieces_of(units, region):
        part = tuple(slice(*axis.bounds(j)) for axis, j in zip(units.axes, unit, strict=True))
        key = f"{ref.path}/{array.metadata.encode_chunk_key(unit)}".lstrip("/")
        what = _fault_of(one, ref, key, part, info)
        if what is not None:
            out.append(f"{_words(part)}: the storage key {key} {what}")
    return out or [f"{_words(region)}: values differ"]


def _fault_of(
    one: Assembled, ref: ZarrRef, key: str, part: tuple[slice, ...], info: StoredInfo
) -> str | None:
    wanted = _values(one, part)
    if not has_key(ref.store, key):
        empty = np.full_like(wanted, info.fill_value if info.fill_value is not None else 0)
        return None if _equal(wanted, empty) else "is lost: it is missing, and is not empty"
    try:
        have = open_stored(ref).read(part)
    except (XchunkError, ValueError, RuntimeError, OSError, TypeError) as error:
        return f"is torn: it cannot be decoded ({type(error).__name__}: {error})"
    return None if _equal(wanted, have) else "is altered: its values differ"


def _values(one: Assembled, part: tuple[slice, ...]) -> NDArray[Any]:
    if one.ref is None:
        return np.asarray(one.variable[part].values if one.variable is not None else ())
    origin = one.origin or (0,) * len(part)
    shifted = [slice(p.start + o, p.stop + o) for p, o in zip(part, origin, strict=True)]
    return open_stored(one.ref).read(shifted)


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a.dtype.kind in "OT" or b.dtype.kind in "OT":
        return bool(np.array_equal(a.astype(object), b.astype(object)))
    native = a.dtype.newbyteorder("=")
    return bool(np.array_equal(bits(a.astype(native)), bits(b.astype(native))))


def _words(region: tuple[slice, ...]) -> str:
    return "[" + ", ".join(f"{r.start}:{r.stop}" for r in region) + "]"
