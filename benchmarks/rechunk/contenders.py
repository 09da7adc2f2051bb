"""One contender rechunks one case, in a process of its own.

Run as ``python contenders.py WHO CASE SOURCE TARGET BUDGET THREADS SCRATCH``, with the Python
of the environment that has the contender. Prints one line of JSON: what the process held
before it began, and what its contender predicted.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from cases import Case

warnings.simplefilter("ignore")


def held() -> int:
    """Bytes that this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def opened(case: Case, source: str) -> Any:
    """Open the source as a Dataset in its stored chunks, without decoding."""
    import xarray as xr

    engine = "netcdf4" if case.netcdf else "zarr"
    return xr.open_dataset(source, engine=engine, chunks={}, decode_cf=False)


def asked_of_xchunk(case: Case, target: str, budget: int) -> dict[str, Any]:
    """Spell a case out in the words of xchunk's `plan` and `apply`."""
    what = {"v": dict(zip(case.dims, case.target, strict=True))}
    asked: dict[str, Any] = {"chunks": what, "store": target, "max_mem": budget}
    if case.target_shards is not None:
        asked["shards"] = {"v": dict(zip(case.dims, case.target_shards, strict=True))}
    return asked


def with_xchunk(
    case: Case, source: str, target: str, budget: int, threads: int, _: str
) -> dict[str, Any]:
    import dask

    import xchunk  # noqa: F401

    ds = opened(case, source)
    ds.chunking.layout()  # with this all of xchunk is loaded
    before = held()
    with dask.config.set(num_workers=threads):
        ds.chunking.apply(**asked_of_xchunk(case, target, budget), progress=False)
    return {"before": before}


def planned(
    case: Case, source: str, target: str, budget: int, threads: int, _: str
) -> dict[str, Any]:
    """Say what xchunk would do; nothing is copied."""
    import dask

    import xchunk  # noqa: F401

    with dask.config.set(num_workers=threads):
        plan = opened(case, source).chunking.plan(**asked_of_xchunk(case, target, budget))
    one = plan["v"]
    return {
        "before": 0,
        "predicted": plan.projected_mem,
        "family": one.family,
        "boxes": [[list(s.boxes.chunks), s.boxes.count] for s in one.stages],
    }


def with_dask(
    case: Case, source: str, target: str, _budget: int, threads: int, _: str
) -> dict[str, Any]:
    import dask
    import distributed  # noqa: F401 - dask loads it anyhow with whatever is computed first
    import zarr

    ds = opened(case, source)
    before = held()
    shards = case.target_shards
    blocks = dict(zip(case.dims, shards or case.target, strict=True))
    encoding: dict[str, Any] = {
        "chunks": case.target,
        "compressors": zarr.codecs.ZstdCodec(level=0),
    }
    if shards:
        encoding["shards"] = shards
    with dask.config.set(scheduler="threads", num_workers=threads):
        out = ds.chunk(blocks).drop_encoding()
        out.to_zarr(target, encoding={"v": encoding}, zarr_format=3, mode="w")
    return {"before": before}


def with_rechunker(  # noqa: PLR0917 - all contenders are called alike
    case: Case, source: str, target: str, budget: int, threads: int, scratch: str
) -> dict[str, Any]:
    import dask
    import zarr
    from rechunker import rechunk

    array = zarr.open(source, mode="r")["v"]
    before = held()
    plan = rechunk(
        array,
        target_chunks=case.target,
        max_mem=budget // threads,  # what it allows each task
        target_store=target,
        temp_store=scratch,
        target_options={"compressor": array.compressor},
    )
    with dask.config.set(scheduler="threads", num_workers=threads):
        plan.execute()
    return {"before": before}


def with_cubed(  # noqa: PLR0917 - all contenders are called alike
    case: Case, source: str, target: str, budget: int, threads: int, scratch: str
) -> dict[str, Any]:
    import cubed
    from cubed.runtime.executors.local import ThreadsExecutor

    before = held()
    spec = cubed.Spec(work_dir=scratch, allowed_mem=budget // threads, reserved_mem=0)
    array = cubed.from_zarr(source, path="v", spec=spec).rechunk(case.target)
    cubed.to_zarr(array, target, path="v", executor=ThreadsExecutor(max_workers=threads))
    return {"before": before}


def with_rechunkit(
    case: Case, source: str, target: str, budget: int, _threads: int, _: str
) -> dict[str, Any]:
    import numpy as np
    import zarr
    from rechunkit import rechunker

    array = zarr.open_array(source, path="v", mode="r")
    before = held()
    out = zarr.create_array(
        target, name="v", shape=case.shape, chunks=case.target, dtype=case.dtype,
        compressors=array.compressors,
    )  # fmt: skip
    pieces = rechunker(
        lambda region: array[region], case.shape, np.dtype(case.dtype), case.chunks,
        case.target, budget,
    )  # fmt: skip
    for region, values in pieces:
        out[region] = values
    return {"before": before}


WHO = {
    "xchunk": with_xchunk,
    "plan": planned,
    "dask": with_dask,
    "rechunker": with_rechunker,
    "cubed": with_cubed,
    "rechunkit": with_rechunkit,
}

if __name__ == "__main__":
    who, case, source, target, budget, threads, scratch = sys.argv[1:]
    found = WHO[who](Case.from_json(case), source, target, int(budget), int(threads), scratch)
    sys.stdout.write(json.dumps(found))
