"""Which dim is time, the vertical, or horizontal: read off CF metadata, then off names.

A dim's role is decided by the strongest evidence there is, in this order: its coordinate
variable (``axis``, ``standard_name``, ``units``, ``positive``, a time dtype), auxiliary
coordinates (``nav_lat(y, x)`` in degrees north makes both its dims horizontal), and last the
dim's own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from xchunk.core.layout import ArrayLayout

__all__ = ["LOOKED_FOR", "Role", "dim_roles"]

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
    """Tell the role of each dim for which there is evidence.

    Parameters
    ----------
    layouts : iterable of ArrayLayout
        All variables of a Dataset, coordinates included, with their attributes.

    Returns
    -------
    dict
        Roles by name of the dim, in the order in which dims appear; others are left out.
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
