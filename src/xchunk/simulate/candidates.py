"""The chunks that are tried for a workload."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from xchunk._typing import DimChunk
from xchunk.core.access import AccessPattern
from xchunk.core.axes import dim_roles
from xchunk.core.candidates import near_equal
from xchunk.core.cost import Rates
from xchunk.core.grid import Axis, ceildiv
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.passes import best_pass

__all__ = ["candidates", "finer", "for_all", "said_blocks"]

#: Parts of the memory for which blocks are looked for: a workload may need many times what a
#: plain pass does.
_PARTS = (0.25, 1.0, 0.06)

#: Times that stored chunks are cut in half at the most.
_HALVINGS = 3


def candidates(
    used: Sequence[ArrayLayout], budget: MemoryBudget, rates: Rates
) -> Iterator[tuple[str, dict[str, dict[str, DimChunk]]]]:
    """Ways to chunk the variables that a workload reads, each once.

    They are those that suggestions for plain uses are made of, for several sizes of blocks,
    and the stored chunks; those that split stored chunks come last. All variables take the
    largest one's along the dims that they share.
    """
    main = used[0]
    roles = dim_roles(used)
    dims = main.dims
    uses: list[tuple[str, ...]] = [()]
    uses += [tuple(d for d in dims if roles.get(d) == role) for role in ("T", "H", "Z")]
    uses += [(d,) for d in dims]
    uses += list(itertools.combinations(dims, 2)) if main.ndim == 3 else []
    seen: set[Any] = set()
    later: list[tuple[str, dict[str, dict[str, DimChunk]]]] = []
    for part in _PARTS:
        for whole in dict.fromkeys(uses):
            if len(whole) == main.ndim and main.ndim > 1:
                continue
            room = replace(budget, max_mem=max(1, int(budget.max_mem * part)))
            found = best_pass(main, AccessPattern("use", whole), room, rates)
            if found is None:
                continue
            words = f"with {' and '.join(whole)} whole" if whole else "of whole stored chunks"
            if found.splits:
                words += ", which splits stored chunks"
            own = found.chunks
            key = tuple(own.items())
            if key not in seen:
                seen.add(key)
                one = f"blocks of {said_blocks(main, own)} ({words})", for_all(used, own)
                if found.splits:
                    later.append(one)
                else:
                    yield one
    if main.chunks is not None:
        stored = dict(zip(main.dims, main.chunks, strict=True))
        if tuple(stored.items()) not in seen:
            yield "one block for each stored chunk", for_all(used, stored)
    yield from later


def finer(
    used: Sequence[ArrayLayout],
) -> Iterator[tuple[str, dict[str, dict[str, DimChunk]]]]:
    """Parts of stored chunks, for workloads that need too much with whole ones.

    Each is read again for every part, so that they are cut where parts are used apart: in space.
    """
    main = used[0]
    if main.chunks is None:
        return
    roles = dim_roles([main])
    axes = {d: Axis.of(n, c) for d, n, c in zip(main.dims, main.shape, main.chunks, strict=True)}
    cut = [d for d in main.dims if roles.get(d) == "H"] or list(main.dims)
    lengths = {d: a.chunk for d, a in axes.items()}
    own: dict[str, DimChunk] = dict(zip(main.dims, main.chunks, strict=True))
    for halving in range(1, _HALVINGS + 1):
        d = max(cut, key=lambda d: lengths[d])
        if lengths[d] < 2:
            return
        lengths[d] = ceildiv(lengths[d], 2)
        own = {**own, d: _uniform(near_equal(axes[d], lengths[d]))}
        words = f"each stored chunk in {2**halving} parts"
        yield f"blocks of {said_blocks(main, own)} ({words})", for_all(used, own)


def _uniform(parts: tuple[int, ...]) -> DimChunk:
    """One number where all parts but the last are as long."""
    alike = len(set(parts[:-1])) <= 1 and parts[-1] <= parts[0]
    return parts[0] if alike else parts


def said_blocks(layout: ArrayLayout, own: Mapping[str, DimChunk]) -> str:
    """Say the longest block along each dim."""
    parts = []
    for d, n in layout.sizes.items():
        c = own[d]
        longest = c if isinstance(c, int) else max(c)
        parts.append(f"{d} {longest if 0 < longest < n else n}")
    return ", ".join(parts)


def for_all(
    used: Sequence[ArrayLayout], own: Mapping[str, DimChunk]
) -> dict[str, dict[str, DimChunk]]:
    """Give all variables the first one's chunks along the dims that they share."""
    main = used[0]
    out = {}
    for v in used:
        out[v.name] = {
            d: own[d] if main.sizes.get(d) == n and d in own else max(1, n)
            for d, n in v.sizes.items()
        }
    return out
