"""What a list of jobs may say, and what each job comes to: data only, checked key by key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from xchunk.batching.templates import ONLY_ONE, fields_of
from xchunk.core.units import parse_bytes
from xchunk.encodings import KEYS, nearest_key
from xchunk.errors import InvalidChunksError, InvalidJobError

__all__ = ["Job", "JobOptions", "parse_jobs"]


@dataclass(frozen=True)
class JobOptions:
    """How a job's sources are read and written."""

    chunks: Mapping[str, Any] | None = None
    """Chunks to store: elements by dim, or by variable and dim; -1 is the whole dim."""
    access: Any = None
    """Instead of chunks: the use for which they are suggested."""
    shards: Mapping[str, Any] | None = None
    """Shards to store, said like chunks."""
    memory: int | None = None
    """The limit of one worker, in bytes; None: detected."""
    max_mem: int | None = None
    """Bytes by which one worker may grow; None: by its limit."""
    threads: int | None = None
    """Threads of this process, where there is no cluster; None: dask's."""
    zarr_format: int | None = None
    """2 or 3; None: the source's."""
    encoding: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What is stored otherwise than in the source, by variable; ``*`` is all of them."""
    unpack: bool = False
    """Whether packed variables are stored as their decoded values."""
    engine: str | None = None
    """xarray's name of a backend; None: told by the content."""
    group: str | None = None
    """Group within the source; None: all of them."""
    joined: bool = False
    """Whether all sources are joined into one target."""
    combine: str = "by_coords"
    """How sources are joined, as in `xarray.open_mfdataset`."""
    concat_dim: str | tuple[str, ...] | None = None
    """The dims along which they are joined, for ``combine = "nested"``."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """What fsspec needs to reach URLs."""
    target_options: Mapping[str, Any] | None = None
    """The same for the target, where it differs."""
    verify: bool = False
    """Whether the target is read back and compared with its source."""
    overwrite: bool = False
    """Whether a zarr store that is there is replaced."""

    @property
    def for_target(self) -> dict[str, Any]:
        """What fsspec needs to reach the target."""
        own = self.storage_options if self.target_options is None else self.target_options
        return dict(own)

    @property
    def digest(self) -> str:
        """Digest of all that the result depends on; how it is reached, and by how much, is not."""
        names = (
            "chunks",
            "access",
            "shards",
            "zarr_format",
            "encoding",
            "unpack",
            "engine",
            "group",
        )
        said = {n: getattr(self, n) for n in (*names, "joined", "combine", "concat_dim")}
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[
            :32
        ]


@dataclass(frozen=True)
class Job:
    """One job as it is said: its sources may be patterns, its target a template."""

    name: str
    """Name of the job."""
    sources: tuple[str, ...]
    """Paths, URLs and patterns."""
    target: str
    """Path or URL, or a template of it."""
    options: JobOptions
    """How they are read and written."""


#: What people call things that have another name here.
_SYNONYMS = {
    "compressor": "encoding",
    "compressors": "encoding",
    "default": "defaults",
    "dst": "target",
    "files": "source",
    "format": "zarr_format",
    "jobs": "job",
    "join": "joined",
    "sources": "source",
    "src": "source",
    "store": "target",
}
_JOIN = ("by_coords", "nested")
#: Of these a job has one; one that a job names takes the place of the other in the defaults.
_EITHER = (("chunks", "access"), ("memory", "max_mem"))


def parse_jobs(
    said: Mapping[str, Any] | Sequence[Any],
    where: str = "the jobs",
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Job, ...]:
    """Read a list of jobs, and check every word of it.

    Parameters
    ----------
    said : mapping or sequence
        ``{"defaults": {…}, "job": [{…}, …]}`` as in a job file, or the list of jobs alone.
    where : str
        Name of the file, for errors.
    defaults : mapping, optional
        What holds for every job that does not say otherwise, over the file's own defaults.

    Raises
    ------
    InvalidJobError
        If a key is not known, or a value is not possible; names the job and the key.
    """
    if isinstance(said, Mapping):
        _refuse_unknown(said, ("defaults", "job"), where)
        found, common = said.get("job", []), said.get("defaults", {})
    else:
        found, common = said, {}
    if not isinstance(common, Mapping):
        raise InvalidJobError(f"{where}: defaults is not a table; write [defaults].")
    if isinstance(found, Mapping | str) or not isinstance(found, Sequence):
        raise InvalidJobError(f"{where}: job is not a list of tables; write [[job]] for each.")
    if not found:
        raise InvalidJobError(f"{where}: there are no jobs in it; write [[job]] for each.")
    common = _checked(common, f"{where}: defaults", [k for k in _KEYS if k not in _OWN])
    if defaults:
        own = _checked(defaults, "defaults", [k for k in _KEYS if k not in _OWN])
        common = _over(common, own)
    jobs = [_job(one, number, where, common) for number, one in enumerate(found, start=1)]
    seen: set[str] = set()
    for job in jobs:
        if job.name in seen:
            raise InvalidJobError(
                f"{where}: two jobs have the name {job.name!r}. Give each a name of its own, by "
                "which --only and the report tell them apart."
            )
        seen.add(job.name)
    return tuple(jobs)


def _job(said: Any, number: int, where: str, common: Mapping[str, Any]) -> Job:
    if not isinstance(said, Mapping):
        raise InvalidJobError(f"{where}: job {number} is not a table of keys and values.")
    name = said.get("name")
    at = f"{where}: job {number}" + (f" ({name})" if isinstance(name, str) else "")
    own = _over(common, _checked(said, at, list(_KEYS)))
    name = own.pop("name", f"job-{number}")
    sources, target = own.pop("source", None), own.pop("target", None)
    if sources is None:
        raise InvalidJobError(f"{at} has no source. Give a path, a URL or a pattern.")
    if target is None:
        raise InvalidJobError(
            f"{at} has no target. Give a path or URL, such as 'out/{{stem}}.zarr'."
        )
    if own.get("chunks") is None and own.get("access") is None:
        raise InvalidJobError(
            f"{at} says neither chunks nor access. Give chunks = {{ time = -1 }}, or say how the "
            'data will be used: access = "timeseries".'
        )
    options = JobOptions(**own)
    if options.shards and options.zarr_format == 2:
        raise InvalidJobError(f"{at}: zarr format 2 has no shards. Leave one of them out.")
    used = fields_of(target, f"{at}: target")
    if options.joined and used & ONLY_ONE:
        raise InvalidJobError(
            f"{at}: target = {target!r} names {{{min(used & ONLY_ONE)}}}, but with joined = true "
            "there is one target of many files. Give its name, or use {job}."
        )
    if not options.joined:
        for key in ("combine", "concat_dim"):
            if key in said:
                raise InvalidJobError(f"{at}: {key} is for files that are joined: joined = true.")
    return Job(name, sources, target, options)


def _over(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a job says over the defaults."""
    out = dict(common)
    for pair in _EITHER:
        if any(key in own for key in pair):
            out = {k: v for k, v in out.items() if k not in pair}
    return {**out, **own}


def _checked(said: Mapping[str, Any], at: str, known: Sequence[str]) -> dict[str, Any]:
    _refuse_unknown(said, known, at)
    for one, other in _EITHER:
        if one in said and other in said:
            raise InvalidJobError(f"{at} says {one} and {other}. Give one of them.")
    out = {}
    for key, value in said.items():
        try:
            out[key] = _KEYS[key](value)
        except InvalidChunksError as error:
            raise InvalidJobError(f"{at}: {error}") from error
        except _UnfitError as error:
            raise InvalidJobError(f"{at}: {key} = {_shown(value)} {error}") from error
    return out


def _refuse_unknown(said: Mapping[Any, Any], known: Sequence[str], at: str) -> None:
    for key in said:
        if key in known:
            continue
        nearest = _SYNONYMS.get(str(key))
        if nearest not in known:
            nearest = get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
        raise InvalidJobError(
            f"{at}: the key {str(key)!r} is not known; did you mean {nearest!r}? "
            f"Known here: {', '.join(sorted(known))}."
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


# ---- values -------------------------------------------------------------------------------


class _UnfitError(Exception):
    """A value that is not possible; what is expected, in words."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _UnfitError("is not a text. Write it in quotes.")
    return value


def _path(value: Any) -> str:
    # a pathlib.Path from Python; TOML has texts only
    return _text(value.__fspath__() if hasattr(value, "__fspath__") else value)


def _paths(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise _UnfitError("is empty. Give a path, a URL or a pattern.")
    return tuple(_path(item) for item in items)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _UnfitError("is neither true nor false.")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _threads(value: Any) -> int:
    if not _is_int(value) or value < 1:
        raise _UnfitError("is not a positive whole number.")
    return int(value)


def _format(value: Any) -> int:
    if not _is_int(value) or value not in (2, 3):
        raise _UnfitError("does not exist. Give 2 or 3.")
    return int(value)


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise _UnfitError("is not a table. Write { key = value }.")
    return dict(value)


def _length(value: Any) -> bool:
    return _is_int(value) and (value >= 1 or value == -1)


def _lengths(value: Any) -> dict[str, Any]:
    table = _table(value)
    if not table:
        raise _UnfitError("is empty. Give lengths by dim, such as { time = -1, lat = 10 }.")
    named = [isinstance(v, Mapping) for v in table.values()]
    if any(named) and not all(named):
        raise _UnfitError("mixes dims and variables. Give lengths by dim, or tables by variable.")
    for lengths in table.values() if all(named) else [table]:
        if not all(_length(n) for n in lengths.values()):
            raise _UnfitError("has a length that is neither positive nor -1 (the whole dim).")
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in table.items()}


def _access(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        if not value or not all(_length(n) for n in value.values()):
            raise _UnfitError("needs a length for each dim: -1 is the whole dim.")
        return dict(value)
    if isinstance(value, Sequence) and value:
        out = []
        for item in value:
            pair = isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2
            if not pair or isinstance(item[1], bool) or not isinstance(item[1], int | float):
                raise _UnfitError('is not a list of uses with weights: [["timeseries", 0.7], …].')
            out.append((_access(item[0]), float(item[1])))
        return out
    raise _UnfitError('is no use. Give "timeseries", { time = -1 }, or uses with weights.')


def _combine(value: Any) -> str:
    if value not in _JOIN:
        raise _UnfitError("is neither 'by_coords' nor 'nested'.")
    return str(value)


def _dims(value: Any) -> str | tuple[str, ...]:
    return tuple(_text(v) for v in value) if isinstance(value, list | tuple) else _text(value)


def _encodings(value: Any) -> dict[str, dict[str, Any]]:
    table = _table(value)
    for name, own in table.items():
        if not isinstance(own, Mapping):
            raise _UnfitError('is not a table for each variable: { t2m = { dtype = "int16" } }.')
        for key in own:
            if key not in KEYS:
                raise _UnfitError(
                    f"names {key!r} for {name!r}; did you mean {nearest_key(str(key))!r}? "
                    f"Known here: {', '.join(KEYS)}."
                )
    return {name: dict(own) for name, own in table.items()}


def _size(key: str) -> Callable[[Any], int]:
    return lambda value: parse_bytes(value, key)


#: How the value of each key is read.
_KEYS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "source": _paths,
    "target": _path,
    "chunks": _lengths,
    "access": _access,
    "shards": _lengths,
    "memory": _size("memory"),
    "max_mem": _size("max_mem"),
    "threads": _threads,
    "zarr_format": _format,
    "encoding": _encodings,
    "unpack": _flag,
    "engine": _text,
    "group": _text,
    "joined": _flag,
    "combine": _combine,
    "concat_dim": _dims,
    "storage_options": _table,
    "target_options": _table,
    "verify": _flag,
    "overwrite": _flag,
}
#: What each job says by itself.
_OWN = ("name", "source")
