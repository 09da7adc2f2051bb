"""An archive of many small datasets, of every format, some of them broken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["BROKEN", "KINDS", "job_file", "make_archive", "real_files"]

Write = Callable[[xr.Dataset, Path], Path]


def _dataset(number: int, side: int) -> xr.Dataset:
    """A few maps of something smooth, with gaps, that nobody else has."""
    rng = np.random.default_rng(number)
    time, lat, lon = 24, side, side + 4
    wave = np.sin(np.linspace(0, 6, time))[:, None, None]
    values = (280 + 5 * wave + rng.normal(0, 2, (time, lat, lon))).round(2).astype("f4")
    values[:, 0, : number % 3] = np.nan
    return xr.Dataset(
        {
            "t": (("time", "lat", "lon"), values, {"units": "K", "long_name": "temperature"}),
            "mask": (("lat", "lon"), (values[0] > 280).astype("i1")),
        },
        coords={
            "time": ("time", np.arange(time) + number, {"units": "days since 2000-01-01"}),
            "lat": ("lat", np.linspace(-60, 60, lat), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(0, 350, lon), {"units": "degrees_east"}),
        },
        attrs={"title": f"member {number}"},
    )


def _netcdf(form: str, **of_t: Any) -> Write:
    def write(ds: xr.Dataset, stem: Path) -> Path:
        path = stem.with_suffix(".nc")
        own = dict(of_t)
        if own.get("chunksizes") == "maps":
            own["chunksizes"] = (1, *ds.t.shape[1:])
        ds.to_netcdf(path, engine="netcdf4", format=form, encoding={"t": own})  # type: ignore[call-overload]
        return path

    return write


def _zarr(version: int, **of_t: Any) -> Write:
    def write(ds: xr.Dataset, stem: Path) -> Path:
        path = stem.with_suffix(".zarr")
        lat, lon = ds.t.shape[1:]
        own = {"chunks": (1, lat, lon), **of_t}
        if own.pop("sharded", False):
            own["shards"] = (8, lat, lon)
        ds.to_zarr(path, zarr_format=version, consolidated=True, encoding={"t": own})  # type: ignore[call-overload]
        return path

    return write


_PACKED = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -32768}

#: How the datasets are stored, in turn.
KINDS: dict[str, Write] = {
    "netcdf4": _netcdf("NETCDF4", chunksizes="maps", zlib=True, complevel=1),
    "netcdf4-plain": _netcdf("NETCDF4", contiguous=True),
    "netcdf3": _netcdf("NETCDF3_CLASSIC"),
    "netcdf3-64": _netcdf("NETCDF3_64BIT"),
    "zarr2": _zarr(2),
    "zarr3": _zarr(3),
    "zarr3-sharded": _zarr(3, sharded=True),
    "packed-netcdf4": _netcdf("NETCDF4", chunksizes="maps", zlib=True, **_PACKED),
    "packed-zarr2": _zarr(2, **_PACKED),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _overwrite(path: Path) -> None:
    path.write_text("<html>503 Service Unavailable</html>\n")


def _rot(path: Path) -> None:
    chunk = sorted(p for p in (path / "t").rglob("*") if p.is_file() and p.name[0].isdigit())[3]
    chunk.write_bytes(b"\xff" * chunk.stat().st_size)


#: What is broken: the kind that it is done to, and how.
BROKEN: dict[str, Callable[[Path], None]] = {
    "netcdf3": _cut,
    "netcdf4": _overwrite,
    "zarr2": _rot,
}


def make_archive(folder: Path, count: int, *, side: int = 24) -> tuple[list[Path], list[Path]]:
    """Make an archive; return what is sound of it, and what is broken."""
    folder.mkdir(parents=True)
    sound: list[Path] = []
    broken: list[Path] = []
    spoil = dict(BROKEN)
    # one of each kind is left as it is before one is broken
    first = len(KINDS)
    for number, (kind, write) in zip(range(count), itertools.cycle(KINDS.items()), strict=False):
        path = write(_dataset(number, side + number % 5), folder / f"{kind}_{number:03}")
        if number >= first and kind in spoil:
            spoil.pop(kind)(path)
            broken.append(path)
        else:
            sound.append(path)
    return sound, broken


def real_files() -> list[Path]:
    """The netCDF files that installed packages carry."""
    import importlib.util

    found: list[Path] = []
    for package, inside in (("iris_sample_data", "sample_data"), ("hvsampledata", "_data")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            found += sorted((Path(place) / inside).rglob("*.nc"))
    return found


def job_file(path: Path, sources: list[Path], *, target: str = "out/{name}.zarr") -> Path:
    """Write a job file for what is in an archive, and for real files."""
    made = sorted({str(s.parent / "*") for s in sources if s.parent.parent == path.parent})
    real = [str(s) for s in sources if s.parent.parent != path.parent]
    lines = [
        "[defaults]",
        f'target = "{target}"',
        'memory = "1GiB"',
        "verify = true",
        "",
        "[[job]]",
        'name = "made"',
        f"source = {made}",
        "chunks = { t = { time = -1, lat = 8, lon = 8 } }",
    ]
    if real:
        lines += ["", "[[job]]", 'name = "real"', f"source = {real}", 'access = "scan"']
    path.write_text("\n".join(lines) + "\n")
    return path
