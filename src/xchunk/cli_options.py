"""Options that commands of the command line share, and what they turn them into."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from xchunk.errors import InvalidChunksError

__all__ = [
    "access_of",
    "debug",
    "examples",
    "json_flag",
    "memory_options",
    "open_named",
    "options",
    "pairs",
    "planned_by",
    "request_of",
    "show",
    "show_plan",
    "sizes_of",
    "source",
    "storage_option",
    "target",
    "use",
    "where",
]

F = TypeVar("F", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """Lay out examples for a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def options(*given: Callable[[F], F]) -> Callable[[F], F]:
    """Put several options together."""

    def add(command: F) -> F:
        for option in reversed(given):
            command = option(command)
        return command

    return add


debug = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show tracebacks and all warnings."
)
json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
storage_option = click.option(
    "--storage-option",
    "storage",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the filesystem, for URLs; may be repeated.",
)
source = options(
    click.argument("src"),
    click.option("--group", metavar="PATH", help="Group within SRC; the root by default."),
    click.option("--engine", metavar="NAME", help="xarray's backend; told by the content."),
    storage_option,
)
use = options(
    click.option(
        "--access",
        metavar="NAME",
        help="How the data will be used: timeseries, map, profile or scan.",
    ),
    click.option(
        "--whole",
        multiple=True,
        metavar="DIM[,DIM…]",
        help="Dims that one request needs whole, instead of --access.",
    ),
)
memory_options = options(
    click.option(
        "--memory", metavar="SIZE", help="Limit of one worker, such as 4GiB; 60 % of it is used."
    ),
    click.option(
        "--max-mem", metavar="SIZE", help="What one worker may grow by, taken as it is: 400MB."
    ),
)
target = options(
    click.argument("dst"),
    click.option(
        "--chunks",
        multiple=True,
        metavar="[VAR:]DIM=N[,…]",
        help="Chunks to write; -1 is the whole dim. May be repeated for more variables.",
    ),
    click.option(
        "--shards", multiple=True, metavar="[VAR:]DIM=N[,…]", help="Shards to write (zarr v3)."
    ),
    click.option("--zarr-format", type=click.Choice(["2", "3"]), help="Format of DST."),
    click.option("--overwrite", is_flag=True, help="Replace DST, if it is a zarr store."),
    click.option("--unpack", is_flag=True, help="Store packed variables as their decoded values."),
    click.option("--no-resume", is_flag=True, help="Start anew where a run was stopped."),
)


def open_named(
    src: str,
    group: str | None = None,
    engine: str | None = None,
    storage: Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """Open what a user named."""
    import xchunk.accessor  # noqa: F401  registers .chunking
    from xchunk.sources import open_source

    return open_source(src, engine, group, pairs(storage), **kwargs)


def where(given: Mapping[str, Any]) -> dict[str, Any]:
    """Pick out what says where the source is."""
    return {k: given[k] for k in ("src", "group", "engine", "storage")}


def pairs(storage: Sequence[str]) -> dict[str, str]:
    """Read ``KEY=VALUE`` options."""
    out = {}
    for item in storage:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--storage-option {item}: give KEY=VALUE")
        out[key] = value
    return out


def access_of(access: str | None, whole: Sequence[str]) -> str | dict[str, int] | None:
    """Read ``--access`` or ``--whole``."""
    names = [d.strip() for item in whole for d in item.split(",") if d.strip()]
    if access and names:
        raise click.UsageError("give --access or --whole, not both")
    return dict.fromkeys(names, -1) if names else access


def sizes_of(memory: str | None, max_mem: str | None) -> dict[str, int]:
    """Read the sizes before anything is opened, naming the option in the error."""
    from xchunk.core.units import parse_bytes

    given = {"memory": memory, "max_mem": max_mem}
    return {
        name: parse_bytes(value, f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if value is not None
    }


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
            if not (dim and equals and value.lstrip("+-").isdigit()):
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


def request_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the options of ``plan`` and ``rechunk`` into the API's arguments."""
    what = spec_of(given["chunks"], "--chunks")
    access = access_of(given["access"], given["whole"])
    if what is None and access is None:
        raise click.UsageError(
            "say what to write: --chunks DIM=N,… or how it will be used: --access NAME, --whole DIM"
        )
    if what is not None and access is not None:
        raise click.UsageError("give --chunks, or --access or --whole, not both")
    request = {
        "what": what,
        "store": given["dst"],
        "access": access,
        "shards": spec_of(given["shards"], "--shards"),
        "zarr_format": int(given["zarr_format"]) if given["zarr_format"] else None,
        "overwrite": given["overwrite"] or None,
        "unpack": given["unpack"] or None,
        "resume": False if given["no_resume"] else None,
        **sizes_of(given["memory"], given["max_mem"]),
    }
    return {k: v for k, v in request.items() if v is not None or k == "what"}


def planned_by(ds: Any, request: Mapping[str, Any]) -> Any:
    """Make the plan that was asked for."""
    return ds.chunking.plan(**request)


def show_plan(planned: Any, as_json: bool) -> None:
    """Print a plan."""
    from xchunk.formatting import text

    show(planned.to_dict() if as_json else text.rechunk_plan(planned))


def show(what: Mapping[str, Any] | str) -> None:
    """Print a text, or a mapping as JSON."""
    if not isinstance(what, str):
        what = json.dumps(what, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(what)
