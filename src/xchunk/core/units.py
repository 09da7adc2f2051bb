"""Byte sizes and durations, in and out of strings."""

from __future__ import annotations

import math
import re

from xchunk.errors import InvalidChunksError

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{p}b": 1000 ** (i + 1) for i, p in enumerate("kmgtp")},
    **{f"{p}ib": 1024 ** (i + 1) for i, p in enumerate("kmgtp")},
    # a bare letter is decimal, as in dask.utils.parse_bytes
    **{p: 1000 ** (i + 1) for i, p in enumerate("kmgtp")},
    **{f"{p}i": 1024 ** (i + 1) for i, p in enumerate("kmgtp")},
}
_BYTES = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?|\.[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(value: int | float | str, what: str = "memory") -> int:
    """Turn a byte size into a number of bytes.

    - ``value``: a number of bytes, or a string such as ``"400MB"``, ``"2 GiB"`` or ``"1.5e9"``.
      Decimal (kB, MB, …) and binary (KiB, MiB, …) units mean what they say.
    - ``what``: what the value is for; named in the error.
    - returns: bytes, at least 1.
    - raises `InvalidChunksError` if the value is not a byte size, or is not positive and finite.
    """
    advice = "Give bytes as a number or as a string such as '400MB' or '2GiB'."
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidChunksError(f"{what}={value!r} is not a size in bytes. {advice}")
    if isinstance(value, str):
        match = _BYTES.fullmatch(value)
        unit = _UNITS.get(match.group(2).lower()) if match else None
        if match is None or unit is None:
            raise InvalidChunksError(f"{what}={value!r} is not a size in bytes. {advice}")
        number = float(match.group(1)) * unit
    else:
        number = value
    if not math.isfinite(number) or number < 1:
        raise InvalidChunksError(f"{what}={value!r} must be at least one byte. {advice}")
    return int(number)


def format_bytes(n: int | float) -> str:
    """Show a number of bytes in decimal units, to three digits: ``1.52 GB``."""
    size = float(n)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(size) < 999.5 or unit == "PB":
            break
        size /= 1000
    if unit == "B":
        return f"{size:.0f} B"
    digits = max(0, 2 - math.floor(math.log10(max(abs(size), 1))))
    return f"{size:.{digits}f} {unit}"


def format_count(n: int | float) -> str:
    """Show a count with thousands separated: ``12,345``."""
    return f"{n:,.0f}"


def format_seconds(seconds: float) -> str:
    """Show a duration in the unit that a person would choose: ``3 min 20 s``."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours / 24:.1f} d"
