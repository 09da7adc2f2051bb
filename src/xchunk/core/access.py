"""How data will be used: which dims one request needs whole, and what it adds to them.

A pattern stands for the *full use* of a variable by requests of one shape: ``timeseries``
is every pixel's series, not the series of one pixel. So a dask block must hold the dims
that a request needs whole, and any number of requests along the others; what a single
request would cost is told besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xchunk.core.axes import LOOKED_FOR, Role, dim_roles
from xchunk.core.layout import ArrayLayout
from xchunk.errors import InvalidChunksError

__all__ = ["HELD_COLUMNS", "METHOD_COPIES", "PRESETS", "AccessPattern", "parse_access"]

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

    @property
    def is_scan(self) -> bool:
        """Whether requests may have any shape."""
        return not self.whole and not any(n > 1 for n in self.extents.values())

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
        words += [f"{len(e) + 1} groups along {d}" for d, e in self.groups.items()]
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
        }


def parse_access(
    access: Any,
    layouts: Iterable[ArrayLayout],
    *,
    reduce: str | Sequence[str] | Mapping[str, str] = (),
    rolling: Mapping[str, int] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    passes: float = 1,
) -> tuple[AccessPattern, ...]:
    """Turn what a user says of the use into patterns.

    Parameters
    ----------
    access : str, mapping, sequence of pairs, AccessPattern or None
        A preset (``"timeseries"``, ``"map"``, ``"profile"``, ``"scan"``), the dims of one
        request (``{"time": -1, "lat": 1}``: -1 is whole; dims that are not named may be cut
        anywhere), or several of these with weights (``[("timeseries", 0.7), ("map", 0.3)]``).
        None is a scan.
    layouts : iterable of ArrayLayout
        The variables of the Dataset, coordinates included; presets find their dims in them.
    reduce : str, sequence of str or mapping of str to str
        Dims that the operation reduces, or for each of them the method that does it
        (``{"time": "std"}``), by whose copies of a block memory is then reckoned.
    rolling : mapping of str to int
        Length of the moving window by dim.
    groups : mapping of str to sequence of int
        Positions by dim at which groups end.
    passes : float
        How many times the data are used like this.

    Returns
    -------
    tuple of AccessPattern
        One pattern for each use; their weights add up to 1.

    Raises
    ------
    InvalidChunksError
        If the use cannot be understood, names dims that are not there, or a preset's dims
        cannot be found.
    """
    layouts = list(layouts)
    sizes = _sizes(layouts)
    common = {
        "reduces": tuple(_check_dim(d, sizes, "reduce") for d in _names(reduce, "reduce")),
        "methods": _methods(reduce),
        "halo": _halo(rolling, sizes),
        "groups": _groups(groups, sizes),
        "passes": _positive(passes, "passes"),
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
        return _by_dims(access, sizes)
    raise InvalidChunksError(f"access={access!r} is not a use. {_advice()}")


def _preset(name: str, layouts: list[ArrayLayout], sizes: Mapping[str, int]) -> AccessPattern:
    if name not in PRESETS:
        raise InvalidChunksError(f"access={name!r} is not one of the presets. {_advice(sizes)}")
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
