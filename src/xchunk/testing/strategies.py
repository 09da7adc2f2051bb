"""Hypothesis strategies: chunk grids, layouts, chunks to ask for, and variables to be stored.

Everything drawn is small and valid: xarray can store it, and xchunk can rechunk it. Import
hypothesis before you use them (``pip install hypothesis``); nothing else in xchunk does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.types import DimChunk

__all__ = [
    "attributes",
    "axes",
    "chunk_specs",
    "datasets",
    "datatrees",
    "dtypes",
    "grids",
    "layouts",
    "parts",
    "shapes",
    "variables",
]

#: Names that stores and command lines must cope with.
_NAMES = ("a", "b", "sfc", "t2m", "Ünicode", "x y", "0", "c")


def shapes(
    *, min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 12
) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw the shape of an array."""
    sides = st.integers(min_side, max_side)
    return st.lists(sides, min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def parts(draw: st.DrawFn, size: int, *, max_parts: int = 9) -> tuple[int, ...]:
    """Draw lengths of any kind that fill a dim; none for a dim without elements."""
    if size == 0:
        return ()
    cuts = st.sets(st.integers(1, size - 1), max_size=max_parts - 1) if size > 1 else st.just(set())
    edges = [0, *sorted(draw(cuts)), size]
    return tuple(b - a for a, b in itertools.pairwise(edges))


@st.composite
def axes(draw: st.DrawFn, size: int | None = None, *, max_size: int = 60) -> Axis:
    """Draw a dim cut into parts, of one length or irregular, of a given size or of any."""
    n = draw(st.integers(0, max_size)) if size is None else size
    if draw(st.booleans()):
        return Axis.regular(n, draw(st.integers(1, n + 10)))
    return Axis.of(n, draw(parts(n)))


@st.composite
def grids(draw: st.DrawFn, shape: Sequence[int] | None = None) -> Grid:
    """Draw an array cut into boxes, of a given shape or of any."""
    of = draw(shapes()) if shape is None else shape
    return Grid(tuple(draw(axes(n)) for n in of))


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """Draw a dtype of any kind that can be stored, of either byte order."""
    numbers = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
    swapped = [f">{name}" for name in ("i2", "i4", "f4", "f8")]
    others = ["bool", "M8[ns]", "m8[ns]", "<U3"]
    return st.sampled_from([np.dtype(name) for name in (*numbers, *swapped, *others)])


@st.composite
def layouts(
    draw: st.DrawFn, *, name: str = "v", min_side: int = 1, max_side: int = 12, sharded: bool = True
) -> ArrayLayout:
    """Draw how a variable is stored: in chunks, in shards, or in one piece."""
    shape = draw(shapes(min_dims=1, min_side=min_side, max_side=max_side))
    dtype = draw(dtypes())
    how = draw(st.sampled_from(["chunks", "contiguous", *["shards"] * sharded]))
    chunks = tuple(draw(st.integers(1, max(1, n))) for n in shape)
    shards = tuple(c * draw(st.integers(1, 3)) for c in chunks) if how == "shards" else None
    return ArrayLayout(
        name=name,
        dims=tuple(f"d{i}" for i in range(len(shape))),
        shape=shape,
        dtype=dtype,
        stored_dtype=dtype,
        chunks=None if how == "contiguous" else chunks,
        shards=shards,
        codecs=draw(st.sampled_from([(), ("zstd",), ("shuffle", "zlib")])),
        format="netcdf4" if how == "contiguous" else "zarr3",
    )


@st.composite
def chunk_specs(
    draw: st.DrawFn, sizes: Mapping[str, int], *, irregular: bool = False
) -> dict[str, DimChunk]:
    """Draw chunks to ask for: lengths (-1: the whole dim) of some dims.

    Parameters
    ----------
    draw : callable
        Given by hypothesis.
    sizes : mapping
        The elements along each dim.
    irregular : bool
        Whether a dim may be given all lengths of its blocks, which fits dask but not a store.

    Returns
    -------
    dict
        What ``ds.chunking.apply`` and ``plan`` take.
    """
    out: dict[str, DimChunk] = {}
    for dim, size in sizes.items():
        if draw(st.booleans()):
            lengths: st.SearchStrategy[Any] = st.just(-1) | st.integers(1, max(1, size + 2))
            out[dim] = draw(lengths | parts(size) if irregular and size else lengths)
    return out


def attributes() -> st.SearchStrategy[dict[str, Any]]:
    """Draw attributes of the types that every format can keep."""
    values = st.text(max_size=5) | st.integers(-9, 9) | st.floats(-1, 1) | st.just([1, 2])
    return st.dictionaries(st.sampled_from(["title", "n", "ok", "many"]), values, max_size=2)


def _values(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int, special: bool) -> Any:
    """Values of a dtype, some of them special where it has such: NaN, NaT, -0.0, infinities."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 99, shape)
    if dtype.kind == "m":
        values = (small * 10**9).astype(dtype)
    elif dtype.kind == "M":
        values = (np.int64(10**18) + small * 10**9).astype(dtype)
    else:
        values = small.astype(dtype)
    specials = {"f": [np.nan, -0.0, np.inf], "c": [complex(np.nan, 1)], "M": ["NaT"], "m": ["NaT"]}
    if special and values.size and dtype.kind in specials:
        where = rng.integers(0, values.size, 3)
        values.reshape(-1)[where] = np.resize(np.array(specials[dtype.kind], dtype), 3)
    return values


@st.composite
def variables(
    draw: st.DrawFn,
    sizes: Mapping[str, int],
    *,
    of: st.SearchStrategy[np.dtype[Any]] | None = None,
    encoded: bool = True,
) -> xr.Variable:
    """Draw a variable of any dtype, over some dims, with what it is to be stored like.

    Parameters
    ----------
    draw : callable
        Given by hypothesis.
    sizes : mapping
        The elements along each dim that it may have.
    of : strategy, optional
        The dtypes; all of `dtypes` by default.
    encoded : bool
        Whether it may have an encoding: chunks, packing with a fill value, units of times.

    Returns
    -------
    xarray.Variable
        In memory; its encoding is what ``to_zarr`` takes.
    """
    dims = draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=3)) if sizes else []
    shape = tuple(sizes[d] for d in dims)
    dtype = draw(dtypes() if of is None else of)
    packed = encoded and dtype.kind == "f" and draw(st.booleans())
    values = _values(dtype, shape, draw(st.integers(0, 9)), draw(st.booleans()) and not packed)
    variable = xr.Variable(dims, values, draw(attributes()))
    if packed:
        variable.encoding = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": np.int16(-9)}
    if encoded and dtype.kind == "M":
        variable.encoding = {"units": "seconds since 2000-01-01", "dtype": "i8"}
    if encoded and dims and 0 not in shape and draw(st.booleans()):
        variable.encoding["chunks"] = tuple(draw(st.integers(1, n)) for n in shape)
    return variable


@st.composite
def datasets(
    draw: st.DrawFn, sizes: Mapping[str, int] | None = None, *, names: Sequence[str] | None = None
) -> xr.Dataset:
    """Draw a Dataset of a few variables, which share dims, with and without coordinates."""
    if sizes is None:
        sizes = {d: draw(st.integers(0, 6)) for d in ("t", "x", "y")}
    if names is None:
        names = draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=3))
    data = {name: draw(variables(sizes)) for name in names}
    used = sorted({str(d) for v in data.values() for d in v.dims})
    coords = {d: (d, np.arange(sizes[d]) * 2) for d in used if draw(st.booleans())}
    return xr.Dataset(data, coords, attrs=draw(attributes()))


@st.composite
def datatrees(draw: st.DrawFn) -> xr.DataTree:
    """Draw a hierarchy whose groups inherit the root's coordinates and have dims of their own."""
    sizes = {d: draw(st.integers(0, 6)) for d in ("t", "x")}
    coords = {d: (d, np.arange(n) * 2) for d, n in sizes.items() if draw(st.booleans())}
    name = st.sampled_from(_NAMES)
    paths = draw(st.lists(st.lists(name, min_size=1, max_size=3).map(tuple), max_size=4))
    every = {path[:i] for path in paths for i in range(len(path) + 1)} | {()}
    out = {}
    for path in sorted(every):
        taken = {p[len(path)] for p in every if len(p) == len(path) + 1 and p[: len(path)] == path}
        names = [n for n in draw(st.lists(name, unique=True, max_size=3)) if n not in taken]
        # dims of one name may have other sizes in siblings, but not below one another
        own = {**sizes, f"n{len(path)}": draw(st.integers(0, 5))}
        data = {n: draw(variables(own)) for n in names}
        out["/" + "/".join(path)] = xr.Dataset(data, attrs=draw(attributes()))
    out["/"] = out["/"].assign_coords(coords)
    return xr.DataTree.from_dict(out)
