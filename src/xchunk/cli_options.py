"""Options that commands of the command line share, and the requests that they make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from xchunk.cli_output import Output
from xchunk.cli_values import access_of, encodings_of, pairs, region_of, sizes_of, spec_of

__all__ = [
    "PRESETS",
    "common",
    "debug",
    "encoding",
    "examples",
    "json_flag",
    "memory_options",
    "more_use",
    "open_given",
    "options",
    "place",
    "request_of",
    "show",
    "source",
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
encoding = click.option(
    "--encoding",
    multiple=True,
    metavar="[VAR:]KEY=VALUE[,…]",
    help="What is stored otherwise than in SRC: dtype, compressor, _FillValue, scale_factor, … "
    "May be repeated for more variables.",
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
    encoding,
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
        help="Write SRC into this part of DST, which is there, in place; 'auto' finds it by the "
        "labels.",
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
    """Open the source that the options of `source` name, with the encodings that are wanted."""
    from xchunk.named import open_named

    wanted = encodings_of(given.get("encoding", ()))
    storage = pairs(given["storage"])
    out.secrets.learn(storage)
    opened = open_named(
        given["src"],
        given["group"],
        given["engine"],
        storage,
        concat_dim=given["concat_dim"],
        **kwargs,
    )
    if wanted:
        from xchunk.encodings import put_encodings

        zarr_format = given.get("zarr_format")
        put_encodings(opened, wanted, int(zarr_format) if zarr_format else None)
    return opened


def target_storage(out: Output, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what fsspec needs for the target: its own options, or the source's."""
    storage = pairs(given["target_storage"], "--target-storage-option") or pairs(given["storage"])
    out.secrets.learn(storage)
    return storage or None


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
    if encodings_of(given["encoding"]) and extends:
        raise click.UsageError("--encoding: what DST has stays as it is stored; leave it out")
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
        "region": region_of(given["region"]),
        "scratch": given["scratch"],
        "engine": given["rechunk_engine"],
        "message": given["message"],
        **sizes_of(given["memory"], given["max_mem"]),
    }
    return {k: v for k, v in request.items() if v is not None or k == "what"}


def show(what: Mapping[str, Any] | str) -> None:
    """Print a text, or a mapping as JSON."""
    if not isinstance(what, str):
        what = json.dumps(what, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(what)
