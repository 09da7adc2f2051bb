"""Appending to stores that are there, and writing regions of them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

import xchunk
import xchunk.engine.copy
from xchunk.stores.adapter import get_key, list_prefix
from xchunk.targets.append.encode_like import ExactEncoder

KILLER = Path(__file__).with_name("append_killer.py")
QUIET: dict[str, Any] = {"max_mem": "60MB", "progress": False}


def weather(start: int, stop: int, **attrs: Any) -> xr.Dataset:
    """Some steps of a small reanalysis that never changes."""
    time = pd.date_range("2000-01-01", periods=400, freq="D")[start:stop]
    values = np.random.default_rng(5).random((400, 20, 30)).astype("f4")[start:stop]
    height = np.arange(600.0).reshape(20, 30)
    return xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), values, {"units": "K", **attrs}),
            "orography": (("lat", "lon"), height),
        },
        coords={
            "time": time,
            "lat": np.linspace(10, 60, 20),
            "lon": np.arange(30),
            "step": ("time", np.arange(start, stop)),
        },
        attrs={"title": "weather"},
    )


LAYOUTS = [
    pytest.param(3, {"chunks": (60, 10, 30)}, id="v3"),
    pytest.param(2, {"chunks": (60, 10, 30)}, id="v2"),
    pytest.param(3, {"chunks": (20, 10, 30), "shards": (60, 20, 30)}, id="sharded"),
]


def written(path: Path | str, ds: xr.Dataset, encoding: Any = None, **kwargs: Any) -> Path:
    """Write a store as xarray's users do."""
    chosen = {"t2m": {"chunks": (60, 10, 30)}} if encoding is None else encoding
    ds.to_zarr(path, encoding={k: v for k, v in chosen.items() if k in ds}, **kwargs)
    return Path(path)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def loaded(path: Any, **kwargs: Any) -> xr.Dataset:
    return xr.open_zarr(path, **kwargs).load()


@pytest.mark.filterwarnings("ignore:.*onsolidated metadata:UserWarning")
@pytest.mark.parametrize(("zarr_format", "encoding"), LAYOUTS)
@pytest.mark.parametrize("source", [pytest.param("computed", marks=pytest.mark.slow), "stored"])
def test_ninety_steps_in_chunks_of_sixty(
    zarr_format: int, encoding: dict[str, Any], source: str
) -> None:
    store = written("s.zarr", weather(0, 90), {"t2m": encoding}, zarr_format=zarr_format)
    before, reader = files(store), xr.open_zarr(store, chunks=None)
    new = weather(90, 135)
    if source == "stored":
        units = {"units": "days since 2000-01-01", "dtype": "int64"}
        new = xr.open_zarr(
            written("new.zarr", new, {"t2m": {"chunks": (7, 20, 30)}, "time": units})
        )
    plan = new.chunking.plan_append(store, dim="time", max_mem="60MB")
    assert files(store) == before
    assert any("t2m" in note and "30 old steps" in note for note in plan.notes)
    assert "'time' grows from 90 to 135" in plan.notes
    assert plan["t2m"].job.shape == (75, 20, 30)

    out = new.chunking.append(store, dim="time", verify=True, **QUIET)
    assert out.load().identical(weather(0, 135))
    assert loaded(store).identical(weather(0, 135))
    after = files(store)
    changed = {k for k, v in before.items() if after[k] != v}
    # the documents of what grew and the root's, and the half-full units: nothing else
    names = {k.rpartition("/")[2] for k in changed if "/c/" not in k and not k[-1].isdigit()}
    assert names <= {"zarr.json", ".zarray", ".zmetadata"}
    units_changed = {k for k in changed if k[-1].isdigit()}
    assert units_changed
    assert all(re.match(r"t2m/(c/)?1[./]", k) for k in units_changed)
    assert not [k for k in after if ".xchunk" in k]
    # who had opened the store before sees what it saw
    assert reader.load().identical(weather(0, 90))
    chunks = zarr.open_array(store, path="t2m", mode="r").chunks
    assert chunks == encoding["chunks"]


class Counting(MemoryStore):
    """Counts how often each key is written."""

    # zarr makes read-only views of a store, which are of this class as well
    writes: ClassVar[dict[str, int]] = {}

    async def set(self, key: str, value: Any, *args: Any, **kwargs: Any) -> None:
        self.writes[key] = self.writes.get(key, 0) + 1
        await super().set(key, value, *args, **kwargs)

    def set_sync(self, key: str, value: Any) -> None:
        self.writes[key] = self.writes.get(key, 0) + 1
        below: Any = super()  # zarr 3.4 has it
        below.set_sync(key, value)


def test_no_key_is_written_twice_and_the_roots_last() -> None:
    store = Counting()
    weather(0, 90).to_zarr(store, encoding={"t2m": {"chunks": (60, 10, 30)}})
    store.writes.clear()
    weather(90, 260).chunking.append(store, dim="time", **QUIET)
    data = {k: n for k, n in store.writes.items() if not k.startswith(".xchunk")}
    assert set(data.values()) == {1}
    # 90..260 in units of 60 are 4 units along time, of 2 along lat; the coordinates 2 each
    assert len([k for k in data if "/c/" in k]) == 4 * 2 + 2 + 2
    assert next(reversed(data)) == "zarr.json"


def test_what_is_empty_stays_empty_and_old_garbage_is_not_seen() -> None:
    values = np.full((30, 8), np.nan)
    ds = xr.Dataset({"v": (("t", "x"), values)}, coords={"t": np.arange(30)})
    ds.isel(t=slice(0, 10)).to_zarr("s.zarr", encoding={"v": {"chunks": (5, 8)}})
    # what a run of another tool left beyond the end, when it was killed
    ds.fillna(7.0).to_zarr("junk.zarr", encoding={"v": {"chunks": (5, 8)}})
    Path("s.zarr/v/c/4").mkdir(parents=True, exist_ok=True)
    Path("s.zarr/v/c/4/0").write_bytes(Path("junk.zarr/v/c/4/0").read_bytes())
    out = ds.isel(t=slice(10, None)).chunking.append("s.zarr", dim="t", **QUIET)
    assert out.load().identical(ds)
    assert not [k for k in files(Path("s.zarr")) if k.startswith("v/c/")]


def test_groups_grow_together() -> None:
    tree = xr.DataTree.from_dict({"/": weather(0, 90), "/deep/er": weather(0, 90)})
    tree.to_zarr("s.zarr", encoding={"/": {}, "/deep/er": {}})
    more = xr.DataTree.from_dict({"/": weather(90, 95), "/deep/er": weather(90, 95)})
    more.chunking.append("s.zarr", dim="time", **QUIET)
    back = xr.open_datatree("s.zarr", engine="zarr")
    for path in ("/", "/deep/er"):
        assert back[path].to_dataset().load().equals(weather(0, 95))


@pytest.mark.parametrize("name", ["packed", "masked", "float32"])
def test_encodings_of_the_store_are_kept(name: str) -> None:
    packing = {
        "packed": {"dtype": "i2", "scale_factor": 0.5, "add_offset": 10.0, "_FillValue": -9},
        "masked": {"dtype": "f4", "_FillValue": np.float32(-999)},
        "float32": {"dtype": "f4", "_FillValue": None},
    }[name]
    values = np.arange(40.0).reshape(20, 2) * 0.5
    if name != "float32":
        values[3] = values[17] = np.nan
    ds = xr.Dataset({"v": (("t", "x"), values)}, coords={"t": np.arange(20)})
    ds.isel(t=slice(0, 12)).to_zarr("s.zarr", encoding={"v": {**packing, "chunks": (5, 2)}})
    ds.isel(t=slice(12, None)).chunk(t=3).chunking.append("s.zarr", dim="t", **QUIET)
    ds.to_zarr("whole.zarr", encoding={"v": {**packing, "chunks": (5, 2)}})
    raw = {"decode_cf": False}
    assert loaded("s.zarr", **raw).identical(loaded("whole.zarr", **raw))


def hourly(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords(time=ds.time + np.timedelta64(90, "m"))


REFUSALS = [
    pytest.param(lambda d: d.transpose("lat", "lon", "time"), "ds.transpose", id="order of dims"),
    pytest.param(lambda d: d.isel(lat=slice(5)), "same grid|differs from", id="another grid"),
    pytest.param(lambda d: d.drop_vars("t2m"), "would stay shorter", id="a variable is missing"),
    pytest.param(lambda d: d.assign(new=d.t2m), "drop_vars", id="a variable too many"),
    pytest.param(
        lambda d: d.assign(orography=d.orography + 1), "differs from", id="static differs"
    ),
    pytest.param(lambda d: d.assign_coords(lat=d.lat + 1), "lat .*Regrid", id="another grid"),
    pytest.param(hourly, "units|hours", id="times between the units"),
    pytest.param(
        lambda d: d.convert_calendar("noleap", use_cftime=True), "calendar", id="calendar"
    ),
    pytest.param(
        lambda d: d.assign(t2m=d.t2m.astype("f8") + 1e-9), "exactly", id="float64 into float32"
    ),
    pytest.param(lambda d: d.assign(t2m=d.t2m.astype("c8")), "cannot hold", id="complex"),
    pytest.param(lambda d: d.assign(t2m=d.t2m.astype(str)), "cannot hold", id="strings"),
    pytest.param(
        lambda d: d.assign(t2m=d.t2m.assign_attrs(units="degC")), "units is 'K'", id="units"
    ),
    pytest.param(lambda d: d.isel(time=slice(None, None, -1)), "increase", id="backwards"),
    pytest.param(lambda d: d.assign_coords(step=d.step + 0.5), "cannot hold", id="half a step"),
]


@pytest.mark.parametrize(("change", "said"), REFUSALS)
def test_what_does_not_fit_is_refused_with_the_remedy(change: Any, said: str) -> None:
    store = written("s.zarr", weather(0, 90))
    before = files(store)
    with pytest.raises((xchunk.EncodingError, xchunk.InvalidChunksError), match=said):
        change(weather(90, 95)).chunking.append(store, dim="time", **QUIET)
    assert files(store) == before


INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


@pytest.mark.parametrize("stored", [*INTEGERS, "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("given", INTEGERS)
def test_an_integer_is_kept_or_refused(given: str, stored: str) -> None:
    """Cast back, one that wraps around or is rounded may well be what it was."""
    least, most = np.iinfo(given).min, np.iinfo(given).max
    for value in (least, least + 1, most // 2 + 1, most - 1, most, 2**53 + 1):
        if least <= value <= most:
            values = np.array([0, value], dtype=given)
            try:
                found = ExactEncoder("a", np.dtype(stored), {})(values)
            except xchunk.EncodingError as error:
                assert str(value) in str(error)
                continue
            assert [int(v.real) for v in found.tolist()] == [0, value]


@pytest.mark.parametrize(
    ("given", "stored", "worst"), [("u4", "i4", 2**31), ("i8", "u8", -1), ("u8", "i8", 2**63)]
)
def test_integers_of_another_sign_are_looked_at(given: str, stored: str, worst: int) -> None:
    store = MemoryStore()
    xr.Dataset({"a": ("t", np.arange(3, dtype=stored))}).chunking.apply({"t": 2}, store=store)
    new = xr.Dataset({"a": ("t", np.array([7, worst], dtype=given))})
    with pytest.raises(xchunk.EncodingError, match="not hold the new values exactly"):
        new.chunking.append(store, dim="t")
    new = new.isel(t=[0])
    assert new.chunking.append(store, dim="t").a.values.tolist() == [0, 1, 2, 7]


def test_complex_values_that_are_missing_are_kept() -> None:
    values = np.array([complex(np.nan, 1), complex(0, np.nan), 2j])
    assert ExactEncoder("v", values.dtype, {})(values).tobytes() == values.tobytes()
    with pytest.raises(xchunk.EncodingError, match="does not hold the new values"):
        ExactEncoder("v", np.dtype("f8"), {})(values)


@pytest.mark.parametrize("made", ["memory", "stored"])
@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("m8[ns]", "i8"),
        ("m8[ns]", "f8"),
        ("M8[ns]", "i8"),
        ("M8[ns]", "m8[ns]"),
        ("m8[ns]", "M8[ns]"),
    ],
)
def test_numbers_do_not_become_times_nor_durations(stored: str, new: str, made: str) -> None:
    day = 86_400 * 10**9
    old = xr.Dataset({"v": ("t", (np.arange(2) * day).astype(stored))}, {"t": [0, 1]})
    old.to_zarr("s.zarr")
    ds = xr.Dataset({"v": ("t", (np.arange(2) * day).astype(new))}, {"t": [2, 3]})
    if made == "stored":
        ds.to_zarr("n.zarr")
        ds = xr.open_zarr("n.zarr")
    with pytest.raises(xchunk.EncodingError, match="which cannot hold"):
        ds.chunking.append("s.zarr", dim="t", **QUIET)
    assert xr.open_zarr("s.zarr").load().identical(old)
    # the same, undecoded, are those that are stored
    again = xr.open_zarr("s.zarr", decode_cf=False).load().assign_coords(t=[2, 3])
    again.chunking.append("s.zarr", dim="t", verify=True, **QUIET)
    assert xr.open_zarr("s.zarr").v.values.tolist() == [*old.v.values.tolist()] * 2


@pytest.mark.parametrize("lazy", [False, True], ids=["memory", "dask"])
@pytest.mark.parametrize(
    ("stored", "new", "value"),
    [
        ("i8", "u8", 2**63),
        ("u8", "i8", -1),
        ("u8", "i1", -1),
        ("u2", "i2", -3),
        ("i4", "u4", 2**31),
        ("i1", "i8", 128),
        ("f8", "i8", 2**63 - 1),
        ("f4", "u4", 2**24 + 1),
        ("u1", "i8", 2**32),
    ],
)
def test_integers_that_would_wrap_around_are_refused(
    stored: str, new: str, value: int, *, lazy: bool
) -> None:
    old = xr.Dataset({"v": ("t", np.array([1, 2], stored))}, {"t": [0, 1]})
    ds = xr.Dataset({"v": ("t", np.array([3, value], new))}, {"t": [2, 3]})
    ds = ds.chunk(t=1) if lazy else ds
    for store in ("a.zarr", "r.zarr"):
        old.to_zarr(store)
    with pytest.raises(xchunk.XchunkError, match="does not hold the new values exactly"):
        ds.chunking.append("a.zarr", dim="t", **QUIET)
    part = ds[["v"]].drop_vars("t").chunking
    with pytest.raises(xchunk.XchunkError, match="does not hold the new values exactly"):
        part.write_region("r.zarr", region={"t": slice(0, 2)}, **QUIET)
    fits = xr.Dataset({"v": ("t", np.array([3, 4], new))}, {"t": [2, 3]})
    fits.chunking.append("a.zarr", dim="t", resume=False, verify=True, **QUIET)
    assert xr.open_zarr("a.zarr").v.values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("start", "said"),
    [(45, "45 of 50 labels"), (90, ""), (0, "labels of 'time' are in the store already")],
    ids=["overlaps", "goes on", "again"],
)
def test_labels_go_on(start: int, said: str) -> None:
    store = written("s.zarr", weather(0, 90))
    new = weather(start, start + 50)
    if not said:
        new.chunking.append(store, dim="time", **QUIET)
        return
    with pytest.raises(xchunk.InvalidChunksError, match=said):
        new.chunking.append(store, dim="time", **QUIET)
    out = new.chunking.append(store, dim="time", check_labels=False, **QUIET)
    assert out.sizes["time"] == 140


@pytest.mark.parametrize(
    ("first", "second", "gap"),
    [
        (("2024-01-01", 31, "D"), ("2024-02-01", 29, "D"), False),
        (("2024-01-01", 31, "D"), ("2024-03-01", 31, "D"), True),
        (("2024-01-01", 12, "MS"), ("2025-01-01", 2, "MS"), False),
        (("2024-01-01", 12, "MS"), ("2025-02-01", 2, "MS"), True),
        (("2024-01-01", 8, "6h"), ("2024-01-03T06", 8, "6h"), True),
    ],
    ids=["next month", "a month is missing", "months", "one of months", "a step is missing"],
)
def test_a_gap_is_told(first: Any, second: Any, gap: bool) -> None:
    def made(start: str, count: int, freq: str) -> xr.Dataset:
        time = pd.date_range(start, periods=count, freq=freq)
        ds = xr.Dataset({"v": ("time", np.arange(count))}, {"time": time})
        ds.time.encoding = {"units": "hours since 2000-01-01", "dtype": "i8"}
        return ds

    store = written("gap.zarr", made(*first))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", xchunk.XchunkWarning)
        job = made(*second).chunking.plan_append(store, dim="time", max_mem="60MB")
    notes = [note for note in job.plan.notes if "has a gap" in note]
    assert len(notes) == sum("has a gap" in str(w.message) for w in heard) == gap
    job.run(progress=False)


@pytest.mark.parametrize("old", [[5, 5, 5], [5], [1, 2]], ids=["all the same", "one", "two"])
def test_labels_without_a_step_that_tells_are_no_gap(old: list[int]) -> None:
    store = written("same.zarr", xr.Dataset({"v": ("t", [0.0] * len(old))}, {"t": old}))
    new = xr.Dataset({"v": ("t", [1.0])}, {"t": [90]})
    out = new.chunking.append(store, dim="t", max_mem="60MB", progress=False)
    assert out.t.values.tolist() == [*old, 90]


def test_a_value_that_does_not_fit_is_found_in_its_box_and_all_is_taken_back() -> None:
    packing = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -9, "chunks": (4, 3)}
    values = np.arange(60.0).reshape(20, 3)
    ds = xr.Dataset({"v": (("t", "x"), values)}, coords={"t": np.arange(20)})
    ds.isel(t=slice(0, 10)).to_zarr("s.zarr", encoding={"v": packing})
    before, keys = loaded("s.zarr"), set(files(Path("s.zarr")))
    new = ds.isel(t=slice(10, None)).copy(deep=True)
    new.v[-1, -1] = 0.3
    with pytest.raises(xchunk.EncodingError, match=r"0\.3 would be read back as 0\.5"):
        new.chunk(t=2).chunking.append("s.zarr", dim="t", **QUIET)
    assert loaded("s.zarr").identical(before)
    assert set(files(Path("s.zarr"))) == keys


@pytest.mark.parametrize(
    "labels",
    [pytest.param(True, id="auto"), pytest.param(False, id="slices", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(("zarr_format", "encoding"), LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*onsolidated metadata:UserWarning")
def test_a_region_is_written_with_the_old_values_around_it(
    zarr_format: int, encoding: dict[str, Any], labels: bool
) -> None:
    store = written("s.zarr", weather(0, 200), {"t2m": encoding}, zarr_format=zarr_format)
    before = files(store)
    part = weather(50, 70).isel(lat=slice(5, 8))[["t2m"]]
    part = part.drop_vars("step") * -1
    part.t2m.attrs["units"] = "K"
    where: Any = "auto" if labels else {"time": slice(50, 70), "lat": slice(5, 8)}
    part.drop_vars("lon").chunking.write_region(store, region=where, verify=True, **QUIET)
    wanted = weather(0, 200)
    wanted.t2m[50:70, 5:8] *= -1
    assert loaded(store).identical(wanted)
    after = files(store)
    assert before.keys() == after.keys()
    assert all(re.match(r"t2m/(c/)?[01][./]0[./]0", k) for k in before if after[k] != before[k])


@pytest.mark.parametrize(
    ("region", "said"),
    [
        ("somewhere", "no region"),
        ({"tim": slice(0, 5)}, "no dim of the store"),
        ({"time": slice(0, 4)}, "same length"),
        ({"time": slice(88, 93)}, "same length"),
        ({"time": slice(0, 10, 2)}, "no slice"),
        ({"time": slice(10, 15)}, "others in the"),
    ],
    ids=["a word", "a dim", "too short", "beyond the end", "steps", "other labels"],
)
def test_a_region_that_makes_no_sense(region: Any, said: str) -> None:
    store = written("s.zarr", weather(0, 90))
    with pytest.raises(xchunk.InvalidChunksError, match=said):
        weather(0, 5).chunking.write_region(store, region=region, **QUIET)


@pytest.mark.parametrize(
    "options",
    [{"chunks": {"time": 5}}, {"overwrite": True}, {"zarr_format": 3}, {"region": "auto"}],
    ids=["chunks", "overwrite", "format", "both"],
)
def test_the_layout_is_the_stores(options: dict[str, Any]) -> None:
    store = written("s.zarr", weather(0, 90))
    with pytest.raises(TypeError, match=next(iter(options))):
        weather(90, 95).chunking.append(store, dim="time", **options, **QUIET)


def test_a_store_that_is_not_there() -> None:
    with pytest.raises(xchunk.SourceError, match="nothing to append"):
        weather(0, 5).chunking.append("none.zarr", dim="time", **QUIET)
    assert not Path("none.zarr").exists()


def failing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk fail once some boxes are written."""
    real, seen = xchunk.engine.copy._copy, [0]

    def copy(spec: Any, i: int) -> Any:
        seen[0] += 1
        if seen[0] > after:
            raise xchunk.StageFailedError("the disk is on fire.")
        return real(spec, i)

    monkeypatch.setattr(xchunk.engine.copy, "_copy", copy)


def least(new: xr.Dataset, store: Path) -> dict[str, Any]:
    """Return options with so little memory that every unit is a box."""
    most = 1_000
    while True:
        try:
            new.chunking.plan_append(store, dim="time", max_mem=most)
        except xchunk.MemoryBudgetError as error:
            most = error.smallest
        else:
            return {"max_mem": most, "progress": False}


def stopped(
    monkeypatch: pytest.MonkeyPatch, after: int = 3
) -> tuple[xr.Dataset, dict[str, Any], set[str]]:
    """An append of stored data that stopped after some boxes."""
    store = written("s.zarr", weather(0, 90))
    keys = set(files(store))
    new = xr.open_zarr(written("new.zarr", weather(90, 400), {"t2m": {"chunks": (10, 20, 30)}}))
    small = least(new, store)
    with monkeypatch.context() as patch:
        failing(patch, after)
        with pytest.raises(xchunk.StageFailedError, match="the same call resumes"):
            new.chunking.append(store, dim="time", **small)
    assert loaded(store).identical(weather(0, 90))
    return new, small, keys


def test_it_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    new, small, _ = stopped(monkeypatch)
    plan = new.chunking.plan_append("s.zarr", dim="time", max_mem=small["max_mem"])
    assert any("not copied again" in note for note in plan.notes)
    with pytest.raises(xchunk.ResumeMismatchError, match="unfinished"):
        weather(90, 100).chunking.append("s.zarr", dim="time", **QUIET)
    with pytest.raises(xchunk.TargetExistsError):
        weather(0, 5).chunking.apply({"time": 5}, store="s.zarr", **QUIET)
    new.chunking.append("s.zarr", dim="time", **small)
    assert loaded("s.zarr").identical(weather(0, 400))


def test_another_append_can_take_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch)
    out = weather(90, 100).chunking.append("s.zarr", dim="time", resume=False, **QUIET)
    assert out.load().identical(weather(0, 100))
    assert not [k for k in files(Path("s.zarr")) if re.match("t2m/c/[2-9]", k)]


def test_cleaning_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, keys = stopped(monkeypatch)
    shown = xchunk.clean("s.zarr")
    assert "holds what it held before" in shown.found
    assert any(k.startswith("t2m/c/") for k in shown.keys)
    xchunk.clean("s.zarr", dry_run=False)
    assert set(files(Path("s.zarr"))) == keys
    assert loaded("s.zarr").identical(weather(0, 90))
    # nothing of it is seen when another tool makes the store longer
    zarr.open_array("s.zarr", path="t2m", mode="r+").resize((120, 20, 30))
    grown = zarr.open_array("s.zarr", path="t2m", mode="r")
    assert np.isnan(grown[90:]).all() or (grown[90:] == grown.fill_value).all()


REGION = {"time": slice(35, 205), "lat": slice(2, 15)}
KILLED = """
import os, signal, sys
import xarray as xr, xchunk, xchunk.engine.copy
real, left = xchunk.engine.copy._copy, [int(sys.argv[1])]
def copy(*given):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return real(*given)
xchunk.engine.copy._copy = copy
region = {"time": slice(35, 205), "lat": slice(2, 15)}
xr.open_zarr("new.zarr").chunking.write_region(
    "s.zarr", region=region, max_mem=int(sys.argv[2]), progress=False)
"""


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("killed", "encoding"),
    [
        pytest.param(False, {"chunks": (30, 20, 30)}, id="failed"),
        pytest.param(True, {"chunks": (30, 20, 30)}, id="killed", marks=pytest.mark.slow),
        pytest.param(True, {"chunks": (15, 20, 30), "shards": (60, 20, 30)}, id="killed, sharded",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_region_that_is_stopped(
    monkeypatch: pytest.MonkeyPatch, killed: bool, encoding: dict[str, Any]
) -> None:
    """It is in place, which is said before it starts; the same call finishes it."""
    store = written("s.zarr", weather(0, 240), {"t2m": encoding})
    part = weather(35, 205).isel(lat=slice(2, 15))[["t2m"]].drop_vars(["step", "lon"])
    new = xr.open_zarr(written("new.zarr", part + 1000, {"t2m": {"chunks": (10, 13, 30)}}))
    with pytest.raises(xchunk.MemoryBudgetError) as caught:
        new.chunking.plan_region(store, region=REGION, max_mem=1000)
    small = {"max_mem": caught.value.smallest}
    plan = new.chunking.plan_region(store, region=REGION, **small)
    assert any("in place, and not at once" in note for note in plan.notes)
    if killed:
        call = [sys.executable, "-c", KILLED, "2", str(small["max_mem"])]
        assert subprocess.run(call, check=False).returncode == -signal.SIGKILL
    else:
        with monkeypatch.context() as patch:
            failing(patch, 2)
            with pytest.raises(xchunk.StageFailedError, match=r"region of .* may hold new values"):
                new.chunking.write_region(store, region=REGION, progress=False, **small)
    old, wanted = weather(0, 240), weather(0, 240)
    wanted.t2m[35:205, 2:15] += 1000
    now = loaded(store)
    fresh = now.t2m.values == wanted.t2m.values
    assert np.all(fresh | (now.t2m.values == old.t2m.values))
    inside = fresh[35:205, 2:15]
    assert inside.any()
    assert not inside.all()
    assert "in place" in str(xchunk.clean(store))
    mixed = xr.open_zarr(store, chunks=None)
    for look in (mixed.chunking.layout, mixed.chunking.check):
        with pytest.warns(xchunk.XchunkWarning, match="old and new values side by side"):
            look()
    with pytest.warns(xchunk.XchunkWarning, match="old and new values side by side"):
        mixed.chunking.plan({"time": -1}, store="other.zarr", max_mem="100MB")
    with pytest.raises(xchunk.TargetExistsError, match="Nothing was deleted"):
        xchunk.clean(store, dry_run=False)
    with pytest.raises(xchunk.ResumeMismatchError, match="unfinished"):
        weather(240, 250).chunking.append(store, dim="time", **QUIET)
    plan = new.chunking.plan_region(store, region=REGION, **small)
    assert any("not copied again" in note for note in plan.notes)
    new.chunking.write_region(store, region=REGION, progress=False, verify=True, **small)
    assert loaded(store).identical(wanted)
    assert not (store / ".xchunk").exists()


def test_a_store_without_consolidated_metadata(recwarn: pytest.WarningsRecorder) -> None:
    written("s.zarr", weather(0, 90), consolidated=False)
    plan = weather(90, 100).chunking.plan_append("s.zarr", dim="time", max_mem="60MB")
    assert any("no consolidated metadata" in note for note in plan.notes)
    weather(90, 100).chunking.append("s.zarr", dim="time", **QUIET)
    assert loaded("s.zarr", consolidated=False).identical(weather(0, 100))
    root = json.loads(Path("s.zarr/zarr.json").read_bytes())
    assert "consolidated_metadata" not in root


def test_bounds_follow_the_units_of_what_they_bound() -> None:
    def bounded(start: int, stop: int, units: str) -> xr.Dataset:
        ds = weather(start, stop)[["t2m"]].drop_vars("step")
        ends = np.stack([ds.time.values, ds.time.values + np.timedelta64(1, "D")], axis=1)
        ds = ds.assign_coords(time_bnds=(("time", "bnds"), ends))
        ds.time.attrs["bounds"] = "time_bnds"
        for name in ("time", "time_bnds"):
            ds[name].encoding = {"units": units, "calendar": "standard", "dtype": "int64"}
        return ds

    for path, ds in {
        "s.zarr": bounded(0, 90, "days since 1990-01-01"),
        "n.zarr": bounded(90, 100, "hours since 2000-01-01"),
    }.items():
        ds.chunking.apply({"time": 50}, store=path, **QUIET)
    new = xr.open_zarr("n.zarr")
    new.chunking.append("s.zarr", dim="time", **QUIET)
    back = loaded("s.zarr")
    np.testing.assert_array_equal(back.time_bnds[:, 0], weather(0, 100).time)
    assert "units" not in json.loads(Path("s.zarr/time_bnds/zarr.json").read_bytes())["attributes"]


def kill(tmp_path: Path, instants: list[float], **options: Any) -> dict[str, Any]:
    values = np.random.default_rng(1).random((30, 40, 60)).astype("f4")
    coords = {"t": np.arange(30), "y": np.arange(40)}
    ds = xr.Dataset({"v": (("t", "y", "x"), values)}, coords=coords)
    encoding = {"v": options.pop("v", {"chunks": (6, 20, 60)}), "t": {"chunks": (5,)}}
    ds.isel(t=slice(0, 14)).to_zarr(tmp_path / "old.zarr", encoding=encoding, **options)
    stored = {"v": {"chunks": (1, 40, 60)}}
    ds.isel(t=slice(14, None)).to_zarr(tmp_path / "new.zarr", encoding=stored)
    (tmp_path / "work").mkdir()
    job = {
        "old": str(tmp_path / "old.zarr"),
        "new": str(tmp_path / "new.zarr"),
        "target": str(tmp_path / "work/s.zarr"),
        "note": str(tmp_path / "phase"),
        "max_mem": "20MB",
        "instants": instants,
        "undo": True,
    }
    done = subprocess.run(
        [sys.executable, str(KILLER)],
        input=json.dumps(job),
        text=True,
        capture_output=True,
        check=False,
    )
    found = json.loads(done.stdout or "{}")
    assert done.returncode == 0, f"{found} {done.stderr[-2000:]}"
    return dict(found)


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*onsolidated metadata:UserWarning")
@pytest.mark.parametrize(
    "options",
    [{}, {"zarr_format": 2}, {"v": {"chunks": (2, 20, 60), "shards": (6, 40, 60)}}],
    ids=["v3", "v2", "sharded"],
)
def test_killed_at_every_phase(tmp_path: Path, options: dict[str, Any]) -> None:
    # the other layouts share everything but the chunks themselves
    more = [] if options else [0.02, 0.25, 0.4, 0.7, 0.8, 0.95]
    found = kill(tmp_path, [0.1, 0.55, 0.9, 0.985, *more], **options)
    assert found["kills"] >= 3
    assert "boxes" in found["phases"]
    assert options or {"commit", "clean-up"} <= set(found["phases"])


@pytest.mark.slow
def test_the_lease_keeps_a_second_run_away() -> None:
    from xchunk.targets.ownership import lease
    from xchunk.targets.scratch import Workspace

    store = zarr.storage.LocalStore(written("s.zarr", weather(0, 90)))
    Workspace(store).create(target="test")
    with lease(store), pytest.raises(xchunk.TargetExistsError, match="process"):
        weather(90, 95).chunking.append("s.zarr", dim="time", **QUIET)
    assert loaded("s.zarr").identical(weather(0, 90))
    assert get_key(store, ".xchunk/marker.json") is not None
    assert not list_prefix(store, ".xchunk/journal/")


MEMORY = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import dask, xarray as xr, xchunk
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
engine = "netcdf4" if sys.argv[1].endswith(".nc") else "zarr"
ds = xr.open_dataset(sys.argv[1], chunks={}, engine=engine)
with dask.config.set(num_workers=2):
    ds.chunking.plan_append("s.zarr", dim="t", max_mem=60_000_000)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    ds.chunking.append("s.zarr", dim="t", max_mem=60_000_000, progress=False)
print(status("VmHWM") - before)
"""


@pytest.mark.memory
@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("source", ["new.zarr", "new.nc"])
def test_the_budget_holds(source: str) -> None:
    values = np.random.default_rng(0).random((300, 200, 250)).astype("f4")
    ds = xr.Dataset({"v": (("t", "y", "x"), values)}, coords={"t": np.arange(300)})
    ds.isel(t=slice(0, 110)).to_zarr("s.zarr", encoding={"v": {"chunks": (60, 50, 250)}})
    new = ds.isel(t=slice(110, None))
    if source.endswith(".nc"):
        pytest.importorskip("netCDF4")
        chunks = {"v": {"chunksizes": (5, 200, 250), "zlib": True, "complevel": 1}}
        new.to_netcdf(source, engine="netcdf4", encoding=chunks)
    else:
        new.to_zarr(source, encoding={"v": {"chunks": (5, 200, 250)}})
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, source], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) <= 60_000_000
    assert loaded("s.zarr").identical(ds)


@pytest.mark.parametrize("year", [1200, 2300])
@pytest.mark.parametrize("how", ["append", "region", "auto", "again"])
def test_labels_beyond_what_nanoseconds_hold(year: int, how: str) -> None:
    def days(start: int, stop: int) -> xr.Dataset:
        time = np.datetime64(f"{year}-01-01", "us") + np.arange(start, stop) * np.timedelta64(
            1, "D"
        )
        return xr.Dataset({"a": ("time", np.arange(start, stop) * 1.5)}, coords={"time": time})

    store = MemoryStore()
    days(0, 4).to_zarr(store, encoding={"a": {"chunks": (2,)}}, consolidated=False)
    if how == "again":
        with pytest.raises(xchunk.InvalidChunksError, match=f"{year}-01-0"):
            days(2, 6).chunking.append(store, dim="time", **QUIET)
        return
    if how == "append":
        out, length = days(4, 7).chunking.append(store, dim="time", verify=True, **QUIET), 7
    else:
        region: Any = "auto" if how == "auto" else {"time": slice(2, 4)}
        new, length = days(2, 4), 4
        out = new.chunking.write_region(store, region=region, verify=True, **QUIET)
    xr.testing.assert_equal(out.load(), days(0, length))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("height", [np.nan, np.float32(-0.0), np.datetime64("NaT", "ns"), 2])
def test_a_scalar_that_is_the_same_is_no_obstacle(height: Any, zarr_format: int) -> None:
    def make(*labels: float) -> xr.Dataset:
        ds = xr.Dataset({"v": ("t", np.zeros(len(labels)))}, {"t": list(labels)})
        return ds.assign_coords(h=height)

    make(0, 1).to_zarr("s.zarr", zarr_format=zarr_format)
    make(2).chunking.append("s.zarr", dim="t", **QUIET)
    xr.testing.assert_identical(xr.open_zarr("s.zarr").load(), make(0, 1, 2))
