"""One of every report, of real stores that are small, with names that are not kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xchunk
from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest.suggestion import suggest_dataset
from xchunk.display.progress import Held, Stage, State, notebook_html

__all__ = ["EVIL", "LONG", "make_reports", "observed_reports", "progress_page"]

#: A name that would run a script, and what must be read of it instead.
EVIL = "<script>alert('x')<script><img src=x onerror=alert(1)>"
LONG = "wind_speed_of_gust_at_10m_maximum_since_the_previous_post_processing_step_of_all"


def make_reports(folder: Path) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Make the reports, each with what must be found in it."""
    time = xr.date_range("2020-01-01", periods=120)
    lat, lon = np.linspace(-60, 60, 24), np.arange(48.0)
    rng = np.random.default_rng(0)
    values = rng.normal(280, 9, (120, 24, 48)).astype("f4")
    dims = ("time", "lat", "lon")
    ds = xr.Dataset(
        {"t2m": (dims, values), EVIL: (dims, values), LONG: (dims, values)},
        {
            "time": time,
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
    )
    maps = {"chunks": (1, 24, 48)}
    ds.to_zarr(
        folder / "maps.zarr",
        encoding={"t2m": maps, EVIL: maps, LONG: {"chunks": (40, 6, 6), "shards": (120, 12, 24)}},
        consolidated=False,
    )
    # a folder lists its arrays in any order, and the first one's requests are drawn
    ds = xr.open_zarr(folder / "maps.zarr", consolidated=False)[["t2m", EVIL, LONG]]
    chunking = ds.chunking
    limit = MemoryBudget.of_memory(2 * 1024**3, reserved=180_000_000, threads=2, origin="cgroup")
    tight = MemoryBudget.of_growth(60_000_000, threads=2)
    f4 = np.dtype("f4")
    large = [
        ArrayLayout(name, dims, (3650, 90, 180), f4, f4, (1, 90, 180), None, ("zstd",), "zarr3")
        for name in ("t2m", EVIL)
    ]
    staged = suggest_dataset(large, "timeseries", tight, passes=10)
    lazy = suggest_dataset(large, "map", tight)
    work = chunking.suggest(workload=lambda d: d.t2m.mean("time"), memory=limit)
    plan = chunking.plan(
        {"time": -1, "lat": 6, "lon": 6}, store=folder / "out.zarr", max_mem="60MB"
    )
    chunking.apply({"time": -1}, store=folder / "out.zarr", max_mem="60MB", progress=False)
    layout = chunking.layout()
    check = chunking.check(memory="2GiB")
    return {
        "layout": (layout, ("xchunk layout", EVIL, LONG, "1,152 × what it needs", "map: lat, lon")),
        "variable": (layout["t2m"], ("xchunk layout", "timeseries: time whole")),
        "budget": (limit, ("60%", "target", "95%", "terminate", "cgroup")),
        "growth": (tight, ("a worker may grow by", "60.0 MB")),
        "small": (chunking.suggest("map", memory=limit), ("xchunk suggestion", EVIL, LONG)),
        "lazy": (lazy, ("chunk lazily", "in the suggested blocks", EVIL)),
        "staged": (
            staged,
            ("rechunk to zarr first", "rechunked", "touches 3,650 of 3,650", "touches 1 of", EVIL),
        ),
        "advice": (staged.variables["t2m"], ("t2m", "decoded now")),
        "workload": (work, ("for workload", "simulated")),
        "prediction": (work.prediction, ("xchunk prediction", "longest chain")),
        "plan": (plan, ("xchunk plan", "source", "target", "decodes", "writes", EVIL)),
        "array plan": (plan["t2m"], ("xchunk plan", "t2m", "the box that one task copies")),
        "check": (check, ("xchunk check", "stored-chunks-too-small", EVIL)),
        "finding": (check[0], ("xchunk finding", LONG)),
        "probe": (chunking.probe("t2m", seconds=0.05), ("xchunk probe", "that one waits for")),
        "comparison": (
            chunking.compare_rechunk({"time": -1, "lat": 6}, variable="t2m", memory=limit),
            ("xchunk rechunk", "dask p2p", "staged"),
        ),
        "graph": (xchunk.graph(ds.t2m.mean("time")), ("xchunk graph", "longest chain")),
        "proof": (chunking.verify(folder / "out.zarr"), ("xchunk proof", "bit by bit", EVIL)),
        "cleaning": (xchunk.clean(folder / "out.zarr"), ("xchunk clean", "nothing to delete")),
    }


def observed_reports(folder: Path) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """What was seen of a run, and what it means."""
    with (
        xr.open_zarr(folder / "maps.zarr", consolidated=False, chunks={}) as ds,
        xchunk.observe() as seen,
    ):
        ds.t2m.mean("time").compute()
    said = ("xchunk observation", "Task stream")
    return {"observation": (seen, said), "diagnosis": (seen.explain(), ("xchunk diagnosis",))}


def progress_page() -> tuple[str, tuple[str, ...]]:
    """The progress of a rechunk in a notebook, halfway, and what must be read of it."""
    stages = [
        Stage(f"{EVIL}, source → scratch", 0.0, 20, 20, 170_000_000, 7.0),
        Stage("t2m, scratch → target", 7.0, 9, 20, 76_000_000),
    ]
    held = Held("fullest worker", 900_000_000, 1_000_000_000)
    shown = notebook_html(State(12.0, stages, held, 340_000_000))
    return shown, (EVIL, "9/20 boxes", "all of it", "fullest worker", "900 MB of 1.00 GB", "90%")
