"""rechunker's interface: its tutorial's steps, and what its arguments mean."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import dask.array as da
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.diagnostics import ProgressBar
from zarr.storage import LocalStore, MemoryStore

import xchunk
from xchunk import rechunk
from xchunk.errors import (
    EncodingError,
    InvalidChunksError,
    MemoryBudgetError,
    TargetExistsError,
    VerificationError,
)

SHAPE = (120, 12, 10)
VALUES = np.random.default_rng(0).random(SHAPE).astype("f4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder of its own, which relative paths are in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_dataset() -> xr.Dataset:
    return xr.Dataset(
        {"air": (("time", "lat", "lon"), VALUES, {"units": "degK"})},
        coords={
            "time": np.arange("2013-01-01", "2013-05-01", dtype="M8[D]").astype("M8[ns]"),
            "lat": np.linspace(75, 15, 12, dtype="f4"),
            "lon": np.linspace(200, 330, 10, dtype="f4"),
        },
        attrs={"title": "four times a day"},
    )


def make_large(path: Any) -> zarr.Array[Any]:
    """An array that is large enough to go through scratch."""
    array = zarr.create_array(path, shape=(400, 60, 50), chunks=(10, 60, 50), dtype="f4")
    array[:] = np.random.default_rng(1).random((400, 60, 50))
    return array


def make_group(path: Any, zarr_format: Any = 3) -> zarr.Group:
    make_dataset().chunk({"time": 10}).to_zarr(path, zarr_format=zarr_format)
    return zarr.open_group(path)


class TestTutorial:
    """The steps of rechunker's tutorial, with nothing changed but the import."""

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_an_array(self, here: Path, zarr_format: int) -> None:
        source_array = make_group("air.zarr", zarr_format)["air"]
        target_store, temp_store = "air_rechunked.zarr", "air_rechunked-tmp.zarr"
        plan = rechunk(source_array, (120, 12, 1), "1MB", target_store, temp_store=temp_store)
        assert "air_rechunked.zarr (not written yet)" in repr(plan)
        assert not Path(target_store).exists()
        by_name = {"time": 120, "lat": 12, "lon": 1}
        plan = rechunk(source_array, by_name, "1MB", target_store, temp_store=temp_store)
        result = plan.execute()
        assert isinstance(result, zarr.Array)
        assert result.chunks == (120, 12, 1)
        assert result.attrs["units"] == "degK"
        with ProgressBar():
            plan.execute()
        target_array = zarr.open(target_store)
        assert isinstance(target_array, zarr.Array)
        assert target_array.metadata.zarr_format == zarr_format
        np.testing.assert_array_equal(target_array[:], VALUES)
        lazy = da.from_zarr(target_store)
        assert lazy.chunksize == (120, 12, 1)
        shutil.rmtree(temp_store)  # as scripts do in the end

    def test_a_group(self, here: Path) -> None:
        group = make_group("air.zarr")
        chunks = {"air": {"time": 120, "lat": 12, "lon": 1}, "time": None, "lon": None, "lat": None}
        plan = rechunk(group, chunks, "1MB", "group.zarr", temp_store="group-tmp.zarr")
        out = plan.execute()
        assert isinstance(out, zarr.Group)
        back = xr.open_zarr("group.zarr")
        assert back.air.encoding["chunks"] == (120, 12, 1)
        xr.testing.assert_identical(back.load(), xr.open_zarr("air.zarr").load())

    def test_a_dataset(self, here: Path) -> None:
        ds = make_dataset().chunk({"time": 10})
        ds["air_slice"] = ds.air.isel(lat=10)
        ds["air_timeseries"] = ds.air.isel(lat=10, lon=5)
        chunks = {"time": 120, "lat": 12, "lon": 1}
        plan = rechunk(ds, chunks, "1MB", "complex.zarr", temp_store="complex-tmp.zarr")
        assert isinstance(plan.execute(), zarr.Group)
        back = xr.open_zarr("complex.zarr")
        found = {name: v.encoding["chunks"] for name, v in back.data_vars.items()}
        assert found == {"air": (120, 12, 1), "air_slice": (120, 1), "air_timeseries": (120,)}
        xr.testing.assert_identical(back.load(), ds.load())


def test_the_signature_is_rechunkers() -> None:
    theirs = pytest.importorskip("rechunker").rechunk
    expected = list(inspect.signature(theirs).parameters.values())
    ours = list(inspect.signature(rechunk).parameters.values())
    assert [p.name for p in ours[: len(expected)]] == [p.name for p in expected]
    assert [p.default for p in ours[: len(expected)]] == [p.default for p in expected]


class TestPlaces:
    def test_scratch_goes_where_it_is_told_to_and_is_deleted(self, here: Path) -> None:
        array = make_large("s.zarr")
        seen: set[str] = set()

        class Watched(LocalStore):
            async def set(self, key: str, value: Any, **kwargs: Any) -> None:
                seen.add(key)
                await super().set(key, value, **kwargs)

        plan = rechunk(array, (400, 60, 1), "1MB", "t.zarr", temp_store=Watched("tmp.zarr"))
        assert any(len(a.stages) > 1 for a in plan.plan.arrays)
        assert "tmp.zarr (deleted at the end)" in repr(plan)
        plan.execute(verify=True)
        assert any("/scratch/" in key for key in seen)
        assert list(Path("tmp.zarr").iterdir()) == []
        assert sorted(p.name for p in Path("t.zarr").iterdir()) == ["c", "zarr.json"]

    def test_the_older_order_of_arguments(self, here: Path) -> None:
        array = make_large("s.zarr")
        plan = rechunk(array, (400, 60, 1), "1MB", "t.zarr", "tmp.zarr")
        assert "tmp.zarr" in repr(plan)
        options = {"compressor": None}
        plan = rechunk(array, (400, 60, 1), "1MB", "t.zarr", "tmp.zarr", options)
        assert plan.execute().compressors == ()
        assert Path("tmp.zarr").exists()

    @pytest.mark.parametrize("kind", ["dict", "store", "path"])
    def test_kinds_of_targets(self, here: Path, kind: str) -> None:
        array = make_group("s.zarr")["air"]
        target: Any = {"dict": {}, "store": MemoryStore(), "path": here / "t.zarr"}[kind]
        out = rechunk(array, (-1, 4, 4), "1MB", target).execute()
        np.testing.assert_array_equal(out[:], VALUES)
        np.testing.assert_array_equal(zarr.open_array(target)[:], VALUES)

    def test_a_member_of_a_group(self, here: Path) -> None:
        array = make_group("s.zarr")["air"]
        group = zarr.group("all.zarr")
        with pytest.raises(InvalidChunksError, match="array_name"):
            rechunk(array, (120, 12, 1), "1MB", group)
        rechunk(array, (120, 12, 1), "1MB", group, array_name="air").execute()
        np.testing.assert_array_equal(zarr.open_group("all.zarr")["air"][:], VALUES)

    def test_an_empty_group_is_filled(self, here: Path) -> None:
        source = make_group("s.zarr")
        group = zarr.group("t.zarr", attributes={"mine": 1})
        out = rechunk(source, {"air": (120, 12, 1)}, "1MB", group).execute()
        assert dict(out.attrs) == {"mine": 1, "title": "four times a day"}
        again = zarr.open_group("t.zarr")
        with pytest.raises(TargetExistsError):
            rechunk(source, {"air": (120, 12, 1)}, "1MB", again)

    def test_what_is_there_is_refused_or_replaced(self, here: Path) -> None:
        array = make_group("s.zarr")["air"]
        rechunk(array, (120, 12, 1), "1MB", "t.zarr").execute()
        with pytest.raises(TargetExistsError):
            rechunk(array, (10, 12, 10), "1MB", "t.zarr")
        out = rechunk(array, (20, 12, 10), "1MB", "t.zarr", {"overwrite": True}).execute()
        assert out.chunks == (20, 12, 10)

    def test_nothing_is_visible_before_it_is_complete(self, here: Path, monkeypatch: Any) -> None:
        array = make_group("s.zarr")["air"]

        def fail(*_: Any) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr("xchunk.rechunking.runner.commit", fail)
            with pytest.raises(RuntimeError, match="killed"):
                rechunk(array, (120, 12, 1), 15_000, "t.zarr").execute()
        assert len(list(Path("t.zarr/c").rglob("0"))) > 0
        with pytest.raises(FileNotFoundError):
            zarr.open("t.zarr", mode="r")
        plan = rechunk(array, (120, 12, 1), 15_000, "t.zarr")
        assert "not copied again" in repr(plan)
        np.testing.assert_array_equal(plan.execute()[:], VALUES)

    def test_what_was_left_is_cleaned(self, here: Path, monkeypatch: Any) -> None:
        array = make_group("s.zarr")["air"]

        def fail(*_: Any) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr("xchunk.rechunking.runner.commit", fail)
            with pytest.raises(RuntimeError, match="killed"):
                rechunk(array, (120, 12, 1), "1MB", "t.zarr").execute()
        xchunk.clean("t.zarr", dry_run=False)
        assert not Path("t.zarr").exists()


class TestSources:
    @pytest.mark.parametrize("dtype", [">i2", "f8", "c16", "bool", "M8[s]", "U3", "S4"])
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_arrays_without_names_of_dims(self, dtype: str, zarr_format: Any) -> None:
        values = np.arange(42).reshape(6, 7).astype(dtype)
        source = zarr.create_array(
            {}, shape=(6, 7), chunks=(2, 7), dtype=dtype, zarr_format=zarr_format,
            attributes={"a": [1, 2]},
        )  # fmt: skip
        source[:] = values
        plan = rechunk(source, (6, 2), "1MB", MemoryStore())
        out = plan.execute(verify=True)
        assert out.dtype.newbyteorder("=") == source.dtype.newbyteorder("=")
        assert out.attrs.asdict() == {"a": [1, 2]}
        np.testing.assert_equal(out.fill_value, source.fill_value)
        np.testing.assert_array_equal(out[:], values)
        with pytest.raises(InvalidChunksError, match="have no names"):
            rechunk(source, {"x": 2}, "1MB", MemoryStore())

    def test_missing_chunks_stay_missing(self) -> None:
        source = zarr.create_array({}, shape=(8, 8), chunks=(4, 4), dtype="f4", fill_value=np.nan)
        source[:4, :4] = 1
        target: dict[str, Any] = {}
        rechunk(source, (2, 4), "1MB", target).execute()
        assert {k for k in target if k.startswith("c/")} == {"c/0/0", "c/1/0"}

    def test_dask_arrays(self) -> None:
        source = da.from_array(VALUES, chunks=(50, 12, 7)) * 2
        out = rechunk(source, (120, 4, 10), "1MB", MemoryStore()).execute(verify=True)
        assert isinstance(out, zarr.Array)
        assert out.chunks == (120, 4, 10)
        np.testing.assert_array_equal(out[:], VALUES * 2)
        with pytest.raises(EncodingError, match="compute_chunk_sizes"):
            rechunk(source[source > 1], (10,), "1MB", MemoryStore())

    def test_nested_groups_keep_their_attributes(self) -> None:
        source = zarr.create_group({}, attributes={"of": "root"})
        deep = source.create_group("a/b", attributes={"of": "b"})
        deep.create_array("x", data=np.arange(10), chunks=(5,), attributes={"u": 1})
        deep.create_array("y", data=np.arange(10), chunks=(5,))
        source.create_group("empty", attributes={"of": "empty"})
        out = rechunk(source, {"a/b/x": (2,)}, "1MB", MemoryStore()).execute(verify=True)
        members = dict(out.members(max_depth=None))
        assert set(members) == {"a", "a/b", "a/b/x", "empty"}
        assert [dict(members[n].attrs) for n in ("a/b", "empty", "a/b/x")] == [
            {"of": "b"}, {"of": "empty"}, {"u": 1},
        ]  # fmt: skip
        assert members["a/b/x"].chunks == (2,)

    def test_edits_between_planning_and_executing(self, here: Path) -> None:
        make_group("s.zarr")
        ds = xr.open_zarr("s.zarr")
        plan = rechunk(ds, {"time": 120}, "1MB", "t.zarr")
        ds["more"] = ds.air * 2
        plan.execute()
        assert set(xr.open_zarr("t.zarr").data_vars) == {"air"}

    def test_codecs_are_kept_or_as_asked(self, here: Path) -> None:
        array = make_group("s.zarr", 2)["air"]
        kept = rechunk(array, None, "1MB", "kept.zarr").execute()
        assert (kept.compressors, kept.chunks) == (array.compressors, array.chunks)
        options = {"compressor": numcodecs.GZip(3), "order": "F"}
        asked = rechunk(array, (120, 12, 1), "1MB", "asked.zarr", target_options=options).execute()
        assert asked.compressors == (numcodecs.GZip(3),)
        assert asked.order == "F"
        as_v3 = rechunk(array, (120, 12, 1), "1MB", "v3.zarr", zarr_format=3).execute(verify=True)
        assert "_FillValue" in as_v3.attrs
        assert as_v3.metadata.dimension_names == ("time", "lat", "lon")
        np.testing.assert_array_equal(as_v3[:], VALUES)

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_what_is_missing_stays_missing_in_the_other_format(
        self, here: Path, zarr_format: Any
    ) -> None:
        ds = xr.Dataset({"a": ("x", [1.0, np.nan, 0.0]), "b": ("x", [0, 1, 2])})
        ds.a.encoding = {"dtype": "i2", "_FillValue": -9}
        ds.to_zarr("s.zarr", zarr_format=zarr_format)
        source = zarr.open_group("s.zarr")
        other: Any = 5 - zarr_format
        rechunk(source, {"a": (2,), "b": (2,)}, "1MB", "t.zarr", zarr_format=other).execute()
        xr.testing.assert_identical(xr.open_zarr("t.zarr").load(), xr.open_zarr("s.zarr").load())

    def test_encodings_of_a_dataset(self, here: Path) -> None:
        ds = make_dataset().chunk({"time": 10})
        packed = {"dtype": "i2", "scale_factor": 0.001, "_FillValue": -1, "compressor": None}
        rechunk(ds, {"air": (120, 12, 1)}, "1MB", "t.zarr", {"air": packed}).execute()
        stored = zarr.open_group("t.zarr")["air"]
        assert (stored.dtype, stored.compressors) == (np.dtype("i2"), ())
        assert "scale_factor" not in ds.air.encoding
        np.testing.assert_allclose(xr.open_zarr("t.zarr").air, VALUES, atol=0.001)


class TestMeaning:
    def test_no_box_is_larger_than_max_mem(self, here: Path) -> None:
        """Where the stricter meaning cannot be had, rechunker's own is kept, and it is said."""
        array = make_group("s.zarr")["air"]
        plan = rechunk(array, (120, 12, 1), 10_000, "t.zarr").plan
        for stage in plan.arrays[0].stages:
            assert stage.boxes.box_elements * 4 <= 10_000
        assert "taken as the data of one task" in plan.notes[-1]
        strict = rechunk(array, (120, 12, 1), "50MB", "t.zarr").plan
        assert strict.notes == ()
        assert strict.projected_mem <= 50_000_000

    @pytest.mark.parametrize(
        ("chunks", "max_mem"), [((120, 12, 1), 4_700), ((120, 12, 10), 10_000)]
    )
    def test_chunks_that_are_larger_are_refused(
        self, here: Path, chunks: Any, max_mem: int
    ) -> None:
        array = make_group("s.zarr")["air"]
        with pytest.raises(MemoryBudgetError):
            rechunk(array, chunks, max_mem, "t.zarr")
        assert not Path("t.zarr").exists()

    def test_dims_of_a_dataset_that_are_not_named(self, here: Path) -> None:
        ds = make_dataset()
        ds["other"] = ds.air.chunk({"time": 30, "lat": 5})
        found = rechunk(ds, {"lon": 200}, "1MB", "t.zarr").plan
        assert found["air"].job.target.chunks == SHAPE
        assert found["other"].job.target.chunks == (30, 5, 10)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"target_chunks": (1, 2)}, "one length for each of its 3 dims"),
            ({"target_chunks": {"depth": 1}}, "depth"),
            ({"target_chunks": "all"}, "one length for each"),
            ({"target_options": {"colour": 1}}, "'colour' is not known"),
            ({"temp_options": {"colour": 1}}, "'colour' is not known"),
            ({"executor": "beam"}, "'beam'"),
            ({"executor": 3}, "no executor"),
            ({"engine": "cubed"}, "'cubed' does not exist"),
            ({"source": 3}, "int cannot be rechunked"),
            ({"source": np.zeros(3)}, "ndarray cannot be rechunked"),
            ({"max_mem": "lots"}, "max_mem"),
            ({"target_options": 3}, "not a mapping"),
        ],
        ids=lambda v: str(v)[:30],
    )
    def test_what_makes_no_sense_is_said(self, here: Path, change: Any, said: str) -> None:
        asked = {
            "source": make_group("s.zarr")["air"], "target_chunks": (120, 12, 1),
            "max_mem": "1MB", "target_store": "t.zarr",
        }  # fmt: skip
        with pytest.raises((InvalidChunksError, EncodingError), match=said):
            rechunk(**{**asked, **change})
        assert not Path("t.zarr").exists()

    def test_names_that_are_not_there(self, here: Path) -> None:
        group = make_group("s.zarr")
        with pytest.raises(InvalidChunksError, match=r"no array of the group\. Arrays: 'air'"):
            rechunk(group, {"wind": None}, "1MB", "t.zarr")
        with pytest.raises(InvalidChunksError, match="neither a dim nor a variable"):
            rechunk(make_dataset(), {"wind": (1,)}, "1MB", "t.zarr")
        with pytest.raises(InvalidChunksError, match="the options name 'wind'"):
            rechunk(group, {"air": None}, "1MB", "t.zarr", {"wind": {}})

    def test_how_tasks_run(self, here: Path) -> None:
        array = make_group("s.zarr")["air"]
        rechunk(array, (-1, 4, 4), "1MB", "a.zarr", executor="python").execute()
        rechunk(array, (-1, 4, 4), "1MB", "b.zarr").execute(scheduler="sync", retries=2)
        rechunk(array, (-1, 4, 4), "1MB", "c.zarr").execute(num_workers=1)
        for name in "abc":
            np.testing.assert_array_equal(zarr.open_array(f"{name}.zarr")[:], VALUES)
        with pytest.raises(InvalidChunksError, match="processes"):
            rechunk(array, (-1, 4, 4), "1MB", "d.zarr").execute(scheduler="processes")
        with pytest.raises(InvalidChunksError, match="does not take colour"):
            rechunk(array, (-1, 4, 4), "1MB", "d.zarr").execute(colour=1)

    def test_it_is_verified_on_request(self, here: Path) -> None:
        array = make_group("s.zarr")["air"]
        plan = rechunk(array, (120, 12, 1), "1MB", "t.zarr")
        plan.execute(verify=True)
        Path("t.zarr/c/0/0/3").unlink()
        with pytest.raises(VerificationError, match="c/0/0/3 is lost"):
            plan.execute(verify=True)

    def test_it_is_shown(self, here: Path) -> None:
        plan = rechunk(make_group("s.zarr"), {"air": None}, "1MB", "t.zarr")
        page = plan._repr_html_()
        for part in ("Source", "Target", "Plan"):
            assert f"<b>{part}</b>" in page
        plan.execute()
        assert "not written yet" not in repr(plan)
