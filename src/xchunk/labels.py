"""Labels of what is written to a store that is there: that they go on, match, or find a region.

Labels are compared as they are stored, in the encoding of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import decode_cf_variable

from xchunk.core.memory import MemoryBudget
from xchunk.core.units import format_count
from xchunk.errors import InvalidChunksError
from xchunk.storage.assemble import Assembled, stored_variables
from xchunk.storage.conform import conform
from xchunk.storage.existing import Held
from xchunk.storage.stored import open_stored
from xchunk.storage.zarr_io import bits

__all__ = ["check_labels_follow", "check_labels_match", "find_region", "same_values"]


def check_labels_follow(one: Assembled, held: Held) -> None:
    """Refuse labels that the store has already, or that do not go on where it ends.

    Raises
    ------
    InvalidChunksError
        If labels repeat, or the order of the index would be lost.
    """
    old, new = _old(held), _new(one)
    if not old.size or not new.size:
        return
    again = np.isin(new, old)
    allow = "check_labels=False (--no-check-labels) appends all the same."
    if again.any():
        raise InvalidChunksError(
            f"{format_count(int(again.sum()))} of {format_count(new.size)} labels of {held.path!r} "
            f"are in the store already, the first is {_shown(new[again][0], held)}: were they "
            f"appended before? Nothing was written. Append what is new, or write them with "
            f"region='auto'. {allow}"
        )
    if new.dtype.kind not in "iufSU":
        return
    for goes_on, words in ((np.less, "increase"), (np.greater, "decrease")):
        if old.size > 1 and goes_on(old[:-1], old[1:]).all():
            both = np.concatenate([old[-1:], new])
            if not goes_on(both[:-1], both[1:]).all():
                raise InvalidChunksError(
                    f"the labels of {held.path!r} {words} in the store, which ends at "
                    f"{_shown(old[-1], held)}; what is appended goes from {_shown(new[0], held)} "
                    f"to {_shown(new[-1], held)}, and would break that. Nothing was written. "
                    f"Sort it, or append what comes after. {allow}"
                )


def check_labels_match(one: Assembled, held: Held, where: slice) -> None:
    """Refuse a region whose labels are others than those of the store.

    Raises
    ------
    InvalidChunksError
        If they differ.
    """
    old, new = _old(held)[where], _new(one)
    wrong = np.asarray(old != new)
    if old.shape != new.shape or wrong.any():
        at = int(np.argmax(wrong)) if wrong.shape else 0
        raise InvalidChunksError(
            f"the labels of {held.path!r} from {where.start} to {where.stop} are others in the "
            f"store: {_shown(old[at], held)} there is {_shown(new[at], held)} here. Nothing was "
            "written. Give region='auto' to find the place by the labels. "
            "check_labels=False (--no-check-labels) writes all the same."
        )


def find_region(
    ds: xr.Dataset,
    helds: Mapping[str, Held],
    sizes: Mapping[str, int],
    region: Any,
    *,
    decoded: bool,
) -> dict[str, slice]:
    """Return where data go along each dim that is named, or found by its labels.

    Parameters
    ----------
    ds : xarray.Dataset
        The data.
    helds : mapping
        The store's arrays by name.
    sizes : mapping
        Lengths of the store's dims.
    region : mapping or "auto"
        Slices, or ``"auto"``, by dim; ``"auto"``: all dims that have labels.
    decoded : bool
        Whether times were decoded when the data were opened.

    Raises
    ------
    InvalidChunksError
        If a slice makes no sense, or labels are not found side by side.
    """
    if isinstance(region, str) and region == "auto":
        with_labels = [str(d) for d in ds.dims if d in ds.variables and d in helds]
        found = {d: _find(ds, helds[d], d, decoded=decoded) for d in with_labels}
        parts = {d: s for d, s in found.items() if (s.start, s.stop) != (0, sizes[d])}
        # all of the store is a region as well
        return parts or found
    if not isinstance(region, Mapping) or not region:
        raise InvalidChunksError(
            f"region={region!r} is no region. Give {{'time': slice(0, 24)}}, or 'auto'."
        )
    out = {}
    for dim, where in region.items():
        if dim not in sizes:
            raise InvalidChunksError(
                f"region names {dim!r}, which is no dim of the store. Its dims: "
                f"{', '.join(map(repr, sizes))}."
            )
        if isinstance(where, str) and where == "auto":
            if dim not in ds.variables or dim not in helds:
                raise InvalidChunksError(f"region: {dim!r} has no labels to be found by.")
            out[dim] = _find(ds, helds[dim], dim, decoded=decoded)
            continue
        if not isinstance(where, slice) or where.step not in (None, 1):
            raise InvalidChunksError(
                f"region: {dim}={where!r} is no slice of elements in a row, such as slice(0, 24)."
            )
        start, stop, _ = where.indices(sizes[dim])
        said = (where.start or 0, sizes[dim] if where.stop is None else where.stop)
        if dim in ds.sizes and (stop - start != ds.sizes[dim] or max(said) > sizes[dim]):
            raise InvalidChunksError(
                f"region: {dim}={where!r} has {max(0, stop - start)} of the store's {sizes[dim]} "
                f"elements, and the data have {ds.sizes[dim]}. Give them the same length."
            )
        out[str(dim)] = slice(start, stop)
    return out


def _find(ds: xr.Dataset, held: Held, dim: str, *, decoded: bool) -> slice:
    raw = stored_variables(ds[[dim]], zarr_format=held.ref.zarr_format)
    new = _new(conform(ds.variables[dim], raw.get(dim), held, decoded=decoded))
    old = _old(held)
    start = int(np.argmax(old == new[0])) if old.size and new.size else 0
    if not np.array_equal(old[start : start + new.size], new):
        raise InvalidChunksError(
            f"region='auto': the {format_count(new.size)} labels of {dim!r}, from "
            f"{_shown(new[0], held) if new.size else 'none'}, do not stand side by side in the "
            "store. Nothing was written. append_dim= appends what is new."
        )
    return slice(start, start + new.size)


def same_values(one: Assembled, held: Held, budget: MemoryBudget) -> bool:
    """Tell whether a variable holds the bits that the store holds; read part by part."""
    if not one.shape or one.dtype.hasobject or one.dtype.kind == "T":
        return bool(np.array_equal(_new(one), _old(held)))
    from dask.array.core import normalize_chunks

    room = max(1, budget.per_task // 8)
    parts = normalize_chunks("auto", one.shape, limit=room, dtype=one.dtype)
    for index in np.ndindex(*map(len, parts)):
        region = tuple(
            slice(sum(p[:i]), sum(p[: i + 1])) for p, i in zip(parts, index, strict=True)
        )
        if not np.array_equal(bits(_read(one, region)), bits(open_stored(held.ref).read(region))):
            return False
    return True


def _old(held: Held) -> NDArray[Any]:
    return open_stored(held.ref).read(tuple(slice(0, n) for n in held.info.shape))


def _new(one: Assembled) -> NDArray[Any]:
    return _read(one, tuple(slice(0, n) for n in one.shape))


def _read(one: Assembled, region: tuple[slice, ...]) -> NDArray[Any]:
    if one.ref is None:
        return np.asarray(one.variable[region].values if one.variable is not None else ())
    origin = one.origin or (0,) * len(region)
    shifted = [slice(r.start + o, r.stop + o) for r, o in zip(region, origin, strict=True)]
    return open_stored(one.ref).read(shifted)


def _shown(value: Any, held: Held) -> str:
    """Show a label as it is decoded."""
    attrs = {k: v for k, v in held.decoding.items() if k in ("units", "calendar")}
    try:
        decoded = decode_cf_variable("label", xr.Variable("n", np.asarray([value]), attrs))
        return str(decoded.values[0])
    except (ValueError, TypeError, OverflowError):
        return str(value)
