"""Chunks as a user says them, checked against the variables that there are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xchunk.core.grid import Axis
from xchunk.core.layout import ArrayLayout
from xchunk.core.types import Chunks, DimChunk
from xchunk.errors import InvalidChunksError

#: Bytes that a stored chunk should have where nobody says anything: large enough that requests
#: and codecs are busy, small enough that a few of them fit anywhere.
STORED_CHUNK = 16_000_000

#: Bytes up to which a coordinate of one dim is one chunk, whatever is said of its dim.
ONE_CHUNK = STORED_CHUNK

#: Bytes from which the stored chunks of a larger one are kept.
_KEPT = 1_000_000

#: A variable is small beside another that is so many times as large, if it has at most `_KEPT`
#: bytes: in chunks of a few bytes it would cost a request for each.
_BESIDE = 100

_HOW = "Give a positive length, -1 for the whole dim, or {variable: {dim: n}} for each variable."


def parse_chunks(
    spec: Mapping[Any, Any],
    layouts: Sequence[ArrayLayout],
    what: str = "chunks",
    *,
    small_whole: bool = False,
) -> dict[str, dict[str, DimChunk]]:
    """Check chunks against variables, and spread them over those that have the dims.

    - ``spec``: ``{dim: n}`` for all variables but coordinates of one dim, ``{variable: {dim: n}}``
      for each, ``{group: {dim: n}}`` for those of a group and of the groups in it, or all at once;
      what is said more closely wins. ``n`` is a length, -1 for the whole dim, or the lengths of all
      blocks. A length beyond the dim means all of it.
    - ``layouts``: the variables.
    - ``what``: what the chunks are; named in errors.
    - ``small_whole``: whether a variable that is small beside the largest one, such as bounds, is
      one chunk where only its dims are named.
    - returns: ``{variable: {dim: n}}`` with the named dims only, -1 resolved.
    - raises `InvalidChunksError` if a name is neither a dim nor a variable, or a length is not
      possible.
    """
    if not isinstance(spec, Mapping):
        raise InvalidChunksError(f"{what}={spec!r} is not a mapping of dims to lengths. {_HOW}")
    said = _sorted(spec, layouts, what)
    largest = max((layout.nbytes for layout in layouts), default=0)
    out: dict[str, dict[str, DimChunk]] = {}
    for layout in layouts:
        own = said.special.get(layout.name, {})
        for dim in own:
            if dim not in layout.sizes:
                raise InvalidChunksError(
                    f"{what} name the dim {dim!r} for {layout.name!r}, which does not have it. "
                    f"Its dims: {_dims(layout.sizes)}."
                )
        # what is said of a dim is meant for the data on it, not for the axis itself: a time
        # axis in many chunks costs a request for each of them whenever the store is opened
        common = said.common
        if small_whole and layout.nbytes <= min(_KEPT, largest // _BESIDE):
            is_cut = what == "chunks" and common.keys() & layout.sizes.keys()
            common = dict.fromkeys(layout.dims, -1) if is_cut else {}
        general = {} if is_axis(layout) else {**common, **said.of_groups(layout.name)}
        out[layout.name] = {
            dim: _one(value, dim, layout, what)
            for dim, value in {**general, **own}.items()
            if dim in layout.sizes
        }
    return out


@dataclass(frozen=True)
class _Said:
    """What is said of all variables, of those of a group, and of single ones."""

    common: Mapping[str, Any]
    grouped: Mapping[str, Mapping[str, Any]]
    special: Mapping[str, Mapping[str, Any]]

    def of_groups(self, name: str) -> dict[str, Any]:
        """Return what is said of a variable's dims in its groups; the closer group wins."""
        out: dict[str, Any] = {}
        for group in sorted(self.grouped, key=len):
            if _in_group([name], group):
                out.update(self.grouped[group])
        return out


def _sorted(spec: Mapping[Any, Any], layouts: Sequence[ArrayLayout], what: str) -> _Said:
    by_name = {layout.name: layout for layout in layouts}
    sizes = {dim: n for layout in layouts for dim, n in layout.sizes.items()}
    common: dict[str, Any] = {}
    grouped: dict[str, Any] = {}
    special: dict[str, Any] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            name = key.strip("/") if isinstance(key, str) else key
            if name in by_name:
                special[name] = value
            elif isinstance(name, str) and _in_group(by_name, name):
                grouped[name] = _of_group(value, key, name, layouts, what)
            else:
                raise InvalidChunksError(
                    f"{what} name the variable {key!r}, which is not there. "
                    f"Variables: {_listed(by_name)}."
                )
        elif key in sizes:
            common[key] = value
        elif not isinstance(key, str) and str(key) in sizes:
            raise InvalidChunksError(
                f"{what} name the dim {key!r}, whose name is no text, as names are in a store. "
                f"Rename it first: ds.rename({{{key!r}: 'a_plain_name'}})."
            )
        else:
            raise InvalidChunksError(f"{what} name {key!r}, which is no dim. Dims: {_dims(sizes)}.")
    return _Said(common, grouped, special)


def _in_group(names: Iterable[str], group: str) -> bool:
    """Return whether any variable lies in a group, or in a group in it; the root is empty."""
    return any(not group or name.startswith(f"{group}/") for name in names)


def _of_group(
    value: Mapping[Any, Any], key: str, group: str, layouts: Sequence[ArrayLayout], what: str
) -> Mapping[Any, Any]:
    """Check that the dims that are named for a group are there."""
    sizes = {d: n for v in layouts if _in_group([v.name], group) for d, n in v.sizes.items()}
    for dim in value:
        if dim not in sizes:
            raise InvalidChunksError(
                f"{what} name the dim {dim!r} for the group {key!r}, in which no variable has it. "
                f"Its dims: {_dims(sizes)}."
            )
    return value


def _one(value: Any, dim: str, layout: ArrayLayout, what: str) -> DimChunk:
    size = layout.sizes[dim]
    said = f"{what}: {dim}={value!r} for {layout.name!r}"
    if isinstance(value, bool | np.bool_):
        raise InvalidChunksError(f"{said} is not a length. {_HOW}")
    if isinstance(value, int | np.integer):
        n = int(value)
        if n != -1 and n < 1:
            raise InvalidChunksError(f"{said} is not possible. {_HOW}")
        return max(1, size if n == -1 else min(n, size))
    if isinstance(value, tuple | list) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in value
    ):
        lengths = tuple(int(n) for n in value)
        if sum(lengths) == size:
            return lengths
        raise InvalidChunksError(
            f"{said} add up to {sum(lengths)}, but the dim has {size} elements. {_HOW}"
        )
    raise InvalidChunksError(f"{said} is not a length. {_HOW}")


def is_axis(layout: ArrayLayout) -> bool:
    """Return whether a variable is a coordinate of one dim that is small enough to be one chunk."""
    return layout.is_coord and layout.ndim <= 1 and layout.nbytes <= ONE_CHUNK


def chunks_for_store(
    layout: ArrayLayout,
    named: Mapping[str, DimChunk],
    *,
    itemsize: int | None = None,
    aim: int = STORED_CHUNK,
) -> Chunks:
    """Complete the named dims of one variable to chunks that zarr can store.

    Dims that are not named keep their stored chunk; where the variable is not stored in
    chunks, they are cut so that a chunk has about ``aim`` bytes. A coordinate of one dim that is
    not named at all becomes one chunk, if that has at most ``aim`` bytes: a time axis in chunks
    of one element costs a request for each step whenever the dataset is opened. A larger one
    keeps its stored chunks, unless they are tiny or larger than ``aim``.

    - raises `InvalidChunksError` if lengths differ within a dim, which zarr's regular grid cannot
      hold.
    """
    if not named and layout.ndim == 1 and layout.nbytes <= aim:
        return (max(1, layout.shape[0]),)
    odd = layout.is_coord and layout.ndim == 1 and not _KEPT <= _chunk_nbytes(layout) <= aim
    fixed: dict[int, int] = {}
    for i, (dim, size) in enumerate(zip(layout.dims, layout.shape, strict=True)):
        if dim in named:
            axis = Axis.of(size, named[dim])
            if not axis.is_regular:
                raise InvalidChunksError(
                    f"chunks of {layout.name!r} along {dim!r} have several lengths, but zarr "
                    "stores chunks of one length. Give one number."
                )
            fixed[i] = axis.chunk
        elif layout.chunks is not None and not odd:
            fixed[i] = Axis.of(size, layout.chunks[i]).chunk
    return sized_chunks(layout.shape, itemsize or layout.stored_dtype.itemsize, fixed, aim)


def _chunk_nbytes(layout: ArrayLayout) -> int:
    """Bytes of a stored chunk of a variable of one dim; 0 where it has none."""
    if layout.chunks is None:
        return 0
    return Axis.of(layout.shape[0], layout.chunks[0]).chunk * layout.stored_dtype.itemsize


def sized_chunks(
    shape: Sequence[int], itemsize: int, fixed: Mapping[int, int], aim: int = STORED_CHUNK
) -> Chunks:
    """Cut the dims that are not fixed so that a chunk has at most ``aim`` bytes.

    The leading dims are cut first, so that a chunk stays a contiguous run of what is stored;
    a dim is cut into near-equal parts.
    """
    chunks = [fixed.get(i, max(1, n)) for i, n in enumerate(shape)]
    for i, n in enumerate(shape):
        nbytes = math.prod(chunks) * max(1, itemsize)
        if i in fixed or nbytes <= aim:
            continue
        parts = min(max(n, 1), -(-nbytes // aim))
        chunks[i] = max(1, -(-n // parts))
    return tuple(chunks)


def shards_for_store(
    layout: ArrayLayout, named: Mapping[str, DimChunk], chunks: Chunks
) -> Chunks | None:
    """Complete the named dims of one variable to shards: dims that are not named keep a chunk.

    - raises `InvalidChunksError` if a shard is not a multiple of the chunk. The whole dim (-1) is
      rounded up.
    """
    if not named:
        return None
    out = []
    for dim, size, chunk in zip(layout.dims, layout.shape, chunks, strict=True):
        n = named.get(dim, chunk)
        if not isinstance(n, int):
            raise InvalidChunksError(
                f"shards of {layout.name!r} along {dim!r}: give one number, not {n!r}"
            )
        if n >= size:
            n = -(-max(size, 1) // chunk) * chunk
        if n % chunk:
            raise InvalidChunksError(
                f"a shard of {n} along {dim!r} of {layout.name!r} does not hold whole chunks of "
                f"{chunk}. Give a multiple, such as {-(-n // chunk) * chunk}."
            )
        out.append(n)
    return tuple(out)


def _listed(names: Mapping[str, Any]) -> str:
    shown = [repr(n) for n in list(names)[:12]]
    return ", ".join(shown) + (", …" if len(names) > 12 else "") if shown else "none"


def _dims(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{d!r} ({n})" for d, n in sizes.items()) or "none"
