"""How data will be used: which dims a request needs whole, and what it adds to them.

Which dim is time, vertical or horizontal is read off CF metadata, then off names.

A dim's role is decided by the strongest evidence there is, in this order: its coordinate
variable (``axis``, ``standard_name``, ``units``, ``positive``, a time dtype), auxiliary
coordinates (``nav_lat(y, x)`` in degrees north makes both its dims horizontal), and last the
dim's own name.

A pattern stands for the *full use* of a variable by requests of one shape: ``timeseries``
is every pixel's series, not the series of one pixel. So a dask block must hold the dims
that a request needs whole, and any number of requests along the others; what a single
request would cost is told besides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from xchunk.core.layout import ArrayLayout
from xchunk.errors import InvalidChunksError

#: ``T`` time, ``Z`` vertical, ``H`` horizontal (both of latitude and longitude, or cells).
Role = Literal["T", "Z", "H"]

#: What the search goes by, for error messages.
LOOKED_FOR: Mapping[Role, str] = {
    "T": "axis 'T', standard_name 'time', units such as 'days since …', a datetime dtype, "
    "or a name such as time, t, time_counter",
    "Z": "axis 'Z', positive 'up' or 'down', units of pressure, a standard_name such as 'depth', "
    "or a name such as depth, level, plev, height",
    "H": "axis 'X' or 'Y', units such as 'degrees_north', a standard_name such as 'latitude' or "
    "'projection_x_coordinate', or a name such as lat, lon, x, y",
}

_AXIS: Mapping[str, Role] = {"T": "T", "Z": "Z", "Y": "H", "X": "H"}

_STANDARD_NAMES: Mapping[str, Role] = {
    "time": "T",
    **dict.fromkeys(
        (
            "latitude",
            "longitude",
            "grid_latitude",
            "grid_longitude",
            "projection_x_coordinate",
            "projection_y_coordinate",
            "projection_x_angular_coordinate",
            "projection_y_angular_coordinate",
        ),
        "H",
    ),
    **dict.fromkeys(
        (
            "air_pressure",
            "altitude",
            "depth",
            "height",
            "height_above_mean_sea_level",
            "geopotential_height",
            "height_above_geopotential_datum",
            "height_above_reference_ellipsoid",
            "model_level_number",
            "atmosphere_ln_pressure_coordinate",
            "atmosphere_sigma_coordinate",
            "atmosphere_hybrid_sigma_pressure_coordinate",
            "atmosphere_hybrid_height_coordinate",
            "atmosphere_sleve_coordinate",
            "ocean_sigma_coordinate",
            "ocean_s_coordinate",
            "ocean_s_coordinate_g1",
            "ocean_s_coordinate_g2",
            "ocean_sigma_z_coordinate",
            "ocean_double_sigma_coordinate",
        ),
        "Z",
    ),
}

# The spellings that CF allows, for instance degrees_north, degree_N and degreesE.
_DEGREES = re.compile(r"degrees?_?(?:north|east|n|e)", re.IGNORECASE)
_SINCE = re.compile(r"\s*\w+\s+since\s+\S", re.IGNORECASE)
_PRESSURE = frozenset(
    (
        "pa",
        "hpa",
        "kpa",
        "mb",
        "mbar",
        "bar",
        "millibar",
        "millibars",
        "decibar",
        "dbar",
        "pascal",
        "hectopascal",
    )
)

_NAMES: Mapping[Role, re.Pattern[str]] = {
    "T": re.compile(r"t|time|times|valid_?time|time_?counter|time_?\d+|date|datetime|ocean_time"),
    "Z": re.compile(
        r"z|zc|zt|zlev|nz|lev|level|levels|lev_?\d|nav_lev|olevel|plev\d*|pressure|pressure_level"
        r"|pfull|phalf|press|isobaric\w*|depth|depth[tuvwf]|z_[li]|z_[tw]|height|heights|altitude"
        r"|alt|hybrid\w*|sigma|model_level(_number)?|bottom_top(_stag)?|s_(rho|w)|nlev|ilev"
        r"|heightaboveground|heightabovesea|st_ocean"
    ),
    "H": re.compile(
        r"lat|latitude|lats|nav_lat|rlat|grid_lat(itude)?|lon|longitude|lons|nav_lon|rlon"
        r"|grid_lon(gitude)?|[xy]|[xy]c|[xy]t|n[xy]|[xy]h|[xy]q|[ij]|n[ij]|[xy]_?\d|[xy]_[a-z]+"
        r"|projection_[xy]_coordinate|grid_[xy]t?|(south_north|west_east)(_stag)?"
        r"|(xi|eta)_(rho|u|v|psi)|[xy][tu]_ocean|nlat|nlon|nav_[xy]|easting|northing"
        r"|cells?|ncells?|ncols?|values|stations?|nodes?|faces?|location|ngrid|nmesh\w*face"
    ),
}


def dim_roles(layouts: Iterable[ArrayLayout]) -> dict[str, Role]:
    """Report the role of each dim for which there is evidence.

    - ``layouts``: all variables of a Dataset, coordinates included, with their attributes.
    - returns: roles by name of the dim, in the order in which dims appear; others are left out.
    """
    layouts = list(layouts)
    dims = list(dict.fromkeys(d for v in layouts for d in v.dims))
    strong: dict[str, Role] = {}
    auxiliary: dict[str, Role] = {}
    for v in layouts:
        short = v.name.rsplit("/", 1)[-1]
        if v.dims == (short,):
            role = _role_by_attrs(v.attrs, v.dtype.kind)
            if role is not None:
                strong.setdefault(short, role)
    for v in layouts:
        if not v.is_coord or not v.dims or v.dims == (v.name.rsplit("/", 1)[-1],):
            continue
        role = _role_by_attrs(v.attrs, v.dtype.kind) or _role_by_name(v.name.rsplit("/", 1)[-1])
        # Heights and times of many dims (hybrid levels, swaths) do not tell which dim is which.
        if role == "H" or (role is not None and len(v.dims) == 1):
            for d in _unclaimed(v.dims, strong):
                auxiliary.setdefault(d, role)
    roles: dict[str, Role] = {}
    for d in dims:
        found = strong.get(d) or _role_by_name(d) or auxiliary.get(d)
        if found is not None:
            roles[d] = found
    return roles


def _unclaimed(dims: Sequence[str], strong: Mapping[str, Role]) -> list[str]:
    """Dims of an auxiliary coordinate that nothing else explains; bounds are no axes."""
    return [d for d in dims if d not in strong and not re.search(r"bnds|bounds|vert(ex|ices)", d)]


def _role_by_attrs(attrs: Mapping[str, Any], kind: str) -> Role | None:
    axis = attrs.get("axis")
    if isinstance(axis, str) and axis.strip().upper() in _AXIS:
        return _AXIS[axis.strip().upper()]
    standard = attrs.get("standard_name")
    if isinstance(standard, str) and standard.strip() in _STANDARD_NAMES:
        return _STANDARD_NAMES[standard.strip()]
    if kind == "M":
        # A forecast's reference time is a time too, but not the one that a series runs along.
        return "T" if standard is None else None
    positive = attrs.get("positive")
    if isinstance(positive, str) and positive.strip().lower() in ("up", "down"):
        return "Z"
    units = attrs.get("units")
    if isinstance(units, str):
        if _DEGREES.fullmatch(units.strip()):
            return "H"
        if _SINCE.match(units) and standard is None:
            return "T"
        if units.strip().lower() in _PRESSURE:
            return "Z"
    return None


def _role_by_name(name: str) -> Role | None:
    low = name.lower()
    for role, pattern in _NAMES.items():
        if pattern.fullmatch(low):
            return role
    return None


#: The dims that a preset needs whole, by role, and what the preset is, in words.
PRESETS: Mapping[str, tuple[Role | None, str]] = {
    "timeseries": ("T", "the whole time axis at a place"),
    "map": ("H", "whole horizontal fields, one at a time"),
    "profile": ("Z", "the whole vertical at a place and time"),
    "scan": (None, "everything once, in any order"),
}

#: Bytes held for each byte of a block by what reduces it, the block itself counted, for
#: elements of up to 2, of 4 and of 8 bytes. Measured in fresh processes on blocks of 64 MB of
#: int16, float32 and float64, with malloc trimming; rounded up.
METHOD_COPIES: Mapping[str, tuple[float, float, float]] = {
    **dict.fromkeys(("mean", "sum", "prod", "count", "max", "min", "any", "all"), (2.4, 2.4, 2.4)),
    **dict.fromkeys(("std", "var"), (9.5, 7.6, 4.6)),
    **dict.fromkeys(("quantile", "median"), (4.1, 4.1, 4.1)),
    **dict.fromkeys(("argmax", "argmin"), (3.2, 3.2, 3.2)),
    "corr": (16.0, 8.4, 5.3),
    "cov": (12.1, 5.8, 5.3),
}

#: Methods that go over a dim twice, so that where it is cut into blocks, those of a place are all
#: held until their mean is known, once for each of two variables. A worker of 1 GB was measured to
#: grow by 349 MB where a place had 118 MB.
HELD_COLUMNS: Mapping[str, float] = {"corr": 2.0, "cov": 2.0}

#: Appends that what is stored already is taken to be made of, where nothing tells.
SOME_APPENDS = 10

_ROLE_WORDS: Mapping[Role, str] = {"T": "time", "Z": "vertical", "H": "horizontal"}


@dataclass(frozen=True)
class AccessPattern:
    """One way in which data are used; dims that a variable does not have do not concern it."""

    name: str
    """What the user said, in words."""
    whole: tuple[str, ...] = ()
    """Dims that one request needs whole."""
    extents: Mapping[str, int] = field(default_factory=dict)
    """Elements of one request along other dims; 1 where a dim is not named."""
    halo: Mapping[str, int] = field(default_factory=dict)
    """Elements that a request needs besides its own, before them, by dim (rolling windows)."""
    reduces: tuple[str, ...] = ()
    """Dims that the operation reduces; its results are then small against its blocks."""
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Positions by dim at which groups end (resample); blocks that end there keep groups whole."""
    weight: float = 1.0
    """The part that this use has among several, between 0 and 1."""
    passes: float = 1.0
    """How many times the whole variable is used like this."""
    methods: Mapping[str, str] = field(default_factory=dict)
    """What reduces a dim, by dim: ``mean``, ``std``; empty where it was not said."""
    grows: Mapping[str, int] = field(default_factory=dict)
    """Elements that are appended at a time, by dim along which what is stored will grow."""
    random: bool = False
    """Whether requests come one by one and at random places, as samples for training do."""

    @property
    def is_scan(self) -> bool:
        """Whether requests may have any shape."""
        return not self.whole and not any(n > 1 for n in self.extents.values())

    @property
    def window(self) -> int:
        """Elements of a moving window; 0 where there is none."""
        return math.prod(n + 1 for n in self.halo.values()) if any(self.halo.values()) else 0

    def on(self, layout: ArrayLayout) -> AccessPattern:
        """Return what the pattern asks of one variable; a scan if none of the dims are its own."""
        dims = layout.dims
        return replace(
            self,
            whole=tuple(d for d in self.whole if d in dims),
            extents={d: n for d, n in self.extents.items() if d in dims},
            halo={d: n for d, n in self.halo.items() if d in dims},
            reduces=tuple(d for d in self.reduces if d in dims),
            methods={d: m for d, m in self.methods.items() if d in dims},
            groups={d: e for d, e in self.groups.items() if d in dims},
            grows={d: n for d, n in self.grows.items() if d in dims},
        )

    def request_shape(self, layout: ArrayLayout) -> tuple[int, ...]:
        """Elements of one request along each dim of a variable; a scan asks for all of it."""
        if self.is_scan:
            return layout.shape
        return tuple(
            n if d in self.whole else min(n, self.extents.get(d, 1) + self.halo.get(d, 0))
            for d, n in zip(layout.dims, layout.shape, strict=True)
        )

    def describe(self) -> str:
        """Say the use in a few words: ``timeseries, reduces time, 3 passes``."""
        words = [self.name]
        if self.reduces:
            own = (f"{d} by {self.methods[d]}" if d in self.methods else d for d in self.reduces)
            words.append(f"reduces {', '.join(own)}")
        words += [f"window of {n + 1} along {d}" for d, n in self.halo.items()]
        words += [f"{len(e) + 1} periods along {d}" for d, e in self.groups.items()]
        if self.passes != 1:
            words.append(f"{self.passes:g} passes")
        return ", ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Return the pattern as JSON types."""
        return {
            "name": self.name,
            "whole": list(self.whole),
            "extents": dict(self.extents),
            "halo": dict(self.halo),
            "reduces": list(self.reduces),
            "methods": dict(self.methods),
            "groups": {d: list(e) for d, e in self.groups.items()},
            "weight": self.weight,
            "passes": self.passes,
            "grows": dict(self.grows),
            "random": self.random,
        }


def parse_access(
    access: Any,
    layouts: Iterable[ArrayLayout],
    *,
    reduce: str | Sequence[str] | Mapping[str, str] = (),
    rolling: Mapping[str, int] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    passes: float = 1,
    growing: str | Mapping[str, int] | None = None,
) -> tuple[AccessPattern, ...]:
    """Turn what a user says of the use into patterns.

    - ``access``: a preset (``"timeseries"``, ``"map"``, ``"profile"``, ``"scan"``), the dims of one
      request (``{"time": -1, "lat": 1}``: -1 is whole; dims that are not named may be cut
      anywhere), or several of these with weights (``[("timeseries", 0.7), ("map", 0.3)]``). None is
      a scan. ``{"samples": {"time": 24, "lat": 45, "lon": 45}}`` are samples of such a shape at
      random places, each read by itself; one pass is as many as have all the values.
    - ``layouts``: the variables of the Dataset, coordinates included; presets find their dims in
      them.
    - ``reduce``: dims that the operation reduces, or for each of them the method that does it
      (``{"time": "std"}``), by whose copies of a block memory is then reckoned.
    - ``rolling``: length of the moving window by dim.
    - ``groups``: positions by dim at which groups end.
    - ``passes``: how many times the data are used like this.
    - ``growing``: the dim along which what is stored will grow, or for it the elements of one
      append.
    - returns: one pattern for each use; their weights add up to 1.
    - raises `InvalidChunksError` if the use cannot be understood, names dims that are not there, or
      a preset's dims cannot be found.
    """
    layouts = list(layouts)
    sizes = _sizes(layouts)
    common = {
        "reduces": tuple(_check_dim(d, sizes, "reduce") for d in _names(reduce, "reduce")),
        "methods": _methods(reduce),
        "halo": _halo(rolling, sizes),
        "groups": _groups(groups, sizes),
        "passes": _positive(passes, "passes"),
        "grows": _grows(growing, layouts, sizes),
    }
    pairs = _weighted(access)
    total = math.fsum(w for _, w in pairs)
    out = []
    for one, weight in pairs:
        pattern = _one(one, layouts, sizes)
        extra = common if not isinstance(one, AccessPattern) else _given(common)
        out.append(replace(pattern, weight=weight / total, **extra))
    return tuple(out)


def _given(common: dict[str, Any]) -> dict[str, Any]:
    """What the call adds to a pattern that was made before: only what it says."""
    return {k: v for k, v in common.items() if v and not (k == "passes" and v == 1)}


def _weighted(access: Any) -> list[tuple[Any, float]]:
    if access is None or isinstance(access, str | Mapping | AccessPattern):
        return [(access, 1.0)]
    if not isinstance(access, Sequence):
        raise InvalidChunksError(f"access={access!r} is not a use. {_advice()}")
    out = []
    for item in access:
        if isinstance(item, AccessPattern):
            out.append((item, item.weight))
            continue
        if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
            raise InvalidChunksError(
                f"access={access!r}: {item!r} is not a pair of a use and its weight. {_advice()}"
            )
        out.append((item[0], _positive(item[1], f"the weight of {item[0]!r}")))
    if not out:
        raise InvalidChunksError(f"access={access!r} names no use. {_advice()}")
    return out


def _one(access: Any, layouts: list[ArrayLayout], sizes: Mapping[str, int]) -> AccessPattern:
    if access is None:
        return AccessPattern("scan")
    if isinstance(access, AccessPattern):
        for d in (*access.whole, *access.extents, *access.halo, *access.groups, *access.reduces):
            _check_dim(d, sizes, "access")
        return access
    if isinstance(access, str):
        return _preset(access, layouts, sizes)
    if isinstance(access, Mapping):
        samples = access.get("samples")
        if len(access) == 1 and isinstance(samples, Mapping):
            shape = _by_dims(samples, sizes)
            if shape.is_scan:
                raise InvalidChunksError(f"access={access!r}: give the samples' extents by dim.")
            return replace(shape, name=f"random samples of {shape.name}", random=True)
        return _by_dims(access, sizes)
    raise InvalidChunksError(f"access={access!r} is not a use. {_advice()}")


def _preset(name: str, layouts: list[ArrayLayout], sizes: Mapping[str, int]) -> AccessPattern:
    if name not in PRESETS:
        nearest = get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise InvalidChunksError(
            f"access={name!r} is not one of the presets{hint} {_advice(sizes)}"
        )
    role, _ = PRESETS[name]
    if role is None:
        return AccessPattern(name)
    roles = dim_roles(layouts)
    whole = tuple(d for d, r in roles.items() if r == role)
    if not whole:
        example = next((v.dims[0] for v in layouts if v.dims), "time")
        raise InvalidChunksError(
            f"access={name!r} needs the {_ROLE_WORDS[role]} dims, and none of the dims "
            f"{_listed(sizes)} could be told to be one. Looked for: {LOOKED_FOR[role]}. "
            f"Say it by dims instead: access={{{example!r}: -1}} for a dim that is needed whole."
        )
    return AccessPattern(name, whole)


def _by_dims(access: Mapping[Any, Any], sizes: Mapping[str, int]) -> AccessPattern:
    whole, extents = [], {}
    for dim, value in access.items():
        _check_dim(dim, sizes, "access")
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise InvalidChunksError(
                f"access: {dim!r}: {value!r} is not a number of elements. "
                "Give the extent of one request, or -1 where it needs the whole dim."
            )
        n = value.__index__()
        if n < 1 and n != -1:
            raise InvalidChunksError(
                f"access: {dim!r}: {n} is not an extent. "
                "Give at least 1, or -1 where one request needs the whole dim."
            )
        if n == -1 or n >= sizes[dim]:
            whole.append(dim)
        else:
            extents[dim] = n
    if not access:
        return AccessPattern("scan")
    said = ", ".join(f"{d}={'all' if d in whole else extents[d]}" for d in access)
    return AccessPattern(said, tuple(whole), extents)


def _halo(rolling: Mapping[str, int] | None, sizes: Mapping[str, int]) -> dict[str, int]:
    out = {}
    for dim, window in _items(rolling, "rolling"):
        _check_dim(dim, sizes, "rolling")
        if isinstance(window, bool) or not hasattr(window, "__index__") or window < 1:
            raise InvalidChunksError(
                f"rolling: {dim!r}: {window!r} is not a window; give its number of elements."
            )
        out[dim] = min(window.__index__() - 1, max(0, sizes[dim] - 1))
    return out


def _groups(
    groups: Mapping[str, Sequence[int]] | None, sizes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    out = {}
    for dim, edges in _items(groups, "groups"):
        _check_dim(dim, sizes, "groups")
        try:
            positions = sorted({e.__index__() for e in edges})
        except (AttributeError, TypeError):
            raise InvalidChunksError(
                f"groups: {dim!r}: {edges!r} is not a sequence of positions. Give the index at "
                "which each group ends."
            ) from None
        if positions and (positions[0] < 0 or positions[-1] > sizes[dim]):
            raise InvalidChunksError(
                f"groups: {dim!r}: the positions run from {positions[0]} to {positions[-1]}, "
                f"but the dim has {sizes[dim]} elements."
            )
        out[dim] = tuple(p for p in positions if 0 < p < sizes[dim])
    return out


def _grows(
    growing: Any, layouts: Sequence[ArrayLayout], sizes: Mapping[str, int]
) -> dict[str, int]:
    """Elements of one append by dim; where they were not said, those of one of the files."""
    if isinstance(growing, str):
        _check_dim(growing, sizes, "growing")
        files = max((v.files for v in layouts if growing in v.dims), default=1)
        return {growing: max(1, sizes[growing] // (files if files > 1 else SOME_APPENDS))}
    out = {}
    for dim, n in _items(growing, "growing"):
        _check_dim(dim, sizes, "growing")
        if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
            raise InvalidChunksError(
                f"growing: {dim!r}: {n!r} is not a length; give the elements that are appended at "
                "a time."
            )
        out[dim] = n.__index__()
    return out


def _items(mapping: Any, what: str) -> list[tuple[Any, Any]]:
    if mapping is None:
        return []
    if not isinstance(mapping, Mapping):
        raise InvalidChunksError(f"{what}={mapping!r} is not a mapping by dim.")
    return list(mapping.items())


def _names(value: Any, what: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence | Mapping):
        return tuple(value)
    raise InvalidChunksError(f"{what}={value!r} is not the name of a dim, nor several.")


def _methods(reduce: Any) -> dict[str, str]:
    if not isinstance(reduce, Mapping):
        return {}
    for dim, method in reduce.items():
        if not isinstance(method, str) or method not in METHOD_COPIES:
            raise InvalidChunksError(
                f"reduce: {dim!r}: {method!r} is not a method whose memory is known. Known are "
                f"{', '.join(METHOD_COPIES)}. Leave it out, reduce={list(reduce)!r}, or give the "
                "operation itself with workload=."
            )
    return dict(reduce)


def _positive(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # The upper bound keeps sums of weights finite.
    if isinstance(value, bool | str) or not 0 < number < 1e100:
        raise InvalidChunksError(f"{what} is {value!r}; give a number above 0.")
    return number


def _check_dim(dim: Any, sizes: Mapping[str, int], what: str) -> str:
    if not isinstance(dim, str) or dim not in sizes:
        raise InvalidChunksError(f"{what}: there is no dim {dim!r}. The dims are {_listed(sizes)}.")
    return dim


def _sizes(layouts: Iterable[ArrayLayout]) -> dict[str, int]:
    """Size of each dim; the longest where groups of a tree disagree."""
    out: dict[str, int] = {}
    for v in layouts:
        for d, n in v.sizes.items():
            out[d] = max(n, out.get(d, 0))
    return out


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{d} ({n})" for d, n in sizes.items()) or "(none: all variables are scalars)"


def _advice(sizes: Mapping[str, int] | None = None) -> str:
    dims = f" The dims are {_listed(sizes)}." if sizes is not None else ""
    return (
        f"Give {', '.join(map(repr, PRESETS))}, the dims of one request such as "
        "{'time': -1, 'lat': 1}, or a list of such uses with weights." + dims
    )
