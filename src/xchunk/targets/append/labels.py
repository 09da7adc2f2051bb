"""Labels of what is written to an existing store: that they go on, match, or find a region.

Labels are compared as they are stored, in the encoding of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import decode_cf_variable

from xchunk.core.memory import MemoryBudget
from xchunk.core.units import format_count
from xchunk.errors import InvalidChunksError
from xchunk.sources.arrays import open_stored
from xchunk.stores.adapter import bits
from xchunk.targets.append.encode_like import conform
from xchunk.targets.append.existing import Held
from xchunk.targets.encode import Assembled, stored_variables

#: How many times the longest step so far a step is from which something is missing: months differ.
_GAP = 1.5


def check_labels_follow(one: Assembled, held: Held) -> list[str]:
    """Refuse labels that the store has already, or that do not go on where it ends.

    - returns: what is to be said of them: that labels are missing between the old ones and the new.
    - raises `InvalidChunksError` if labels repeat, or the order of the index would be lost.
    """
    old, new = _old(held), _new(one)
    if not old.size or not new.size:
        return []
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
        return []
    for goes_on, words in ((np.less, "increase"), (np.greater, "decrease")):
        if old.size > 1 and goes_on(old[:-1], old[1:]).all():
            both = np.concatenate([old[-1:], new])
            if not goes_on(both[:-1], both[1:]).all():
                raise InvalidChunksError(
                    f"the labels of {held.path!r} {words} in the store, which ends at "
                    f"{_shown(old[-1], held)}; what is appended goes from {_shown(new[0], held)} "
                    f"to {_shown(new[-1], held)}, and would break that. Nothing was written. "
                    f"Sort it, or append what comes after; write the store anew if something is "
                    f"missing within it. {allow}"
                )
    return _gap(old, new, held)


def _gap(old: NDArray[Any], new: NDArray[Any], held: Held) -> list[str]:
    """Say that labels are missing, by the longest step that there is."""
    if old.dtype.kind not in "iuf" or new.dtype.kind not in "iuf" or old.size < 3:
        return []
    steps = (np.abs(np.diff(one.astype("f8"))) for one in (old, new) if one.size > 1)
    usual = max(float(step.max()) for step in steps)
    gap = abs(float(new[0]) - float(old[-1]))
    # labels that are all the same have no step that tells
    if not 0 < usual < gap / _GAP:
        return []
    said = f"goes from {_shown(old[-1], held)} to {_shown(new[0], held)}"
    far = f"{gap / usual:.3g} times as far as any step"
    return [
        f"{held.path!r} has a gap: it {said}, {far}. What is missing cannot be appended afterwards"
    ]


def check_labels_match(one: Assembled, held: Held, where: slice) -> None:
    """Refuse a region whose labels are others than those of the store.

    - raises `InvalidChunksError` if they differ.
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


@dataclass(frozen=True)
class Labels:
    """Where the labels of a dim are: in a group, or in one that it lies in."""

    held: Held
    """Those of the store."""
    ds: xr.Dataset | None
    """The data that have labels of their own; None: there are none."""


def find_region(
    ds: xr.Dataset,
    labels: Mapping[str, Labels],
    sizes: Mapping[str, int],
    region: Any,
    *,
    decoded: bool,
) -> dict[str, slice]:
    """Return where data go along each dim that is named, or found by its labels.

    - ``ds``: the data.
    - ``labels``: labels of the store's dims.
    - ``sizes``: lengths of the store's dims. A region may name others, which other groups have.
    - ``region``: slices, of positions or of labels, or ``"auto"``, by dim; ``"auto"``: all dims
      that have labels.
    - ``decoded``: whether times were decoded when the data were opened.
    - raises `InvalidChunksError` if a slice makes no sense, or labels are not found side by side.
    """
    if isinstance(region, str) and region == "auto":
        found = {
            str(d): _find(labels[str(d)], str(d), decoded=decoded)
            for d in ds.dims
            if str(d) in labels and labels[str(d)].ds is not None
        }
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
            continue
        if isinstance(where, str) and where == "auto":
            if dim not in labels or labels[dim].ds is None:
                raise InvalidChunksError(f"region: {dim!r} has no labels to be found by.")
            out[dim] = _find(labels[dim], dim, decoded=decoded)
            continue
        if not isinstance(where, slice) or where.step not in (None, 1):
            raise InvalidChunksError(
                f"region: {dim}={where!r} is no slice of elements in a row, such as slice(0, 24)."
            )
        place = where if _is_of_positions(where) else _by_labels(where, labels.get(dim), dim)
        start, stop, _ = place.indices(sizes[dim])
        said = (place.start or 0, sizes[dim] if place.stop is None else place.stop)
        if dim in ds.sizes and (stop - start != ds.sizes[dim] or max(said) > sizes[dim]):
            raise InvalidChunksError(
                f"region: {dim}={where!r} has {max(0, stop - start)} of the store's {sizes[dim]} "
                f"elements, and the data have {ds.sizes[dim]}. Give them the same length."
            )
        out[str(dim)] = slice(start, stop)
    return out


def _is_of_positions(where: slice) -> bool:
    return all(e is None or isinstance(e, int | np.integer) for e in (where.start, where.stop))


def _by_labels(where: slice, labels: Labels | None, dim: str) -> slice:
    """Find the positions of a slice of labels in the store, both ends included."""
    if labels is None:
        raise InvalidChunksError(
            f"region: {dim}={where!r} is a slice of labels, and the store has none for {dim!r}. "
            "Give positions, such as slice(0, 24)."
        )
    raw = xr.Variable(dim, _old(labels.held), dict(labels.held.decoding))
    try:
        index = decode_cf_variable(dim, raw, decode_timedelta=False).to_index_variable().to_index()
        ends: list[Any] = [
            float(e) if isinstance(e, str) and index.dtype.kind in "iuf" else e
            for e in (where.start, where.stop)
        ]
        found = index.slice_indexer(*ends)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        said = " ".join(str(error).split())
        raise InvalidChunksError(
            f"region: {dim}={where!r} cannot be found among the labels of the store ({said}). "
            "Nothing was written. Give region='auto', or positions, such as slice(0, 24)."
        ) from error
    return slice(int(found.start or 0), int(found.stop))


def _find(labels: Labels, dim: str, *, decoded: bool) -> slice:
    ds, held = labels.ds, labels.held
    if ds is None:
        return slice(0, held.info.shape[0])
    raw = stored_variables(ds[[dim]], zarr_format=held.ref.zarr_format)
    new = _new(conform(ds.variables[dim], raw.get(dim), held, decoded=decoded))
    old = _old(held)
    start = int(np.argmax(old == new[0])) if old.size and new.size else 0
    if not np.array_equal(old[start : start + new.size], new):
        raise InvalidChunksError(
            f"region='auto': the {format_count(new.size)} labels of {dim!r}, from "
            f"{_shown(new[0], held) if new.size else 'none'}, do not stand side by side in the "
            "store. Nothing was written. ds.chunking.append() appends what is new."
        )
    places = np.flatnonzero(np.isin(old, new))
    if places.size != new.size:
        other = next(int(i) for i in places if not start <= i < start + new.size)
        raise InvalidChunksError(
            f"region='auto': the label {_shown(old[other], held)} of {dim!r} stands in the store "
            f"more than once, at position {other} too, so that it does not tell where the data "
            f"belong. Nothing was written. Give positions: region={{{dim!r}: slice(…, …)}}."
        )
    return slice(start, start + new.size)


def order_of(one: Assembled, held: Held) -> str | None:
    """Return code that puts a variable into the order of the store, where it only lacks that.

    - ``one``: a variable of the shape of the store's, which differs.
    - ``held``: the array of the store.
    """
    if one.shape != held.info.shape or not one.shape or one.dtype.kind not in "biufM":
        return None
    old, new = _old(held), _new(one)
    if held.dims == (one.name,):
        for ascending in (True, False):
            ordered = np.sort(new) if ascending else np.sort(new)[::-1]
            if np.array_equal(old, ordered):
                said = "" if ascending else ", ascending=False"
                return f"ds.sortby({one.name!r}{said})"
        if np.array_equal(np.sort(old), np.sort(new)):
            return f"ds.sel({{{one.name!r}: xr.open_zarr(store).{one.name}}})"
        return None
    for axis, dim in enumerate(held.dims):
        if np.array_equal(old, np.flip(new, axis)):
            return f"ds.isel({{{dim!r}: slice(None, None, -1)}})"
    return None


def same_values(one: Assembled, held: Held, budget: MemoryBudget) -> bool:
    """Return whether a variable holds the bits that the store holds; read part by part."""
    if one.dtype.hasobject or one.dtype.kind == "T":
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
    # nanoseconds, which xarray decodes to by default, hold the years 1678 to 2262 only
    times = xr.coders.CFDatetimeCoder(time_unit="us")
    try:
        label = xr.Variable("n", np.asarray([value]), attrs)
        return str(decode_cf_variable("label", label, decode_times=times).values[0])
    except (ValueError, TypeError, OverflowError):
        return str(value)
