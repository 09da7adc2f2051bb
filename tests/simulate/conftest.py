"""A small store, and stores that count or refuse."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore, WrapperStore

with warnings.catch_warnings(), suppress(ImportError):
    # some versions of flox, where it is there, warn when they are imported with a newer numpy
    warnings.simplefilter("ignore")
    import flox.xarray  # noqa: F401

SHAPE = {"time": 366, "lat": 96, "lon": 96}
STORED = {"time": 61, "lat": 48, "lon": 32}

#: Chunks read by `Watching` stores, by variable.
READS: dict[str, int] = {}


class Watching(WrapperStore):  # type: ignore[type-arg]
    """Counts the chunks of data that are asked for, by either of zarr's ways."""

    def _count(self, key: str) -> None:
        name = key.split("/", maxsplit=1)[0]
        if "/c/" in key and name not in ("time", "lat", "lon"):
            READS[name] = READS.get(name, 0) + 1

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self._count(key)
        return await super().get(key, *args, **kwargs)

    def get_sync(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self._count(key)
        return super().get_sync(key, *args, **kwargs)


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variables of 13.5 MB, one of them packed, in 36 chunks each."""
    out = tmp_path_factory.mktemp("simulate") / "data.zarr"
    rng = np.random.default_rng(1)
    coords = {
        "time": np.arange("2004-01-01", "2005-01-01", dtype="M8[D]").astype("M8[ns]"),
        "lat": np.linspace(80, -80, SHAPE["lat"]),
        "lon": np.arange(SHAPE["lon"], dtype="f8"),
    }
    sizes = tuple(SHAPE.values())
    ds = xr.Dataset(
        {n: (tuple(SHAPE), rng.random(sizes, "f4")) for n in ("a", "b", "packed")}, coords
    )
    chunks = tuple(STORED.values())
    encoding: dict[str, Any] = {n: {"chunks": chunks} for n in ("a", "b")}
    encoding["packed"] = {
        "chunks": chunks,
        "dtype": "i2",
        "scale_factor": np.float32(0.001),
        "_FillValue": -1,
    }
    ds.to_zarr(out, encoding=encoding, zarr_format=3, consolidated=False)
    return out


@pytest.fixture
def opened(path: Path) -> Callable[..., xr.Dataset]:
    """Open the store; what is read of it is counted in ``READS``."""

    def open_it(chunks: Any = None, **options: Any) -> xr.Dataset:
        READS.clear()
        store = Watching(LocalStore(path, read_only=True))
        with warnings.catch_warnings():
            # blocks that split stored chunks are what some tests are about
            warnings.filterwarnings("ignore", message="The specified chunks separate")
            return xr.open_zarr(store, chunks=chunks, consolidated=False, **options)

    return open_it


@pytest.fixture
def reads() -> dict[str, int]:
    """The chunks that were read."""
    return READS
