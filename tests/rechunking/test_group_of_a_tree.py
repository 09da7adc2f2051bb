"""A target that is a group of a consolidated store: its root says what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from xchunk import rechunk
from xchunk.errors import XchunkError
from xchunk.targets.location import Site

SHAPE = (20, 10)


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def number(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


def values(seed: int, shape: tuple[int, int] = SHAPE, dtype: str = "f8") -> xr.Dataset:
    numbers = np.random.default_rng(seed).integers(0, 99, shape).astype(dtype)
    return xr.Dataset({"v": (("t", "y"), numbers)}, {"t": np.arange(shape[0])})


@pytest.fixture
def tree(tmp_path: Path, number: int) -> Path:
    """A consolidated store with groups of which one lies in another."""
    place = tmp_path / "tree.zarr"
    groups = {"/": xr.Dataset(attrs={"of": "root"}), "/model": values(1), "/model/deep": values(2)}
    groups["/obs"] = values(3)
    xr.DataTree.from_dict(groups).to_zarr(
        place, zarr_format=number, encoding={"/model": {"v": {"chunks": (10, 5)}}}
    )
    return place


#: What is written, where, and what the groups of the store are afterwards.
WRITTEN: dict[str, tuple[str, xr.Dataset, set[str]]] = {
    "other-chunks": ("obs", values(4), {"/", "/model", "/model/deep", "/obs"}),
    "longer": ("obs", values(5, (30, 12), "i2"), {"/", "/model", "/model/deep", "/obs"}),
    "shorter": ("obs", values(6, (7, 10), "f4"), {"/", "/model", "/model/deep", "/obs"}),
    "with-what-was-below": ("model", values(7), {"/", "/model", "/obs"}),
    "new": ("extra", values(8), {"/", "/model", "/model/deep", "/obs", "/extra"}),
    "new-below": ("obs/extra", values(9), {"/", "/model", "/model/deep", "/obs", "/obs/extra"}),
}


@pytest.mark.parametrize(("group", "ds", "groups"), WRITTEN.values(), ids=WRITTEN)
def test_the_root_tells_of_what_was_written(
    tree: Path, number: int, group: str, ds: xr.Dataset, groups: set[str]
) -> None:
    before = {g: node.to_dataset().load() for g, node in read(tree).items()}
    ds.chunking.apply(
        {"t": 5, "y": 10}, store=tree / group, zarr_format=number, overwrite=True,
        max_mem="50MB", verify=True, progress=False,
    )  # fmt: skip
    found = read(tree)
    assert set(found) == groups
    for path, node in found.items():
        wanted = ds if path == f"/{group}" else before[path]
        xr.testing.assert_identical(node.to_dataset().load(), wanted)
    one = xr.open_zarr(tree, group=group)
    assert one.v.dtype == ds.v.dtype
    assert one.v.encoding["chunks"] == (5, 10)
    # it says the same as zarr's own would
    said = documents(tree, number)
    zarr.consolidate_metadata(tree, zarr_format=number)  # type: ignore[arg-type]
    assert said == documents(tree, number)


def read(tree: Path) -> dict[str, xr.DataTree]:
    opened = xr.open_datatree(tree, engine="zarr", consolidated=True)
    return {node.path: node for node in opened.subtree}


def documents(tree: Path, number: int) -> Any:
    raw = json.loads((tree / ("zarr.json" if number == 3 else ".zmetadata")).read_text())
    members = raw["consolidated_metadata"]["metadata"] if number == 3 else raw["metadata"]
    # zarr says of some groups that nothing more is said of what is in them
    return {
        k: {n: v for n, v in m.items() if n != "consolidated_metadata"} for k, m in members.items()
    }


def test_a_stopped_replacement_is_no_mixture(
    tree: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, how = values(4), {"zarr_format": number, "max_mem": "50MB", "progress": False}

    def stop(*_: Any) -> Any:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Site, "publish", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            new.chunking.apply({"t": 5}, store=tree / "obs", overwrite=True, **how)
    with pytest.raises(KeyError):
        xr.open_zarr(tree, group="obs")
    new.chunking.apply({"t": 5}, store=tree / "obs", overwrite=True, **how)
    xr.testing.assert_identical(xr.open_zarr(tree, group="obs").load(), new)


def test_what_is_refused_leaves_the_root_as_it_was(tree: Path, number: int) -> None:
    before = documents(tree, number)
    with pytest.raises(XchunkError):
        values(4).chunking.apply({"t": 5}, store=tree / "obs", max_mem="50MB", progress=False)
    assert documents(tree, number) == before


def test_an_array_in_a_group_is_told_of_too(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "a.zarr", attributes={"k": 1})
    root.create_array("old", shape=(8,), chunks=(2,), dtype="i4")
    old = zarr.create_array(tmp_path / "b.zarr", data=np.arange(8), chunks=(2,))
    zarr.consolidate_metadata(tmp_path / "a.zarr")
    rechunk(old, (4,), "50MB", tmp_path / "a.zarr" / "new").execute()
    found = zarr.open_group(tmp_path / "a.zarr", mode="r", use_consolidated=True)
    assert found.attrs["k"] == 1
    np.testing.assert_array_equal(found["new"][...], np.arange(8))  # type: ignore[index]
