"""Sparse sources: what is missing stays missing, and costs nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

import xchunk
import xchunk.engine.copy
from xchunk.rechunking.runner import present_chunks
from xchunk.sources.refs import ZarrRef

SHAPE, CHUNKS = (64, 240, 200), (1, 240, 200)


def sparse(
    path: Any, times: list[int], *, zarr_format: int = 3, fill: float = np.nan, **options: Any
) -> np.ndarray[Any, Any]:
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    dims = ("time", "lat", "lon")
    if zarr_format == 3:
        options["dimension_names"] = dims
    array = group.create_array(
        "v", shape=SHAPE, chunks=CHUNKS, dtype="f4", fill_value=fill, **options
    )
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
    values = np.full(SHAPE, fill, dtype="f4")
    rng = np.random.default_rng(1)
    for t in times:
        values[t] = rng.normal(size=SHAPE[1:])
        array[t] = values[t]
    return values


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the boxes that are copied, by the kind of their stage."""
    seen: Counter[str] = Counter()
    real = xchunk.engine.copy._copy

    def counting(spec: Any, i: int) -> Any:
        seen[spec.label.split("-")[1]] += 1
        return real(spec, i)

    monkeypatch.setattr(xchunk.engine.copy, "_copy", counting)
    return seen


def stored_chunks(path: Path) -> set[str]:
    return {
        str(f.relative_to(path))
        for f in path.rglob("*")
        if f.is_file() and f.name.removeprefix("c.")[0].isdecimal()
    }


CASES: dict[str, dict[str, Any]] = {
    "v3": {},
    "v2": {"zarr_format": 2},
    "fill of zero": {"fill": 0.0},
    "keys with dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
}


@pytest.mark.parametrize("case", CASES)
def test_boxes_without_chunks_are_not_copied(
    case: str, tmp_path: Path, copied: Counter[str]
) -> None:
    values = sparse(tmp_path / "in.zarr", [33, 34], **CASES[case])
    ds = xr.open_zarr(tmp_path / "in.zarr", chunks={}, mask_and_scale=False, consolidated=False)
    what, target = {"time": 8, "lat": 24, "lon": 20}, tmp_path / "out.zarr"
    plan = ds.chunking.plan(what, store=target, max_mem=14_000_000)["v"]
    ds.chunking.apply(what, store=target, max_mem=14_000_000, progress=False, verify=True)
    assert zarr.open_group(target, mode="r")["v"][:].tobytes() == values.tobytes()
    boxes = plan.stages[0].boxes
    filled = [r for r in boxes.regions() if r[0].start <= 34 and r[0].stop > 33]
    assert 0 < sum(copied.values()) <= len(filled) < boxes.count
    assert len(stored_chunks(target / "v")) == 10 * 10


def test_stages_leave_out_what_is_vacant(
    tmp_path: Path, copied: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through scratch: pieces that were never written are not taken for lost ones."""
    shape = (256, 96, 128)
    group = zarr.open_group(tmp_path / "in.zarr", mode="w")
    array = group.create_array(
        "v", shape=shape, chunks=(1, *shape[1:]), dtype="f4", fill_value=np.nan,
        dimension_names=("time", "lat", "lon"),
    )  # fmt: skip
    values = np.full(shape, np.nan, dtype="f4")
    rng = np.random.default_rng(1)
    for t in (*range(40, 48), 200):
        array[t] = values[t] = rng.normal(size=shape[1:])
    ds = xr.open_zarr(tmp_path / "in.zarr", chunks={}, mask_and_scale=False, consolidated=False)
    what, target = {"time": -1, "lat": 12, "lon": 8}, tmp_path / "out.zarr"
    plan = ds.chunking.plan(what, store=target, max_mem=13_000_000)["v"]
    assert plan.family != "direct"
    ds.chunking.apply(what, store=target, max_mem=13_000_000, progress=False, verify=True)
    assert zarr.open_group(target, mode="r")["v"][:].tobytes() == values.tobytes()
    boxes = plan.stages[0].boxes
    filled = [r for r in boxes.regions() if np.isfinite(values[r]).any()]
    assert 0 < len(filled) < boxes.count
    assert copied["read"] == len(filled)


def test_what_is_listed(tmp_path: Path) -> None:
    sparse(tmp_path / "in.zarr", [3, 5])
    store = zarr.storage.LocalStore(tmp_path / "in.zarr")
    found = present_chunks(ZarrRef(store, "v", 3))
    assert found is not None
    assert found[0].counts == (64, 1, 1)
    assert sorted(found[1].tolist()) == [[3, 0, 0], [5, 0, 0]]


def test_shards_are_listed(tmp_path: Path) -> None:
    sparse(tmp_path / "in.zarr", [3, 5], shards=(4, 240, 200))
    found = present_chunks(ZarrRef(zarr.storage.LocalStore(tmp_path / "in.zarr"), "v", 3))
    assert found is not None
    assert found[0].counts == (16, 1, 1)
    assert sorted(found[1].tolist()) == [[0, 0, 0], [1, 0, 0]]


def test_a_dense_array_is_not_listed(tmp_path: Path) -> None:
    sparse(tmp_path / "in.zarr", list(range(64)))
    store = zarr.storage.LocalStore(tmp_path / "in.zarr")
    assert present_chunks(ZarrRef(store, "v", 3)) is None


def test_a_list_that_misses_what_is_there_is_not_believed() -> None:
    class Forgetful(MemoryStore):
        """Lists nothing but documents, as a server might."""

        async def list_prefix(self, prefix: str) -> Any:
            async for key in super().list_prefix(prefix):
                if key.endswith("zarr.json"):
                    yield key

    store = Forgetful()
    values = sparse(store, list(range(0, 64, 2)))
    assert present_chunks(ZarrRef(store, "v", 3)) is None
    ds = xr.open_zarr(store, chunks={}, mask_and_scale=False, consolidated=False)
    target = MemoryStore()
    ds.chunking.apply(
        {"time": -1, "lat": 24, "lon": 20}, store=target, max_mem="50MB", progress=False
    )
    assert zarr.open_group(target, mode="r")["v"][:].tobytes() == values.tobytes()
