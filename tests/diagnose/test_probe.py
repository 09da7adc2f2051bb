from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import xchunk.diagnose.probe
import xchunk.sources.arrays
from xchunk.core.cost import MeasuredRates, Rates
from xchunk.diagnose.probe import TimedStore
from xchunk.errors import InvalidChunksError, SourceError

LATENCY = 0.02


class Counting(WrapperStore[Any]):
    """A store that counts the bytes that are read from it, and may be slow."""

    def __init__(self, store: Any, latency: float = 0.0):
        super().__init__(store)
        self.latency = latency
        self.counts: dict[str, int] = {}

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        await asyncio.sleep(self.latency)
        found = await self._store.get(key, prototype, byte_range)
        self.counts[key] = self.counts.get(key, 0) + (0 if found is None else len(found))
        return found

    def _with_store(self, store: Any) -> Counting:
        new = Counting(store, self.latency)
        new.counts = self.counts
        return new


def write(store: Any, chunks: tuple[int, ...] = (10, 50, 50), **encoding: Any) -> None:
    values = np.random.default_rng(0).normal(size=(200, 50, 50)).round(2).astype("f4")
    ds = xr.Dataset({"a": (("t", "y", "x"), values), "small": ("t", np.arange(200))})
    ds.to_zarr(store, encoding={"a": {"chunks": chunks, **encoding}}, consolidated=False)


def opened(store: Any) -> xr.Dataset:
    return xr.open_zarr(store, consolidated=False)


@pytest.mark.parametrize(
    ("encoding", "codecs"),
    [({}, ("zstd",)), ({"compressors": None}, ()), ({"shards": (20, 50, 50)}, ("zstd",))],
    ids=["zstd", "plain", "shards"],
)
def test_rates_of_a_zarr_store(encoding: dict, codecs: tuple) -> None:
    write("a.zarr", **encoding)
    rates = opened("a.zarr").chunking.probe()
    assert isinstance(rates, Rates)
    assert (rates.variable, rates.format, rates.codecs) == ("a", "zarr3", codecs)
    assert rates.samples >= 3
    assert rates.speedup is not None
    for name in ("decode", "encode", "copy", "latency", "bandwidth"):
        assert 0 < getattr(rates, name) < 1e13
    # measured as a difference: on a busy machine it may vanish
    assert rates.codec_seconds >= 0
    assert codecs or rates.codec_seconds == 0
    # random digits, rounded: stored as they are without a codec, and in about half with one
    assert rates.compression == pytest.approx(0.5 if codecs else 1.0, abs=0.3 if codecs else 0)
    assert not rates.serial_read


@pytest.mark.parametrize("library", [False, True])
def test_a_lock_is_only_where_the_library_reads(
    library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on busy cores a second thread never helps
    monkeypatch.setattr(xchunk.diagnose.probe, "_speedup", lambda *_: 0.9)
    if library:
        # as if no codec of it were known here
        monkeypatch.setattr(xchunk.sources.arrays, "open_direct", lambda *_, **__: None)
    ds = xr.Dataset({"a": (("t", "x"), np.arange(20_000.0).reshape(200, 100))})
    ds.to_netcdf("a.nc", engine="netcdf4", encoding={"a": {"zlib": True, "chunksizes": (10, 100)}})
    assert xr.open_dataset("a.nc", chunks=None).chunking.probe().serial_read == library


def test_a_slow_store_is_told_from_a_slow_codec() -> None:
    inner = MemoryStore()
    write(inner)
    slow = opened(Counting(inner, LATENCY)).chunking.probe(seconds=0.5)
    assert slow.latency >= LATENCY
    assert slow.bottleneck == "store"
    assert "It is the store that one waits for" in slow.why
    assert slow.speedup is None or slow.speedup > 0


@pytest.mark.parametrize("engine", ["netcdf4"])  # h5py may not be loaded beside it
@pytest.mark.parametrize("coded", [True, False])
def test_rates_of_a_file(engine: str, coded: bool) -> None:
    values = np.random.default_rng(0).normal(size=(200, 100, 100)).round(2).astype("f4")
    ds = xr.Dataset({"a": (("t", "y", "x"), values)})
    ds.to_netcdf(
        "a.nc", encoding={"a": {"chunksizes": (10, 100, 100), "zlib": True}} if coded else {}
    )
    with xr.open_dataset("a.nc", engine=engine) as source:
        rates = source.chunking.probe()
    assert rates.format == "netcdf4"
    assert bool(rates.codecs) == coded
    assert (rates.codec_seconds > 0) == coded
    assert 0 < rates.run < 1
    assert 0 < rates.compression <= 1


def test_rates_of_netcdf_3() -> None:
    ds = xr.Dataset({"a": (("t", "x"), np.arange(10_000.0).reshape(100, 100))})
    ds.to_netcdf("a.nc", format="NETCDF3_64BIT")
    with xr.open_dataset("a.nc", engine="scipy") as source:
        assert source.chunking.probe().format == "netcdf3"


@pytest.mark.parametrize("limit", [400_000, 1_500_000, 10**9])
def test_no_more_is_read_than_allowed(limit: int) -> None:
    inner = MemoryStore()
    write(inner, compressors=None)
    store = Counting(inner)
    ds = opened(store)
    store.counts.clear()
    rates = ds.chunking.probe("a", max_bytes=limit)
    chunks = sum(n for key, n in store.counts.items() if "/c/" in key)
    assert chunks <= rates.nbytes <= limit
    assert chunks > 0


def test_nothing_is_written(tmp_path: Any) -> None:
    write("a.zarr")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    xr.open_zarr(LocalStore("a.zarr", read_only=True), consolidated=False).chunking.probe()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_they_go_where_rates_go() -> None:
    write("a.zarr")
    ds = opened("a.zarr")
    rates = ds.chunking.probe(seconds=0.2)
    assert ds.chunking.suggest("timeseries", rates=rates, max_mem="1GB").variables
    what = {"t": -1, "y": 10, "x": 10}
    plan = ds.chunking.plan(what, store="b.zarr", rates=rates, max_mem="1GB")
    assert plan.rates is rates
    out = ds.chunking.apply(what, store="b.zarr", rates=rates, max_mem="1GB", progress=False)
    xr.testing.assert_identical(out.load(), ds.load())
    assert isinstance(rates.with_packed_scratch(), MeasuredRates)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"variable": "b"}, InvalidChunksError, "not there. Variables: "),
        ({"variable": "a", "max_bytes": "200kB"}, InvalidChunksError, "Give max_bytes=500000"),
        ({"max_bytes": "lots"}, InvalidChunksError, "not a size"),
    ],
)
def test_probes_that_cannot_be(given: dict, error: type, said: str) -> None:
    write("a.zarr")
    with pytest.raises(error, match=said):
        opened("a.zarr").chunking.probe(**given)


@pytest.mark.parametrize("computed", [True, False])
def test_what_is_not_stored_cannot_be_measured(computed: bool) -> None:
    write("a.zarr")
    ds = opened("a.zarr")
    ds = ds * 2 if computed else ds.load()
    with pytest.raises(SourceError, match="no store to measure"):
        ds.chunking.probe()


MEASURED = MeasuredRates(
    variable="a",
    chunk_nbytes=10**6,
    codecs=("zlib",),
    format="netcdf4",
    store_seconds=0.001,
    codec_seconds=0.01,
    overhead_seconds=0.0001,
    speedup=1.9,
)


@pytest.mark.parametrize(
    ("changed", "expected", "said"),
    [
        ({}, "codec", "It is the codec that one waits for. A faster codec would help, and more"),
        ({"speedup": 1.2}, "codec", "A faster codec would help; a faster store would not."),
        ({"store_seconds": 0.1}, "store", "It is the store that one waits for. Fewer and larger"),
        ({"overhead_seconds": 1.0}, "overhead", "Larger chunks would help"),
        ({"serial_read": True, "speedup": 0.9}, "lock", "threads_per_worker=1"),
    ],
)
def test_what_the_numbers_say(changed: dict, expected: str, said: str) -> None:
    rates = replace(MEASURED, **changed)
    assert rates.bottleneck == expected
    assert said in rates.why
    assert ("A second thread helps:" in rates.why) == (rates.speedup >= 1.4)
    assert ("more threads;" in rates.why) <= (rates.speedup >= 1.4), "it does not contradict itself"
    shown = repr(rates)
    assert isinstance(shown, str)
    json.dumps(rates.to_dict(), allow_nan=False)


def test_they_show_themselves() -> None:
    write("a.zarr")
    rates = opened("a.zarr").chunking.probe(seconds=0.2)
    assert max(map(len, repr(rates).splitlines())) <= 80
    assert "two threads read" in repr(rates)
    assert "xchunk probe" in rates._repr_html_()
    assert rates.to_dict()["bottleneck"] == rates.bottleneck


def test_timed_stores_count() -> None:
    from xchunk.stores import adapter

    store = TimedStore(MemoryStore())
    adapter.put_key(store, "a", b"1234")
    assert adapter.get_key(store, "a") == b"1234"
    assert store.nbytes == 4
    assert store.seconds > 0
