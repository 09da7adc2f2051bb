"""Options that commands share, their defaults and requests, and shell completion.

A flag wins over a variable of the environment, a variable over the file of the project, and the
file over what is built in.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from xchunk.cli.output import Command, Output
from xchunk.cli.values import PRESETS, Secrets, access_of, encodings_of, pairs, region_of, spec_of
from xchunk.core.units import parse_bytes
from xchunk.errors import XchunkError
from xchunk.rechunking.options import Option, RechunkOptions, options_of

if TYPE_CHECKING:
    from xchunk.core.plan.stages import RechunkPlan

_ENGINES = ("h5netcdf", "netcdf4", "scipy", "zarr", "cfgrib", "rasterio", "kerchunk")

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
details = click.option(
    "--details", is_flag=True, help="Show the stages of each variable of the plan."
)
storage_option = click.option(
    "--storage-option",
    "storage",
    multiple=True,
    metavar="KEY=VALUE",
    envvar="XCHUNK_STORAGE_OPTIONS",
    help="Option of the filesystem, for URLs: anon=true. May be repeated.",
)
target_storage_option = click.option(
    "--target-storage-option",
    "target_storage",
    multiple=True,
    metavar="KEY=VALUE",
    envvar="XCHUNK_TARGET_STORAGE_OPTIONS",
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
    click.option(
        "--dims",
        metavar="DIM,DIM,…",
        help="Names of the dims of zarr arrays that have none (OME-Zarr, tensorstore).",
    ),
    click.option(
        "--open",
        "how",
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the engine: filter_by_keys.shortName=t. May be repeated.",
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
    click.option(
        "--growing",
        metavar="DIM[=N]",
        help="The dim along which the store will grow, and the elements of one append: time=744.",
    ),
)


def _made(name: str, about: Option) -> Callable[[F], F]:
    """Make the command line's option of an option of a rechunk."""
    if about.flag is None:
        raise ValueError(name)
    parameter = _parameter(name, about)
    told = about.doc.partition(". ")[0].rstrip(".").replace("`", "") + "."
    if about.kind == "flag":
        return click.option(about.flag, parameter, is_flag=True, help=told)
    if about.kind == "lengths":
        told += " May be repeated for more variables."
        return click.option(about.flag, parameter, multiple=True, metavar=about.metavar, help=told)
    kind = {"choice": click.Choice(about.choices), "place": place}.get(about.kind)
    # sizes are what a project has one of, and not one call
    variable = f"XCHUNK_{name.upper()}" if about.kind == "size" else None
    return click.option(
        about.flag, parameter, type=kind, metavar=about.metavar, help=told, envvar=variable
    )


def _parameter(name: str, about: Option) -> str:
    """Return click's name of an option: ``--engine`` is the source's, and another one's name."""
    return about.key or name


#: The options of a rechunk that have a name on the command line.
_MADE = {name: _made(name, about) for name, about in options_of() if about.flag}
memory_options = options(_MADE["memory"], _MADE["max_mem"])
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
    *(option for name, option in _MADE.items() if name not in ("memory", "max_mem")),
    encoding,
    click.option(
        "--append-dim", metavar="DIM", help="Make DST, which is there, longer by SRC along DIM."
    ),
    click.option(
        "--region",
        metavar="DIM=A:B[,…]",
        help="Write SRC into this part of DST, which is there, in place: positions (time=0:24), "
        "labels (time=2000-01-06..2000-01-10), or 'auto', which finds it by the labels of SRC.",
    ),
    click.option(
        "--no-check-labels",
        is_flag=True,
        help="Write labels that DST has already, that do not go on, or that differ.",
    ),
)


def open_given(out: Output, given: Mapping[str, Any], **kwargs: Any) -> Any:
    """Open the source that the options of `source` name, with the encodings that are wanted."""
    # Python's search for unused cycles looks at all that is made, and modules are not unused: it
    # takes a tenth of the time until they are loaded and the source is open
    gc.disable()
    try:
        return _open(out, given, **kwargs)
    finally:
        gc.enable()


def _open(out: Output, given: Mapping[str, Any], **kwargs: Any) -> Any:
    from xchunk.opening.dataset import open_named

    wanted = encodings_of(given.get("encoding", ()))
    storage = pairs(given["storage"])
    out.secrets.learn(storage)
    if given.get("dims"):
        return _nameless(given, storage)
    opened = open_named(
        given["src"],
        given["group"],
        given["engine"],
        storage,
        concat_dim=given["concat_dim"],
        progress=False if out.quiet or out.log_json else None,
        **kwargs,
        **pairs(given.get("how", ()), "--open"),
    )
    if wanted:
        from xchunk.opening.encoding import put_encodings

        zarr_format = given.get("zarr_format")
        put_encodings(opened, wanted, int(zarr_format) if zarr_format else None)
    return opened


def _nameless(given: Mapping[str, Any], storage: Mapping[str, Any]) -> Any:
    """Open zarr arrays whose dims have the names that are given."""
    from xchunk.opening.encoding import put_encodings
    from xchunk.opening.formats import open_nameless
    from xchunk.stores.stores import open_store, refuse_overlap

    if len(given["src"]) != 1:
        raise click.UsageError("--dims: give one source")
    (src,) = given["src"]
    where = f"{src.rstrip('/')}/{given['group'].strip('/')}" if given["group"] else src
    if given.get("dst") is not None:
        refuse_overlap(
            open_store(where, read_only=True, storage_options=storage), given["dst"], src
        )
    names = [name.strip() for name in given["dims"].split(",") if name.strip()]
    opened = open_nameless(where, names, storage)
    wanted = encodings_of(given.get("encoding", ()))
    if wanted:
        zarr_format = given.get("zarr_format")
        put_encodings(opened, wanted, int(zarr_format) if zarr_format else None)
    return opened


def target_storage(out: Output, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what fsspec needs for the target: its own options, or the source's."""
    storage = pairs(given["target_storage"], "--target-storage-option") or pairs(given["storage"])
    out.secrets.learn(storage)
    return storage or None


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def named_for_zarr(out: Output, dst: str) -> str:
    """Ask in a terminal about a target that is named like a file of another format.

    Without one, it is refused when it is planned.
    """
    from xchunk.stores.stores import local_path
    from xchunk.targets.location import is_named_otherwise

    path = local_path(dst)
    asking = _is_terminal() and not (out.quiet or out.log_json)
    if path is None or not asking or not is_named_otherwise(path):
        return dst
    better = str(path.with_suffix(".zarr"))
    said = f"{dst} is named like a file of another format, and a zarr store is a folder. Write"
    return better if click.confirm(f"{said} {better}?", default=True, err=True) else dst


def request_of(out: Output, given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the options of ``plan`` and ``rechunk`` into the API's keywords."""
    request = {
        name: _value(name, about, given[_parameter(name, about)])
        for name, about in options_of()
        if about.flag
    }
    request["access"] = access = access_of(given["access"], given["whole"])
    extends = given["append_dim"] or given["region"]
    if request["chunks"] is None and access is None and not extends:
        raise click.UsageError(
            "say what to write: --chunks DIM=N,… or how it will be used: --access NAME, --whole DIM"
        )
    if request["chunks"] is not None and access is not None:
        raise click.UsageError("give --chunks, or --access or --whole, not both")
    if given["append_dim"] and given["region"]:
        raise click.UsageError("give --append-dim or --region, not both")
    if encodings_of(given["encoding"]) and extends:
        raise click.UsageError("--encoding: what DST has stays as it is stored; leave it out")
    request["storage_options"] = target_storage(out, given)
    asked = RechunkOptions(**{k: v for k, v in request.items() if v is not None})
    if extends:
        region_of(given["region"])
        asked.refuse_layout()
    return asked.given()


def _value(name: str, about: Option, typed: Any) -> Any:
    """Read what was typed for an option of a rechunk; None: nothing."""
    if about.kind == "flag":
        return not getattr(RechunkOptions, name) if typed else None
    if about.kind == "lengths":
        return spec_of(typed, str(about.flag))
    if typed is None:
        return None
    if about.kind == "size":
        return parse_bytes(typed, str(about.flag))
    return int(typed) if name == "zarr_format" else typed


def plan_given(ds: Any, given: Mapping[str, Any], request: dict[str, Any]) -> Any:
    """Plan what the options of `target` ask: a rechunk, an append, or a write to a region."""
    chunking, dst = ds.chunking, given["dst"]
    if not (given["append_dim"] or given["region"]):
        return chunking.plan(store=dst, **request)
    request = {**request, "check_labels": not given["no_check_labels"]}
    if given["append_dim"]:
        return chunking.plan_append(dst, dim=given["append_dim"], **request)
    return chunking.plan_region(dst, region=region_of(given["region"]), **request)


def finished_of(
    ds: Any, given: Mapping[str, Any], request: Mapping[str, Any]
) -> RechunkPlan | None:
    """Return the plan of a rechunk whose target looks as if it were finished; else None."""
    from zarr.storage import MemoryStore

    from xchunk.rechunking.bind import looks_finished
    from xchunk.stores.stores import describe, open_store

    if given["append_dim"] or given["region"] or request.get("overwrite"):
        return None
    own = {k: v for k, v in request.items() if k not in ("storage_options", "scratch")}
    job = ds.chunking.plan(store=MemoryStore(), **own)
    target = open_store(
        given["dst"], read_only=True, storage_options=request.get("storage_options")
    )
    if not looks_finished(job.bound, target):
        return None
    plan: RechunkPlan = job.plan
    return replace(plan, target=describe(target))


def show(what: Mapping[str, Any] | str) -> None:
    """Print a text, or a mapping as JSON."""
    if not isinstance(what, str):
        what = json.dumps(what, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(what)


_SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=examples(
        'eval "$(xchunk completion bash)"',
        "xchunk completion bash > ~/.local/share/bash-completion/completions/xchunk",
        "xchunk completion zsh > ~/.zfunc/_xchunk",
        "xchunk completion fish > ~/.config/fish/completions/xchunk.fish",
    ),
    short_help="Print what makes a shell complete xchunk.",
)
@click.argument("shell", type=click.Choice(_SHELLS))
@options(debug)
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands, options and files.

    The first example is for the running shell; the others for all that start from now on.
    """
    found = get_completion_class(shell)
    if found is None:
        raise XchunkError(f"click knows no completion for {shell}.")
    root = ctx.find_root().command
    click.echo(found(root, {}, "xchunk", "_XCHUNK_COMPLETE").source())


#: The keys of a file, with the parameters that they are defaults of.
_KEYS = {
    "memory": "memory",
    "max_mem": "max_mem",
    "scheduler": "scheduler",
    "workers": "workers",
    "memory_limit": "memory_limit",
    "threads_per_worker": "threads_per_worker",
    "storage_options": "storage",
    "target_storage_options": "target_storage",
}
_NAME, _PROJECT = "xchunk.toml", "pyproject.toml"


def _find(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the nearest file with defaults, in a folder or above it, and what it says."""
    for place in (folder, *folder.parents):
        for name in (_NAME, _PROJECT):
            path = place / name
            if not path.is_file():
                continue
            try:
                told = tomllib.loads(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                if name == _PROJECT:
                    continue
                raise click.UsageError(f"{path}: cannot be read as TOML ({error})") from error
            if name == _PROJECT:
                told = told.get("tool", {}).get("xchunk")
                if told is None:
                    continue
            return path, _checked(path, told)
    return None, {}


def _checked(path: Path, told: Any) -> Mapping[str, Any]:
    if not isinstance(told, Mapping):
        raise click.UsageError(f"{path}: [tool.xchunk] is no table")
    for key, value in told.items():
        if key not in _KEYS:
            nearest = get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise click.UsageError(
                f"{path}: there is no default {key!r}; {hint}Known: {', '.join(_KEYS)}"
            )
        is_table = key.endswith("options")
        if is_table != isinstance(value, Mapping):
            raise click.UsageError(f"{path}: {key} is {'' if is_table else 'not '}a table")
    return told


def defaults_of(names: Mapping[str, click.Command]) -> dict[str, dict[str, Any]]:
    """Return the defaults of each command that the nearest file gives, as click takes them."""
    _, told = _find(Path.cwd())
    values = {
        _KEYS[key]: tuple(_typed(value)) if isinstance(value, Mapping) else str(value)
        for key, value in told.items()
    }
    return dict.fromkeys(names, values) if values else {}


def _typed(table: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Spell a table as ``KEY=VALUE`` options are typed; ``A.B=VALUE`` is within ``A``."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _typed(value, f"{within}{key}.")
        else:
            yield f"{within}{key}={value if isinstance(value, str) else json.dumps(value)}"


def _options(ctx: click.Context) -> Iterator[tuple[str, click.Option]]:
    """Yield the options that have defaults, by their keys; `rechunk` has all of them."""
    root = ctx.find_root().command
    command = root.get_command(ctx, "rechunk") if isinstance(root, click.Group) else None
    params = {p.name: p for p in (command.params if command else ()) if isinstance(p, click.Option)}
    yield from ((key, params[name]) for key, name in _KEYS.items())


def _defaults(
    param: click.Option, key: str, told: Mapping[str, Any], path: Path | None, secrets: Secrets
) -> Iterator[dict[str, str | None]]:
    """Yield a default; of a filesystem's options each by itself."""
    variable = str(param.envvar)
    value, where = told.get(key), "built in" if key not in told else str(path)
    if os.environ.get(variable):
        value, where = os.environ[variable], variable
        if key.endswith("options"):
            value = pairs(value.split(), variable)
    found = {"flag": param.opts[0], "variable": variable, "from": where}
    if not isinstance(value, Mapping):
        yield {"key": key, "value": None if value is None else str(value), **found}
        return
    secrets.learn(value)
    for item in _typed(value):
        name, _, said = item.partition("=")
        # what is cut later could not be told from what may be shown
        yield {"key": f"{key}.{name}", "value": secrets.mask(said), **found}


@click.command(
    cls=Command,
    epilog=examples(
        "xchunk config",
        "XCHUNK_MEMORY=4GiB xchunk config",
        "xchunk config --json",
    ),
    short_help="Show the defaults, and where they come from.",
)
@common
@click.pass_obj
@click.pass_context
def config(ctx: click.Context, out: Output, /) -> None:
    """Show the defaults of options, and where each comes from.

    A flag wins over a variable (XCHUNK_MEMORY), a variable over the nearest xchunk.toml or
    [tool.xchunk] of a pyproject.toml, here or in a folder above, and these over what is built in.
    """
    from xchunk.display.document import Document, Paragraph, Table
    from xchunk.display.render import as_text

    path, told = _find(Path.cwd())
    found = [
        one
        for key, param in _options(ctx)
        for one in _defaults(param, key, told, path, out.secrets)
    ]
    rows = [(str(d["key"]), d["value"] or "-", Path(str(d["from"])).name) for d in found]
    table = Table(("default", "value", "from"), rows)
    read = f"from {path}" if path else f"no {_NAME} and no [tool.xchunk] here or above"
    said = "A flag wins over variables (XCHUNK_MEMORY, …), and variables over the file."
    doc = Document("xchunk config", read, body=[table, Paragraph(said)])
    out.result(
        "config",
        lambda: {"file": None if path is None else str(path), "defaults": found},
        lambda: as_text(doc),
    )
