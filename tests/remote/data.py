"""Sources on an object store, and targets there, by both libraries that reach it."""

from __future__ import annotations

import importlib.util
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import FsspecStore

from servers.s3 import BUCKET, S3
from shared.stores import write

#: A URL with options goes through one of the two, as the options allow.
Library = Literal["s3fs", "obstore", "url"]
WHAT = {"t": -1, "y": 10}
SHARDS = {"t": -1, "y": 20, "x": -1}


def need(*packages: str) -> None:
    """Skip without a package, which is not loaded: most of these bring h5py with them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


def maps(folder: Path, zarr_format: Literal[2, 3] = 3, shards: bool = False) -> Path:
    """Maps of 4.6 MB, packed, and two small variables; they are made once in a folder."""
    path = folder / f"maps-{zarr_format}-{shards}.zarr"
    if path.exists():
        return path
    rng = np.random.default_rng(1)
    arrays: dict[str, Any] = {
        "v": (rng.integers(-999, 999, (32, 300, 240)).astype("i2"), (1, 300, 240), ("t", "y", "x")),
        "m": (rng.integers(0, 2, (300, 240)).astype("i1"), (300, 240), ("y", "x")),
        "t": (np.arange(32), (32,), ("t",)),
    }
    return write(
        path,
        arrays,
        zarr_format=zarr_format,
        shards={"v": (4, 300, 240)} if shards else None,
        attributes={"v": {"scale_factor": 0.5, "units": "K"}},
    )


@dataclass(frozen=True)
class Place:
    """Where a test's stores are, and the library that reaches them."""

    s3: S3
    """The server."""
    library: Library
    """What goes between zarr and the server."""
    name: str
    """Its own name in the bucket."""

    @classmethod
    def new(cls, s3: S3, library: Library) -> Place:
        """A place where nothing is."""
        return cls(s3, library, uuid.uuid4().hex[:12])

    def key(self, store: str) -> str:
        """The name of a store in the bucket."""
        return f"{self.name}/{store}"

    def put(self, folder: Path, store: str) -> None:
        """Copy a local store there."""
        start = f"{BUCKET}/{self.key(store)}"
        files = [p for p in folder.rglob("*") if p.is_file()]
        self.s3.filesystem().pipe(
            {f"{start}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in files}
        )

    def target(self, store: str) -> dict[str, Any]:
        """What ``apply`` is given to write there."""
        if self.library == "s3fs":
            options = {**self.s3.options, "use_listings_cache": False}
            return {
                "store": FsspecStore.from_url(self.s3.url(self.key(store)), storage_options=options)
            }
        if self.library == "url":
            return {"store": self.s3.url(self.key(store)), "storage_options": self.s3.options}
        return {"store": self.s3.zarr_store(self.key(store))}

    def open(self, store: str, **kwargs: Any) -> xr.Dataset:
        """Open a store as a user does."""
        if self.library != "obstore":
            kwargs = {"storage_options": self.s3.options, **kwargs}
            return xr.open_zarr(self.s3.url(self.key(store)), **kwargs)
        return xr.open_zarr(self.s3.zarr_store(self.key(store), read_only=True), **kwargs)

    def keys(self, store: str) -> list[str]:
        """All keys of a store."""
        return self.s3.keys(self.key(store))

    def raw(self, store: str) -> dict[str, np.ndarray[Any, Any]]:
        """What is stored, undecoded, read past any proxy and cache."""
        group = zarr.open_group(self.s3.zarr_store(self.key(store), read_only=True), mode="r")
        return {name: array[...] for name, array in group.arrays()}


@cache
def enough(path: Path) -> int:
    """A ``max_mem`` so small that `maps` go through scratch in several boxes."""
    return enough_for(xr.open_zarr(path), store="nowhere.zarr")


def enough_for(ds: xr.Dataset, **to: Any) -> int:
    """A ``max_mem`` so small that a Dataset goes through scratch in several boxes."""
    import xchunk

    most = 1_000
    while True:
        try:
            ds.chunking.plan(WHAT, max_mem=most, **to)
        except xchunk.MemoryBudgetError as error:
            most = error.smallest
        else:
            return most + 1_000_000
