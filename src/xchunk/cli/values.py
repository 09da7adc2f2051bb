"""What the values of options say: sizes, lengths by dim, uses, encodings, and what is secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

import click
from click.core import ParameterSource

from xchunk.core.redact import without_credentials
from xchunk.errors import EncodingError, InvalidChunksError

#: What ``--access`` takes; the same as `xchunk.core.suggest.access.PRESETS`, which loads numpy.
PRESETS = ("timeseries", "map", "profile", "scan")

HIDDEN = "***"

#: Names of options whose values are secret whatever they look like.
_SECRET = re.compile(r"secret|passw|passphrase|token|credential|signature|auth|cookie|sas_", re.I)
#: Names of options that may hold half of a credential, such as ``key`` and ``account_name``.
_HALF = re.compile(r"key|account|user|login|client_id", re.I)
#: A half is hidden from this length on: shorter ones are words, which text is full of.
_HALF_LENGTH = 8


def is_secret(name: str) -> bool:
    """Return whether the option of this name holds a credential, or half of one."""
    return bool(_SECRET.search(name) or _HALF.search(name))


class Secrets:
    """The credentials that were given to a command, and texts without them."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def learn(self, options: Mapping[str, Any]) -> None:
        """Take note of the credentials among the options of a filesystem, however deep.

        - ``options``: options as fsspec takes them.
        """
        for name, value in options.items():
            if isinstance(value, Mapping):
                self.learn(value)
            elif isinstance(value, str) and self._hides(str(name), value):
                self._known += {value, quote(value, safe=""), quote(value)}
        # the longest first, so that none is hidden in part
        self._known.sort(key=len, reverse=True)

    @staticmethod
    def _hides(name: str, value: str) -> bool:
        if _SECRET.search(name):
            return len(value) > 1
        return len(value) >= _HALF_LENGTH and _HALF.search(name) is not None

    def mask(self, text: str) -> str:
        """Return a text without the credentials that are known, and those in URLs."""
        for value in self._known:
            text = text.replace(value, HIDDEN)
        return without_credentials(text)


#: The comma before another KEY=VALUE; JSON has commas as well.
_NEXT = re.compile(r",(?=\s*[A-Za-z_][\w.]*\s*=)")


def pairs(storage: Sequence[str], option: str = "--storage-option") -> dict[str, Any]:
    """Read ``KEY=VALUE`` options; ``A.B=VALUE`` is within ``A``, and a value may be JSON."""
    out: dict[str, Any] = {}
    for item in storage:
        key, equals, value = item.partition("=")
        *outer, name = key.split(".")
        if not (equals and all((*outer, name))):
            # what stands here may be a secret
            raise click.UsageError(f"{option} {key if equals else '…'}: give KEY=VALUE")
        into = out
        for part in outer:
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise click.UsageError(f"{option} {key}: {part} has a value already")
        into[name] = value if is_secret(name) else _plain(value)
    return out


def _plain(value: str) -> Any:
    """Read a value as JSON where it is some, else as the text that it is."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def access_of(access: Sequence[str], whole: Sequence[str]) -> Any:
    """Read ``--access`` or ``--whole``: a name, names with weights, or dims; None: neither."""
    dims = _names(whole)
    if access and dims:
        raise click.UsageError("give --access or --whole, not both")
    if dims:
        return dict.fromkeys(dims, -1)
    uses = [_weighed(item) for item in _names(access)]
    if not uses:
        return None
    return uses[0][0] if len(uses) == 1 else uses


def _names(items: Sequence[str]) -> list[str]:
    return [name.strip() for item in items for name in item.split(",") if name.strip()]


def _weighed(item: str) -> tuple[str, float]:
    name, colon, weight = item.partition(":")
    if name not in PRESETS:
        nearest = get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise InvalidChunksError(
            f"--access {item}: {name!r} is not one of {', '.join(PRESETS)}{hint} "
            "Or name the dims of one request, such as --whole time."
        )
    try:
        return name, float(weight) if colon else 1.0
    except ValueError:
        raise InvalidChunksError(
            f"--access {item}: {weight!r} is no weight. Give a number, such as {name}:0.7."
        ) from None


def pattern_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of `more_use`, as ``suggest`` takes them."""
    rolling = spec_of(given["rolling"], "--rolling")
    resample = None
    if given["resample"] is not None:
        dim, equals, freq = given["resample"].partition("=")
        if not (dim and equals and freq):
            raise click.UsageError("--resample: give DIM=FREQ, such as time=MS")
        resample = {dim: freq}
    found = {
        "passes": given["passes"],
        "reduce": _reduced(_names(given["reduce"])) or None,
        "rolling": rolling,
        "growing": _growing(given["growing"]),
        "groupby": given["groupby"],
        "resample": resample,
    }
    return {k: v for k, v in found.items() if v is not None}


def _growing(item: str | None) -> str | dict[str, int] | None:
    """Read ``DIM`` or ``DIM=N``."""
    dim, equals, _ = (item or "").partition("=")
    lengths = spec_of([str(item)], "--growing") if equals else None
    return lengths or dim or None


def _reduced(items: list[str]) -> list[str] | dict[str, str]:
    """Read ``DIM`` or ``DIM=METHOD``; all of them have a method, or none."""
    pairs = [item.partition("=") for item in items]
    if not any(equals for _, equals, _ in pairs):
        return items
    if not all(dim and method for dim, _, method in pairs):
        raise click.UsageError("--reduce: give a method for every dim (time=std) or for none")
    return {dim: method for dim, _, method in pairs}


def sizes_of(memory: str | None, max_mem: str | None) -> dict[str, int]:
    """Read the sizes before anything is opened, naming the option in the error."""
    from xchunk.core.units import parse_bytes

    given = {"memory": memory, "max_mem": max_mem}
    return {
        name: parse_bytes(value, f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if value is not None
    }


#: A length as it is typed: no digits but 0 to 9, and no more than any dim has elements.
_LENGTH = re.compile(r"[+-]?[0-9]{1,19}")


def spec_of(items: Sequence[str], option: str) -> dict[str, Any] | None:
    """Read ``DIM=N,DIM=N`` and ``VAR:DIM=N,…``: ``{dim: n}`` or ``{var: {dim: n}}``."""
    plain: dict[str, int] = {}
    named: dict[str, dict[str, int]] = {}
    for item in items:
        head, colon, rest = item.rpartition(":")
        into = named.setdefault(head.strip(), {}) if colon else plain
        for part in rest.split(","):
            dim, equals, value = part.partition("=")
            dim, value = dim.strip(), value.strip()
            if not (dim and equals and _LENGTH.fullmatch(value)):
                raise InvalidChunksError(
                    f"{option} {item}: {part!r} is not DIM=N. Give a dim and a length, such as "
                    "time=-1,lat=10; -1 is the whole dim."
                )
            if int(value) < 1 and int(value) != -1:
                raise InvalidChunksError(
                    f"{option} {item}: {dim}={value} is not possible; give a positive length, or "
                    "-1 for the whole dim."
                )
            into[dim] = int(value)
    if plain and named:
        raise click.UsageError(
            f"{option}: give lengths for all variables (DIM=N) or for each (VAR:DIM=N), not both"
        )
    return named or plain or None


def encodings_of(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read ``VAR:KEY=VALUE,KEY=VALUE``; without ``VAR:`` it is for all data variables (``*``).

    A value may be JSON, and ``compressor.level=5`` is a setting of the compressor.
    """
    if not items:
        return {}
    from xchunk.opening.encoding import KEYS, nearest_key

    found: dict[str, dict[str, Any]] = {}
    for item in items:
        name, colon, _ = item.partition("=")[0].rpartition(":")
        own = found.setdefault(name.strip() if colon else "*", {})
        for part in _NEXT.split(item[len(name) + len(colon) :]):
            said, equals, value = (word.strip() for word in part.partition("="))
            key, dot, setting = said.partition(".")
            if not (equals and value and key and bool(dot) == bool(setting)):
                raise EncodingError(
                    f"--encoding {item}: {part!r} is not KEY=VALUE. Give what is to be stored, "
                    "such as t2m:dtype=int16,scale_factor=0.01,_FillValue=-1 or compressor=zstd."
                )
            if key not in KEYS or (setting and key != "compressor"):
                raise EncodingError(
                    f"--encoding {item}: the key {said!r} is not known; did you mean "
                    f"{nearest_key(key)!r}? Known here: {', '.join(KEYS)}."
                )
            if key == "compressor":
                own[key] = _with_setting(own.get(key, {}), setting or "name", _plain(value))
            else:
                own[key] = _plain(value)
    return found


def _with_setting(known: Any, setting: str, value: Any) -> Any:
    """Add to a compressor, which is its settings by name, or the whole of them as JSON."""
    if setting == "name" and not isinstance(value, str):
        return value
    return {**(known if isinstance(known, Mapping) else {}), setting: value}


def region_of(item: str | None) -> Any:
    """Read ``DIM=A:B,DIM=A:B`` (positions), ``DIM=A..B`` (labels), or ``auto``."""
    if item is None or item == "auto":
        return item
    found: dict[str, Any] = {}
    for part in item.split(","):
        dim, equals, value = (word.strip() for word in part.partition("="))
        start, colon, stop = value.partition(":")
        first, dots, last = value.partition("..")
        if dim and equals and value == "auto":
            found[dim] = value
        elif dim and equals and colon and all(w == "" or w.isdigit() for w in (start, stop)):
            found[dim] = slice(int(start) if start else None, int(stop) if stop else None)
        elif dim and equals and dots and (first or last):
            found[dim] = slice(first or None, last or None)
        else:
            raise click.UsageError(
                f"--region {part}: give positions, DIM=START:STOP, such as time=0:24; labels, "
                "DIM=FIRST..LAST, such as time=2000-01-06..2000-01-10; DIM=auto, or auto"
            )
    return found


#: Options of which one is meant to replace the other, wherever it was said.
_RIVALS = (("memory", "max_mem"), ("scheduler", "workers"))
#: What tells more than what: flags, variables, files.
_RANK = {
    ParameterSource.COMMANDLINE: 3,
    ParameterSource.ENVIRONMENT: 2,
    ParameterSource.DEFAULT_MAP: 1,
}


def settle(ctx: click.Context) -> None:
    """Drop defaults that what was said more closely takes the place of."""
    params = ctx.params
    rank = {n: _RANK.get(ctx.get_parameter_source(n) or ParameterSource.DEFAULT, 0) for n in params}
    for pair in _RIVALS:
        if all(name in params and params[name] is not None for name in pair):
            low, high = sorted(pair, key=lambda name: rank[name])
            if rank[low] < rank[high]:
                params[low] = None
    for name in ("memory_limit", "threads_per_worker"):
        if params.get(name) is not None and not params.get("workers") and rank[name] < 3:
            params[name] = None
