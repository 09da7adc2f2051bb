"""Appends and regions of trees, of groups that are named by their path, and by labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import xchunk
from xchunk.cli import main

QUIET: dict[str, Any] = {"max_mem": "60MB", "progress": False}


def part(start: int, stop: int) -> xr.Dataset:
    time = pd.date_range("2000-01-01", periods=40)[start:stop]
    values = np.arange(40 * 3.0).reshape(40, 3)[start:stop]
    return xr.Dataset({"v": (("time", "x"), values)}, {"time": time, "x": [1, 2, 3]})


def nested(start: int, stop: int) -> xr.DataTree:
    """A tree in which `/s/deep` inherits the time of `/s`, and `/other` has its own."""
    deep = part(start, stop).drop_vars(["time", "x"]).rename(v="w")
    return xr.DataTree.from_dict(
        {"/s": part(start, stop), "/s/deep": deep, "/other": part(start, stop)}
    )


def inherited(start: int, stop: int) -> xr.DataTree:
    """A tree in which all groups inherit the time of the root."""
    root = part(start, stop)
    data = root.drop_vars(["time", "x"])
    return xr.DataTree.from_dict({"/": root[["time", "x"]], "/a": data, "/b": data * 2})


CONSOLIDATED = [pytest.param(True, id="consolidated"), pytest.param(False, id="not")]
FORMATS = [pytest.param(2, id="v2"), pytest.param(3, id="v3")]


def write(tree: xr.DataTree, **kwargs: Any) -> Path:
    tree.to_zarr("t.zarr", mode="w", **kwargs)
    return Path("t.zarr")


def opened(path: Path, **kwargs: Any) -> xr.DataTree:
    return xr.open_datatree(path, engine="zarr", **kwargs).load()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("consolidated", CONSOLIDATED)
@pytest.mark.parametrize("paths", [["/s"], ["/s/deep"]], ids=["above", "below"])
def test_a_part_of_a_tree_is_refused(
    paths: list[str], zarr_format: Any, consolidated: bool
) -> None:
    store = write(nested(0, 10), zarr_format=zarr_format, consolidated=consolidated)
    new = nested(10, 20)
    some = xr.DataTree.from_dict({p: new[p].to_dataset(inherit=False) for p in paths})
    with pytest.raises(xchunk.InvalidChunksError, match=r"opened as a tree.*DataTree"):
        some.chunking.append(store, dim="time", **QUIET)
    assert opened(store).identical(nested(0, 10))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zarr_format", FORMATS)
def test_groups_beside_each_other_grow_alone(zarr_format: Any) -> None:
    store = write(nested(0, 10), zarr_format=zarr_format)
    new = nested(10, 20)
    some = xr.DataTree.from_dict({p: new[p].to_dataset(inherit=False) for p in ("s", "s/deep")})
    some.chunking.append(store, dim="time", **QUIET)
    after = opened(store)
    assert after["s"].identical(nested(0, 20)["s"])
    assert after["other"].identical(nested(0, 10)["other"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("consolidated", CONSOLIDATED)
@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_group_by_its_path_keeps_the_root_in_step(
    zarr_format: Any, consolidated: bool, kind: str
) -> None:
    store = write(nested(0, 10), zarr_format=zarr_format, consolidated=consolidated)
    where = f"{store}/other" if kind == "path" else f"local://{store.absolute()}/other"
    out = part(10, 20).chunking.append(where, dim="time", verify=True, **QUIET)
    assert out.load().identical(part(0, 20))
    assert opened(store)["other"].to_dataset().identical(part(0, 20))
    assert xr.open_zarr(store, group="other").load().identical(part(0, 20))


def test_a_group_in_memory_by_its_url_keeps_the_root_in_step() -> None:
    nested(0, 10).to_zarr(zarr.storage.FsspecStore.from_url("memory://trees/t.zarr"))
    where = "memory://trees/t.zarr/other"
    part(10, 20).chunking.append(where, dim="time", **QUIET)
    found = xr.open_zarr("memory://trees/t.zarr", group="other").load()
    assert found.identical(part(0, 20))


def test_a_part_of_a_tree_by_its_path_is_refused() -> None:
    store = write(nested(0, 10))
    with pytest.raises(xchunk.InvalidChunksError, match="opened as a tree"):
        part(10, 20).chunking.append(store / "s", dim="time", **QUIET)


@pytest.mark.parametrize(
    "region",
    [
        {"time": slice(5, 10)},
        "auto",
        {"time": "auto"},
        {"time": slice("2000-01-06", "2000-01-10")},
    ],
    ids=["positions", "auto", "auto along time", "labels"],
)
def test_a_region_of_a_tree_whose_groups_inherit_time(region: Any) -> None:
    store = write(inherited(0, 20))
    new = inherited(5, 10) * -1
    new.chunking.write_region(store, region=region, verify=True, **QUIET)
    wanted = inherited(0, 20)
    for name in ("a", "b"):
        wanted[name].v[5:10] *= -1
    assert opened(store).identical(wanted)


def test_a_region_of_a_group_with_the_time_that_it_inherits() -> None:
    store = write(inherited(0, 20))
    new = (inherited(5, 10)["a"] * -1).to_dataset()
    assert "time" in new.coords
    new.chunking.write_region(store / "a", region="auto", **QUIET)
    wanted = inherited(0, 20)
    wanted["a"].v[5:10] *= -1
    assert opened(store).identical(wanted)
    with pytest.raises(xchunk.InvalidChunksError, match="others in the store"):
        new.chunking.write_region(store / "a", region={"time": slice(0, 5)}, **QUIET)
    with pytest.raises(xchunk.InvalidChunksError, match=r"group above.*whole tree"):
        inherited(20, 30)["a"].to_dataset().chunking.append(store / "a", dim="time", **QUIET)
    assert opened(store).identical(wanted)


LABELS: dict[str, tuple[Any, slice, slice]] = {
    "dates": (
        pd.date_range("2000-01-01", periods=20),
        slice("2000-01-06", "2000-01-10"),
        slice(5, 10),
    ),
    "a month": (pd.date_range("2000-01-28", periods=20), slice("2000-02", "2000-02"), slice(4, 20)),
    "numpy's dates": (
        pd.date_range("2000-01-01", periods=20),
        slice(np.datetime64("2000-01-06"), None),
        slice(5, 20),
    ),
    "cftime": (
        xr.date_range("2000-01-01", periods=20, calendar="360_day", use_cftime=True),
        slice("2000-01-06", "2000-01-10"),
        slice(5, 10),
    ),
    "floats": (np.arange(20) / 2, slice(2.5, 4.5), slice(5, 10)),
    "from north to south": (90.0 - np.arange(20), slice(85.0, 81.0), slice(5, 10)),
    "names": (np.array(list("abcdefghijklmnopqrst")), slice("f", "j"), slice(5, 10)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", LABELS)
def test_a_region_by_its_labels(case: str) -> None:
    labels, region, place = LABELS[case]
    ds = xr.Dataset({"v": ("t", np.arange(20.0))}, {"t": labels})
    ds.to_zarr("s.zarr")
    (ds.isel(t=place) * -1).chunking.write_region("s.zarr", region={"t": region}, **QUIET)
    wanted = ds.copy(deep=True)
    wanted.v[place] *= -1
    xr.testing.assert_equal(xr.open_zarr("s.zarr").load(), wanted)


@pytest.mark.parametrize(
    ("region", "said"),
    [
        (slice("2000-01-06", "2000-01-09"), "same length"),
        (slice("2001-01-06", "2001-01-09"), "same length"),
        (slice("a", "b"), r"cannot be found.*region='auto'"),
        (slice(0.5, 4.5), "cannot be found"),
    ],
    ids=["too short", "beyond", "no dates", "numbers"],
)
def test_labels_that_make_no_sense(region: Any, said: str) -> None:
    part(0, 20).to_zarr("s.zarr")
    with pytest.raises(xchunk.InvalidChunksError, match=said):
        part(5, 10).chunking.write_region("s.zarr", region={"time": region}, **QUIET)
    part(0, 20).drop_vars("time").to_zarr("n.zarr")
    with pytest.raises(xchunk.InvalidChunksError, match="the store has none"):
        part(5, 10).drop_vars("time").chunking.write_region(
            "n.zarr", region={"time": slice("2000-01-06", "2000-01-10")}, **QUIET
        )


def test_the_command_takes_labels_and_writes_all_the_same() -> None:
    part(0, 20).to_zarr("s.zarr")
    (part(5, 10) * -1).to_netcdf("new.nc")
    args = ["rechunk", "new.nc", "s.zarr", "--quiet", "--region"]
    assert main.run([*args, "time=2000-01-06..2000-01-10"]) == 0
    wanted = part(0, 20)
    wanted.v[5:10] *= -1
    assert xr.open_zarr("s.zarr").load().identical(wanted)
    assert main.run([*args, "time=0:5"]) == 3
    assert main.run([*args, "time=0:5", "--no-check-labels"]) == 0
    assert (xr.open_zarr("s.zarr").v[:5] == wanted.v[5:10].values).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("kind", ["object", "U3", "S3", "datetime64[ns]", "bool", "float32"])
def test_nothing_is_appended_to_anything(kind: str, zarr_format: Any) -> None:
    values = np.array(["1", "2", "3"]).astype(kind if kind != "datetime64[ns]" else "M8[Y]")
    ds = xr.Dataset({"v": ("t", values.astype(kind))})
    ds.to_zarr("s.zarr", zarr_format=zarr_format)
    for nothing in (ds.isel(t=slice(0)), ds.isel(t=slice(0)).chunk()):
        nothing.chunking.append("s.zarr", dim="t", verify=True, **QUIET)
    before = xr.open_zarr("s.zarr").load()
    assert before.sizes["t"] == 3
    empty = xr.open_zarr("s.zarr").isel(t=slice(0)).drop_encoding()
    empty.to_zarr("e.zarr", zarr_format=3)
    # an empty list is one of floats to numpy
    for nothing in (xr.open_zarr("e.zarr"), xr.Dataset({"v": ("t", [])})):
        nothing.chunking.append("s.zarr", dim="t", verify=True, **QUIET)
    assert xr.open_zarr("s.zarr").load().identical(before)


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_appended_to_labels_that_are_texts() -> None:
    ds = xr.Dataset({"v": ("t", [1.0, 2.0])}, {"t": ["a", "b"], "name": ("t", ["x", "y"])})
    ds.to_zarr("s.zarr")
    for nothing in (ds.isel(t=slice(0)), xr.open_zarr("s.zarr").isel(t=slice(0)).load()):
        nothing.chunking.append("s.zarr", dim="t", verify=True, **QUIET)
    xr.testing.assert_equal(xr.open_zarr("s.zarr").load(), ds)
