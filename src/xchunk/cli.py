"""The command line: what a user types in, delegated to the Python API, and shown.

What a user may get wrong ends in one line on stderr and an exit code of its family, which
the error carries (`xchunk.errors`): 2 for the command line itself, 130 for Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from xchunk._version import __version__
from xchunk.errors import InvalidChunksError, XchunkError, XchunkWarning

__all__ = ["main", "run", "xchunk"]

F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run the command line.

    Parameters
    ----------
    args : sequence of str
        The arguments, without the program's name.

    Returns
    -------
    int
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        # A locale without × or … gets a substitute, not an error.
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="replace")
    debug = "--debug" in args
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            warnings.simplefilter("always", XchunkWarning)
            warnings.showwarning = _note
            result = xchunk.main(list(args), prog_name="xchunk", standalone_mode=False)
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain(
            "interrupted; what is written is kept: the same command goes on there, and "
            "'xchunk clean DST' deletes it"
        )
        return 130
    except (BrokenPipeError, SystemExit):
        # Whoever read the output has gone (head, less): nothing more can be said to them.
        # SystemExit is what click makes of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except XchunkError as error:
        if debug:
            traceback.print_exc()
        _complain(f"error: {error}")
        return error.exit_code
    except Exception as error:  # noqa: BLE001  the last resort: a line rather than a traceback
        if debug:
            traceback.print_exc()
        hint = "" if debug else " (run it again with --debug for the traceback)"
        _complain(f"error: {type(error).__name__}: {error}{hint}")
        return 1
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    click.echo(f"xchunk: {' '.join(message.split())}", err=True)


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    known = issubclass(category, XchunkWarning)
    _complain(f"note: {message}" if known else f"{category.__name__}: {message}")


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


# ---- options ------------------------------------------------------------------------------


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_debug = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show tracebacks and all warnings."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
_storage = click.option(
    "--storage-option",
    "storage",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the filesystem, for URLs; may be repeated.",
)
_source = _options(
    click.argument("src"),
    click.option("--group", metavar="PATH", help="Group within SRC; the root by default."),
    click.option("--engine", metavar="NAME", help="xarray's backend; told by the content."),
    _storage,
)
_use = _options(
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
_memory = _options(
    click.option(
        "--memory", metavar="SIZE", help="Limit of one worker, such as 4GiB; 60 % of it is used."
    ),
    click.option(
        "--max-mem", metavar="SIZE", help="What one worker may grow by, taken as it is: 400MB."
    ),
)
_target = _options(
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
    click.option("--no-resume", is_flag=True, help="Start anew where a run was stopped."),
)


# ---- commands -----------------------------------------------------------------------------


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=_examples(
        "xchunk inspect era5.nc",
        "xchunk suggest era5.nc --access timeseries --memory 4GiB",
        "xchunk rechunk era5.nc series.zarr --access timeseries --max-mem 1GB",
        "xchunk demo",
    ),
)
@click.version_option(__version__, prog_name="xchunk")
@_debug
def xchunk() -> None:
    """Automatic rechunking for xarray.

    How is it stored, which chunks fit the way it will be used, and a rechunked zarr store
    inside a memory budget. SRC is a netCDF, HDF5 or zarr dataset: a path or any fsspec URL.
    """


@xchunk.command(
    epilog=_examples("xchunk inspect era5.nc", "xchunk inspect s3://bucket/era5.zarr --json")
)
@_options(_source, _json, _debug)
def inspect(as_json: bool, **source: Any) -> None:
    """Show how every variable of SRC is stored."""
    from xchunk.formatting import text

    report = _open(**source).chunking.layout()
    _print(report.to_dict() if as_json else text.layout_report(report))


@xchunk.command(
    epilog=_examples(
        "xchunk suggest era5.nc --access timeseries --memory 4GiB",
        "xchunk suggest era5.nc --whole latitude,longitude --max-mem 500MB",
    )
)
@_options(_source, _use, _memory, _json, _debug)
def suggest(
    access: str | None,
    whole: tuple[str, ...],
    memory: str | None,
    max_mem: str | None,
    as_json: bool,
    **source: Any,
) -> None:
    """Say which chunks of SRC fit a use and a worker, and why."""
    from xchunk.formatting import text

    asked = _access(access, whole)
    if asked is None:
        raise click.UsageError("say how the data will be used: --access NAME or --whole DIM")
    sizes = _sizes(memory, max_mem)
    suggestion = _open(**source).chunking.suggest(access=asked, **sizes)
    _print(suggestion.to_dict() if as_json else text.suggestion(suggestion))


@xchunk.command(
    epilog=_examples("xchunk plan era5.nc out.zarr --chunks time=-1,lat=20,lon=20 --max-mem 1GB")
)
@_options(_source, _target, _use, _memory, _json, _debug)
def plan(as_json: bool, **given: Any) -> None:
    """Show what rechunking SRC to DST would do; nothing is written."""
    request = _request(given)
    _show_plan(_plan(_open(**_where(given)), request), as_json)


@xchunk.command(
    epilog=_examples(
        "xchunk rechunk era5.nc series.zarr --access timeseries --memory 4GiB",
        "xchunk rechunk era5.nc out.zarr --chunks time=-1,lat=20 --max-mem 1GB",
        "xchunk rechunk in.nc out.zarr --chunks t2m:time=-1 --chunks tp:time=9",
    )
)
@_options(_source, _target, _use, _memory)
@click.option("--dry-run", is_flag=True, help="Show the plan; write nothing.")
@click.option("--verify", is_flag=True, help="Compare DST with SRC bit by bit afterwards.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
@_options(_json, _debug)
def rechunk(dry_run: bool, verify: bool, quiet: bool, as_json: bool, **given: Any) -> None:
    """Write SRC to a zarr store DST with other chunks, inside a memory budget."""
    from xchunk.core.units import format_bytes, format_seconds

    request = _request(given)
    ds = _open(**_where(given))
    planned = _plan(ds, request)
    if dry_run:
        _show_plan(planned, as_json)
        return
    talks = not (quiet or as_json)
    if talks:
        _show_plan(planned, as_json=False)
    start = time.perf_counter()
    ds.chunking.apply(
        request["what"],
        store=request["store"],
        verify=verify,
        progress=not quiet,
        **{k: v for k, v in request.items() if k not in ("what", "store")},
    )
    seconds = time.perf_counter() - start
    if as_json:
        done = {"seconds": seconds, "verified": True if verify else None}
        _print({**planned.to_dict(), **done})
    elif talks:
        said = f"\n{given['dst']}: {format_bytes(planned.nbytes)} in {format_seconds(seconds)}"
        if verify:
            said += "; read back, and identical to the source bit by bit"
        _print(said)


@xchunk.command(
    epilog=_examples("xchunk verify era5.nc series.zarr", "xchunk verify in.zarr out.zarr --json")
)
@_options(_source, click.argument("dst"), _memory, _json, _debug)
def verify(dst: str, memory: str | None, max_mem: str | None, as_json: bool, **source: Any) -> None:
    """Compare a zarr store DST with SRC: stored bits and metadata."""
    sizes = _sizes(memory, max_mem)
    options = _pairs(source["storage"])
    proof = _open(**source).chunking.verify(dst, storage_options=options, **sizes)
    _print(proof.to_dict() if as_json else str(proof))


@xchunk.command(epilog=_examples("xchunk clean series.zarr", "xchunk clean series.zarr --delete"))
@click.argument("target")
@click.option("--delete", is_flag=True, help="Delete it; otherwise it is only listed.")
@_options(_storage, _json, _debug)
def clean(target: str, delete: bool, as_json: bool, storage: tuple[str, ...]) -> None:
    """List what a rechunk that was stopped has left at TARGET, or delete it."""
    from xchunk.functions import clean as delete_ours

    done = delete_ours(target, dry_run=not delete, storage_options=_pairs(storage))
    _print(done.to_dict() if as_json else str(done))


@xchunk.command(epilog=_examples("xchunk demo", "xchunk demo --keep demo --report demo.html"))
@click.option("--keep", metavar="DIR", help="Keep the demo's files in DIR.")
@click.option("--report", metavar="FILE", help="Write what was shown as an HTML page too.")
@_debug
def demo(keep: str | None, report: str | None) -> None:
    """Tell the whole story on made data, in under a minute."""
    from xchunk.demo import tell

    tell(keep=keep, report=report)


# ---- what commands share ------------------------------------------------------------------


def _open(
    src: str, group: str | None = None, engine: str | None = None, storage: Sequence[str] = ()
) -> Any:
    import xchunk.accessor  # noqa: F401  registers .chunking
    from xchunk.sources import open_source

    return open_source(src, engine, group, _pairs(storage))


def _where(given: Mapping[str, Any]) -> dict[str, Any]:
    return {k: given[k] for k in ("src", "group", "engine", "storage")}


def _pairs(storage: Sequence[str]) -> dict[str, str]:
    out = {}
    for item in storage:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--storage-option {item}: give KEY=VALUE")
        out[key] = value
    return out


def _access(access: str | None, whole: Sequence[str]) -> str | dict[str, int] | None:
    names = [d.strip() for item in whole for d in item.split(",") if d.strip()]
    if access and names:
        raise click.UsageError("give --access or --whole, not both")
    return dict.fromkeys(names, -1) if names else access


def _sizes(memory: str | None, max_mem: str | None) -> dict[str, int]:
    """Read the sizes before anything is opened, naming the option in the error."""
    from xchunk.core.units import parse_bytes

    given = {"memory": memory, "max_mem": max_mem}
    return {
        name: parse_bytes(value, f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if value is not None
    }


def _spec(items: Sequence[str], option: str) -> dict[str, Any] | None:
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


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the options of ``plan`` and ``rechunk`` into the API's arguments."""
    what = _spec(given["chunks"], "--chunks")
    access = _access(given["access"], given["whole"])
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
        "shards": _spec(given["shards"], "--shards"),
        "zarr_format": int(given["zarr_format"]) if given["zarr_format"] else None,
        "overwrite": given["overwrite"] or None,
        "resume": False if given["no_resume"] else None,
        **_sizes(given["memory"], given["max_mem"]),
    }
    return {k: v for k, v in request.items() if v is not None or k == "what"}


def _plan(ds: Any, request: Mapping[str, Any]) -> Any:
    return ds.chunking.plan(**request)


def _show_plan(planned: Any, as_json: bool) -> None:
    from xchunk.formatting import text

    _print(planned.to_dict() if as_json else text.rechunk_plan(planned))


def _print(what: Mapping[str, Any] | str) -> None:
    if not isinstance(what, str):
        what = json.dumps(what, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(what)
