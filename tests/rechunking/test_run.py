"""The main job, from a Dataset to a rechunked store, on small made-up data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import xchunk

SHAPE = (24, 18, 20)


def bits(values: Any) -> bytes:
    return np.ascontiguousarray(np.asarray(values)).tobytes()


def plain(attrs: Any) -> dict[str, str]:
    """Attributes as texts, so that NaN equals NaN and numpy's scalars equal Python's."""
    return {key: repr(np.asarray(value).tolist()) for key, value in attrs.items()}


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A zarr v3 store of maps: packed, with times, a coordinate of two dims and a scalar."""
    ds = xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.normal(280, 10, SHAPE), {"units": "K"}),
            "mask": (("lat", "lon"), rng.integers(0, 2, SHAPE[1:]).astype("i1")),
            "crs": ((), np.int32(7), {"grid_mapping_name": "latitude_longitude"}),
        },
        coords={
            "time": ("time", np.datetime64("2001-01-01") + np.arange(24) * np.timedelta64(6, "h")),
            "lat": ("lat", np.linspace(85, -85, 18), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(0, 342, 20), {"units": "degrees_east"}),
            "area": (("lat", "lon"), rng.random(SHAPE[1:])),
        },
        attrs={"title": "maps", "empty": "", "number": 3},
    )
    path = tmp_path / "maps.zarr"
    encoding = {
        "t2m": {
            "chunks": (1, 18, 20),
            "dtype": "i2",
            "scale_factor": 0.01,
            "add_offset": 280.0,
            "_FillValue": -32768,
        },
        "time": {"units": "hours since 2001-01-01", "dtype": "i4", "chunks": (1,)},
    }
    ds.to_zarr(path, zarr_format=3, encoding=encoding, consolidated=True)
    return path


def raw(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, decode_cf=False, chunks=None)


class TestStoredBytes:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("chunks", [{}, None], ids=["dask", "lazy"])
    def test_a_rechunk_keeps_values_attributes_and_encoding(
        self, source: Path, tmp_path: Path, zarr_format: Any, chunks: Any
    ) -> None:
        ds = xr.open_zarr(source, chunks=chunks)
        out = ds.chunking.apply(
            {"time": -1, "lat": 5},
            store=tmp_path / "series.zarr",
            max_mem="100MB",
            zarr_format=zarr_format,
            progress=False,
        )
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())
        before, after = raw(source), raw(tmp_path / "series.zarr")
        assert set(before.variables) == set(after.variables)
        for name, variable in before.variables.items():
            assert after[name].dtype == variable.dtype
            assert bits(after[name]) == bits(variable)
            assert plain(after[name].attrs) == plain(variable.attrs)
        assert after.attrs == before.attrs
        stored = zarr.open_group(tmp_path / "series.zarr", mode="r")
        assert stored["t2m"].chunks == (24, 5, 20)
        assert stored["t2m"].metadata.zarr_format == zarr_format
        assert stored["time"].chunks == (24,)
        assert stored["mask"].chunks == (18, 20), "small beside t2m"

    def test_dask_chunks_of_the_result_match_what_is_stored(
        self, source: Path, tmp_path: Path
    ) -> None:
        out = xr.open_zarr(source).chunking.apply(
            {"t2m": {"time": -1, "lat": 5, "lon": 4}}, store=tmp_path / "s.zarr", progress=False
        )
        assert out.t2m.chunks == ((24,), (5, 5, 5, 3), (4,) * 5)

    def test_every_variable_of_an_opened_store_is_copied_raw(self, source: Path) -> None:
        from xchunk.targets.encode import assemble

        for chunks in ({}, None):
            assembled, _ = assemble(xr.open_zarr(source, chunks=chunks), zarr_format=3)
            assert {a.name: a.ref is not None for a in assembled} == dict.fromkeys(
                xr.open_zarr(source).variables, True
            )

    def test_computed_data_are_what_is_written(self, source: Path, tmp_path: Path) -> None:
        ds = xr.open_zarr(source)
        ds.t2m.data = ds.t2m.data * 2 - 280
        expected = ds.t2m.values
        out = ds.chunking.apply({"time": -1}, store=tmp_path / "s.zarr", progress=False)
        # packed again with the encoding that the variable still has, as to_zarr would
        np.testing.assert_allclose(out.t2m.values, expected, atol=0.0051)
        assert raw(tmp_path / "s.zarr").t2m.dtype == np.dtype("i2")

    @pytest.mark.parametrize(
        "part",
        [
            {"time": slice(3, 17)},
            {"time": slice(None, None, -1)},
            {"time": slice(1, None, 3), "lat": slice(2, 9)},
            {"lon": [4, 1, 1, 9]},
            {"lat": 3},
        ],
        ids=["slice", "reversed", "steps", "picked", "one"],
    )
    @pytest.mark.parametrize("chunks", [{}, None], ids=["dask", "lazy"])
    def test_a_part_of_the_source_is_what_is_written(
        self, source: Path, tmp_path: Path, part: dict[str, Any], chunks: Any
    ) -> None:
        ds = xr.open_zarr(source, chunks=chunks).isel(part)
        out = ds.chunking.apply(
            {"time": -1}, store=tmp_path / "s.zarr", verify=True, progress=False
        )
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).isel(part).load())

    def test_an_in_memory_dataset_is_written(self, source: Path, tmp_path: Path) -> None:
        ds = xr.open_zarr(source).load()
        out = ds.chunking.apply({"time": 7}, store=tmp_path / "s.zarr", progress=False)
        xr.testing.assert_identical(out.load(), ds)

    def test_changed_encoding_wins_over_what_is_stored(self, source: Path, tmp_path: Path) -> None:
        ds = xr.open_zarr(source)
        ds["t2m"] = ds.t2m.drop_encoding()
        ds.chunking.apply({"time": -1}, store=tmp_path / "s.zarr", progress=False)
        assert raw(tmp_path / "s.zarr").t2m.dtype == np.dtype("f8")
        assert bits(raw(tmp_path / "s.zarr").t2m) == bits(xr.open_zarr(source).t2m)

    def test_missing_chunks_stay_missing(self, tmp_path: Path) -> None:
        group = zarr.create_group(tmp_path / "sparse.zarr")
        array = group.create_array(
            "v",
            shape=(40, 40),
            chunks=(1, 40),
            dtype="f4",
            dimension_names=("y", "x"),
            fill_value=0.0,
        )
        array[0:10] = 1.0
        array[3, 3] = -0.0
        zarr.consolidate_metadata(tmp_path / "sparse.zarr")
        ds = xr.open_zarr(tmp_path / "sparse.zarr")
        ds.chunking.apply({"y": 10, "x": 10}, store=tmp_path / "t.zarr", progress=False)
        keys = sorted(
            p.relative_to(tmp_path / "t.zarr/v/c").as_posix()
            for p in (tmp_path / "t.zarr/v/c").rglob("*")
            if p.is_file()
        )
        assert keys == ["0/0", "0/1", "0/2", "0/3"]
        assert bits(raw(tmp_path / "t.zarr").v) == bits(raw(tmp_path / "sparse.zarr").v)

    def test_a_payload_in_nan_survives(self, tmp_path: Path) -> None:
        values = np.full((8, 8), np.nan, dtype="f4")
        values.view("u4")[2, :] = 0x7FC0BEEF
        group = zarr.create_group(tmp_path / "nan.zarr")
        array = group.create_array(
            "v",
            shape=(8, 8),
            chunks=(1, 8),
            dtype="f4",
            dimension_names=("y", "x"),
            fill_value=np.nan,
            config={"write_empty_chunks": True},
        )
        array[:] = values
        zarr.consolidate_metadata(tmp_path / "nan.zarr")
        xr.open_zarr(tmp_path / "nan.zarr").chunking.apply(
            {"y": -1, "x": 2}, store=tmp_path / "t.zarr", progress=False
        )
        assert bits(raw(tmp_path / "t.zarr").v) == values.tobytes()


class TestStages:
    def test_every_source_chunk_is_decoded_once_when_staged(
        self, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        values = rng.random((64, 1200, 80), dtype="f4")
        path = tmp_path / "maps.zarr"
        xr.Dataset({"v": (("t", "y", "x"), values)}).to_zarr(
            path, encoding={"v": {"chunks": (1, 1200, 80)}}
        )
        ds = xr.open_zarr(path)
        plan = ds.chunking.plan({"t": -1, "y": 10}, store=tmp_path / "s.zarr", max_mem="24MB")
        one = plan["v"]
        assert one.family == "staged"
        assert one.work.decodes == 64
        out = ds.chunking.apply(
            {"t": -1, "y": 10}, store=tmp_path / "s.zarr", max_mem="24MB", progress=False
        )
        assert bits(out.v) == values.tobytes()
        assert not (tmp_path / "s.zarr/.xchunk").exists()

    @pytest.mark.parametrize("dtype", ["S3", "U4", "c16", "?", ">f4", "M8[ns]", "f2"])
    def test_any_width_goes_through_scratch(
        self, tmp_path: Path, rng: np.random.Generator, dtype: str
    ) -> None:
        from xchunk.core.plan.stages import Scratch
        from xchunk.engine.copy import scratch_dtype
        from xchunk.stores.adapter import open_array
        from xchunk.stores.stores import open_store
        from xchunk.targets.scratch import Workspace

        wanted = np.dtype(dtype)
        store = open_store(tmp_path / "w.zarr")
        bare = scratch_dtype(wanted)
        ref = Workspace(store).scratch_array("v", 0, (6, 5), bare, Scratch((2, 5)))
        values = rng.integers(0, 255, (6, 5 * wanted.itemsize)).astype("u1").view(bare)
        array = open_array(ref.store, ref.path, 3, mode="r+")
        array[:] = values
        assert array[:].tobytes() == values.tobytes()

    def test_the_plan_writes_nothing(self, source: Path, tmp_path: Path) -> None:
        before = sorted(p.name for p in tmp_path.iterdir())
        plan = xr.open_zarr(source).chunking.plan({"time": -1}, store=tmp_path / "s.zarr")
        assert plan.tasks > 0
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    def test_shards_are_written_as_asked(self, source: Path, tmp_path: Path) -> None:
        out = xr.open_zarr(source).chunking.apply(
            {"time": 6, "lat": 9, "lon": 10},
            store=tmp_path / "s.zarr",
            shards={"time": 12, "lat": -1, "lon": -1},
            progress=False,
            verify=True,
        )
        stored = zarr.open_group(tmp_path / "s.zarr", mode="r")["t2m"]
        assert (stored.chunks, stored.shards) == ((6, 9, 10), (12, 18, 20))
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())

    def test_a_sharded_source_is_read(self, source: Path, tmp_path: Path) -> None:
        first = tmp_path / "sharded.zarr"
        xr.open_zarr(source).chunking.apply(
            {"time": 6, "lat": 9}, store=first, shards={"time": 12, "lat": 18}, progress=False
        )
        layout = xr.open_zarr(first).chunking.layout()["t2m"]
        assert (layout.chunks, layout.shards) == ((6, 9, 20), (12, 18, 20))
        out = xr.open_zarr(first).chunking.apply(
            {"time": -1}, store=tmp_path / "s.zarr", progress=False
        )
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())


class TestTargets:
    def test_an_existing_store_is_refused_and_kept(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "s.zarr"
        xr.open_zarr(source).chunking.apply({"time": -1}, store=target, progress=False)
        stamp = (target / "zarr.json").read_bytes()
        with pytest.raises(xchunk.TargetExistsError, match="overwrite"):
            xr.open_zarr(source).chunking.apply({"time": 2}, store=target, progress=False)
        assert (target / "zarr.json").read_bytes() == stamp

    def test_overwrite_replaces_a_zarr_store(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "s.zarr"
        ds = xr.open_zarr(source)
        ds.chunking.apply({"time": -1}, store=target, zarr_format=2, progress=False)
        out = ds.chunking.apply(
            {"time": 2}, store=target, overwrite=True, zarr_format=3, progress=False
        )
        assert out.t2m.encoding["chunks"][0] == 2
        assert not (target / ".zgroup").exists()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["maps.zarr", "s.zarr"]

    def test_overwrite_never_replaces_a_folder_that_is_no_store(
        self, source: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "letters"
        folder.mkdir()
        (folder / "to-mother.txt").write_text("dear")
        with pytest.raises(xchunk.TargetExistsError, match="no zarr store"):
            xr.open_zarr(source).chunking.apply(
                {"time": -1}, store=folder, overwrite=True, progress=False
            )
        assert (folder / "to-mother.txt").read_text() == "dear"

    @pytest.mark.parametrize("where", ["maps.zarr", "maps.zarr/inside", "."])
    def test_a_target_that_touches_the_source_is_refused(
        self, source: Path, tmp_path: Path, where: str
    ) -> None:
        before = bits(raw(source).t2m)
        with pytest.raises(xchunk.TargetExistsError):
            xr.open_zarr(source).chunking.apply(
                {"time": -1}, store=tmp_path / where, overwrite=True, progress=False
            )
        assert bits(raw(source).t2m) == before

    def test_a_symbolic_link_to_the_source_is_seen_through(
        self, source: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(source)
        with pytest.raises(xchunk.TargetExistsError):
            xr.open_zarr(source).chunking.apply(
                {"time": -1}, store=tmp_path / "link", overwrite=True, progress=False
            )
        assert (source / "zarr.json").exists()

    def test_a_failing_block_leaves_what_can_be_resumed(self, source: Path, tmp_path: Path) -> None:
        def fail(block: Any) -> Any:
            raise ValueError("bad sector")

        target = tmp_path / "s.zarr"
        ds = xr.open_zarr(source)
        ds["t2m"] = ds.t2m.copy(data=da.map_blocks(fail, ds.t2m.data, dtype="f8"))
        with pytest.raises(xchunk.StageFailedError, match=r"bad sector.*same call.*xchunk clean"):
            ds.chunking.apply({"time": -1}, store=target, progress=False)
        assert not (target / "zarr.json").exists()
        assert (target / ".xchunk/journal").exists()
        # no box of t2m was written, so that it may be another one now
        out = xr.open_zarr(source).chunking.apply({"time": -1}, store=target, progress=False)
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())
        assert not (target / ".xchunk").exists()

    def test_a_store_in_memory_is_a_target(self, source: Path) -> None:
        store = zarr.storage.MemoryStore()
        out = xr.open_zarr(source).chunking.apply({"time": -1}, store=store, progress=False)
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())

    @pytest.mark.slow
    def test_no_reader_can_open_what_is_not_committed(self, source: Path, tmp_path: Path) -> None:
        """Kill the process between the last box and the commit, then look."""
        target = tmp_path / "s.zarr"
        code = (
            "import os, sys, xarray as xr, xchunk, xchunk.rechunking.runner as r\n"
            "r.commit = lambda *a: os._exit(9)\n"
            f"xr.open_zarr({str(source)!r}).chunking.apply({{'time': -1}}, store={str(target)!r})\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.returncode == 9, done.stderr.decode()
        assert (target / "t2m/zarr.json").exists()
        with pytest.raises(FileNotFoundError):
            xr.open_zarr(target)
        out = xr.open_zarr(source).chunking.apply({"time": -1}, store=target, progress=False)
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())


class TestFaces:
    def test_a_dataarray_comes_back_as_one(self, source: Path, tmp_path: Path) -> None:
        array = xr.open_zarr(source).t2m
        out = array.chunking.apply({"time": -1}, store=tmp_path / "s.zarr", progress=False)
        assert isinstance(out, xr.DataArray)
        xr.testing.assert_identical(out.load(), array.load())

    def test_a_tree_is_written_in_one_run(self, source: Path, tmp_path: Path) -> None:
        ds = xr.open_zarr(source).load()
        tree = xr.DataTree.from_dict(
            {
                "/": xr.Dataset({"crs": ds["crs"].variable}, attrs=ds.attrs),
                "/a": ds,
                "/a/b": ds[["mask"]],
            }
        )
        tree["/a"].attrs["level"] = "one"
        out = tree.chunking.apply({"time": -1}, store=tmp_path / "tree.zarr", progress=False)
        assert isinstance(out, xr.DataTree)
        xr.testing.assert_identical(out.load(), tree)
        reopened = xr.open_datatree(tmp_path / "tree.zarr", engine="zarr", chunks=None)
        xr.testing.assert_identical(reopened.load(), tree)

    def test_plain_chunks_without_a_store_are_lazy(self, source: Path) -> None:
        out = xr.open_zarr(source, chunks=None).chunking.apply({"time": -1, "lat": 6})
        assert out.t2m.chunks == ((24,), (6, 6, 6), (20,))
        assert out.mask.chunks == ((6, 6, 6), (20,))

    def test_variables_may_disagree_on_a_dim(self, source: Path) -> None:
        out = xr.open_zarr(source).chunking.apply({"t2m": {"lat": 6}, "area": {"lat": 9}})
        with pytest.raises(ValueError, match="inconsistent"):
            _ = out.chunks
        assert out.chunking.apply({"t2m": {"lat": 3}}).area.chunks == ((9, 9), (20,))

    @pytest.mark.parametrize("access", ["timeseries", "map", "scan", {"time": -1}])
    def test_suggest_then_apply(self, source: Path, tmp_path: Path, access: Any) -> None:
        ds = xr.open_zarr(source)
        suggestion = ds.chunking.suggest(access, memory="2GiB")
        assert set(suggestion.chunks) == set(ds.variables)
        assert suggestion.action in ("load", "chunk", "stage")
        assert suggestion.projected_mem > 0
        assert "t2m" in suggestion.why
        out = ds.chunking.apply(suggestion, store=tmp_path / "s.zarr", progress=False)
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())

    def test_all_in_one_call(self, source: Path, tmp_path: Path) -> None:
        ds = xr.open_zarr(source)
        out = ds.chunking.apply(store=tmp_path / "s.zarr", access="timeseries", progress=False)
        xr.testing.assert_identical(out.load(), xr.open_zarr(source).load())

    def test_the_layout_is_told(self, source: Path) -> None:
        report = xr.open_zarr(source).chunking.layout()
        t2m = report["t2m"]
        assert t2m.chunks == (1, 18, 20)
        assert (t2m.stored_dtype, t2m.dtype) == (np.dtype("i2"), np.dtype("f8"))
        assert t2m.packing is not None
        assert t2m.packing.scale_factor == 0.01
        assert {x.name for x in list(report)[:3]} == {"t2m", "mask", "crs"}
        frame = report.to_dataframe()
        assert frame.loc["t2m", "n_chunks"] == 24
        assert report.to_dict()["variables"]["t2m"]["codecs"] == ["zstd"]


BAD_CALLS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown dim": ({"what": {"tme": -1}}, xchunk.InvalidChunksError, "'time'"),
    "unknown variable": ({"what": {"t2": {"time": 1}}}, xchunk.InvalidChunksError, "'t2m'"),
    "dim of another variable": (
        {"what": {"mask": {"time": 1}}},
        xchunk.InvalidChunksError,
        "does not have it",
    ),
    "zero": ({"what": {"lat": 0}}, xchunk.InvalidChunksError, "lat=0"),
    "negative": ({"what": {"lat": -2}}, xchunk.InvalidChunksError, "lat=-2"),
    "a truth": ({"what": {"lat": True}}, xchunk.InvalidChunksError, "True"),
    "half an element": ({"what": {"lat": 2.5}}, xchunk.InvalidChunksError, "2.5"),
    "a word": ({"what": {"lat": "many"}}, xchunk.InvalidChunksError, "many"),
    "wrong sum": ({"what": {"lat": (5, 5)}}, xchunk.InvalidChunksError, "18"),
    "irregular in zarr": ({"what": {"lat": (1, 17)}}, xchunk.InvalidChunksError, "one length"),
    "a list": ({"what": ["time"]}, xchunk.InvalidChunksError, "mapping"),
    "nothing said": ({"what": None}, xchunk.InvalidChunksError, "access="),
    "potatoes": ({"max_mem": "10 potatoes"}, xchunk.InvalidChunksError, "potatoes"),
    "negative memory": ({"memory": -1}, xchunk.InvalidChunksError, "memory"),
    "no memory": ({"max_mem": "1kB"}, xchunk.MemoryBudgetError, "kB"),
    "format": ({"zarr_format": 4}, xchunk.EncodingError, "2 or 3"),
    "shards in v2": (
        {"zarr_format": 2, "shards": {"time": -1}},
        xchunk.EncodingError,
        "no shards",
    ),
    "shard that cuts chunks": (
        {"what": {"time": 4}, "shards": {"time": 6}},
        xchunk.InvalidChunksError,
        "multiple",
    ),
    "empty name": ({"store": ""}, xchunk.SourceError, "empty"),
    "a number as store": ({"store": 7}, xchunk.SourceError, "int"),
    "unknown protocol": ({"store": "gopher://x/y"}, xchunk.SourceError, "gopher"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_say_what_is_wrong_and_leave_nothing(
    source: Path, tmp_path: Path, case: str
) -> None:
    given, error, words = BAD_CALLS[case]
    call = {"what": {"time": -1}, "store": tmp_path / "s.zarr", "progress": False, **given}
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(error, match=words):
        xr.open_zarr(source).chunking.apply(call.pop("what"), **call)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_target_in_a_folder_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(xchunk.TargetExistsError, match="is a file"):
        xr.open_zarr(source).chunking.apply({"time": -1}, store=tmp_path / "file", progress=False)
    with pytest.raises(xchunk.SourceError, match="cannot be"):
        xr.open_zarr(source).chunking.apply(
            {"time": -1}, store=tmp_path / "file/below", progress=False
        )
