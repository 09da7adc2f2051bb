"""Files put together as one Dataset, whose blocks may span files whatever their layouts are.

xarray decides how files fit together. It is given stand-ins, in which each variable of file
``i`` holds nothing but ``i``: the result tells which file lies where, and each variable is
then built anew as one array of all files, in blocks of any size.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from xchunk._typing import DimChunk
from xchunk.core.grid import Axis, lcm_within
from xchunk.core.layout import ArrayLayout
from xchunk.errors import InvalidChunksError, SourceError
from xchunk.lazy import chunk_lazily
from xchunk.storage.joined import JoinedArray
from xchunk.storage.layouts import read_layouts

__all__ = ["FindChunks", "Opened", "join_files"]

#: Finds the chunks of each variable of a Dataset from their layouts.
FindChunks: TypeAlias = Callable[
    [xr.Dataset, Sequence[ArrayLayout]], dict[str, dict[str, DimChunk]]
]

_VALUE_KEYS = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_LAYOUT_KEYS = ("chunks", "shards", "preferred_chunks", "chunksizes", "original_shape", "source")


@dataclass(frozen=True)
class Opened:
    """Files that were opened, without dask."""

    names: tuple[str, ...]
    """Their paths or URLs."""
    datasets: tuple[xr.Dataset, ...]
    """What is in them."""

    def close(self) -> None:
        """Close all of them."""
        for ds in self.datasets:
            ds.close()


def join_files(
    files: Opened,
    find_chunks: FindChunks,
    *,
    combine: str,
    concat_dim: Any,
    join: str,
    preprocess: Callable[[xr.Dataset], xr.Dataset] | None,
) -> xr.Dataset:
    """Put files together, in chunks that fit.

    Parameters
    ----------
    files : Opened
        The files.
    find_chunks : callable
        Finds the chunks of each variable.
    combine, concat_dim, join, preprocess
        As in `xchunk.opening.open_dataset`.

    Raises
    ------
    SourceError
        If they do not fit together.
    """
    if combine not in ("by_coords", "nested"):
        raise InvalidChunksError(f"combine={combine!r} is neither 'by_coords' nor 'nested'.")

    def together(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
        return _together(files.names, datasets, combine, concat_dim, join)

    combined: xr.Dataset | None = None
    # A preprocessed file is no stored file any more, and reindexed blocks are no whole files.
    if preprocess is None and join in ("exact", "override"):
        standins = [_standin(ds, i) for i, ds in enumerate(files.datasets)]
        combined = _rebuilt(together(standins), files, find_chunks)
    if combined is None:
        chunked = []
        for ds in files.datasets:
            chunks = find_chunks(ds, read_layouts({"": ds}).layouts)
            one = chunk_lazily(ds, chunks)
            chunked.append(one if preprocess is None else preprocess(one))
        combined = together(chunked)
    combined.set_close(files.close)
    return combined


def _together(
    names: Sequence[str],
    datasets: Sequence[xr.Dataset],
    combine: str,
    concat_dim: Any,
    join: str,
) -> xr.Dataset:
    how: dict[str, Any] = {
        "data_vars": "minimal",
        "coords": "minimal",
        "compat": "override",
        "join": join,
        "combine_attrs": "override",
    }
    along = concat_dim if isinstance(concat_dim, list | tuple) else [concat_dim]
    if any(d is not None and d not in datasets[0].dims for d in along):
        # a new dim is one of all variables
        how["data_vars"] = "all"
    try:
        if combine == "nested":
            found: Any = xr.combine_nested(list(datasets), concat_dim=concat_dim, **how)
        else:
            found = xr.combine_by_coords(list(datasets), **how)
    except (ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        raise SourceError(
            f"{len(names)} files, {names[0]} … {names[-1]}, do not fit together ({said}). "
            "Where no coordinate tells their order, give combine='nested' and concat_dim=…; where "
            "coordinates of other dims differ, give join='outer', or open them one by one."
        ) from error
    if not isinstance(found, xr.Dataset):
        raise SourceError(f"{len(names)} files do not make one dataset.")
    return found


def _is_bulk(ds: xr.Dataset, name: Any) -> bool:
    """Whether a variable is data, rather than an axis that xarray has to look at."""
    v = ds.variables[name]
    return name not in ds.xindexes and v.ndim > 0 and not (name in ds.coords and v.ndim == 1)


def _standin(ds: xr.Dataset, i: int) -> xr.Dataset:
    """Replace the data of a file by its number; nothing of it is read."""
    import dask.array as da

    new = {
        name: (v.dims, da.full(v.shape, i, dtype="i4", chunks=-1), v.attrs, v.encoding)
        for name, v in ds.variables.items()
        if _is_bulk(ds, name)
    }
    coords = {n: v for n, v in new.items() if n in ds.coords}
    return ds.assign({n: v for n, v in new.items() if n not in coords}).assign_coords(coords)


def _rebuilt(combined: xr.Dataset, files: Opened, find_chunks: FindChunks) -> xr.Dataset | None:
    """Put the data in the place of their stand-ins; None where a file is not there as a whole."""
    joined: dict[Any, JoinedArray] = {}
    for name, variable in combined.variables.items():
        if not any(name in ds.variables and _is_bulk(ds, name) for ds in files.datasets):
            continue
        parts = _parts(name, variable, files.datasets)
        if parts is None:
            return None
        joined[name] = JoinedArray.of(parts)
    known = _Layouts()
    layouts = [
        _layout_of(v, joined[v.name], known) if v.name in joined else v
        for v in read_layouts({"": combined})
    ]
    chunks = find_chunks(combined, layouts)
    token = _token(files.names)
    new = {
        name: _variable(combined.variables[name], name, array, chunks.get(str(name), {}), token)
        for name, array in joined.items()
    }
    coords = {n: v for n, v in new.items() if n in combined.coords}
    out = combined.assign({n: v for n, v in new.items() if n not in coords})
    return out.assign_coords(coords)


def _parts(
    name: Any, variable: xr.Variable, datasets: Sequence[xr.Dataset]
) -> NDArray[np.object_] | None:
    """Tell which file's variable each block of a combined stand-in is."""
    if variable.chunks is None or variable.dtype != np.dtype("i4"):
        return None
    ones = tuple((1,) * len(c) for c in variable.chunks)
    firsts = variable.data.map_blocks(_first, dtype="i4", chunks=ones)
    numbers = np.asarray(firsts.compute(scheduler="sync"))
    parts = np.empty(numbers.shape, dtype=object)
    for index, number in np.ndenumerate(numbers):
        found = datasets[int(number)].variables.get(name)
        if found is None or set(found.dims) != set(variable.dims):
            return None
        lazy = found.transpose(*variable.dims)
        shape = tuple(c[i] for c, i in zip(variable.chunks, index, strict=True))
        if lazy.shape != shape:
            return None
        parts[index] = lazy
    return parts


def _first(block: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(block.flat[:1]).reshape((1,) * block.ndim)


class _Layouts:
    """Layouts of the files' variables: files that are alike are looked at once."""

    def __init__(self) -> None:
        self._known: dict[Any, ArrayLayout] = {}

    def of(self, name: str, variable: xr.Variable) -> ArrayLayout:
        encoding = variable.encoding
        lengths = encoding.get("chunks") or encoding.get("chunksizes")
        stored = [str(encoding.get(k)) for k in ("dtype", "shards", "contiguous")]
        key = (name, variable.dims, variable.shape, str(variable.dtype), str(lengths), *stored)
        if lengths is None or key not in self._known:
            one = xr.Dataset({name: variable} if name not in variable.dims else {})
            self._known[key] = read_layouts({"": one})[name]
        return self._known[key]


def _layout_of(combined: ArrayLayout, joined: JoinedArray, known: _Layouts) -> ArrayLayout:
    """How all files together are stored: as if what they hold were one array."""
    each = np.empty(joined.variables.shape, dtype=object)
    for index, variable in np.ndenumerate(joined.variables):
        each[index] = known.of(combined.name, variable)
    first: ArrayLayout = each.flat[0]
    free = all(v.chunks is None for v in each.flat)
    axes = [_axis(joined, each, i) for i in range(joined.ndim)]
    return replace(
        combined,
        dtype=joined.dtype,
        stored_dtype=max((v.stored_dtype for v in each.flat), key=lambda t: t.itemsize),
        chunks=None if free else tuple(a.chunk if a.is_regular else a.parts or () for a in axes),
        codecs=next((v.codecs for v in each.flat if v.codecs), ()),
        format=first.format,
        packing=first.packing,
        fill_value=first.fill_value,
        dask_chunks=None,
    )


def _axis(joined: JoinedArray, layouts: NDArray[Any], axis: int) -> Axis:
    """The stored chunks along one dim: file after file, where they differ in common multiples."""
    parts: list[int] = []
    for i in range(layouts.shape[axis]):
        start, stop = joined.edges[axis].bounds(i)
        length = stop - start
        common: Axis | None = None
        for layout in layouts[(*(slice(None),) * axis, slice(i, i + 1))].flat:
            chunk = 1 if layout.chunks is None else layout.chunks[axis]
            one = Axis.regular(length, chunk) if isinstance(chunk, int) else Axis.of(length, chunk)
            common = one if common is None else _coarser(common, one)
        if common is not None and length:
            parts += [b - a for a, b in map(common.bounds, range(common.count))]
    return Axis.of(joined.edges[axis].size, parts)


def _coarser(a: Axis, b: Axis) -> Axis:
    """The finest cut at which both are cut."""
    if a == b:
        return a
    if a.is_regular and b.is_regular:
        return Axis.regular(a.size, lcm_within(a.chunk, b.chunk, a.size))
    edges = [e for e in (a.bounds(i)[1] for i in range(a.count)) if b.has_edge(e)]
    starts = [0, *edges[:-1]]
    return Axis.of(a.size, [q - p for p, q in zip(starts, edges, strict=True)])


def _variable(
    standin: xr.Variable,
    name: Any,
    array: JoinedArray,
    chunks: Mapping[str, DimChunk],
    token: str,
) -> xr.Variable:
    import dask.array as da

    lengths = tuple(chunks.get(str(d), -1) for d in standin.dims)
    data = da.from_array(
        array,
        chunks=lengths,
        name=f"open-{name}-{tokenize(token, str(name), lengths)}",
        meta=np.empty((0,) * array.ndim, dtype=array.dtype),
    )
    return xr.Variable(standin.dims, data, standin.attrs, _encoding(array))


def _encoding(array: JoinedArray) -> dict[Any, Any]:
    """What the files' encodings agree on; their chunks are those of files, not of the whole."""
    first, *rest = (v.encoding for v in array.variables.flat)
    kept = {k: v for k, v in first.items() if k not in _LAYOUT_KEYS}
    if any(str(e.get(k)) != str(first.get(k)) for e in rest for k in _VALUE_KEYS):
        # packed with the first file's scale, the others' values might not fit
        kept = {k: v for k, v in kept.items() if k not in _VALUE_KEYS}
    return kept


def _token(names: Sequence[str]) -> str:
    """Name what the files hold now, so that opening them again gives the same keys."""
    try:
        return str(tokenize([(n, os.stat(n).st_mtime_ns, os.stat(n).st_size) for n in names]))  # noqa: PTH116
    except OSError:
        return uuid.uuid4().hex
