"""The options of a rechunk: one list for Python, the command line and job files.

`RechunkOptions` has a field for each option. The keywords of ``ds.chunking.plan`` and its
neighbours, the options of ``xchunk plan`` and ``xchunk rechunk``, and the keys of a job file are
all made of these fields, so that a new option is added here and where it is used.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from xchunk.core.memory import MemoryBudget
from xchunk.core.units import parse_bytes
from xchunk.errors import EncodingError, InvalidChunksError

if TYPE_CHECKING:
    from xchunk.core.cost import Rates
    from xchunk.core.plan.stages import Limits
    from xchunk.core.suggest.suggestion import Suggestion
    from xchunk.core.types import Access, ByteSize, EngineName, ZarrFormat

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")

#: What a value is, which decides how the command line and job files read it.
Kind: TypeAlias = Literal[
    "choice", "count", "dims", "encodings", "flag", "lengths", "object", "place", "size", "table",
    "text", "use",
]  # fmt: skip


@dataclass(frozen=True)
class Option:
    """What is known of one option besides its name and default."""

    doc: str
    """What it does. The first sentence is the command line's help."""
    type: str
    """Its type, as docstrings say it."""
    kind: Kind
    """What its value is."""
    choices: tuple[str, ...] = ()
    """The values of a choice."""
    layout: bool = False
    """Whether it says how the target is stored, which an append or a region cannot change."""
    flag: str | None = None
    """Its name on the command line; None: it has none there."""
    metavar: str | None = None
    """What stands for its value in the command line's help."""
    key: str | None = None
    """Its key in a job file; None: it has none there."""


def option(default: Any, doc: str, **about: Any) -> Any:
    """Return a dataclass field for an option.

    - ``default``: the value where nothing is given; it cannot be changed in place.
    - ``doc``: what the option does, in sentences.
    - ``**about``: the other fields of `Option`.
    """
    return field(default=default, metadata={"option": Option(doc, **about)})


@dataclass(frozen=True, kw_only=True)
class RechunkOptions:
    """How data are rechunked: all that can be asked besides the source and the target.

    Raises
    ------
    InvalidChunksError
        If a size cannot be read.
    EncodingError
        If there is no such zarr format, or it has no shards.
    """

    chunks: Suggestion | Mapping[Any, Any] | None = option(
        None,
        "Chunks to write; -1 is the whole dim. A suggestion, or lengths: ``{dim: n}`` for all "
        "variables or ``{variable: {dim: n}}``, in a tree ``{'/group/variable': {dim: n}}`` or "
        "``{'/group': {dim: n}}``. Dims that are not named keep their chunks. Where only dims are "
        "named, variables of up to 1 MB beside one that is 100 times as large stay whole.",
        type="Suggestion or mapping, optional",
        kind="lengths",
        layout=True,
        flag="--chunks",
        metavar="[VAR:]DIM=N[,…]",
        key="chunks",
    )
    access: Access | None = option(
        None,
        "Instead of chunks: the use for which they are suggested, as in `suggest`.",
        type="str, mapping or list, optional",
        kind="use",
        layout=True,
        key="access",
    )
    memory: ByteSize | MemoryBudget | None = option(
        None,
        "Limit of one worker, such as 4GiB; 60 % of it is used. Detected by default; see `budget`.",
        type="int or str, optional",
        kind="size",
        flag="--memory",
        metavar="SIZE",
        key="memory",
    )
    max_mem: ByteSize | None = option(
        None,
        "What one worker may grow by, all its tasks together: 400MB. Overrides the limit.",
        type="int or str, optional",
        kind="size",
        flag="--max-mem",
        metavar="SIZE",
        key="max_mem",
    )
    shards: Mapping[Any, Any] | None = option(
        None,
        "Shards to write, given like chunks (zarr v3).",
        type="mapping, optional",
        kind="lengths",
        layout=True,
        flag="--shards",
        metavar="[VAR:]DIM=N[,…]",
        key="shards",
    )
    zarr_format: ZarrFormat | None = option(
        None,
        "Format of the target. The source's by default, or 3 where the source is no zarr.",
        type="{2, 3}, optional",
        kind="choice",
        choices=("2", "3"),
        layout=True,
        flag="--zarr-format",
        key="zarr_format",
    )
    overwrite: bool = option(
        False,
        "Replace the target, if it is a zarr store. Nothing else is ever replaced.",
        type="bool",
        kind="flag",
        layout=True,
        flag="--overwrite",
        key="overwrite",
    )
    unpack: bool = option(
        False,
        "Store packed variables as their decoded values. By default the packed numbers are "
        "copied as they are stored.",
        type="bool",
        kind="flag",
        layout=True,
        flag="--unpack",
        key="unpack",
    )
    resume: bool = option(
        True,
        "Start anew where a run was stopped. By default the unfinished work of the same call is "
        "resumed; with ``False`` it is deleted, and everything is copied.",
        type="bool",
        kind="flag",
        flag="--no-resume",
    )
    rates: Rates | None = option(
        None,
        "How fast the stores and codecs are, as `probe` measures it.",
        type="Rates, optional",
        kind="object",
    )
    limits: Limits | None = option(
        None,
        "The most tasks and objects of a plan.",
        type="Limits, optional",
        kind="object",
    )
    scratch: Any = option(
        None,
        "Where scratch data go; into the target by default.",
        type="str, path or zarr store, optional",
        kind="place",
        flag="--scratch",
        metavar="STORE",
        key="scratch",
    )
    engine: EngineName = option(
        "xchunk",
        "Whose planner and tasks are used. ``'rechunker'`` needs that package.",
        type="{'xchunk', 'rechunker'}",
        kind="choice",
        choices=("xchunk", "rechunker"),
        layout=True,
        flag="--rechunk-engine",
        key="rechunk_engine",
    )
    message: str | None = option(
        None,
        "What the commit says, where the target has commits (icechunk).",
        type="str, optional",
        kind="text",
        flag="--message",
        metavar="TEXT",
        key="message",
    )
    commit: bool = option(
        True,
        "Whether the session of icechunk that is written to is committed. Give ``False`` inside "
        "``repo.transaction()``, which commits it by itself.",
        type="bool",
        kind="flag",
    )
    storage_options: Mapping[str, Any] | None = option(
        None,
        "What fsspec needs to reach a URL.",
        type="mapping, optional",
        kind="table",
    )

    def __post_init__(self) -> None:
        for name in ("memory", "max_mem"):
            size = getattr(self, name)
            if size is not None and not isinstance(size, MemoryBudget):
                parse_bytes(size, name)
        if self.zarr_format not in (None, 2, 3):
            raise EncodingError(f"zarr_format={self.zarr_format!r} does not exist. Give 2 or 3.")
        if self.shards and self.zarr_format == 2:
            raise EncodingError(
                "zarr format 2 has no shards. Give zarr_format=3, or leave shards out."
            )

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(RechunkOptions)}
        return {f.name: found[f.name] for f in fields(RechunkOptions) if not _is_default(f, found)}

    def refuse_layout(self) -> None:
        """Refuse options that say how a store is stored that exists already.

        Raises
        ------
        InvalidChunksError
            If any of them is given.
        """
        said = [name for name, about in options_of() if about.layout and name in self.given()]
        if said:
            raise InvalidChunksError(
                f"a store is appended to, and its regions are written, as it is: leave out "
                f"{', '.join(said)}. Chunks, shards, codecs and encodings stay those of the store."
            )


def _is_default(one: Field[Any], values: Mapping[str, Any]) -> bool:
    value = values[one.name]
    return value is one.default or (isinstance(value, str | bool) and value == one.default)


def options_of(kind: type = RechunkOptions) -> Iterator[tuple[str, Option]]:
    """Yield the name of each option of an options class, and what is known of it."""
    for one in fields(kind):
        if "option" in one.metadata:
            yield one.name, one.metadata["option"]


def takes(*, layout: bool = True, leave_out: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Give a function the keywords of `RechunkOptions` in place of its ``**options``.

    Its signature and docstring name each of them, where a line ``{options}`` stands. A keyword
    that is not known raises TypeError, which suggests the nearest one.

    - ``layout``: whether options that say how the target is stored are among them.
    - ``leave_out``: options that the function has as parameters of its own, or not at all.
    """
    names = [
        name
        for name, about in options_of()
        if name not in leave_out and (layout or not about.layout)
    ]

    def decorate(func: F) -> F:
        own = inspect.signature(func)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        defaults = {f.name: f for f in fields(RechunkOptions)}
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults[name].default,
                annotation=defaults[name].type,
            )
            for name in names
        ]
        wrapped = _checking(func, [*(p.name for p in kept if p.name != "self"), *names])
        wrapped.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        wrapped.__doc__ = _with_options(func.__doc__, names)
        return wrapped

    return decorate


def suggests_keywords(cls: type[C]) -> type[C]:
    """Let the public methods of a class suggest the keyword that a misspelt one is nearest to."""
    for name, method in [*vars(cls).items()]:
        if inspect.isfunction(method) and not name.startswith("_") and not _takes_any(method):
            known = [p for p in inspect.signature(method).parameters if p != "self"]
            setattr(cls, name, _checking(method, known))
    return cls


def _takes_any(method: Callable[..., Any]) -> bool:
    kinds = {p.kind for p in inspect.signature(method, follow_wrapped=False).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds or hasattr(method, "__wrapped__")


def _checking(func: F, known: list[str]) -> F:
    """Let a function refuse keywords that it does not know with the nearest that it knows."""

    @functools.wraps(func)
    def wrapped(*args: Any, **given: Any) -> Any:
        for name in given:
            if name not in known:
                raise TypeError(_unknown(func.__name__, name, known))
        return func(*args, **given)

    return wrapped  # type: ignore[return-value]


def nearest_keyword(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the keyword that a misspelt one is nearest to; None where none is near."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def _unknown(func: str, name: str, known: list[str]) -> str:
    nearest = nearest_keyword(name, known)
    hint = f"; did you mean {nearest!r}?" if nearest else f". It takes: {', '.join(known)}."
    return f"{func}() got an unexpected keyword argument {name!r}{hint}"


def _with_options(doc: str | None, names: list[str]) -> str | None:
    """Put the options' own words where a docstring has the line ``{options}``."""
    if doc is None:  # python -OO
        return None
    about = dict(options_of())
    lines: list[str] = []
    for line in doc.splitlines():
        if line.strip() != "{options}":
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        for name in names:
            lines += [f"{indent}{name} : {about[name].type}", f"{indent}    {about[name].doc}"]
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where new data go in a store that exists: its end along a dim, or a region of it."""

    append_dim: str | None = None
    """The dim along which the store grows."""
    region: Any = None
    """Where to write instead: ``{"time": slice(0, 24)}``; ``"auto"`` finds it by the labels."""
    check_labels: bool = True
    """Whether labels that repeat, do not follow (append) or differ (region) are refused."""
