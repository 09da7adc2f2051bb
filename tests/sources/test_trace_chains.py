"""Random chains of operations: where a trace answers, it is right to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import event, given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from xchunk.sources.refs import JoinedRef, ZarrRef
from xchunk.sources.trace import trace

SHAPE = {"t": 7, "z": 1, "y": 4, "x": 5}
CHUNKS = (3, 1, 2, 5)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    rng = np.random.default_rng(11)
    values = rng.integers(-9999, 9999, tuple(SHAPE.values())) * 0.25
    ds = xr.Dataset({"packed": (tuple(SHAPE), values), "plain": (tuple(SHAPE), values + 1)})
    encoding: dict[str, dict[str, Any]] = {name: {"chunks": CHUNKS} for name in ds}
    encoding["packed"] |= {"dtype": "i4", "scale_factor": 0.25, "_FillValue": -100_000}
    encoding["plain"] |= {"_FillValue": None}
    store = MemoryStore()
    ds.to_zarr(store, encoding=encoding, consolidated=False)
    return store


@pytest.fixture(scope="module")
def others() -> list[MemoryStore]:
    """Stores of the same variables, of other lengths along t, chunks and values."""
    rng = np.random.default_rng(12)
    found = []
    for n, chunks in ((2, (1, 1, 4, 5)), (5, (3, 1, 2, 2)), (4, (4, 1, 3, 5))):
        dims = {**SHAPE, "t": n}
        values = rng.integers(-9999, 9999, tuple(dims.values())) * 0.25
        ds = xr.Dataset({"packed": (tuple(dims), values), "plain": (tuple(dims), values + 1)})
        encoding: dict[str, dict[str, Any]] = {name: {"chunks": chunks} for name in ds}
        encoding["packed"] |= {"dtype": "i4", "scale_factor": 0.25, "_FillValue": -100_000}
        encoding["plain"] |= {"_FillValue": None}
        found.append(MemoryStore())
        ds.to_zarr(found[-1], encoding=encoding, consolidated=False)
    return found


@pytest.fixture(scope="module")
def all_stores(store: MemoryStore, others: list[MemoryStore]) -> list[MemoryStore]:
    return [store, *others]


# What moves elements about in ways that may, or may not, stay one progression.
@st.composite
def slices(draw: st.DrawFn) -> slice:
    ends = st.none() | st.integers(-8, 8)
    return slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, 3, -1, -2])))


KINDS = ["slice", "slice", "slice", "integer", "list", "even", "transpose", "chunk", "chunk"]
KINDS += ["roll", "halves", "squeeze", "copy", "edit", "double", "where", "load", "flip", "merge"]
steps = st.tuples(st.sampled_from(KINDS), st.integers(0, 3), slices(), st.integers(0, 10**6))
KEEPS = {"slice", "integer", "even", "transpose", "chunk", "squeeze", "copy", "flip", "merge"}


def apply(var: xr.Variable, step: tuple[str, int, slice, int]) -> xr.Variable:  # noqa: C901
    """One operation; what does not fit is left out."""
    kind, axis, cut, seed = step
    rng = np.random.default_rng(seed)
    if not var.ndim:
        return var * 2 if kind == "double" else var
    dim = var.dims[axis % var.ndim]
    n = var.sizes[dim]
    match kind:
        case "slice":
            return var.isel({dim: cut})
        case "integer" if n:
            return var.isel({dim: int(rng.integers(-n, n))})
        case "list":
            return var.isel({dim: rng.integers(0, n, rng.integers(1, 4)) if n else []})
        case "even" if n:
            return var.isel({dim: np.arange(n)[:: int(rng.choice([-2, -1, 1, 2]))]})
        case "transpose":
            return var.transpose(*rng.permutation(var.dims))
        case "chunk" if var.size:
            return var.chunk({dim: int(rng.integers(1, n + 1))})
        case "roll":
            return var.roll({dim: int(rng.integers(0, 3))})
        case "halves" if n > 1:
            cut_at = int(rng.integers(1, n))
            parts = [var.isel({dim: slice(cut_at)}), var.isel({dim: slice(cut_at, None)})]
            return xr.Variable.concat(parts[:: int(rng.choice([-1, 1]))], dim)
        case "squeeze":
            return var.squeeze()
        case "copy":
            return var.copy(deep=bool(seed % 2))
        case "edit" if var.size:
            var = var.copy()
            var[tuple(int(rng.integers(0, s)) for s in var.shape)] = 7.0
            return var
        case "double":
            return var * 2
        case "where":
            return var.where(var > 0)
        case "load":
            return var.compute()
        case "flip":
            return var.isel(dict.fromkeys(var.dims, slice(None, None, -1)))
        case "merge":
            ds = xr.merge([xr.Dataset({"v": var}), xr.Dataset({"w": ("n", [1])})])
            return ds.v.variable
    return var


def read_raw(ref: ZarrRef) -> xr.Variable:
    group = xr.backends.ZarrStore.open_group(ref.store, mode="r", consolidated=False)
    return group.load()[0][ref.path].load()


def read_joined(ref: ZarrRef | JoinedRef) -> tuple[str, xr.Variable]:
    if isinstance(ref, ZarrRef):
        return ref.path, read_raw(ref)
    assert not ref.new
    cells = np.empty([len(n) for n in ref.lengths], dtype=object)
    for at, one, origin in zip(np.ndindex(cells.shape), ref.parts, ref.origins, strict=True):
        stored = read_raw(one)
        counts = [n[i] for n, i in zip(ref.lengths, at, strict=True)]
        cells[at] = stored.values[tuple(map(slice, origin, np.add(origin, counts)))]
        assert cells[at].shape == tuple(counts)
    return one.path, xr.Variable(stored.dims, np.block(cells.tolist()), stored.attrs)


def shown_by(traced: Any) -> np.ndarray[Any, Any]:
    name, stored = read_joined(traced.ref)
    keys: dict[Any, Any] = {stored.dims[a]: at for a, at in traced.fixed}
    for part in traced.axes:
        keys[stored.dims[part.stored_axis]] = part.start + part.step * np.arange(part.count)
    taken = stored.isel(keys).transpose(*(stored.dims[p.stored_axis] for p in traced.axes))
    return xr.conventions.decode_cf_variable(name, taken).values


@given(
    name=st.sampled_from(["packed", "plain"]),
    chunks=st.sampled_from([None, {}, {"t": 2, "y": 2}]),
    chain=st.lists(steps, max_size=6),
)
def test_a_chain_is_answered_rightly_or_not_at_all(
    store: MemoryStore, name: str, chunks: Any, chain: list[tuple[str, int, slice, int]]
) -> None:
    var = xr.open_zarr(store, chunks=None, consolidated=False)[name].variable
    if chunks is not None:
        var = (
            var.chunk(chunks) if chunks else xr.open_zarr(store, consolidated=False)[name].variable
        )
    kept = True
    for step in chain:
        try:
            var = apply(var, step)
        except (IndexError, TypeError, ZeroDivisionError):  # xarray's own, on what was transposed
            # lazily, and of older versions on rolling nothing
            break
        kept = kept and step[0] in KEEPS
    traced = trace(var)
    event(f"answered: {traced is not None}, chain keeps: {kept}")
    if traced is not None:
        try:
            values = var.values
        except IndexError:  # xarray cannot read some empty slices that run backwards
            assert var.size == 0
            return
        found = shown_by(traced)
        assert (found.dtype, found.shape) == (values.dtype, values.shape)
        assert found.tobytes() == values.tobytes()
    # Nothing tells the axes of what is empty apart once it is transposed.
    if kept and 0 not in var.shape:
        assert traced is not None


JOINS = ["slice", "slice", "transpose", "chunk", "chunk", "integer", "squeeze", "copy", "merge"]
JOINS += ["edit", "where", "roll", "halves", "list", "even", "flip", "double"]
joined_steps = st.tuples(st.sampled_from(JOINS), st.integers(0, 3), slices(), st.integers(0, 10**6))
short = st.lists(joined_steps, max_size=3)


@given(
    what=st.tuples(st.sampled_from(["packed", "plain"]), st.sampled_from(["t", "t", "t", "y"])),
    order=st.lists(st.integers(0, 3), min_size=2, max_size=4),
    before=st.lists(st.lists(joined_steps, max_size=1), min_size=4, max_size=4),
    after=short,
)
def test_a_chain_over_several_stores_is_answered_rightly_or_not_at_all(
    all_stores: list[MemoryStore],
    what: tuple[str, str],
    order: list[int],
    before: list[list[tuple[str, int, slice, int]]],
    after: list[tuple[str, int, slice, int]],
) -> None:
    (name, dim), pieces, plain = what, [], True
    for number, chain in zip(order, before, strict=False):
        piece = xr.open_zarr(all_stores[number], consolidated=False)[name].variable
        for step in chain:
            if step[0] in ("slice", "chunk", "transpose", "edit", "double", "copy"):
                piece, plain = apply(piece, step), plain and step[0] in ("chunk", "copy")
        pieces.append(piece)
    lengths = [{d: n for d, n in v.sizes.items() if d != dim} for v in pieces]
    pieces = [v for v, n in zip(pieces, lengths, strict=True) if n == lengths[0]]
    var = xr.Variable.concat([v.transpose(*pieces[0].dims) for v in pieces], dim)
    assert var.chunks is not None
    alike = plain and len(set(order)) == len(order)
    if alike:
        assert trace(var) is not None
    for step in after:
        var = apply(var, step)
    traced = trace(var)
    several = traced is not None and isinstance(traced.ref, JoinedRef)
    event(f"answered: {traced is not None}, several: {several}")
    if traced is not None:
        values, found = var.values, shown_by(traced)
        assert (found.dtype, found.shape) == (values.dtype, values.shape)
        assert found.tobytes() == values.tobytes()
