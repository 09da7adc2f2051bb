"""How uses are said: presets by CF metadata, dims, weights, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.layout import ArrayLayout
from xchunk.core.suggest.access import AccessPattern, dim_roles, parse_access
from xchunk.errors import InvalidChunksError

F4 = np.dtype("f4")


def var(name: str, dims: str, *shape: int, dtype: Any = "f4", **attrs: Any) -> ArrayLayout:
    names = tuple(dims.split())
    kind = np.dtype(dtype)
    coord = attrs.pop("coord", names == (name,))
    return ArrayLayout(name, names, shape, kind, kind, is_coord=coord, attrs=attrs)


REANALYSIS = [
    var("t2m", "time lat lon", 100, 20, 30),
    var("time", "time", 100, dtype="M8[ns]"),
    var("lat", "lat", 20, units="degrees_north"),
    var("lon", "lon", 30, units="degrees_east"),
]
NEMO = [
    var("votemper", "time_counter deptht y x", 12, 31, 33, 36),
    var("nav_lat", "y x", 33, 36, units="degrees_north", coord=True),
    var("nav_lon", "y x", 33, 36, units="degrees_east", coord=True),
    var("deptht", "deptht", 31, units="m", positive="down"),
]
ROTATED = [
    var("ta", "a b c d", 4, 5, 6, 7),
    var("a", "a", 4, standard_name="time", units="days since 1970-01-01"),
    var("b", "b", 5, standard_name="air_pressure", units="hPa"),
    var("c", "c", 6, standard_name="grid_latitude", units="degrees"),
    var("d", "d", 7, standard_name="projection_x_coordinate", units="m"),
]
STATIONS = [
    var("obs", "record site", 50, 9),
    var("when", "record", 50, dtype="M8[ns]", coord=True),
    var("where_lat", "site", 9, units="degrees_north", coord=True),
]
FORECAST = [
    var("tp", "init lead member latitude longitude", 3, 4, 5, 6, 7),
    var("init", "init", 3, dtype="M8[ns]", standard_name="forecast_reference_time"),
    var("time", "lead", 4, dtype="M8[ns]", coord=True),
]
HYBRID = [
    var("theta", "level_height grid_latitude grid_longitude", 15, 100, 100),
    var("level_height", "level_height", 15, axis="Z", units="m"),
    var("altitude", "level_height grid_latitude grid_longitude", 15, 100, 100,
        coord=True, standard_name="altitude", positive="up"),
]  # fmt: skip
SWATH = [
    var("rad", "scan pixel band", 9, 8, 7),
    var("latitude", "scan pixel", 9, 8, coord=True, units="degrees_north"),
]
MISLEADING = [
    var("v", "x y", 5, 6),
    var("x", "x", 5, axis="T"),
    var("y", "y", 6, axis="Z", units="degrees_north"),
]


@pytest.mark.parametrize(
    ("layouts", "preset", "whole"),
    [
        pytest.param(REANALYSIS, "timeseries", {"time"}, id="reanalysis-series"),
        pytest.param(REANALYSIS, "map", {"lat", "lon"}, id="reanalysis-map"),
        pytest.param(REANALYSIS, "scan", set(), id="reanalysis-scan"),
        pytest.param(NEMO, "timeseries", {"time_counter"}, id="nemo-series"),
        pytest.param(NEMO, "map", {"y", "x"}, id="nemo-map"),
        pytest.param(NEMO, "profile", {"deptht"}, id="nemo-profile"),
        pytest.param(ROTATED, "timeseries", {"a"}, id="rotated-series"),
        pytest.param(ROTATED, "profile", {"b"}, id="rotated-profile"),
        pytest.param(ROTATED, "map", {"c", "d"}, id="rotated-map"),
        pytest.param(STATIONS, "timeseries", {"record"}, id="stations-series"),
        pytest.param(STATIONS, "map", {"site"}, id="stations-map"),
        pytest.param(FORECAST, "timeseries", {"lead"}, id="forecast-series"),
        pytest.param(FORECAST, "map", {"latitude", "longitude"}, id="forecast-map"),
        pytest.param(HYBRID, "profile", {"level_height"}, id="hybrid-profile"),
        pytest.param(HYBRID, "map", {"grid_latitude", "grid_longitude"}, id="hybrid-map"),
        pytest.param(SWATH, "map", {"scan", "pixel"}, id="swath-map"),
        pytest.param(MISLEADING, "timeseries", {"x"}, id="attributes-beat-names"),
        pytest.param(MISLEADING, "profile", {"y"}, id="axis-beats-units"),
    ],
)
def test_presets_find_their_dims(layouts: list[ArrayLayout], preset: str, whole: set[str]) -> None:
    (pattern,) = parse_access(preset, layouts)
    assert set(pattern.whole) == whole
    assert pattern.is_scan == (not whole)


@pytest.mark.parametrize(
    "attrs",
    [
        {"axis": "Y"},
        {"units": "degrees_north"},
        {"units": "degree_N"},
        {"units": "degreesN"},
        {"units": "degree_east"},
        {"standard_name": "projection_y_coordinate"},
        {"standard_name": "grid_longitude"},
    ],
    ids=str,
)
def test_spellings_of_horizontal(attrs: dict[str, str]) -> None:
    assert dim_roles([var("q", "q", 4, **attrs)]) == {"q": "H"}


def test_bounds_and_odd_attributes_say_nothing() -> None:
    layouts = [
        var("v", "cell bnds", 4, 2, axis=3, units=None, positive=1.5),
        var("lat_bnds", "cell bnds", 4, 2, coord=True, units="degrees_north"),
        var("w", "member kind", 4, 2),
    ]
    assert dim_roles(layouts) == {"cell": "H"}


@pytest.mark.parametrize(
    ("access", "whole", "extents"),
    [
        pytest.param({"time": -1}, ("time",), {}, id="whole"),
        pytest.param({"time": -1, "lat": 1}, ("time",), {"lat": 1}, id="whole-and-part"),
        pytest.param({"time": 100}, ("time",), {}, id="as-long-as-the-dim"),
        pytest.param({"lat": np.int64(5)}, (), {"lat": 5}, id="numpy"),
        pytest.param({"samples": {"time": 4, "lat": -1}}, ("lat",), {"time": 4}, id="samples"),
        pytest.param({}, (), {}, id="empty"),
        pytest.param(None, (), {}, id="none"),
    ],
)
def test_dims(access: Any, whole: tuple[str, ...], extents: dict[str, int]) -> None:
    (pattern,) = parse_access(access, REANALYSIS)
    assert (pattern.whole, dict(pattern.extents)) == (whole, extents)


def test_mixtures_add_up() -> None:
    series, maps = parse_access([("timeseries", 7), ("map", 3)], REANALYSIS, passes=4)
    assert (series.weight, maps.weight) == (0.7, 0.3)
    assert series.passes == maps.passes == 4


def test_more_about_the_use() -> None:
    (p,) = parse_access(
        None, REANALYSIS, reduce="time", rolling={"time": 24}, groups={"time": [31, 59, 100, 0]}
    )
    assert p.reduces == ("time",)
    assert p.halo == {"time": 23}
    assert p.groups == {"time": (31, 59)}
    assert "window of 24 along time" in p.describe()
    (given_again,) = parse_access(p, REANALYSIS)
    assert given_again == p


def test_a_variable_without_the_dims_is_scanned() -> None:
    (p,) = parse_access({"time": -1, "lat": 2}, REANALYSIS, rolling={"time": 3})
    mask = var("mask", "lon", 30)
    assert p.on(mask).is_scan
    assert p.on(mask).request_shape(mask) == (30,)
    assert p.on(REANALYSIS[0]).request_shape(REANALYSIS[0]) == (100, 2, 1)


@pytest.mark.parametrize(
    ("access", "more", "said"),
    [
        pytest.param("series", {}, "'timeseries'", id="unknown-preset"),
        pytest.param("profile", {}, "lat (20)", id="preset-without-dims"),
        pytest.param({"tiem": -1}, {}, "time (100)", id="unknown-dim"),
        pytest.param({"time": 0}, {}, "at least 1", id="zero"),
        pytest.param({"time": -2}, {}, "-1", id="negative"),
        pytest.param({"time": True}, {}, "-1", id="bool"),
        pytest.param({"time": "all"}, {}, "-1", id="word"),
        pytest.param({"time": 1.5}, {}, "-1", id="float"),
        pytest.param({"samples": {}}, {}, "extents", id="samples-of-nothing"),
        pytest.param({"samples": 5}, {}, "there is no dim", id="samples-number"),
        pytest.param({3: -1}, {}, "there is no dim 3", id="not-a-name"),
        pytest.param(42, {}, "'scan'", id="number"),
        pytest.param([], {}, "names no use", id="no-uses"),
        pytest.param(["map"], {}, "pair", id="no-weight"),
        pytest.param([("map", 0)], {}, "above 0", id="weight-zero"),
        pytest.param([("map", "much")], {}, "above 0", id="weight-word"),
        pytest.param([("map", float("nan"))], {}, "above 0", id="weight-nan"),
        pytest.param(AccessPattern("mine", ("z",)), {}, "'z'", id="pattern-of-other-dims"),
        pytest.param(None, {"reduce": "z"}, "time (100)", id="reduce-unknown"),
        pytest.param(None, {"reduce": 3}, "reduce=3", id="reduce-number"),
        pytest.param(None, {"rolling": {"time": 0}}, "window", id="rolling-zero"),
        pytest.param(None, {"rolling": ["time"]}, "mapping", id="rolling-list"),
        pytest.param(None, {"groups": {"time": [500]}}, "100 elements", id="groups-outside"),
        pytest.param(None, {"groups": {"time": "month"}}, "positions", id="groups-word"),
        pytest.param(None, {"passes": 0}, "passes", id="no-passes"),
        pytest.param(None, {"passes": float("inf")}, "passes", id="endless-passes"),
    ],
)
def test_refusals_say_what_to_do(access: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidChunksError) as caught:
        parse_access(access, REANALYSIS, **more)
    assert said in str(caught.value)


def test_a_preset_that_is_not_found_lists_dims_and_says_it_by_dims() -> None:
    with pytest.raises(InvalidChunksError) as caught:
        parse_access("timeseries", [var("v", "a b", 2, 3)])
    text = str(caught.value)
    assert "a (2), b (3)" in text
    assert "standard_name 'time'" in text
    assert "access={'a': -1}" in text


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["time", "lat", "map", "timeseries", "scan", ""])
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["time", "lat", "x", 1, None]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(anything, anything, anything, anything, anything)
def test_whatever_is_said_is_understood_or_refused(
    access: Any, reduce: Any, rolling: Any, groups: Any, passes: Any
) -> None:
    for more in (
        {},
        {"reduce": reduce},
        {"rolling": rolling},
        {"groups": groups},
        {"passes": passes},
    ):
        try:
            patterns = parse_access(access, REANALYSIS, **more)
        except InvalidChunksError:
            continue
        assert sum(p.weight for p in patterns) == pytest.approx(1)
        for p in patterns:
            assert set(p.whole) | set(p.extents) | set(p.halo) <= {"time", "lat", "lon"}


def test_methods_belong_to_their_dims() -> None:
    (p,) = parse_access(None, REANALYSIS, reduce={"time": "std"})
    assert (p.reduces, dict(p.methods)) == (("time",), {"time": "std"})
    assert "reduces time by std" in p.describe()
    assert p.to_dict()["methods"] == {"time": "std"}
    scalar = next((v for v in REANALYSIS if "time" not in v.dims), None)
    assert scalar is None or not p.on(scalar).methods
