"""The demo: a story on synthetic data, in plain words and with numbers that were all measured."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
import zarr
from dask.base import optimize
from zarr.storage import LocalStore, WrapperStore

from xchunk.core.units import format_bytes, format_count, format_seconds, parse_bytes
from xchunk.display.document import Block, Document, Drawn, Heading, Paragraph, Report, Table
from xchunk.display.drawing import array_layout
from xchunk.display.phrases import times
from xchunk.display.render import block_text, page
from xchunk.errors import MemoryBudgetError, SourceError, StageFailedError, TargetExistsError
from xchunk.opening.formats import open_source

_NAME, _ACCESS = "t2m", "timeseries"
_MAPS, _SERIES = "maps.zarr", "series.zarr"


class Rechunked(NamedTuple):
    """What a rechunk took: seconds, and the bytes by which its process grew at its peak."""

    seconds: float
    grown: int


class Series(NamedTuple):
    """What a pixel's series took: the median time, chunks fetched, bytes of them, and needed."""

    seconds: float
    chunks: int
    decoded: int
    needed: int


def tell(
    *,
    keep: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    echo: Callable[[str], object] | None = None,
    shape: tuple[int, int, int] = (1460, 121, 240),
    max_mem: int | str = "80MB",
    progress: bool = True,
) -> dict[str, Any]:
    """Make data, ask how to use them, rechunk them, and show by measurement what it brought.

    Files are kept in the folder ``keep``, or removed at the end; ``report`` is a page with the
    same story. Returns what was measured, as JSON types.
    """
    echo = echo or (lambda text: sys.stdout.write(text + "\n"))
    told: list[Block] = []

    def say(*blocks: Block | str) -> None:
        made = [Paragraph(b) if isinstance(b, str) else b for b in blocks]
        told.extend(made)
        echo(block_text(*made) + "\n")

    where = None if report is None else _page_path(report)
    allowed = parse_bytes(max_mem, "max_mem")
    threads = min(2, os.cpu_count() or 1)
    start = time.perf_counter()
    with _folder(keep) as folder, dask.config.set(num_workers=threads):
        maps, series = folder / _MAPS, folder / _SERIES
        make_reanalysis(maps, shape=shape)
        with open_source(maps) as ds:
            done, proof, before, after = _chapters(
                say, ds, maps, series, max_mem=allowed, threads=threads, progress=progress
            )
        took = format_seconds(time.perf_counter() - start)
        files = f"The files are in {folder}." if keep is not None else "The files are removed now."
        say(f"All of it took {took} on {threads} threads. {files}")
        if where is not None:
            where.write_text(page("xchunk demo", [Document("xchunk demo", body=told)]), "utf-8")
            echo(f"  The same as a page: {where}")
    if done.grown > allowed:
        raise MemoryBudgetError(
            f"the rechunk grew by {format_bytes(done.grown)}, but {format_bytes(allowed)} "
            "were allowed: the promise was not kept. Please report it.",
            needed=done.grown,
            allowed=allowed,
        )
    return {
        "seconds": time.perf_counter() - start,
        "folder": None if keep is None else str(folder),
        "report": None if where is None else str(where),
        "nbytes": proof.nbytes,
        "max_mem": allowed,
        "rechunk": done._asdict(),
        "before": before._asdict(),
        "after": after._asdict(),
    }


def _chapters(
    say: Callable[..., None], ds: xr.Dataset, maps: Path, series: Path, **job: Any
) -> tuple[Rechunked, Any, Series, Series]:
    t2m, max_mem = ds[_NAME], job["max_mem"]
    size = sum(f.stat().st_size for f in maps.rglob("*") if f.is_file())
    say(
        Heading("1. An archive, stored map by map"),
        f"This is a synthetic reanalysis: {t2m.sizes['time']} six-hourly maps of 2 m temperature, "
        f"{format_bytes(t2m.nbytes)} in memory, {format_bytes(size)} on disk. Each map is one "
        "chunk, as archives usually have it: written as time goes on.",
    )
    (pixel,) = optimize(t2m.isel(latitude=0, longitude=0).data)
    say(
        Heading("2. How is it stored?"),
        Report(ds.chunking.layout()),
        f"Opened with chunks={{}}, the dask graph of {_NAME} has "
        f"{format_count(len(dict(t2m.data.dask)))} tasks. The time series of a single pixel takes "
        f"{format_count(len(dict(pixel.dask)))} tasks, and reads every chunk of the archive: no "
        "lazy chunking changes that.",
    )
    suggestion = ds.chunking.suggest(access=_ACCESS, max_mem=max_mem)
    say(
        Heading("3. What fits time series, and this memory?"),
        f"ds.chunking.suggest(access={_ACCESS!r}, max_mem={format_bytes(max_mem)!r}) looks at "
        "the layout, the use and the memory, and gives its reasons:",
        Report(suggestion),
    )
    say(
        Heading("4. What would a rechunk do?"),
        "ds.chunking.plan(…) counts it beforehand; nothing is written yet:",
        Report(ds.chunking.plan(suggestion, store=str(series), max_mem=max_mem)),
    )
    say(
        Heading("5. Rechunk it"),
        "ds.chunking.apply(…) runs now in a process of its own, so that its peak of memory can be "
        f"measured: it may grow by {format_bytes(max_mem)}.",
    )
    sys.stdout.flush()
    done = rechunk_in_fresh_process(maps, series, **job)
    say(
        f"Done in {format_seconds(done.seconds)}. At its peak the process had grown by "
        f"{format_bytes(done.grown)}."
    )
    place = {d: t2m.sizes[d] // 3 for d in ("latitude", "longitude")}
    before, after = (read_series(path, _NAME, place) for path in (maps, series))
    request = [(0, t2m.sizes["time"]), *((i, i + 1) for i in place.values())]
    with open_source(series) as out:
        layouts = [one.chunking.layout()[_NAME] for one in (ds, out)]
    say(
        Heading("6. One pixel's series, before and after"),
        f"Before, {format_count(before.chunks)} chunks are read and decoded for it, in "
        f"{format_seconds(before.seconds)}; after, {format_count(after.chunks)} in "
        f"{format_seconds(after.seconds)}.",
        Drawn(lambda: [array_layout(a, request, longest=300) for a in layouts]),
    )
    start = time.perf_counter()
    proof = ds.chunking.verify(series, max_mem=max_mem)
    say(
        Heading("7. Is it the same data?"),
        f"ds.chunking.verify(…) read both stores, in {format_count(proof.pieces)} pieces: "
        f"{len(proof.variables)} variables, {format_bytes(proof.nbytes)}, are the same bit by bit "
        f"({format_seconds(time.perf_counter() - start)}).",
    )
    part = done.grown / max_mem
    verdict = "within the budget" if part <= 1 else "OVER the budget"
    pair, rate = (before, after), format_bytes(proof.nbytes / done.seconds)
    say(
        Heading("8. Measured"),
        Table(
            ("one pixel's series", "before", "after"),
            [
                ("chunks decoded", *(format_count(s.chunks) for s in pair)),
                ("bytes decoded", *(format_bytes(s.decoded) for s in pair)),
                ("decoded / needed", *(times(s.decoded / s.needed) for s in pair)),
                ("time", *(format_seconds(s.seconds) for s in pair)),
            ],
        ),
        Table(
            ("the rechunk", ""),
            [
                ("data", f"{format_bytes(proof.nbytes)}, identical"),
                ("time", f"{format_seconds(done.seconds)} ({rate}/s)"),
                ("memory it may take", format_bytes(max_mem)),
                ("memory it took", f"{format_bytes(done.grown)} ({part:.0%}), {verdict}"),
            ],
        ),
    )  # fmt: skip
    return done, proof, before, after


def make_reanalysis(path: Path, *, shape: tuple[int, int, int]) -> None:
    """Write six-hourly 2 m temperature as a zarr v3 store with one map in each chunk.

    The field is smooth in space and time (a climate by latitude, seasons, days, travelling
    waves) with noise of a fifth of a kelvin in steps of 1/64 K, so that it compresses about as
    real data do. It is made and written in bands of maps, which takes little memory.
    """
    steps, ny, nx = shape
    rng = np.random.default_rng(1979)
    lat = np.linspace(90, -90, ny, dtype="f4")
    lon = np.linspace(0, 360, nx, endpoint=False, dtype="f4")
    y, x = np.radians(lat)[:, None], np.radians(lon)[None, :]
    days = np.arange(steps) / 4
    turn = 2 * np.pi * days
    # patterns in space, each with its amplitude over time: climate, season, hour, waves
    parts = [
        (288 - 38 * np.sin(y) ** 2 + 0 * x, np.ones_like(days)),
        (14 * np.sin(y) + 0 * x, np.cos((turn - 400 * np.pi) / 365)),
        (3 * np.cos(y) * np.cos(x), np.cos(turn)),
        (-3 * np.cos(y) * np.sin(x), np.sin(turn)),
    ]
    for period, number in ((11.0, 2), (7.0, 3), (4.5, 5), (3.0, 7)):
        envelope = 4 * np.cos(y) * np.sin(rng.uniform(1, 4) * y + rng.uniform(0, 2 * np.pi))
        parts.append((envelope * np.cos(number * x), np.cos(turn / period)))
        parts.append((envelope * np.sin(number * x), np.sin(turn / period)))
    patterns, strengths = (np.asarray(p, dtype="f4") for p in zip(*parts, strict=True))
    xr.Dataset(
        {"orography": (("latitude", "longitude"), np.maximum(0, 400 * patterns[-1]))},
        {
            "time": ("time", np.arange(steps) * 6, {"units": "hours since 2024-01-01"}),
            "latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"}),
        },
        {"title": "synthetic reanalysis"},
    ).to_zarr(path, zarr_format=3, consolidated=False)
    maps = zarr.open_group(path, mode="r+").create_array(
        _NAME, shape=shape, chunks=(1, ny, nx), dtype="f4", fill_value=float("nan"),
        dimension_names=("time", "latitude", "longitude"),
        attributes={"standard_name": "air_temperature", "units": "K"},
    )  # fmt: skip
    for band in range(0, steps, 73):
        field = np.tensordot(strengths[:, band : band + 73], patterns, axes=(0, 0))
        field += np.float32(0.2) * rng.standard_normal(field.shape, dtype="f4")
        maps[band : band + 73] = np.round(field * 64) / 64
    zarr.consolidate_metadata(path)


class _Counting(WrapperStore[LocalStore]):
    """A store that notes what is fetched."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self.fetched: set[str] = set()

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.fetched.add(key)
        return await super().get(key, *args, **kwargs)


def read_series(path: Path, name: str, place: dict[str, int]) -> Series:
    """Read one pixel's series three times, as a user would, and count the chunks it fetches."""
    spent = []
    for _ in range(3):
        store = _Counting(LocalStore(path, read_only=True))
        with xr.open_dataset(store, engine="zarr", chunks={}) as ds:  # type: ignore[arg-type]
            pixel = ds[name].isel(place)
            start = time.perf_counter()
            values = pixel.to_numpy()
            spent.append(time.perf_counter() - start)
            chunk = int(np.prod(ds[name].encoding["chunks"])) * ds[name].dtype.itemsize
    chunks = sum(key.startswith(f"{name}/c") for key in store.fetched)
    return Series(statistics.median(spent), chunks, chunks * chunk, values.nbytes)


def rechunk_in_fresh_process(source: Path, target: Path, **job: Any) -> Rechunked:
    """Rechunk in a process of its own, whose peak of memory is then the rechunk's alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        done = pool.submit(rechunk, source, target, **job).result()
    if isinstance(done, str):
        raise StageFailedError(done)
    return done


def rechunk(
    source: Path, target: Path, *, max_mem: int, threads: int, progress: bool
) -> Rechunked | str:
    """Rechunk in this process and measure it; an error is returned in words."""
    with dask.config.set(num_workers=threads), open_source(source) as ds:
        try:
            suggestion = ds.chunking.suggest(access=_ACCESS, max_mem=max_mem)
            with suppress(OSError):  # the peak counts from here, where the system can do that
                Path("/proc/self/clear_refs").write_text("5", "utf-8")
            held, start = _status("VmRSS") or _status("VmHWM"), time.perf_counter()
            ds.chunking.apply(suggestion, store=target, max_mem=max_mem, progress=progress)
            seconds = time.perf_counter() - start
        except Exception as error:  # noqa: BLE001  the other process shows it
            return f"{type(error).__name__}: {error}"
    return Rechunked(seconds, max(0, _status("VmHWM") - held))


def _status(field: str) -> int:
    """Return one size of this process in bytes: of Linux' table, or else the peak so far."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def _folder(keep: str | os.PathLike[str] | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="xchunk-demo-") as name:
            yield Path(name)
        return
    folder = Path(keep)
    taken = [n for n in (_MAPS, _SERIES) if (folder / n).exists()]
    if taken:
        raise TargetExistsError(
            f"{folder / taken[0]} is there already, and the demo replaces nothing. Give --keep "
            "another folder, or remove it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"--keep {folder}: cannot be made ({error.strerror}).") from error
    try:
        yield folder
    except BaseException:
        # a story that broke off leaves nothing behind; what was there before stays
        for name in (_MAPS, _SERIES):
            shutil.rmtree(folder / name, ignore_errors=True)
        raise


def _page_path(report: str | os.PathLike[str]) -> Path:
    path = Path(report)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SourceError(f"--report {path}: is not a file in a folder that exists.")
    return path
