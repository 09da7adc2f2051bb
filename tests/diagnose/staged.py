"""Situations that are staged to be recognised; each returns what was seen of it.

They are made so that what they suffer from takes nearly all of the time, on whatever machine:
the verdict is about shares, and must not change where the machine is slow or busy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numcodecs
import numpy as np
import xarray as xr
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import xchunk


class Slow(WrapperStore[Any]):
    """A store that takes its time for each request."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        await asyncio.sleep(0.06)
        return await self._store.get(key, prototype, byte_range)

    def _with_store(self, store: Any) -> Slow:
        return Slow(store)


def busy(block: np.ndarray) -> np.ndarray:
    """Keep a processor busy with numpy for a while."""
    begun = time.thread_time()
    while time.thread_time() - begun < 0.05:
        block = np.sqrt(block * block)
    return block


def plain(block: np.ndarray) -> np.ndarray:
    """Keep the interpreter busy for a while."""
    begun = time.thread_time()
    n = 0
    while time.thread_time() - begun < 0.1:
        n += sum(range(100))
    return block + 0 * n


def seen(result: Any, **options: Any) -> Any:
    with xchunk.observe(**options) as found:
        dask.compute(result)
    return found


def healthy() -> Any:
    return seen(da.random.random((40 * 20_000,), chunks=20_000).map_blocks(busy).sum())


def tiny_tasks() -> Any:
    return seen((da.ones((2_000,), chunks=1) + 1).sum())


def giant_chunk() -> Any:
    x = da.random.random((3_000, 2_000), chunks=((20,) * 15 + (2_700,), 2_000))
    return seen(da.sqrt(da.exp(x)).sum())


def one_block() -> Any:
    return seen(da.sqrt(da.exp(da.random.random((3_000, 2_000), chunks=-1))).sum())


def slow_store() -> Any:
    values = np.random.default_rng(0).random((40, 500))
    xr.Dataset({"a": (("t", "y"), values)}).to_zarr(
        "slow.zarr", encoding={"a": {"chunks": (1, 500)}}, consolidated=False
    )
    ds = xr.open_zarr(Slow(LocalStore("slow.zarr", read_only=True)), consolidated=False)
    return seen(ds.a.mean())


def small_chunks() -> Any:
    """One task for each of many small chunks, read from the memory."""
    values = np.random.default_rng(0).random((1_200, 20))
    store = MemoryStore()
    xr.Dataset({"a": (("t", "y"), values)}).to_zarr(
        store, encoding={"a": {"chunks": (1, 20)}}, consolidated=False
    )
    return seen(xr.open_zarr(store, consolidated=False).a.max())


def slow_codec() -> Any:
    values = (np.random.default_rng(0).random((16, 600, 600)) * 50).astype("i2")
    xr.Dataset({"a": (("t", "y", "x"), values)}).to_zarr(
        "packed.zarr",
        zarr_format=2,
        encoding={"a": {"chunks": (1, 600, 600), "compressors": [numcodecs.BZ2()]}},
        consolidated=False,
    )
    return seen(xr.open_zarr("packed.zarr", consolidated=False).a.max())


def locked_file() -> Any:
    values = (np.random.default_rng(0).random((48, 500, 500)) * 50).round().astype("f4")
    xr.Dataset({"a": (("t", "y", "x"), values)}).to_netcdf(
        "a.nc", encoding={"a": {"chunksizes": (1, 500, 500), "zlib": True}}
    )
    with xr.open_dataset("a.nc", engine="netcdf4", chunks={"t": 4}) as ds:
        return seen(ds.a.max())


def interpreter() -> Any:
    return seen(da.ones((16,), chunks=1).map_blocks(plain, dtype=float))


LOCAL: dict[str, tuple[Callable[[], Any], str]] = {
    "healthy": (healthy, "healthy"),
    "tiny tasks": (tiny_tasks, "too-many-tasks"),
    "small stored chunks": (small_chunks, "too-many-tasks"),
    "one giant chunk": (giant_chunk, "one-chunk"),
    "one block": (one_block, "too-few-tasks"),
    "slow store": (slow_store, "io-bound"),
    "slow codec": (slow_codec, "codec-bound"),
    "HDF5 behind its lock": (locked_file, "lock-bound"),
    "plain Python": (interpreter, "gil-bound"),
}


def spilling() -> Any:
    x = da.random.random((40, 600_000), chunks=(1, 600_000))
    with xchunk.observe() as found:
        kept = x.persist()
        kept.max().compute()
        kept.min().compute()
        del kept
    return found


def transfers() -> Any:
    with dask.config.set({"array.rechunk.method": "tasks"}):
        x = da.random.random((3_200, 3_200), chunks=(800, 3_200))
        for _ in range(2):
            x = x.rechunk((3_200, 800)).rechunk((800, 3_200))
        return seen(x.sum())


CLUSTER: dict[str, tuple[Callable[[], Any], str]] = {
    "healthy": (healthy, "healthy"),
    "transfers": (transfers, "transfer-bound"),
    "spilling": (spilling, "spilling"),
}
