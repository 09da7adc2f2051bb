"""Rules for what would happen if a variable were written as its encoding says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xchunk.core.findings import Finding, RegionWrite, VariableFacts
from xchunk.core.grid import Axis, Grid
from xchunk.core.layout import ArrayLayout

__all__ = ["write_rules"]


def write_rules(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    """Find what would fail, or store wrong values, when a variable is written.

    Parameters
    ----------
    v : ArrayLayout
        The variable.
    facts : VariableFacts
        Its encoding, and where it is to be written.
    """
    if facts.region is not None:
        # what is there decides how a region is stored, and not the encoding
        yield from _region(v, facts.region)
    else:
        yield from _stale_chunks(v, facts)
        yield from _codecs(v, facts)
    yield from _packing(v, facts)


def _stale_chunks(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    what = "shards" if facts.encoding_shards is not None else "chunks"
    unit = facts.encoding_shards or facts.encoding_chunks
    if unit is None or v.dask_chunks is None or len(unit) != v.ndim:
        return
    blocks, units = Grid.of(v.shape, v.dask_chunks), Grid.of(v.shape, unit)
    cut = [d for d, a, b in zip(v.dims, blocks.axes, units.axes, strict=True) if not a.nests(b)]
    if not cut:
        return
    shared = blocks.pairs(units) - units.count
    yield Finding(
        "stale-chunks",
        "error",
        v.name,
        f"its encoding asks for {what} of {tuple(unit)}, which dask blocks of "
        f"{tuple(blocks.chunks)} cut along {', '.join(map(repr, cut))}",
        f"to_zarr raises ValueError; with safe_chunks=False tasks overwrite each other's part of "
        f"the same {what[:-1]}, {shared} times",
        f"del ds[{v.name!r}].encoding[{what!r}]"
        if what == "chunks"
        else f"ds[{v.name!r}].encoding.update(chunks=None, shards=None)",
    )


def _codecs(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    if facts.codecs_for != 2:
        return
    yield Finding(
        "codecs-of-zarr-2",
        "error",
        v.name,
        "its encoding holds codecs of zarr format 2",
        "to_zarr writes format 3 by default, which raises TypeError (Expected a BytesBytesCodec)",
        "ds.chunking.apply(…, store='out.zarr', zarr_format=3)  # translates them; or "
        f"ds[{v.name!r}].encoding.clear()",
    )


def _packing(v: ArrayLayout, facts: VariableFacts) -> Iterator[Finding]:
    dtype = facts.encoding_dtype
    if dtype is None or dtype.kind not in "iu" or v.dtype.kind != "f" or _is_stored(v):
        return
    packing = facts.packing
    scale = 1.0 if packing is None else packing.scale_factor
    offset = 0.0 if packing is None else packing.add_offset
    remedy = f"ds[{v.name!r}].encoding = {{}}  # stores {v.dtype} as it is"
    said = f"it would be stored as {dtype}" + (
        "" if packing is None else f" with scale_factor={scale:g}, add_offset={offset:g}"
    )
    if facts.has_missing and not facts.has_fill:
        yield Finding(
            "missing-without-fill",
            "error",
            v.name,
            f"{said}, which has no NaN, and no _FillValue is named",
            "missing values are stored as some number, and nothing tells them from it later",
            f"ds[{v.name!r}].encoding['_FillValue'] = {np.iinfo(dtype).min}",
        )
    ends = sorted((np.iinfo(dtype).min * scale + offset, np.iinfo(dtype).max * scale + offset))
    if facts.lowest is not None and facts.highest is not None:
        if facts.lowest < ends[0] or facts.highest > ends[1]:
            yield Finding(
                "stale-packing",
                "error",
                v.name,
                f"{said}, which holds {ends[0]:g} to {ends[1]:g}; the values run from "
                f"{facts.lowest:g} to {facts.highest:g}",
                "values beyond wrap around and are stored wrong, without an error",
                remedy,
            )
            return
        if facts.is_exact:
            return
        yield Finding(
            "stale-packing",
            "info" if packing is not None else "warning",
            v.name,
            said,
            f"values are rounded to steps of {abs(scale):g}",
            remedy,
        )
        return
    yield Finding(
        "stale-packing",
        "warning",
        v.name,
        f"{said}, but the values are computed and no longer those that it was made for",
        f"they are rounded to steps of {abs(scale):g}, and beyond {ends[0]:g} to {ends[1]:g} they "
        "wrap around and are stored wrong, without an error",
        remedy,
    )


def _is_stored(v: ArrayLayout) -> bool:
    return v.format not in ("memory", "dask")


def _region(v: ArrayLayout, region: RegionWrite) -> Iterator[Finding]:
    shape = tuple(b - a for a, b in zip(region.start, region.stop, strict=True))
    if shape != v.shape:
        yield Finding(
            "region-does-not-fit",
            "error",
            v.name,
            f"the region holds {shape} elements, the variable {v.shape}",
            "to_zarr raises ValueError",
            f"ds[{v.name!r}].isel(…)  # as much as the region holds",
        )
        return
    ragged: dict[str, slice] = {}
    shared = 0
    for i, dim in enumerate(v.dims):
        unit, start, stop = region.units[i], region.start[i], region.stop[i]
        if v.dask_chunks is not None:
            inner = Axis.of(v.shape[i], v.dask_chunks[i])
            shared += sum((start + inner.bounds(k)[0]) % unit != 0 for k in range(1, inner.count))
        if start % unit or (stop % unit and stop != region.shape[i]):
            last = -(-stop // unit) * unit
            ragged[dim] = slice(start // unit * unit, min(last, region.shape[i]))
    if shared:
        units = dict(zip(v.dims, region.units, strict=True))
        yield Finding(
            "unsafe-region",
            "error",
            v.name,
            f"dask blocks end within {shared} of the target's chunks of {tuple(region.units)}",
            "to_zarr raises ValueError; with safe_chunks=False tasks overwrite each other's part "
            "of the same chunk",
            f"ds = ds.chunk({units})  # after selecting a region that starts with a chunk",
        )
    elif ragged:
        safe = ", ".join(f"{d!r}: slice({s.start}, {s.stop})" for d, s in ragged.items())
        yield Finding(
            "unsafe-region",
            "warning",
            v.name,
            f"the region begins or ends within chunks of {tuple(region.units)} along "
            f"{', '.join(map(repr, ragged))}",
            "it goes well once, but where another process writes the region beside it at the same "
            "time, the one overwrites the other's part of the chunk they share",
            f"region={{{safe}}}",
        )
