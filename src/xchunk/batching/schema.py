"""Job files: data only, checked key by key; and the items that they name.

Patterns are found on disk, targets named, collisions refused, and shards taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from string import Formatter
from typing import Any

from xchunk.core.redact import without_secrets
from xchunk.core.units import parse_bytes
from xchunk.errors import (
    InvalidChunksError,
    InvalidJobError,
    SourceError,
    TargetExistsError,
    XchunkError,
)
from xchunk.opening.dataset import spell_out
from xchunk.opening.encoding import KEYS, nearest_key
from xchunk.rechunking.options import Option, RechunkOptions, option, options_of
from xchunk.stores.stores import local_path

#: What a template may name.
FIELDS = ("dir", "index", "job", "name", "parent", "stem")
#: Of these, what there is of one source only.
ONLY_ONE = frozenset(FIELDS) - {"job"}

_MAGIC = re.compile(r"[*?[]")
#: The width of a number, as in ``{index:04}``.
_WIDTH = re.compile(r"0?[1-9][0-9]?d?")


def has_magic(source: str) -> bool:
    """Return whether a source is a pattern."""
    return _MAGIC.search(source) is not None


def fixed_part(pattern: str) -> str:
    """Return the folders of a pattern that have no wildcard: ``raw`` of ``raw/2*/t.nc``."""
    kept = []
    for part in pattern.split("/")[:-1]:
        if has_magic(part):
            break
        kept.append(part)
    return "/".join(kept)


def fields_of(template: str, at: str = "target") -> frozenset[str]:
    """Return what a template names.

    - raises `InvalidJobError` if it names what there is not, or is not a template.
    """
    named = set()
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidJobError(
            f"{at} = {template!r} is not a template ({error}). Write {{{{ and }}}} for braces."
        ) from error
    for _, name, width, conversion in parts:
        if name is None:
            continue
        if name not in FIELDS:
            nearest = get_close_matches(name, FIELDS, n=1, cutoff=0.0)[0]
            raise InvalidJobError(
                f"{at} = {template!r}: {{{name}}} is not known; did you mean {{{nearest}}}? "
                f"Known: {', '.join(f'{{{f}}}' for f in FIELDS)}."
            )
        if conversion or (width and not (name == "index" and _WIDTH.fullmatch(width))):
            raise InvalidJobError(
                f"{at} = {template!r}: only {{index}} can be given a width, as in {{index:04}}."
            )
        named.add(name)
    return frozenset(named)


def source_fields(source: str, pattern: str, *, job: str, index: int) -> dict[str, str | int]:
    """Return what templates may name of one source.

    - ``source``: path or URL.
    - ``pattern``: what it was found by.
    - ``job``: name of the job.
    - ``index``: number among the sources of the job, from 0.
    - returns: ``name`` is the file's, ``stem`` the same without its last suffix, ``parent`` the
      name of the folder that holds it, and ``dir`` the folders between the part of the pattern that
      has no wildcard and the file (``.`` where there are none).
    """
    folder, _, name = source.rstrip("/").rpartition("/")
    stem = name.rpartition(".")[0] or name
    fixed = fixed_part(pattern) if has_magic(pattern) else folder
    below = folder.removeprefix(fixed).strip("/") if folder.startswith(fixed) else ""
    return {
        "job": job,
        "index": index,
        "name": name,
        "stem": stem,
        "parent": folder.rpartition("/")[2],
        "dir": below or ".",
    }


def fill(template: str, values: Mapping[str, str | int]) -> str:
    """Fill a template that `fields_of` accepts."""
    return template.format_map(dict(values))


@dataclass(frozen=True, kw_only=True)
class JobOptions(RechunkOptions):
    """How a job's sources are read and written: the options of a rechunk, and some more."""

    threads: int | None = option(
        None,
        "Threads of this process, where there is no cluster; dask's by default.",
        type="int, optional",
        kind="count",
        key="threads",
    )
    encoding: Mapping[str, Mapping[str, Any]] | None = option(
        None,
        "What is stored otherwise than in the source, by variable; ``*`` is all of them.",
        type="mapping, optional",
        kind="encodings",
        key="encoding",
    )
    backend: str | None = option(
        None,
        "xarray's name of a backend; found by the content by default.",
        type="str, optional",
        kind="text",
        key="engine",
    )
    group: str | None = option(
        None,
        "Group within the source; all of them by default.",
        type="str, optional",
        kind="text",
        key="group",
    )
    joined: bool = option(
        False,
        "Whether all sources are joined into one target.",
        type="bool",
        kind="flag",
        key="joined",
    )
    combine: str = option(
        "by_coords",
        "How sources are joined, as in `xarray.open_mfdataset`.",
        type="{'by_coords', 'nested'}",
        kind="choice",
        choices=("by_coords", "nested"),
        key="combine",
    )
    concat_dim: str | tuple[str, ...] | None = option(
        None,
        'The dims along which they are joined, for ``combine = "nested"``.',
        type="str or list of str, optional",
        kind="dims",
        key="concat_dim",
    )
    source_options: Mapping[str, Any] | None = option(
        None,
        "What fsspec needs to reach URLs.",
        type="mapping, optional",
        kind="table",
        key="storage_options",
    )
    target_options: Mapping[str, Any] | None = option(
        None,
        "The same for the target, where it differs.",
        type="mapping, optional",
        kind="table",
        key="target_options",
    )
    verify: bool = option(
        False,
        "Whether the target is read back and compared with its source.",
        type="bool",
        kind="flag",
        key="verify",
    )

    @property
    def for_target(self) -> dict[str, Any]:
        """What fsspec needs to reach the target."""
        own = self.source_options if self.target_options is None else self.target_options
        return dict(own or {})

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
            "backend",
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
#: Of these a job has one; one that a job names takes the place of the other in the defaults.
_EITHER = (("chunks", "access"), ("memory", "max_mem"))


def parse_jobs(
    said: Mapping[str, Any] | Sequence[Any],
    where: str = "the jobs",
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Job, ...]:
    """Read a list of jobs, and check every word of it.

    - ``said``: ``{"defaults": {…}, "job": [{…}, …]}`` as in a job file, or the list of jobs alone.
    - ``where``: name of the file, for errors.
    - ``defaults``: what holds for every job that does not say otherwise, over the file's own
      defaults.
    - raises `InvalidJobError` if a key is not known, or a value is not possible; names the job and
      the key.
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
    try:
        options = JobOptions(**{_NAMES[key]: value for key, value in own.items()})
    except XchunkError as error:
        raise InvalidJobError(f"{at}: {error}") from error
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


def _choice(about: Option) -> Callable[[Any], Any]:
    """Return a reader of one of some values, which are numbers where they look like that."""
    known = {(int(c) if c.isdigit() else c): None for c in about.choices}

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int) or value not in known:
            raise _UnfitError(f"does not exist. Give {' or '.join(map(repr, known))}.")
        return value

    return read


def _reader(key: str, about: Option) -> Callable[[Any], Any]:
    """Return what reads the value of a key, by what it is."""
    if about.kind == "size":
        return lambda value: parse_bytes(value, key)
    if about.kind == "choice":
        return _choice(about)
    return {
        "count": _threads,
        "dims": _dims,
        "encodings": _encodings,
        "flag": _flag,
        "lengths": _lengths,
        "place": _path,
        "table": _table,
        "text": _text,
        "use": _access,
    }[about.kind]


#: What each job says by itself.
_OWN: dict[str, Callable[[Any], Any]] = {"name": _text, "source": _paths}
#: The options that have a key in a job file: their names by key.
_NAMES = {about.key: name for name, about in options_of(JobOptions) if about.key}
#: How the value of each key is read.
_KEYS: dict[str, Callable[[Any], Any]] = {
    **_OWN,
    "target": _path,
    **{about.key: _reader(about.key, about) for _, about in options_of(JobOptions) if about.key},
}


@dataclass(frozen=True)
class Item:
    """One target that is to be made of one source, or of several that are joined."""

    name: str
    """Name by which reports and logs call it."""
    job: str
    """Name of its job."""
    sources: tuple[str, ...]
    """Paths or URLs."""
    target: str
    """Path or URL."""
    options: JobOptions
    """How they are read and written."""
    fault: str = ""
    """Why it cannot be run at all, in words."""

    @property
    def key(self) -> str:
        """What tells it from all others, in this run and the next: its target."""
        return without_secrets(self.target)


def read_job_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a job file.

    - raises `InvalidJobError` if it is not there, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidJobError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidJobError(f"{path}: is not TOML, as job files are: {error}.") from error


def expand(jobs: Sequence[Job], base: str | os.PathLike[str] = ".") -> tuple[Item, ...]:
    """Find the sources of each job, and name their targets.

    - returns: in the order of the jobs, and of the names of their sources. Sources that a pattern
      finds and that are targets of the same batch are left out.
    - raises `TargetExistsError` if two items have the same target, or one lies inside the other or
      inside a source.
    """
    found: list[tuple[Item, bool]] = []
    for job in jobs:
        found += _items(job, Path(base).expanduser().absolute())
    targets = {_identity(item.target) for item, _ in found}
    # what an earlier run has written beside its sources is found by their pattern, too
    items = [
        i for i, by_pattern in found if not (by_pattern and _identity(i.sources[0]) in targets)
    ]
    items = _with_names_of_their_own(items)
    _refuse_collisions(items)
    return tuple(items)


def _items(job: Job, base: Path) -> list[tuple[Item, bool]]:
    options = job.options

    def item(sources: Iterable[str], target: str, name: str, fault: str = "") -> Item:
        return Item(name, job.name, tuple(sources), _placed(target, base), options, fault)

    found: list[tuple[str, str]] = []
    faults: list[tuple[str, str]] = []
    for source in job.sources:
        pattern = _placed(source, base)
        try:
            found += [(name, pattern) for name in spell_out(pattern, options.source_options)]
        except SourceError as error:
            faults.append((pattern, str(error)))
    if options.joined:
        target = fill(job.target, {"job": job.name})
        fault = " ".join(said for _, said in faults)
        names = dict.fromkeys(name for name, _ in found) or dict.fromkeys(p for p, _ in faults)
        return [(item(names, target, job.name, fault), False)]
    alone = len(found) + len(faults) == 1
    out = []
    for index, (source, pattern) in enumerate(dict(found).items()):
        values = source_fields(source, pattern, job=job.name, index=index)
        target = fill(job.target, values).replace("/./", "/")
        below = values["name"] if values["dir"] == "." else f"{values['dir']}/{values['name']}"
        name = job.name if alone and not has_magic(pattern) else f"{job.name}/{below}"
        out.append((item([source], target, name), pattern != source))
    for pattern, said in faults:
        # there is no source of which a target could be named: the pattern stands for it
        name = job.name if alone else f"{job.name}/{pattern.rpartition('/')[2]}"
        target = job.target if fields_of(job.target) else fill(job.target, {})
        out.append((item([pattern], target, name, said), False))
    return out


def _placed(name: str, base: Path) -> str:
    """Make a local path absolute; URLs stay as they are."""
    path = local_path(name)
    if path is None:
        return name
    return os.path.normpath(base / path)


def _identity(place: str) -> str:
    path = local_path(place)
    return place.rstrip("/") if path is None else os.path.realpath(path)


def _with_names_of_their_own(items: Sequence[Item]) -> list[Item]:
    """Number names that are not unique: a job may have files of one name from two lists."""
    seen: dict[str, int] = {}
    out = []
    for item in items:
        number = seen[item.name] = seen.get(item.name, 0) + 1
        out.append(item if number == 1 else replace(item, name=f"{item.name}~{number}"))
    return out


def _refuse_collisions(items: Sequence[Item]) -> None:
    """Refuse targets that are the same, or lie inside one another or inside a source."""
    sound = [i for i in items if not i.fault]
    targets: dict[str, Item] = {}
    for item in sound:
        place = _identity(item.target)
        if place in targets:
            other = targets[place]
            both = f"{other.name} and {item.name}"
            if other.job == item.job:
                both += f" ({sum(i.target == item.target for i in sound)} in all)"
            raise TargetExistsError(
                f"{both} have the same target, {item.key}. Nothing was run. Put {{stem}} into the "
                "target to give each source its own, or join them with joined = true."
            )
        targets[place] = item
    for place, item in targets.items():
        for above in _above(place):
            if above in targets:
                raise TargetExistsError(
                    f"the target of {item.name}, {item.key}, lies inside that of "
                    f"{targets[above].name}, {targets[above].key}. Nothing was run. Give it "
                    "another place."
                )
    sources = {_identity(s): i for i in sound for s in i.sources}
    for place, item in sources.items():
        hit = next((p for p in (place, *_above(place)) if p in targets), None)
        if hit is not None:
            _refuse_source(targets[hit], item)
    for place, item in targets.items():
        hit = next((p for p in _above(place) if p in sources), None)
        if hit is not None:
            _refuse_source(item, sources[hit])


def _refuse_source(target: Item, source: Item) -> None:
    raise TargetExistsError(
        f"the target of {target.name}, {target.key}, and the source of {source.name}, "
        f"{without_secrets(source.sources[0])}, lie one inside the other. Nothing was run. Give "
        "the target another place; a job that needs what another one writes goes into a batch of "
        "its own."
    )


def _above(place: str) -> Iterable[str]:
    """The folders in which a place lies."""
    while "/" in place.rstrip("/"):
        place = place.rstrip("/").rpartition("/")[0]
        yield place


# ---- which of them ------------------------------------------------------------------------


def pick(items: Sequence[Item], only: Sequence[str]) -> tuple[Item, ...]:
    """Pick items by their names, the names of their jobs, or patterns of these.

    - raises `InvalidJobError` if one of the names fits nothing.
    """
    if not only:
        return tuple(items)

    def fits(item: Item, name: str) -> bool:
        return any(n == name or fnmatchcase(n, name) for n in (item.name, item.job))

    for name in only:
        if not any(fits(item, name) for item in items):
            known = list(dict.fromkeys([*(i.job for i in items), *(i.name for i in items)]))
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
            raise InvalidJobError(f"no job has the name {name!r}{hint}")
    return tuple(i for i in items if any(fits(i, name) for name in only))


def parse_shard(said: str | Sequence[int]) -> tuple[int, int]:
    """Read ``3/10``: the third of ten shards.

    - raises `InvalidJobError` if it is not two numbers, the first from 1 to the second.
    """
    parts = said.split("/") if isinstance(said, str) else list(said)
    try:
        number, count = (int(p) for p in parts)
    except (ValueError, TypeError):
        number, count = 0, 0
    if not 1 <= number <= count:
        raise InvalidJobError(
            f"shard {said} is not possible. Give K/N with K from 1 to N, such as 3/10."
        )
    return number, count


def take_shard(items: Sequence[Item], shard: tuple[int, int] | None) -> tuple[Item, ...]:
    """Take every N-th item, from the K-th on."""
    if shard is None:
        return tuple(items)
    number, count = shard
    return tuple(items[number - 1 :: count])
