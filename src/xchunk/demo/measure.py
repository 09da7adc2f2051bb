"""What the demo measures: a rechunk's peak memory and time, and what one request reads."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.storage import LocalStore, WrapperStore

from xchunk.errors import StageFailedError
from xchunk.sources import open_source

__all__ = ["Rechunked", "Series", "read_series", "rechunk_in_fresh_process"]


@dataclass(frozen=True)
class Rechunked:
    """What a rechunk took, measured in the process that ran it."""

    seconds: float
    """Time on the clock."""
    grown: int
    """Bytes by which the process grew at its peak, over what it held before."""


@dataclass(frozen=True)
class Series:
    """What reading the series of one pixel took."""

    seconds: float
    """Median time on the clock."""
    chunks: int
    """Stored chunks that were fetched."""
    decoded: int
    """Bytes of those chunks, decoded."""
    needed: int
    """Bytes of the series."""

    @property
    def amplification(self) -> float:
        """Bytes decoded for each byte that is needed."""
        return self.decoded / self.needed


class _Counting(WrapperStore[LocalStore]):
    """A store that notes which chunks are fetched."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self.fetched: set[str] = set()

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.fetched.add(key)
        return await super().get(key, *args, **kwargs)


def read_series(path: Path, name: str, place: dict[str, int], *, times: int = 3) -> Series:
    """Read one pixel's series as a user would, and count the chunks that this fetches.

    Parameters
    ----------
    path : Path
        A zarr store.
    name : str
        Name of the variable.
    place : dict
        Where the pixel is, by dim.
    times : int
        How often it is timed; each time the store is opened anew.
    """
    spent = []
    for _ in range(times):
        with open_source(path) as ds:
            pixel = ds[name].isel(place)
            start = time.perf_counter()
            values = pixel.to_numpy()
            spent.append(time.perf_counter() - start)
    store = _Counting(LocalStore(path, read_only=True))
    with xr.open_zarr(store, decode_cf=False) as ds:
        pixel = ds[name].isel(place)
        pixel.to_numpy()
        chunk = ds[name].encoding["chunks"]
        itemsize = ds[name].dtype.itemsize
    prefix = f"{name}/c"
    chunks = sum(key.startswith(prefix) for key in store.fetched)
    decoded = chunks * int(np.prod(chunk)) * itemsize
    return Series(statistics.median(spent), chunks, decoded, values.size * itemsize)


def rechunk_in_fresh_process(
    source: Path, target: Path, *, access: str, max_mem: int, threads: int, progress: bool
) -> Rechunked:
    """Rechunk in a process of its own, whose peak is then the rechunk's alone.

    Raises
    ------
    StageFailedError
        If the other process failed.
    """
    job = {
        "source": str(source),
        "target": str(target),
        "access": access,
        "max_mem": max_mem,
        "threads": threads,
        "progress": progress,
    }
    code = "from xchunk.demo.measure import work; work()"
    done = subprocess.run(  # noqa: S603  this very interpreter, with a text of our own
        [sys.executable, "-c", code, json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    with suppress(ValueError, IndexError):
        answer = json.loads(done.stdout.splitlines()[-1])
        if "error" not in answer:
            return Rechunked(**answer)
        raise StageFailedError(answer["error"])
    raise StageFailedError(f"the process that rechunks ended with exit code {done.returncode}")


def work() -> None:
    """Rechunk as the argument says, and print what it took; runs in the fresh process."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    try:
        answer = asdict(rechunk(job))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  the other process shows it
        answer = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")


def rechunk(job: dict[str, Any]) -> Rechunked:
    """Rechunk in this process, and measure it."""
    import dask

    import xchunk.accessor  # noqa: F401  registers .chunking

    with dask.config.set(num_workers=job["threads"]):
        ds = open_source(job["source"])
        suggestion = ds.chunking.suggest(access=job["access"], max_mem=job["max_mem"])
        before = _forget_peak()
        start = time.perf_counter()
        ds.chunking.apply(
            suggestion, store=job["target"], max_mem=job["max_mem"], progress=job["progress"]
        )
        seconds = time.perf_counter() - start
    return Rechunked(seconds, max(0, _peak() - before))


def _forget_peak() -> int:
    """Return what the process holds now; its peak counts from here, where the system can do it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    now = _status("VmRSS")
    return _peak() if now is None else now


def _peak() -> int:
    high = _status("VmHWM")
    if high is not None:
        return high
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int | None:
    """One size out of Linux' table of this process, in bytes; None elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
