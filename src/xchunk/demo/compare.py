"""Comparing two datasets bit by bit, box by box, within a bound of memory.

The demo reads both stores through xarray alone, another way than the one that wrote them and
than the one by which ``verify`` proves them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from xchunk.core.grid import Axis, Grid
from xchunk.core.units import format_count
from xchunk.errors import VerificationError

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What was compared, and found equal."""

    variables: tuple[str, ...]
    """Names of the variables."""
    elements: int
    """Elements of all of them."""
    nbytes: int
    """Bytes of all of them, as they were read from the source."""
    boxes: int
    """Boxes that were read of each side."""


def compare(source: xr.Dataset, target: xr.Dataset, *, max_mem: int = 100_000_000) -> Comparison:
    """Compare two datasets variable by variable, to the last bit.

    Give datasets that were opened with ``decode_cf=False`` to compare what is stored:
    packed numbers, fill values and payloads of NaN included.

    Parameters
    ----------
    source, target : xarray.Dataset
        What must be there, and what is; opened lazily.
    max_mem : int
        Bytes that both sides' boxes may take together. A stored chunk that is larger is read
        as a whole all the same.

    Returns
    -------
    Comparison

    Raises
    ------
    VerificationError
        If a variable is missing, has other dims, or differs; the first place is named.
    """
    missing = sorted(set(map(str, source.variables)) - set(map(str, target.variables)))
    if missing:
        raise VerificationError(f"the target lacks {', '.join(missing)}, which the source has")
    elements = nbytes = boxes = 0
    for name, wanted in source.variables.items():
        found = target.variables[name]
        if wanted.dims != found.dims or wanted.shape != found.shape:
            raise VerificationError(
                f"{name}: the source has {dict(wanted.sizes)}, the target {dict(found.sizes)}"
            )
        for region in _boxes(wanted, found, max_mem // 4):
            _same(str(name), region, wanted[region].to_numpy(), found[region].to_numpy())
            boxes += 1
        elements += wanted.size
        nbytes += wanted.nbytes
    return Comparison(tuple(map(str, source.variables)), elements, nbytes, boxes)


def _boxes(source: xr.Variable, target: xr.Variable, most: int) -> Iterator[tuple[slice, ...]]:
    """Boxes of whole source chunks, grown first where the target's chunks reach further."""
    if not source.size:
        return iter(())
    shape = source.shape
    box = [min(max(1, c), n) for c, n in zip(_preferred(source), shape, strict=True)]
    wide = _preferred(target)
    limit = max(1, most // max(1, source.dtype.itemsize))
    order = sorted(range(len(shape)), key=lambda d: box[d] >= wide[d])
    for dim in order:
        # Whole multiples of the chunk, as many as the bound allows.
        others = int(np.prod([n for d, n in enumerate(box) if d != dim], dtype=np.int64))
        times = max(1, limit // max(1, others * box[dim]))
        box[dim] = min(shape[dim], box[dim] * times)
    return Grid(tuple(Axis.regular(n, c) for n, c in zip(shape, box, strict=True))).regions()


def _preferred(variable: xr.Variable) -> list[int]:
    """The stored chunks; where nothing says how it is stored, rows."""
    known = variable.encoding.get("preferred_chunks") or {}
    rows = [1] * (variable.ndim - 1) + list(variable.shape[-1:])
    out = []
    for dim, n in zip(variable.dims, rows, strict=True):
        chunk = known.get(dim, n)
        out.append(int(chunk if isinstance(chunk, int) else max(chunk, default=1)))
    return out


def _same(
    name: str,
    region: tuple[slice, ...],
    wanted: npt.NDArray[np.generic],
    found: npt.NDArray[np.generic],
) -> None:
    wanted, found = _native(wanted), _native(found)
    if wanted.dtype != found.dtype:
        if {wanted.dtype.kind, found.dtype.kind} - set("OUT"):
            raise VerificationError(
                f"{name}: the source holds {wanted.dtype}, the target {found.dtype}"
            )
        wanted, found = wanted.astype(object), found.astype(object)
    if wanted.dtype.kind in "OT":
        differs = np.asarray(wanted != found)
    else:
        size = wanted.dtype.itemsize
        pair = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (wanted, found))
        left, right = pair
        if np.array_equal(left, right):
            return
        differs = (left != right).reshape(-1, size).any(axis=1).reshape(wanted.shape)
    if not differs.any():
        return
    first = np.argwhere(np.atleast_1d(differs))[0]
    place = tuple(int(i) + (s.start or 0) for i, s in zip(first, region, strict=False))
    raise VerificationError(
        f"{name}: {format_count(int(differs.sum()))} elements differ in the box that begins at "
        f"{tuple(s.start for s in region)}, the first at {place}: the source holds "
        f"{wanted[tuple(first)] if wanted.ndim else wanted}, the target "
        f"{found[tuple(first)] if found.ndim else found}"
    )


def _native(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if values.dtype.kind == "T":
        return values
    order = values.dtype.newbyteorder("=")
    return values if values.dtype == order else values.astype(order)
