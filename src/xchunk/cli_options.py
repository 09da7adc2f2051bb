"""Options that commands of the command line share, and what they turn them into."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from xchunk.cli_output import Output
from xchunk.cli_secrets import is_secret
from xchunk.errors import InvalidChunksError

__all__ = [
    "PRESETS",
    "access_of",
    "common",
    "debug",
    "examples",
    "json_flag",
    "memory_options",
    "more_use",
    "open_given",
    "options",
    "pairs",
    "pattern_of",
    "place",
    "request_of",
    "show",
    "sizes_of",
    "source",
    "spec_of",
    "storage_option",
    "target",
    "target_storage",
    "target_storage_option",
    "use",
]

#: The uses that have a name, for completion.
PRESETS = ("timeseries", "map", "profile", "scan")
_ENGINES = ("h5netcdf", "netcdf4", "scipy", "zarr", "cfgrib", "kerchunk")

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


def _of(words: Sequence[str]) -> Callable[..., list[CompletionItem]]:
    """Complete one of some words; anything else may be typed as well."""

    def complete(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in words if word.startswith(typed)]

    return complete


def _turns_on(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    out = ctx.find_object(Output)
    if out is not None and value and param.name:
        setattr(out, param.name, True)


#: A path or a URL; paths are completed by the shell.
place = click.Path()

debug = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_turns_on,
    help="Show tracebacks and all warnings.",
)
#: For commands that print JSON by themselves; the others take `common`.
json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
common = options(
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        callback=_turns_on,
        help="Print one JSON document, for other programs; an error is one too.",
    ),
    click.option(
        "--quiet",
        "-q",
        is_flag=True,
        expose_value=False,
        callback=_turns_on,
        help="Say nothing but errors (and the document of --json).",
    ),
    click.option(
        "--log-json",
        is_flag=True,
        expose_value=False,
        callback=_turns_on,
        help="Write what happens to stderr as one JSON object a line.",
    ),
    debug,
)
storage_option = click.option(
    "--storage-option",
    "storage",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the filesystem, for URLs: anon=true. May be repeated.",
)
target_storage_option = click.option(
    "--target-storage-option",
    "target_storage",
    multiple=True,
    metavar="KEY=VALUE",
    help="The same for DST, where it needs others than SRC.",
)
source = options(
    click.argument("src", nargs=-1, required=True, type=place),
    click.option("--group", metavar="PATH", help="Group within SRC; all groups by default."),
    click.option(
        "--engine",
        metavar="NAME",
        shell_complete=_of(_ENGINES),
        help="xarray's backend; told by the content.",
    ),
    click.option(
        "--concat-dim",
        metavar="DIM",
        help="Join files along DIM as they are listed; by their coordinates by default.",
    ),
    storage_option,
)
use = options(
    click.option(
        "--access",
        metavar="NAME[:WEIGHT]",
        multiple=True,
        shell_complete=_of(PRESETS),
        help="How the data will be used: timeseries, map, profile or scan. May be repeated, "
        "with weights.",
    ),
    click.option(
        "--whole",
        multiple=True,
        metavar="DIM[,DIM…]",
        help="Dims that one request needs whole, instead of --access.",
    ),
)
more_use = options(
    click.option("--passes", type=float, metavar="N", help="How many times they are used so."),
    click.option(
        "--reduce",
        multiple=True,
        metavar="DIM[=METHOD][,…]",
        help="Dims that are reduced, and by what: time=std.",
    ),
    click.option(
        "--rolling", multiple=True, metavar="DIM=N[,…]", help="Lengths of moving windows."
    ),
    click.option("--groupby", metavar="WHAT", help="As for xarray's groupby: time.month."),
    click.option("--resample", metavar="DIM=FREQ", help="As for xarray's resample: time=MS."),
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
    click.argument("dst", type=place),
    target_storage_option,
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
    click.option(
        "--append-dim", metavar="DIM", help="Make DST, which is there, longer by SRC along DIM."
    ),
    click.option(
        "--region",
        metavar="DIM=A:B[,…]",
        help="Write SRC into this part of DST, which is there; 'auto' finds it by the labels.",
    ),
    click.option(
        "--scratch", type=place, metavar="STORE", help="Where scratch data go; into DST by default."
    ),
    click.option(
        "--rechunk-engine",
        type=click.Choice(["xchunk", "rechunker"]),
        help="Whose planner and tasks are used.",
    ),
    click.option("--message", metavar="TEXT", help="What the commit says, where DST has commits."),
)


def open_given(out: Output, given: Mapping[str, Any], **kwargs: Any) -> Any:
    """Open the source that the options of `source` name."""
    from xchunk.cli_source import open_named

    storage = pairs(given["storage"])
    out.secrets.learn(storage)
    return open_named(
        given["src"],
        given["group"],
        given["engine"],
        storage,
        concat_dim=given["concat_dim"],
        **kwargs,
    )


def target_storage(out: Output, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what fsspec needs for the target: its own options, or the source's."""
    storage = pairs(given["target_storage"], "--target-storage-option") or pairs(given["storage"])
    out.secrets.learn(storage)
    return storage or None


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
        "groupby": given["groupby"],
        "resample": resample,
    }
    return {k: v for k, v in found.items() if v is not None}


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


def request_of(out: Output, given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the options of ``plan`` and ``rechunk`` into the API's arguments."""
    what = spec_of(given["chunks"], "--chunks")
    access = access_of(given["access"], given["whole"])
    extends = given["append_dim"] or given["region"]
    if what is None and access is None and not extends:
        raise click.UsageError(
            "say what to write: --chunks DIM=N,… or how it will be used: --access NAME, --whole DIM"
        )
    if what is not None and access is not None:
        raise click.UsageError("give --chunks, or --access or --whole, not both")
    request = {
        "what": what,
        "store": given["dst"],
        "storage_options": target_storage(out, given),
        "access": access,
        "shards": spec_of(given["shards"], "--shards"),
        "zarr_format": int(given["zarr_format"]) if given["zarr_format"] else None,
        "overwrite": given["overwrite"] or None,
        "unpack": given["unpack"] or None,
        "resume": False if given["no_resume"] else None,
        "append_dim": given["append_dim"],
        "region": _region(given["region"]),
        "scratch": given["scratch"],
        "engine": given["rechunk_engine"],
        "message": given["message"],
        **sizes_of(given["memory"], given["max_mem"]),
    }
    return {k: v for k, v in request.items() if v is not None or k == "what"}


def _region(item: str | None) -> Any:
    """Read ``DIM=A:B,DIM=A:B`` or ``auto``."""
    if item is None or item == "auto":
        return item
    found: dict[str, Any] = {}
    for part in item.split(","):
        dim, equals, value = (word.strip() for word in part.partition("="))
        start, colon, stop = value.partition(":")
        if dim and equals and value == "auto":
            found[dim] = value
        elif dim and equals and colon and all(w == "" or w.isdigit() for w in (start, stop)):
            found[dim] = slice(int(start) if start else None, int(stop) if stop else None)
        else:
            raise click.UsageError(
                f"--region {part}: give DIM=START:STOP, such as time=0:24, DIM=auto, or auto"
            )
    return found


def show(what: Mapping[str, Any] | str) -> None:
    """Print a text, or a mapping as JSON."""
    if not isinstance(what, str):
        what = json.dumps(what, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(what)
