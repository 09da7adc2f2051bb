"""Score the advice on 14 scenarios of metadata: 0 to 4 points each.

One point each for: the blocks fit the worker; every dim that a request needs whole is whole
in a block; at most 1.2 elements are decoded for each element stored; a sane number of tasks.
The scorer shares nothing with the search that it judges: it walks along every dim block by
block, and its memory is that of measurements (an aligned block takes 2.3 times its bytes, a
part of a stored chunk takes the chunk and 2.7 times its own).

    python benchmarks/advice/score.py [--why] [--codec NAME]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest.suggestion import suggest_dataset
from xchunk.errors import XchunkError

SCENARIOS = Path(__file__).with_name("scenarios.json")
TARGET, ALIGNED, SPLIT = 0.60, 2.3, 2.7
MOST_TASKS, SMALL_BLOCK, SMALL_VARIABLE, AMPLIFICATION = 50_000, 1e6, 1e9, 1.2
#: What a worker holds before any data; a dask worker with xarray and zarr imported.
RESERVED = 150_000_000


@dataclass(frozen=True)
class Advice:
    """What an advisor says of one scenario, in the terms that are scored."""

    action: str
    chunks: dict[str, Any]
    threads: int
    stored: tuple[Any, ...] | None
    """Stored chunks that the blocks read: the source's, or after a rechunk the target's."""
    units: tuple[int, ...] | None = None
    """What a rechunk writes as a whole."""


def scenarios() -> list[dict[str, Any]]:
    """Read the scenarios."""
    return json.loads(SCENARIOS.read_text())


def layout_of(s: dict[str, Any], codec: str | None = None) -> ArrayLayout:
    """The layout of a scenario's variable."""
    stored = np.dtype(s["stored_dtype"])
    packing = s["packing"]
    return ArrayLayout(
        name=s["variable"],
        dims=tuple(s["dims"]),
        shape=tuple(s["shape"]),
        dtype=np.dtype(packing["attribute_dtype"]) if packing else stored,
        stored_dtype=stored,
        chunks=None if s["stored_chunks"] is None else tuple(s["stored_chunks"]),
        shards=None if s["shards"] is None else tuple(s["shards"]),
        codecs=() if codec is None else (codec,),
        format="zarr3" if s["format"] == "zarr" else s["format"],
    )


def use_of(s: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """How a user would say the scenario's pattern."""
    p = s["pattern"]
    if p["kind"] == "core":
        return dict.fromkeys(p["whole_dims"], -1), {}
    if p["kind"] == "select":
        return {d: p["select"][d][1] if d in p["select"] else -1 for d in s["dims"]}, {}
    if p["kind"] == "roll":
        return None, {"rolling": {d: n + 1 for d, n in p["halo"].items()}}
    return None, {"reduce": ["time"]}


def budget_of(s: dict[str, Any]) -> MemoryBudget:
    """The workers of a scenario."""
    w = s["worker"]
    return MemoryBudget.of_memory(
        w["memory_bytes"], reserved=RESERVED, threads=w["threads"], workers=s["workers"]
    )


def ours(s: dict[str, Any], codec: str | None) -> tuple[Advice, str]:
    """Ask xchunk."""
    layout = layout_of(s, codec)
    access, more = use_of(s)
    v = suggest_dataset([layout], access, budget_of(s), **more).variables[layout.name]
    staged = v.action == "stage"
    return Advice(
        v.action,
        dict(v.chunks),
        v.threads,
        v.target_chunks if staged else layout.chunks,
        (v.target_shards or v.target_chunks) if staged else None,
    ), v.why


def as_stored(s: dict[str, Any]) -> Advice:
    """What ``chunks={}`` gives: the stored chunks as blocks."""
    chunks = s["stored_chunks"] or s["shape"]
    return Advice("chunk", dict(zip(s["dims"], chunks, strict=True)), s["worker"]["threads"],
                  s["stored_chunks"] and tuple(s["stored_chunks"]))  # fmt: skip


def auto(s: dict[str, Any]) -> Advice:
    """What ``chunks="auto"`` gives: dask's own choice, near the stored chunks."""
    from dask.array.core import normalize_chunks

    layout = layout_of(s)
    chunks = normalize_chunks(
        "auto", layout.shape, dtype=layout.dtype, previous_chunks=layout.chunks
    )
    return Advice("chunk", dict(zip(layout.dims, chunks, strict=True)), s["worker"]["threads"],
                  layout.chunks)  # fmt: skip


def edges(size: int, chunk: Any) -> np.ndarray:
    """Where the parts of a dim start and end, all of them."""
    if isinstance(chunk, int):
        length = size if chunk == -1 else min(chunk, size)
        return np.append(np.arange(0, size, length), size)
    out = np.concatenate([[0], np.cumsum(chunk)])
    assert out[-1] == size, "the blocks do not cover the dim"
    return out


def walk(size: int, block: Any, chunk: Any, halo: int) -> tuple[int, int, int, bool]:
    """Walk along a dim: blocks, longest block, elements decoded, whether chunks are split."""
    b = edges(size, block)
    decoded, split = 0, False
    c = None if chunk is None else edges(size, chunk)
    for start, stop in itertools.pairwise(b):
        low = max(0, start - halo)
        if c is None:
            decoded += stop - low
            continue
        first = np.searchsorted(c, low, side="right") - 1
        last = np.searchsorted(c, stop, side="left")
        decoded += c[last] - c[first]
        split |= bool(c[np.searchsorted(c, stop)] != stop)
    return len(b) - 1, int(np.max(np.diff(b))) + halo * (len(b) > 2), int(decoded), split


@dataclass(frozen=True)
class Score:
    """The four points, and the numbers behind them."""

    fits: bool
    whole: bool
    lean: bool
    sane: bool
    amplification: float
    tasks: int
    block: float
    share: float

    @property
    def points(self) -> int:
        """0 to 4."""
        return self.fits + self.whole + self.lean + self.sane


def score(s: dict[str, Any], a: Advice) -> Score:
    """Judge an advice."""
    p, shape = s["pattern"], s["shape"]
    item = np.dtype(s["packing"]["attribute_dtype"] if s["packing"] else s["stored_dtype"]).itemsize
    raw = np.dtype(s["stored_dtype"]).itemsize
    halo = p.get("halo", {})
    chunks = a.stored or (None,) * len(shape)
    dims = [
        walk(n, a.chunks[d], c, halo.get(d, 0))
        for d, n, c in zip(s["dims"], shape, chunks, strict=True)
    ]
    tasks = math.prod(t for t, *_ in dims)
    block = math.prod(x for _, x, *_ in dims) * item
    amplification = math.prod(x for _, _, x, _ in dims) / math.prod(shape)
    memory = TARGET * s["worker"]["memory_bytes"]
    peak = ALIGNED * block
    if a.stored and any(x for *_, x in dims):
        peak = math.prod(a.stored) * raw + SPLIT * block
    used = a.threads * peak
    if a.action == "stage":
        # a rechunk decodes a stored chunk and writes a unit, one task at a time if need be
        chunk = math.prod(s["stored_chunks"] or (0,)) * raw
        used = max(used, chunk + SPLIT * math.prod(a.units or (1,)) * raw)
    whole = all(
        a.chunks[d] == -1 or edges(n, a.chunks[d]).size == 2
        for d, n in zip(s["dims"], shape, strict=True)
        if d in p.get("whole_dims", ())
        or (p["kind"] == "select" and a.action == "stage" and d not in p["select"])
    )
    nbytes = math.prod(shape) * item
    slots = s["worker"]["threads"] * s["workers"]
    sane = tasks <= MOST_TASKS and (
        nbytes < SMALL_VARIABLE or (nbytes / tasks >= SMALL_BLOCK and tasks >= slots)
    )
    return Score(used <= memory, whole, amplification <= AMPLIFICATION, sane,
                 amplification, tasks, block, used / memory)  # fmt: skip


def table(name: str, rows: list[tuple[dict[str, Any], Advice | None, float]]) -> None:
    """Print one advisor's scores."""
    print(f"\n{name}")
    points, worst, fits = [], 0.0, 0
    for s, a, seconds in rows:
        if a is None:
            points.append(0)
            print(f"  {s['id']:5} 0  refused: nothing fits")
            continue
        x = score(s, a)
        points.append(x.points)
        worst, fits = max(worst, x.amplification), fits + x.fits
        missed = [n for n in ("fits", "whole", "lean", "sane") if not getattr(x, n)]
        print(
            f"  {s['id']:5} {x.points}  {a.action:6} {x.tasks:>9,} tasks, "
            f"blocks {x.block / 1e6:9,.1f} MB, amplification {x.amplification:8.2f}, "
            f"memory {x.share:7.1%}, threads {a.threads}, {seconds * 1e3:4.0f} ms"
            f"{'; missed: ' + ', '.join(missed) if missed else ''}"
        )
    print(
        f"  mean {np.mean(points):.2f} of 4, fits {fits} of {len(rows)}, worst amplification "
        f"{worst:.2f}"
    )


def main() -> None:
    """Score xchunk and two ways of opening that need no advice."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--why", action="store_true", help="print the reasons")
    parser.add_argument("--codec", help="a codec for stored chunks; none: uncompressed")
    options = parser.parse_args()
    rows: list[tuple[dict[str, Any], Advice | None, float]] = []
    reasons = []
    for s in scenarios():
        start = time.perf_counter()
        try:
            advice, why = ours(s, options.codec)
        except XchunkError as error:
            advice, why = None, str(error)
        rows.append((s, advice, time.perf_counter() - start))
        reasons.append(f"{s['id']} ({s['name']}): {why}")
    table("xchunk", rows)
    table("chunks={}", [(s, as_stored(s), 0.0) for s in scenarios()])
    table('chunks="auto"', [(s, auto(s), 0.0) for s in scenarios()])
    if options.why:
        print("\n" + "\n\n".join(reasons))


if __name__ == "__main__":
    main()
