"""Trees of groups: laid out, suggested, planned, rechunked, checked and proven as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import xchunk
from xchunk.errors import InvalidChunksError, VerificationError
from xchunk.testing.strategies import datatrees

DAYS = np.arange("2020-01-01", "2020-02-10", dtype="datetime64[D]").astype("datetime64[ns]")


def make_tree() -> xr.DataTree:
    """A hierarchy with inherited coordinates, empty and nested groups, and unequal siblings."""
    rng = np.random.default_rng(0)
    root = xr.Dataset(
        coords={
            "time": ("time", DAYS, {"long_name": "day"}),
            "lat": ("lat", np.linspace(-9, 9, 6, dtype="f4"), {"units": "degrees_north"}),
            "run": ((), 3),
        },
        attrs={"title": "root"},
    )
    t2m = xr.Variable(("time", "lat"), rng.integers(0, 900, (40, 6)) * 0.5, {"units": "K"})
    t2m.encoding = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": np.int16(-999)}
    sfc = xr.Dataset({"t2m": t2m}, attrs={"level": "surface"})
    levels = xr.Dataset(
        {"u": (("time", "level", "lat"), rng.random((40, 3, 6)))},
        coords={"level": [1000, 500, 200], "area": ("lat", rng.random(6))},
    )
    return xr.DataTree.from_dict(
        {
            "/": root,
            "/sfc": sfc,
            "/levels": levels,
            "/levels/notes": xr.Dataset(attrs={"by": "us"}),
            "/stations/a": xr.Dataset({"x": ("n", np.arange(7))}, coords={"n": np.arange(7) * 2}),
            "/stations/b": xr.Dataset(
                {"x": ("n", np.arange(11.0)), "s": ("n", list("abcdefghijk"))}
            ),
            "/empty": xr.Dataset(),
        },
        name="all",
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The tree in a zarr store, map by map."""
    path = tmp_path / "maps.zarr"
    make_tree().chunk({"time": 1}).to_zarr(path)
    return path


def open_tree(path: Path, **kwargs: Any) -> xr.DataTree:
    return xr.open_datatree(path, engine="zarr", **{"chunks": {}, **kwargs})


def arrays_in(path: Path) -> set[str]:
    group = zarr.open_group(path, mode="r")
    return {name for name, m in group.members(max_depth=None) if isinstance(m, zarr.Array)}


class TestRechunking:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_the_whole_tree_comes_back(
        self, source: Path, tmp_path: Path, zarr_format: Any
    ) -> None:
        out = open_tree(source).chunking.apply(
            {"time": -1},
            store=tmp_path / "t.zarr",
            zarr_format=zarr_format,
            verify=True,
            progress=False,
        )
        assert out.name == open_tree(source).name
        assert list(out.groups) == list(open_tree(source).groups)
        for found in (out, open_tree(tmp_path / "t.zarr")):
            xr.testing.assert_identical(found.load(), open_tree(source).load())
        assert out["/sfc/t2m"].encoding["chunks"] == (40, 6)

    def test_inherited_coordinates_are_stored_once(self, source: Path, tmp_path: Path) -> None:
        open_tree(source).chunking.apply({"time": -1}, store=tmp_path / "t.zarr", progress=False)
        assert arrays_in(tmp_path / "t.zarr") == arrays_in(source)
        assert {n for n in arrays_in(tmp_path / "t.zarr") if n.endswith("time")} == {"time"}
        back = open_tree(tmp_path / "t.zarr")
        assert set(back["/levels/u"].coords) == {"time", "lat", "level", "area"}

    def test_a_group_of_index_coordinates_alone_is_copied_as_it_is_stored(
        self, tmp_path: Path
    ) -> None:
        """What xarray would write of them differs: a fill value, other units of time."""
        group = zarr.create_group(tmp_path / "s.zarr")
        days = group.create_array("time", shape=4, dtype="i4", dimension_names=["time"])
        days[:] = [0, 6, 12, 18]
        days.attrs.update({"units": "hours since 2001-01-01", "calendar": "standard"})
        lat = group.create_array("lat", shape=3, dtype="f4", dimension_names=["lat"])
        lat[:] = [1, 2, 3]
        child = group.create_group("child")
        a = child.create_array("a", shape=(4, 3), dtype="f4", dimension_names=["time", "lat"])
        a[:] = np.ones((4, 3))
        open_tree(tmp_path / "s.zarr", consolidated=False).chunking.apply(
            {"time": 2}, store=tmp_path / "t.zarr", progress=False, verify=True
        )
        for name in ("time", "lat"):
            before, after = (zarr.open_array(tmp_path / s / name) for s in ("s.zarr", "t.zarr"))
            assert dict(after.attrs) == dict(before.attrs)
            assert after.dtype == before.dtype

    def test_one_commit(self, source: Path, tmp_path: Path, monkeypatch: Any) -> None:
        """Until the last document is written, no group can be opened."""
        target = tmp_path / "t.zarr"

        def fail(*_: Any) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr("xchunk.rechunking.runner.commit", fail)
            with pytest.raises(RuntimeError, match="killed"):
                open_tree(source).chunking.apply({"time": -1}, store=target, progress=False)
        assert (target / "sfc/t2m/zarr.json").exists()
        for group in ("", "sfc", "levels", "stations/a", "empty"):
            with pytest.raises(FileNotFoundError):
                zarr.open_group(target, path=group, mode="r")
        out = open_tree(source).chunking.apply({"time": -1}, store=target, progress=False)
        xr.testing.assert_identical(out.load(), open_tree(source).load())

    def test_chunks_by_variable_and_by_group(self, source: Path, tmp_path: Path) -> None:
        plan = open_tree(source).chunking.plan(
            {"time": 8, "/levels": {"time": 20, "lat": 3}, "/levels/u": {"level": 1}, "sfc": {}},
            store=tmp_path / "t.zarr",
        )
        found = {a.name: a.job.target.chunks for a in plan.arrays}
        assert found["levels/u"] == (20, 1, 3)
        assert found["levels/area"] == (6,)
        assert found["sfc/t2m"] == (8, 6)
        assert found["stations/a/x"] == (7,)
        assert found["stations/b/x"] == (11,)
        nested = open_tree(source).chunking.plan(
            {"/": {"n": 5}, "stations/a": {"n": 3}}, store=tmp_path / "t.zarr"
        )
        found = {a.name: a.job.target.chunks for a in nested.arrays}
        assert found["stations/a/x"] == (3,)
        assert found["stations/b/x"] == (5,)

    @pytest.mark.parametrize(
        ("chunks", "said"),
        [
            ({"/sfc": {"level": 1}}, "group '/sfc'"),
            ({"/nowhere": {"time": 1}}, "'/nowhere', which is not there"),
            ({"/sfc/t2m": {"level": 1}}, "'level' for 'sfc/t2m'"),
            ({"depth": 1}, "'depth', which is no dim"),
        ],
    )
    def test_what_is_not_there_is_said(
        self, source: Path, tmp_path: Path, chunks: Any, said: str
    ) -> None:
        with pytest.raises(InvalidChunksError, match=said):
            open_tree(source).chunking.apply(chunks, store=tmp_path / "t.zarr")
        assert not (tmp_path / "t.zarr").exists()

    def test_a_part_of_a_tree_keeps_what_it_inherits(self, source: Path, tmp_path: Path) -> None:
        part = open_tree(source)["levels"]
        out = part.chunking.apply({"time": -1}, store=tmp_path / "t.zarr", progress=False)
        assert out.name == "levels"
        assert list(out.groups) == ["/", "/notes"]
        xr.testing.assert_identical(out.to_dataset().load(), part.to_dataset().load())
        xr.testing.assert_identical(xr.open_zarr(tmp_path / "t.zarr").load(), part.to_dataset())

    def test_lazily(self, source: Path) -> None:
        out = open_tree(source).chunking.apply({"/sfc": {"time": 10}})
        assert out["/sfc/t2m"].chunks == ((10,) * 4, (6,))
        assert out["/levels/u"].chunks == ((1,) * 40, (3,), (6,))
        xr.testing.assert_identical(out.load(), open_tree(source).load())

    def test_another_tree_is_not_what_is_stored(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "t.zarr"
        open_tree(source).chunking.apply({"time": -1}, store=target, progress=False)
        tree = open_tree(source)
        assert "sfc/t2m" in tree.chunking.verify(target).variables
        tree["/sfc"].attrs["level"] = "another"
        tree["/levels/u"] = tree["/levels/u"] + 1
        with pytest.raises(VerificationError, match="'level' is 'another'") as caught:
            tree.chunking.verify(target)
        assert "levels/u: [" in str(caught.value)


class TestAsking:
    def test_layouts_have_paths(self, source: Path) -> None:
        report = open_tree(source).chunking.layout()
        assert report["sfc/t2m"].chunks == (1, 6)
        assert report["stations/b/x"].sizes == {"n": 11}
        assert report["time"].format == "zarr3"

    @pytest.mark.parametrize("access", ["timeseries", {"time": -1}])
    def test_suggestions_group_by_group(self, source: Path, access: Any) -> None:
        """Groups find time in what they inherit; those without it are scanned."""
        tree = open_tree(source)
        s = tree.chunking.suggest(access, memory="2GiB")
        assert set(s.variables) == {v.name for v in tree.chunking.layout()}
        assert s.variables["levels/u"].target_chunks[0] == 40
        assert s.variables["stations/a/x"].layout.sizes == {"n": 7}
        assert "scan" not in s.access
        with pytest.raises(InvalidChunksError, match="depth"):
            tree.chunking.suggest({"depth": -1}, memory="2GiB")

    def test_times_of_siblings_differ(self) -> None:
        daily = xr.Dataset({"a": ("time", np.arange(40.0))}, {"time": DAYS})
        weekly = xr.Dataset({"a": ("time", np.arange(6.0))}, {"time": DAYS[::7]})
        tree = xr.DataTree.from_dict({"/daily": daily, "/weekly": weekly})
        s = tree.chunking.suggest(groupby="time.month", memory="2GiB")
        assert set(s.variables) == {"daily/a", "weekly/a", "daily/time", "weekly/time"}

    @pytest.mark.parametrize("there", [False, True])
    def test_what_is_said_rests_on_flox(self, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("xchunk.opening.groups._has_flox", lambda: there)
        daily = xr.Dataset({"a": ("time", np.arange(40.0))}, {"time": DAYS})
        notes = daily.chunking.suggest(groupby="time.month", memory="2GiB").notes
        assert any("flox is not installed" in note for note in notes) is not there
        assert not any("flox" in n for n in daily.chunking.suggest(memory="2GiB").notes)

    def test_check_and_probe(self, source: Path) -> None:
        tree = open_tree(source)
        found = tree.chunking.check(memory="2GiB")
        assert all(f.variable is None or f.variable in tree or f for f in found.findings)
        assert tree.chunking.probe("levels/u", seconds=0.1).variable == "levels/u"


class TestOpening:
    def test_every_group_in_chunks_that_fit(self, source: Path) -> None:
        tree = xchunk.open_datatree(source, "timeseries", memory="2GiB")
        xr.testing.assert_identical(tree.load(), open_tree(source).load())
        assert set(tree["/levels/u"].coords) == {"time", "lat", "level", "area"}

    def test_large_groups_are_chunked(self, tmp_path: Path) -> None:
        data = xr.Dataset({"a": (("t", "x"), np.zeros((400, 50_000), dtype="f4"))})
        tree = xr.DataTree.from_dict({"/big": data, "/small": data.isel(t=slice(2))})
        tree.chunk({"t": 50}).to_zarr(tmp_path / "s.zarr")
        found = xchunk.open_datatree(tmp_path / "s.zarr", max_mem="60MB")
        blocks = found["/big/a"].chunks
        assert blocks is not None
        assert blocks[0][0] % 50 == 0
        assert found["/small/a"].chunks is None

    def test_chunks_are_not_given(self, source: Path) -> None:
        with pytest.raises(InvalidChunksError, match="finds the chunks itself"):
            xchunk.open_datatree(source, chunks={})


FILES = """
import sys, xarray as xr, xchunk
src, out, engine = sys.argv[1:]
for chunks in ({}, None):
    tree = xr.open_datatree(src, engine=engine, chunks=chunks)
    for _ in range(3):
        assert tree.chunking.layout()["sfc/t2m"].format == "netcdf4"
    target = f"{out}-{chunks is None}.zarr"
    made = tree.chunking.apply({"time": -1}, store=target, verify=True, progress=False)
    xr.testing.assert_identical(made.load(), tree.load())
    back = xr.open_datatree(target, engine="zarr")
    xr.testing.assert_identical(back.load(), xr.open_datatree(src, engine=engine).load())
found = xchunk.open_datatree(src, engine=engine, memory="2GiB")
xr.testing.assert_identical(found.load(), tree)
"""


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_files_with_groups(tmp_path: Path, engine: str) -> None:
    make_tree().to_netcdf(tmp_path / "tree.nc", engine="netcdf4")
    done = subprocess.run(
        [sys.executable, "-c", FILES, str(tmp_path / "tree.nc"), str(tmp_path / "out"), engine],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def documents(store: MemoryStore) -> dict[str, Any]:
    """What a store says of its arrays and groups, without what a rechunk is to change."""
    out = {}
    for key, value in store._store_dict.items():
        if key.endswith("zarr.json"):
            said = json.loads(value.to_bytes())
            kept = ("attributes", "data_type", "dimension_names", "fill_value", "shape", "codecs")
            out[key] = {k: said.get(k) for k in kept}
    return out


def check_round_trip(tree: xr.DataTree, n: int) -> None:
    source, target = MemoryStore(), MemoryStore()
    tree.to_zarr(source)
    before = xr.open_datatree(source, engine="zarr", chunks={})
    out = before.chunking.apply(
        {"t": n} if "t" in _dims(before) else {}, store=target, progress=False, verify=True
    )
    after = xr.open_datatree(target, engine="zarr", chunks=None)
    want = xr.open_datatree(source, engine="zarr", chunks=None)
    assert list(after.groups) == list(want.groups)
    assert documents(target) == documents(source)
    xr.testing.assert_identical(after.load(), want.load())
    xr.testing.assert_identical(out.load(), want)


def _dims(tree: xr.DataTree) -> set[str]:
    return {str(d) for node in tree.subtree for v in node.variables.values() for d in v.dims}


QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(QUIET, max_examples=5)
@given(datatrees(), st.integers(1, 4))
def test_any_tree_comes_back(tree: xr.DataTree, n: int) -> None:
    check_round_trip(tree, n)


@pytest.mark.slow
@settings(QUIET, max_examples=40)
@given(datatrees(), st.integers(1, 4))
def test_many_trees_come_back(tree: xr.DataTree, n: int) -> None:
    check_round_trip(tree, n)
