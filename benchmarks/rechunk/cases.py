"""What is rechunked: made on this machine, the same bytes every time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One array to be rechunked."""

    name: str
    title: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    target: tuple[int, ...]
    dtype: str = "float32"
    shards: tuple[int, ...] | None = None
    target_shards: tuple[int, ...] | None = None
    netcdf: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the values as stored, decoded."""
        size = int(self.dtype[-2:]) // 8
        for n in self.shape:
            size *= n
        return size

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        found = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})


_TLL = ("time", "lat", "lon")
_MAPS: dict[str, Any] = {"dims": _TLL, "chunks": (1, 361, 720), "target": (-1, 19, 20)}


def _whole(case: Case) -> Case:
    target = tuple(n if t == -1 else t for n, t in zip(case.shape, case.target, strict=True))
    return Case(**{**asdict(case), "target": target})


CASES = {
    case.name: _whole(case)
    for case in (
        Case("maps-to-series", "maps → series", shape=(1460, 361, 720), **_MAPS),
        Case(
            "series-to-maps", "series → maps", _TLL, (1460, 361, 720), (1460, 19, 20),
            (1, 361, 720),
        ),
        Case(
            "maps-to-cubes", "maps → balanced cubes", _TLL, (1460, 361, 720), (1, 361, 720),
            (146, 61, 72),
        ),
        Case(
            "packed-netcdf", "packed int16 netCDF-4 → series", _TLL, (1460, 361, 720),
            (1, 361, 720), (1460, 19, 20), dtype="int16", netcdf=True,
        ),
        Case(
            "shards", "sharded → other shards", _TLL, (1460, 361, 720), (1, 361, 720),
            (1460, 19, 20), shards=(20, 361, 720), target_shards=(1460, 76, 80),
        ),
        Case(
            "ensemble", "4-d ensemble, transposed", ("member", "step", "lat", "lon"),
            (50, 40, 181, 360), (1, 1, 181, 360), (50, 40, 10, 10),
        ),
        Case(
            "coprime", "coprime: 1000 → 999", ("y", "x"), (16000, 16000), (1000, 1000),
            (999, 999),
        ),
        Case(
            "many-small", "100,000 chunks of 4 kB", ("t", "y", "x"), (1000, 1000, 100),
            (10, 10, 10), (1000, 10, 100),
        ),
        Case("growth-0.4", "maps → series, 0.4 GB", shape=(380, 361, 720), **_MAPS),
        Case("growth-6", "maps → series, 6.1 GB", shape=(5840, 361, 720), **_MAPS),
    )
}  # fmt: skip


def make(case: Case, path: Path, *, zarr_format: int = 3) -> None:
    """Write the source of a case; rows of rough, rounded values, as temperatures are."""
    import numpy as np

    rng = np.random.default_rng(0)
    rest = case.shape[1:]
    smooth = 260 + 40 * np.abs(np.sin(np.linspace(0, 9, int(np.prod(rest))))).reshape(rest)

    def rows(start: int, stop: int) -> Any:
        noise = rng.normal(0, 1, (stop - start, *rest)).astype("f4")
        values = np.round((noise + smooth.astype("f4")) * 64) / 64
        return ((values - 280) * 100).astype("i2") if case.dtype == "int16" else values

    if case.netcdf:
        import netCDF4

        with netCDF4.Dataset(path, "w") as nc:
            for dim, n in zip(case.dims, case.shape, strict=True):
                nc.createDimension(dim, n)
            v = nc.createVariable(
                "v", "i2", case.dims, zlib=True, complevel=1, shuffle=True,
                chunksizes=case.chunks, fill_value=-32768,
            )  # fmt: skip
            v.set_auto_maskandscale(False)
            v.setncatts({"scale_factor": 0.01, "add_offset": 280.0})
            for start in range(0, case.shape[0], 20):
                stop = min(start + 20, case.shape[0])
                v[start:stop] = rows(start, stop)
        return
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    options: dict[str, Any] = {}
    if zarr_format == 3:
        options = {
            "dimension_names": case.dims,
            "compressors": zarr.codecs.ZstdCodec(level=0),
            "shards": case.shards,
        }
    else:
        import numcodecs

        options = {"compressors": numcodecs.Zstd(level=0)}
    array = group.create_array(
        "v", shape=case.shape, chunks=case.chunks, dtype=case.dtype, fill_value=0, **options
    )
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(case.dims)
    step = (case.shards or case.chunks)[0]
    step *= max(1, 40 // step)
    for start in range(0, case.shape[0], step):
        stop = min(start + step, case.shape[0])
        array[start:stop] = rows(start, stop)
    zarr.consolidate_metadata(group.store)


if __name__ == "__main__":
    import sys

    make(Case.from_json(sys.argv[1]), Path(sys.argv[2]), zarr_format=int(sys.argv[3]))
