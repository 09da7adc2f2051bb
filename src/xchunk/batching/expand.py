"""From jobs to items: patterns found on disk, targets named, collisions refused, shards taken."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from xchunk.batching.spec import Job, JobOptions
from xchunk.batching.templates import fields_of, fill, has_magic, source_fields
from xchunk.errors import InvalidJobError, SourceError, TargetExistsError
from xchunk.naming import spell_out
from xchunk.storage.fingerprint import without_secrets
from xchunk.storage.stores import local_path

__all__ = ["Item", "expand", "parse_shard", "pick", "read_job_file", "take_shard"]


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

    Raises
    ------
    InvalidJobError
        If it is not there, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidJobError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidJobError(f"{path}: is not TOML: {error}.") from error


def expand(jobs: Sequence[Job], base: str | os.PathLike[str] = ".") -> tuple[Item, ...]:
    """Find the sources of each job, and name their targets.

    Parameters
    ----------
    jobs : sequence of Job
        The jobs.
    base : path
        The folder to which paths are relative.

    Returns
    -------
    tuple of Item
        In the order of the jobs, and of the names of their sources. Sources that a pattern finds
        and that are targets of the same batch are left out.

    Raises
    ------
    TargetExistsError
        If two items have the same target, or one lies inside the other or inside a source.
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
            found += [(name, pattern) for name in spell_out(pattern, options.storage_options)]
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

    Raises
    ------
    InvalidJobError
        If one of the names fits nothing.
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

    Raises
    ------
    InvalidJobError
        If it is not two numbers, the first from 1 to the second.
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
