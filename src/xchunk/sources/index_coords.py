"""Stored twins of variables that xarray has loaded.

An index coordinate is in memory from the moment a dataset is opened, so that it cannot be
traced. Encoding it again may change what is stored: times become other numbers, a fill value
appears. But where the store beside it holds an array of its name whose values, decoded, are
the very values of the coordinate, the stored bytes are as good a source, and they are exact.
The evidence is the comparison itself, so that only small arrays are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from xchunk.errors import SourceError
from xchunk.sources.arrays import open_stored
from xchunk.sources.refs import (
    AxisPart,
    FileRef,
    JoinedRef,
    OneRef,
    StoredArray,
    StoredRef,
    Traced,
    ZarrRef,
    ones_of,
)
from xchunk.sources.trace import trace

#: Elements up to which a loaded variable is compared with its stored twin.
_MOST = 10_000_000


@dataclass(frozen=True)
class Neighbours:
    """What the traced variables of a Dataset tell about those that are loaded."""

    homes: tuple[OneRef, ...]
    """References to one array of each file or group that variables come from."""
    parts: Mapping[str, tuple[int, int]]
    """For each dim the first stored element and the number of elements that are shown."""

    @classmethod
    def of(
        cls, traced: Iterable[tuple[xr.Variable, Traced]], homes: Iterable[OneRef] = ()
    ) -> Neighbours:
        """Gather the homes and the dims' parts of traced variables, and homes known besides."""
        known: dict[Any, OneRef] = {}
        parts: dict[str, tuple[int, int]] = {}
        disagreed: set[str] = set()
        for variable, found in traced:
            home = ones_of(found.ref)[0]
            known.setdefault(_home_key(home), home)
            for dim, part in zip(variable.dims, found.axes, strict=True):
                name, seen = str(dim), _seen(found.ref, part)
                if seen is None:
                    disagreed.add(name)
                    continue
                if part.step != 1 or parts.setdefault(name, seen) != seen:
                    disagreed.add(name)
        for ref in homes:
            known.setdefault(_home_key(ref), ref)
        return cls(tuple(known.values()), {d: p for d, p in parts.items() if d not in disagreed})


def _seen(ref: StoredRef, part: AxisPart) -> tuple[int, int] | None:
    """The first element and the number of those that are shown; None where files are joined."""
    if not isinstance(ref, JoinedRef):
        return part.start, part.count
    if ref.new or len(ref.lengths[part.stored_axis]) > 1:
        return None
    return ref.origins[0][part.stored_axis] + part.start, part.count


def homes_in_tree(groups: Mapping[str, xr.Dataset]) -> dict[str, list[OneRef]]:
    """Report for each group of a tree where it is stored, by what is traced in any of them.

    A group that holds nothing but index coordinates, which are loaded, has no neighbours.

    - returns: references to an array that need not be there, by path of the group; empty where
      there is one group only.
    """
    bases: dict[Any, OneRef] = {}
    if len(groups) > 1:
        for path, ds in groups.items():
            for variable in ds.variables.values():
                traced = trace(variable)
                base = None if traced is None else _base(ones_of(traced.ref)[0], path)
                if base is not None:
                    bases.setdefault(_home_key(base), base)
    return {path: [_member(base, path) for base in bases.values()] for path in groups}


def _base(ref: OneRef, path: str) -> OneRef | None:
    """Return the group that is the root of a tree, from an array in one of its groups."""
    folder = ref.group or "" if isinstance(ref, FileRef) else ref.path.rpartition("/")[0]
    folder = folder.strip("/")
    if path and f"/{folder}".endswith(f"/{path}"):
        folder = folder[: -len(path)].strip("/")
    elif path:
        return None
    return _array_in(ref, folder)


def _member(base: OneRef, path: str) -> OneRef:
    folder = base.group or "" if isinstance(base, FileRef) else base.path.rpartition("/")[0]
    return _array_in(base, "/".join(filter(None, [folder.strip("/"), path])))


def _array_in(ref: OneRef, folder: str) -> OneRef:
    if isinstance(ref, FileRef):
        return replace(ref, group=folder or None)
    return replace(ref, path=f"{folder}/any".strip("/"))


def _home_key(ref: OneRef) -> tuple[Any, ...]:
    if isinstance(ref, FileRef):
        return ref.filename, ref.engine, ref.group
    return id(ref.store), ref.path.rpartition("/")[0]


def find_twin(name: str, variable: xr.Variable, neighbours: Neighbours) -> Traced | None:
    """Find the stored array whose decoded values are those of a loaded variable.

    - ``name``: the variable's name, which is that of the stored array.
    - ``variable``: the loaded variable.
    - ``neighbours``: where to look.
    - returns: the box of the stored array; None where there is no twin for certain.
    """
    if variable.size > _MOST or variable.chunks is not None:
        return None
    for traced, stored in _namesakes(name, variable, neighbours):
        try:
            if _decodes_to(variable, stored, traced):
                return traced
        except (SourceError, ValueError, TypeError, OverflowError, IndexError):
            # what cannot be decoded is no twin
            continue
    return None


def find_namesake(name: str, variable: xr.Variable, neighbours: Neighbours) -> Traced | None:
    """Find a stored array of a loaded variable's name and shape, without reading its values.

    It tells how the variable was stored, but it is no evidence that the values are the same.
    """
    return next((traced for traced, _ in _namesakes(name, variable, neighbours)), None)


def _namesakes(
    name: str, variable: xr.Variable, neighbours: Neighbours
) -> Iterator[tuple[Traced, StoredArray]]:
    for home in neighbours.homes:
        ref = _sibling(home, name)
        try:
            stored = open_stored(ref)
        except SourceError:
            continue
        traced = _box(variable, stored, ref, neighbours)
        if traced is not None:
            yield traced, stored


def _sibling(home: OneRef, name: str) -> OneRef:
    if isinstance(home, FileRef):
        return replace(home, variable=name, how=None)
    folder = home.path.rpartition("/")[0]
    return ZarrRef(home.store, f"{folder}/{name}" if folder else name, home.zarr_format)


def _box(
    variable: xr.Variable, stored: StoredArray, ref: OneRef, neighbours: Neighbours
) -> Traced | None:
    shape = stored.info.shape
    if len(shape) != variable.ndim:
        return None
    axes = []
    for i, (dim, n) in enumerate(zip(variable.dims, variable.shape, strict=True)):
        start, count = neighbours.parts.get(str(dim), (0, shape[i]))
        if count != n or start + count > shape[i]:
            return None
        axes.append(AxisPart(i, start, 1, count))
    return Traced(ref, shape, tuple(axes), stored_dtype=stored.info.dtype)


def _decodes_to(variable: xr.Variable, stored: StoredArray, traced: Traced) -> bool:
    region = tuple(slice(p.start, p.start + p.count) for p in traced.axes)
    raw = xr.Variable(variable.dims, stored.read(region), dict(stored.info.attrs))
    decoded = xr.conventions.decode_cf_variable(
        _own_name(ones_of(traced.ref)[0]),
        raw,
        mask_and_scale=not any(
            k in variable.attrs for k in ("scale_factor", "add_offset", "_FillValue")
        ),
        decode_times=_time_coder(variable),
        decode_timedelta=variable.dtype.kind == "m",
    )
    a, b = variable.to_numpy(), decoded.to_numpy()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.hasobject:
        return bool(np.all(a == b)) and all(
            type(x) is type(y) for x, y in zip(a.flat, b.flat, strict=True)
        )
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _time_coder(variable: xr.Variable) -> Any:
    if "units" in variable.attrs or variable.dtype.kind not in "MO":
        return False
    unit = np.datetime_data(variable.dtype)[0] if variable.dtype.kind == "M" else "ns"
    return xr.coders.CFDatetimeCoder(
        use_cftime=variable.dtype.kind == "O",
        time_unit=unit if unit in ("s", "ms", "us", "ns") else "ns",  # type: ignore[arg-type]
    )


def _own_name(ref: OneRef) -> str:
    """Return the stored array's own name."""
    return ref.variable if isinstance(ref, FileRef) else ref.path.rpartition("/")[2]
