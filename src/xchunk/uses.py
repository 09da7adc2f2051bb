"""A use as a user says it, turned into positions: groups by name, and boxes by labels.

`xchunk.core.access` knows dims and positions only. What needs a Dataset's coordinates is
turned into them here: the periods of ``groupby="time.month"`` and ``resample={"time": "MS"}``,
and the extent of ``{"lat": slice(40, 60)}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xchunk.errors import InvalidChunksError

__all__ = ["by_position", "group_edges"]


def by_position(access: Any, datasets: Sequence[xr.Dataset]) -> Any:
    """Replace slices of labels within a use by the number of elements that they select.

    Parameters
    ----------
    access : str, mapping, sequence of pairs, AccessPattern or None
        As `xchunk.core.access.parse_access` takes it, but a mapping may also hold slices of
        labels, as ``ds.sel`` takes them.
    datasets : sequence of xarray.Dataset
        Where the coordinates are found, the first first.

    Raises
    ------
    InvalidChunksError
        If a slice selects nothing, or its dim has no labels.
    """
    if isinstance(access, Mapping):
        return {
            dim: _extent(dim, value, datasets) if isinstance(value, slice) else value
            for dim, value in access.items()
        }
    if isinstance(access, list | tuple):
        return [
            (by_position(item[0], datasets), item[1])
            if isinstance(item, list | tuple) and len(item) == 2
            else item
            for item in access
        ]
    return access


def _extent(dim: Any, labels: slice, datasets: Sequence[xr.Dataset]) -> int:
    said = f"access: {dim!r}: {_shown(labels)}"
    if labels == slice(None):
        return -1
    for ds in datasets:
        if dim not in ds.dims:
            continue
        if dim not in ds.indexes:
            raise InvalidChunksError(
                f"{said} is a slice of labels, but the dim has none. Give the number of elements."
            )
        try:
            n = int(ds[dim].sel({dim: labels}).size)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidChunksError(f"{said} cannot be selected ({error}).") from error
        if n < 1:
            first, last = ds[dim].values[[0, -1]]
            raise InvalidChunksError(
                f"{said} selects nothing; the labels run from {first} to {last}. Where they fall, "
                "give the larger one first."
            )
        return n
    raise InvalidChunksError(f"access: there is no dim {dim!r}.")


def _shown(labels: slice) -> str:
    return f"slice({labels.start!r}, {labels.stop!r})"


def group_edges(
    datasets: Sequence[xr.Dataset],
    *,
    groupby: str | Sequence[str] | None = None,
    resample: Mapping[str, Any] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Sequence[int]]:
    """Find the positions by dim at which groups, or the periods in which they recur, begin.

    Parameters
    ----------
    datasets : sequence of xarray.Dataset
        Where the coordinates are found, the first first.
    groupby : str or sequence of str, optional
        What would be given to ``ds.groupby``: a coordinate of one dim, or a component of a time
        such as ``"time.month"``. Where groups recur, as months do, a whole round of them (a
        year) is a period.
    resample : mapping, optional
        What would be given to ``ds.resample``: ``{"time": "MS"}``.
    groups : mapping, optional
        Positions by dim that are known already; they win.

    Raises
    ------
    InvalidChunksError
        If a coordinate is not there, or cannot be grouped like this.
    """
    out: dict[str, Sequence[int]] = {}
    several = isinstance(groupby, list | tuple)
    names: list[Any] = list(groupby or ()) if several or groupby is None else [groupby]
    for name in names:
        dim, labels = _labels(name, datasets)
        _add(out, dim, _periods(labels), "groupby")
    if resample is not None and not isinstance(resample, Mapping):
        raise InvalidChunksError(
            f"resample={resample!r} is not a mapping by dim. Give for instance {{'time': 'MS'}}."
        )
    for dim, rule in (resample or {}).items():
        _add(out, dim, _bins(dim, rule, datasets), "resample")
    return {**out, **dict(groups or {})}


def _add(out: dict[str, Sequence[int]], dim: str, edges: list[int], what: str) -> None:
    if dim in out:
        raise InvalidChunksError(
            f"{what}: the dim {dim!r} is grouped in two ways. Give one of them; for several uses "
            "ask for each."
        )
    out[dim] = edges


def _labels(name: Any, datasets: Sequence[xr.Dataset]) -> tuple[str, NDArray[Any]]:
    if not isinstance(name, str):
        raise InvalidChunksError(
            f"groupby={name!r} is not a name. Give a coordinate, or a component of a time such as "
            "'time.month'."
        )
    for ds in datasets:
        if name not in ds.variables and name.partition(".")[0] not in ds.variables:
            continue
        try:
            found = ds[name]
        except (KeyError, AttributeError, TypeError) as error:
            raise InvalidChunksError(f"groupby: {name!r} cannot be had: {error}") from error
        if found.ndim != 1:
            raise InvalidChunksError(
                f"groupby: {name!r} has the dims {found.dims}, so that its groups are no runs "
                "along a dim. Say which dims the operation reduces instead: reduce=[…]."
            )
        return str(found.dims[0]), np.asarray(found.values)
    known = [str(n) for ds in datasets[:1] for n in ds.coords]
    raise InvalidChunksError(
        f"groupby: there is no coordinate {name!r}. Coordinates: {', '.join(known) or 'none'}; a "
        "component of a time is said as 'time.month'."
    )


def _periods(labels: NDArray[Any]) -> list[int]:
    """Where groups begin; where they recur, where the first of them begins again."""
    if labels.size == 0:
        return []
    _, numbers = np.unique(labels.astype(str) if labels.dtype == object else labels, False, True)
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    runs = numbers[starts]
    if len(set(runs.tolist())) == len(runs):
        return [int(s) for s in starts[1:]]
    # a round begins wherever the group that comes first begins again
    return [int(s) for s, group in zip(starts, runs, strict=True) if group == runs[0]][1:]


def _bins(dim: Any, rule: Any, datasets: Sequence[xr.Dataset]) -> list[int]:
    for ds in datasets:
        if dim not in ds.dims:
            continue
        if dim not in ds.indexes:
            raise InvalidChunksError(f"resample: {dim!r} has no coordinate, so no times.")
        try:
            bins = ds[dim].resample({dim: rule}).groups
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidChunksError(
                f"resample: {dim!r} cannot be resampled to {rule!r} ({error}). Give a frequency "
                "such as 'MS', 'D' or '6h', for a dim of times."
            ) from error
        starts = {b.start for b in bins.values() if isinstance(b, slice) and b.start is not None}
        return sorted(int(s) for s in starts if 0 < s < ds.sizes[dim])
    raise InvalidChunksError(f"resample: there is no dim {dim!r}.")
