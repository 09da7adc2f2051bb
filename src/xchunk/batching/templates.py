"""Targets from templates: ``out/{stem}.zarr`` for each source. Names only, nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from string import Formatter

from xchunk.errors import InvalidJobError

__all__ = ["FIELDS", "ONLY_ONE", "fields_of", "fill", "fixed_part", "has_magic", "source_fields"]

#: What a template may name.
FIELDS = ("dir", "index", "job", "name", "parent", "stem")
#: Of these, what there is of one source only.
ONLY_ONE = frozenset(FIELDS) - {"job"}

_MAGIC = re.compile(r"[*?[]")
#: The width of a number, as in ``{index:04}``.
_WIDTH = re.compile(r"0?[1-9][0-9]?d?")


def has_magic(source: str) -> bool:
    """Tell whether a source is a pattern."""
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

    Raises
    ------
    InvalidJobError
        If it names what there is not, or is not a template.
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

    Parameters
    ----------
    source : str
        Path or URL.
    pattern : str
        What it was found by.
    job : str
        Name of the job.
    index : int
        Number among the sources of the job, from 0.

    Returns
    -------
    dict
        ``name`` is the file's, ``stem`` the same without its last suffix, ``parent`` the name
        of the folder that holds it, and ``dir`` the folders between the part of the pattern
        that has no wildcard and the file (``.`` where there are none).
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
