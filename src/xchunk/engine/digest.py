"""Digests of boxes, by which two stores of different layouts are compared.

To compare them directly, each box of one would decode many chunks of the other again and
again. So each side is read once, in boxes that suit it, and every box is cut into pieces that
both sides have; the digests of the pieces are what is compared.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.core.grid import Axis, Grid
from xchunk.engine.copy import StageSpec, reading
from xchunk.engine.inflight import with_patience
from xchunk.errors import XchunkError

__all__ = ["Unreadable", "common_pieces", "digest_block", "digest_box", "pieces_of"]

#: Bytes of a digest: two pieces that differ share one with a probability of 2**-128.
_BYTES = 16


def common_pieces(a: Grid, b: Grid) -> Grid:
    """Cut an array along the edges of both grids, so that each piece lies in one box of each."""
    axes = []
    for x, y in zip(a.axes, b.axes, strict=True):
        if x.nests(y) or y.nests(x):
            axes.append(y if x.nests(y) else x)
            continue
        edges = sorted({axis.bounds(i)[0] for axis in (x, y) for i in range(axis.count)} | {x.size})
        axes.append(Axis.of(x.size, [q - p for p, q in itertools.pairwise(edges)]))
    return Grid(tuple(axes))


def pieces_of(pieces: Grid, region: tuple[slice, ...]) -> list[tuple[int, ...]]:
    """List the indices of the pieces that a region is made of, the last dim varying fastest."""
    touched = [a.touched(r.start, r.stop) for a, r in zip(pieces.axes, region, strict=True)]
    shape = tuple(len(t) for t in touched)
    return [
        tuple(t[j] for t, j in zip(touched, index, strict=True)) for index in np.ndindex(*shape)
    ]


@dataclass(frozen=True)
class Unreadable:
    """What is said of a box that cannot be read."""

    why: str
    """The error, in words."""


def digest_box(spec: StageSpec, i: int) -> list[bytes] | Unreadable:
    """Read box number ``i`` and return the digest of each of its pieces.

    A box that cannot be read does not keep the others from being compared.
    """
    try:
        return with_patience(lambda: _digest_stored(spec, i))
    except XchunkError as error:
        return Unreadable(str(error))


def _digest_stored(spec: StageSpec, i: int) -> list[bytes]:
    with reading(spec, i) as (region, values):
        return _digests(spec, region, values)


def digest_block(spec: StageSpec, i: int, block: NDArray[Any]) -> list[bytes]:
    """Return the digest of each piece of one computed block, the box number ``i``."""
    return _digests(spec, spec.boxes.region(i), np.asarray(block))


def _digests(spec: StageSpec, region: tuple[slice, ...], values: NDArray[Any]) -> list[bytes]:
    pieces = spec.pieces if spec.pieces is not None else spec.boxes
    out = []
    for index in pieces_of(pieces, region):
        bounds = (a.bounds(j) for a, j in zip(pieces.axes, index, strict=True))
        local = [
            slice(start - r.start, stop - r.start)
            for (start, stop), r in zip(bounds, region, strict=True)
        ]
        # the dots keep what has no dims an array
        at: tuple[Any, ...] = (*local, ...)
        out.append(_digest(values[at]))
    return out


def _digest(values: NDArray[Any]) -> bytes:
    """Digest the bits of values, whatever their byte order in memory."""
    state = hashlib.blake2b(digest_size=_BYTES)
    if values.dtype.hasobject or values.dtype.kind == "T":
        for item in values.flat:
            raw = item if isinstance(item, bytes) else str(item).encode()
            state.update(len(raw).to_bytes(8, "little") + raw)
    else:
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        state.update(np.ascontiguousarray(little).view(np.uint8).reshape(-1).data)
    return state.digest()
