from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xchunk
from xchunk.core.suggest.access import AccessPattern
from xchunk.errors import InvalidChunksError, XchunkWarning
from xchunk.opening.groups import by_position, group_edges


def daily(start: str = "2001-01-01", days: int = 1461) -> xr.Dataset:
    time = pd.date_range(start, periods=days, freq="D")
    return xr.Dataset(
        {"a": (("time", "lat"), np.zeros((days, 37), "f4"))},
        {
            "time": time,
            "lat": np.linspace(90, -90, 37),
            "batch": ("time", np.arange(days) // 100),
            "basin": (("time", "lat"), np.zeros((days, 37), "i1")),
        },
    )


@pytest.mark.parametrize(
    ("start", "groupby", "expected"),
    [
        ("2001-01-01", "time.month", [365, 730, 1095]),
        ("2001-01-01", "time.year", [365, 730, 1095]),
        ("2001-01-01", "time.season", [334, 699, 1064, 1430]),
        ("2001-01-01", "time.dayofyear", [365, 730, 1095]),
        ("2001-01-01", "time.hour", []),
        ("2001-01-01", "batch", list(range(100, 1461, 100))),
        # rounds begin with the group that comes first, wherever in the year that is
        ("2001-03-15", "time.month", [351, 716, 1082, 1447]),
        ("2001-03-15", "time.year", [292, 657, 1022, 1388]),
    ],
)
def test_groups_by_name(start: str, groupby: str, expected: list[int]) -> None:
    assert group_edges([daily(start)], groupby=groupby) == {"time": expected}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("YS", [365, 730, 1095]), ("500D", [500, 1000]), ("QS-DEC", None), ("MS", None)],
)
def test_periods_by_name(rule: str, expected: list[int] | None) -> None:
    ds = daily()
    (edges,) = group_edges([ds], resample={"time": rule}).values()
    if expected is not None:
        assert edges == expected
    # the edges are those by which xarray's own resampling cuts
    parts = [len(part.time) for _, part in ds.a.resample(time=rule)]
    assert np.diff([0, *edges, ds.sizes["time"]]).tolist() == parts


def test_calendars_of_cftime() -> None:
    cftime = pytest.importorskip("cftime")
    time = xr.date_range("2001-01-01", periods=1000, calendar="360_day", use_cftime=True)
    assert isinstance(time[0], cftime.Datetime360Day)
    ds = xr.Dataset(coords={"time": time})
    assert group_edges([ds], groupby="time.month") == {"time": [360, 720]}
    assert group_edges([ds], resample={"time": "YS"}) == {"time": [360, 720]}


def test_known_positions_win() -> None:
    ds = daily()
    assert group_edges([ds], groupby="time.year", groups={"time": [7]}) == {"time": [7]}


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"groupby": "weather"}, "no coordinate 'weather'.*time, lat"),
        ({"groupby": "time.moon"}, "time.moon"),
        ({"groupby": "basin"}, "no runs along"),
        ({"groupby": 3}, "not a name"),
        ({"resample": "MS"}, "not a mapping"),
        ({"resample": {"depth": "MS"}}, "no dim 'depth'"),
        ({"resample": {"lat": "MS"}}, "cannot be resampled"),
        ({"resample": {"time": "fortnightly"}}, "cannot be resampled"),
        ({"groupby": "time.month", "resample": {"time": "MS"}}, "in two ways"),
    ],
)
def test_groups_that_make_no_sense(said: dict, wrong: str) -> None:
    with pytest.raises(InvalidChunksError, match=wrong):
        group_edges([daily()], **said)


def test_boxes_by_labels() -> None:
    ds = daily()
    box = {"lat": slice(60, 40), "time": slice("2001-02-01", "2001-02-28")}
    assert by_position(box, [ds]) == {"lat": 5, "time": 28}
    assert by_position({"lat": slice(None), "time": 3}, [ds]) == {"lat": -1, "time": 3}
    assert by_position([(box, 0.5), ("map", 0.5)], [ds])[0] == ({"lat": 5, "time": 28}, 0.5)
    assert by_position("map", [ds]) == "map"
    assert by_position(None, [ds]) is None


@pytest.mark.parametrize(
    ("box", "wrong"),
    [
        ({"lat": slice(40, 60)}, "selects nothing.*90.0 to -90.0"),
        ({"depth": slice(0, 10)}, "no dim"),
        ({"time": slice("yesterday", None)}, "cannot be selected"),
    ],
)
def test_boxes_that_make_no_sense(box: dict, wrong: str) -> None:
    with pytest.raises(InvalidChunksError, match=wrong):
        by_position(box, [daily()])


def test_a_dim_without_labels_has_no_slices() -> None:
    ds = xr.Dataset({"a": ("x", [1, 2])})
    with pytest.raises(InvalidChunksError, match="number of elements"):
        by_position({"x": slice(0, 1)}, [ds])


def stored(ds: xr.Dataset, chunks: dict[str, int]) -> xr.Dataset:
    import zarr

    store = zarr.storage.MemoryStore()
    sizes = tuple(chunks.get(d, n) for d, n in ds.a.sizes.items())
    ds.to_zarr(store, encoding={"a": {"chunks": sizes}}, consolidated=False)
    return xr.open_zarr(store, chunks=None, consolidated=False)


def test_blocks_end_with_the_periods_where_stored_chunks_do() -> None:
    ds = daily()
    # 70 MB of zeros, in chunks of one day
    ds["a"] = (("time", "lat", "lon"), np.zeros((1461, 37, 330), "f4"))
    opened = stored(ds, {"time": 1})
    found = opened.chunking.suggest(
        resample={"time": "MS"}, reduce="time", max_mem="100MB"
    ).variables["a"]
    assert found.action == "chunk"
    (edges,) = group_edges([opened], resample={"time": "MS"}).values()
    blocks = xr.Variable(("t",), np.zeros(1461)).chunk(t=found.chunks["time"]).chunks[0]
    ends = set(np.cumsum(blocks).tolist())
    assert ends <= {*edges, 1461}
    assert len(blocks) > 1


def test_every_part_of_a_use_reaches_the_suggestion() -> None:
    found = daily().chunking.suggest(
        [("timeseries", 0.7), ({"lat": slice(60, 40)}, 0.3)],
        passes=3,
        reduce="time",
        rolling={"time": 24},
        groupby="time.month",
        max_mem="1GB",
    )
    for words in ("70% timeseries", "lat=5", "reduces time", "window of 24", "3 passes"):
        assert words in found.access
    pattern = AccessPattern("mine", ("lat",))
    assert "mine" in daily().chunking.suggest(pattern, max_mem="1GB").access


def test_apply_tells_that_fewer_threads_are_needed(tmp_path) -> None:
    n = 3000
    ds = xr.Dataset({"a": (("x", "y"), np.zeros((n, n)))}, coords={"x": np.arange(n)})
    opened = stored(ds, {})
    # one stored chunk of 72 MB, which two tasks at once cannot hold
    suggestion = opened.chunking.suggest({"x": -1, "y": -1}, max_mem="300MB")
    assert suggestion.budget.threads == 2
    assert suggestion.threads == 1
    with pytest.warns(XchunkWarning, match=r"run 1 of their 2 threads.*'a'.*num_workers=1"):
        chunked = opened.chunking.apply(suggestion)
    assert chunked.a.chunks is not None


def test_chunks_for_a_lazy_pass_stand_beside_those_after_a_rechunk() -> None:
    ds = daily()
    ds["a"] = (("time", "lat", "lon"), np.zeros((1461, 37, 330), "f4"))
    suggestion = stored(ds, {"time": 1}).chunking.suggest("timeseries", max_mem="60MB", passes=50)
    assert suggestion.action == "stage"
    with pytest.raises(InvalidChunksError, match=r"apply\(suggestion\.lazy_chunks\)"):
        stored(ds, {"time": 1}).chunking.apply(suggestion)
    lazy = suggestion.lazy_chunks["a"]
    assert lazy["time"] in (1461, (1461,))
    assert suggestion.to_dict()["variables"]["a"]["lazy_chunks"] is not None
    assert xchunk.DatasetChunking is type(ds.chunking)
