"""The codec floor: what no rechunk can do without, and nothing else.

Every stored chunk is read and decoded once, every value is copied once, and as many target
chunks as there are get encoded and written, through buffers that are used again. What is
encoded are some target chunks taken from all over the data beforehand, in turn, since putting
all of them together is the work that the floor leaves out. (The same one over and over is encoded
6 % faster than different ones: the processor gets to know it.)
"""

from __future__ import annotations

import itertools
import math
import shutil
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import shuffle, zstd

from cases import Case

_own = threading.local()


def _buffers(case: Case) -> tuple[Any, Any, Any]:
    """Return this thread's buffers: for a stored chunk, for it decoded, and for its copy."""
    if not hasattr(_own, "buffers"):
        values = np.empty(case.chunks, case.dtype)
        _own.buffers = bytearray(values.nbytes * 2 + 4096), values, np.empty_like(values)
    return _own.buffers


def _units(shape: tuple[int, ...], chunks: tuple[int, ...]) -> list[tuple[int, ...]]:
    counts = [math.ceil(n / c) for n, c in zip(shape, chunks, strict=True)]
    return list(itertools.product(*map(range, counts)))


def _from_zarr(case: Case, source: Path) -> list[Callable[[], None]]:
    root = source / "v" / "c"

    def chunk(index: tuple[int, ...]) -> None:
        raw, values, copy = _buffers(case)
        with root.joinpath(*map(str, index)).open("rb", buffering=0) as file:
            n = file.readinto(raw)
        zstd.decompress(memoryview(raw)[:n], values)
        np.copyto(copy, values)

    def shard(index: tuple[int, ...]) -> None:
        _, values, copy = _buffers(case)
        stored = root.joinpath(*map(str, index)).read_bytes()
        inner = math.prod(s // c for s, c in zip(case.shards or (), case.chunks, strict=True))
        places = np.frombuffer(stored[-16 * inner - 4 : -4], "<u8").reshape(-1, 2)
        view = memoryview(stored)
        for start, size in places:
            if size < 2**63:
                zstd.decompress(view[int(start) : int(start + size)], values)
                np.copyto(copy, values)

    work = shard if case.shards else chunk
    return [lambda i=i: work(i) for i in _units(case.shape, case.shards or case.chunks)]


def _from_netcdf(case: Case, source: Path) -> list[Callable[[], None]]:
    import h5py

    dataset = h5py.File(source, "r")["v"]
    codec = shuffle.Shuffle(elementsize=np.dtype(case.dtype).itemsize)

    def chunk(index: tuple[int, ...]) -> None:
        _, _, copy = _buffers(case)
        offset = tuple(i * c for i, c in zip(index, case.chunks, strict=True))
        _, stored = dataset.id.read_direct_chunk(offset)
        values = codec.decode(zlib.decompress(stored))
        np.copyto(copy, np.frombuffer(values, case.dtype).reshape(case.chunks))

    return [lambda i=i: chunk(i) for i in _units(case.shape, case.chunks)]


#: Target chunks that are taken, at most, and bytes of all of them, unless one has more.
SAMPLES, SAMPLE_BYTES = 12, 100_000_000


def keep_sample(case: Case, source: Path, file: Path) -> None:
    """Take whole target chunks from all over the data, once for all runs."""
    import xarray as xr

    engine = "netcdf4" if case.netcdf else "zarr"
    v = xr.open_dataset(source, engine=engine, decode_cf=False, chunks=None)["v"].variable
    counts = [max(1, n // t) for n, t in zip(case.shape, case.target, strict=True)]
    each = math.prod(case.target) * np.dtype(case.dtype).itemsize
    most = max(1, min(SAMPLES, math.prod(counts), SAMPLE_BYTES // each))
    taken = []
    for i in range(most):
        at = np.unravel_index((2 * i + 1) * math.prod(counts) // (2 * most), counts)
        place = tuple(
            slice(int(a) * t, (int(a) + 1) * t) for a, t in zip(at, case.target, strict=True)
        )
        taken.append(np.ascontiguousarray(v[place].values))
    np.save(file, np.stack(taken))


def _to_zarr(case: Case, target: Path, samples: Any) -> list[Callable[[], None]]:
    def unit(number: int) -> None:
        inner = 1
        if case.target_shards is not None:
            inner = math.prod(s // c for s, c in zip(case.target_shards, case.target, strict=True))
        with (target / str(number)).open("wb") as file:
            for i in range(inner):
                file.write(zstd.compress(samples[(number * inner + i) % len(samples)], 0))

    count = len(_units(case.shape, case.target_shards or case.target))
    return [lambda n=n: unit(n) for n in range(count)]


def main(case: Case, source: Path, target: Path, threads: int, samples: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    reading = _from_netcdf(case, source) if case.netcdf else _from_zarr(case, source)
    writing = _to_zarr(case, target, np.load(samples))
    with ThreadPoolExecutor(threads) as pool:
        for jobs in (reading, writing):
            for done in pool.map(lambda job: job(), jobs):
                assert done is None


if __name__ == "__main__":
    made, rest = Case.from_json(sys.argv[1]), sys.argv[2:]
    if len(rest) == 2:
        keep_sample(made, Path(rest[0]), Path(rest[1]))
    else:
        main(made, Path(rest[0]), Path(rest[1]), int(rest[2]), Path(rest[3]))
