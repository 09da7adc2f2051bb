"""The command line: what a user types in, delegated to the Python API, and shown.

What a user may get wrong ends in one line on stderr and an exit code of its family, which
the error carries (`xchunk.errors`): 2 for the command line itself, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from xchunk._version import __version__
from xchunk.cli_diagnose import check, probe
from xchunk.cli_options import (
    access_of,
    debug,
    examples,
    json_flag,
    memory_options,
    open_named,
    options,
    pairs,
    planned_by,
    request_of,
    show,
    show_plan,
    sizes_of,
    source,
    storage_option,
    target,
    use,
    where,
)
from xchunk.errors import XchunkError, XchunkWarning

__all__ = ["main", "run", "xchunk"]


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


# ---- commands -----------------------------------------------------------------------------


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=examples(
        "xchunk inspect era5.nc",
        "xchunk suggest era5.nc --access timeseries --memory 4GiB",
        "xchunk rechunk era5.nc series.zarr --access timeseries --max-mem 1GB",
        "xchunk demo",
    ),
)
@click.version_option(__version__, prog_name="xchunk")
@debug
def xchunk() -> None:
    """Automatic rechunking for xarray.

    How is it stored, which chunks fit the way it will be used, and a rechunked zarr store
    inside a memory budget. SRC is a netCDF, HDF5 or zarr dataset: a path or any fsspec URL.
    """


@xchunk.command(
    epilog=examples("xchunk inspect era5.nc", "xchunk inspect s3://bucket/era5.zarr --json")
)
@options(source, json_flag, debug)
def inspect(as_json: bool, **source: Any) -> None:
    """Show how every variable of SRC is stored."""
    from xchunk.formatting import text

    report = open_named(**source).chunking.layout()
    show(report.to_dict() if as_json else text.layout_report(report))


@xchunk.command(
    epilog=examples(
        "xchunk suggest era5.nc --access timeseries --memory 4GiB",
        "xchunk suggest era5.nc --whole latitude,longitude --max-mem 500MB",
    )
)
@options(source, use, memory_options, json_flag, debug)
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

    asked = access_of(access, whole)
    if asked is None:
        raise click.UsageError("say how the data will be used: --access NAME or --whole DIM")
    sizes = sizes_of(memory, max_mem)
    suggestion = open_named(**source).chunking.suggest(access=asked, **sizes)
    show(suggestion.to_dict() if as_json else text.suggestion(suggestion))


@xchunk.command(
    epilog=examples("xchunk plan era5.nc out.zarr --chunks time=-1,lat=20,lon=20 --max-mem 1GB")
)
@options(source, target, use, memory_options, json_flag, debug)
def plan(as_json: bool, **given: Any) -> None:
    """Show what rechunking SRC to DST would do; nothing is written."""
    request = request_of(given)
    show_plan(planned_by(open_named(**where(given)), request), as_json)


@xchunk.command(
    epilog=examples(
        "xchunk rechunk era5.nc series.zarr --access timeseries --memory 4GiB",
        "xchunk rechunk era5.nc out.zarr --chunks time=-1,lat=20 --max-mem 1GB",
        "xchunk rechunk in.nc out.zarr --chunks t2m:time=-1 --chunks tp:time=9",
    )
)
@options(source, target, use, memory_options)
@click.option("--dry-run", is_flag=True, help="Show the plan; write nothing.")
@click.option("--verify", is_flag=True, help="Compare DST with SRC bit by bit afterwards.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
@options(json_flag, debug)
def rechunk(dry_run: bool, verify: bool, quiet: bool, as_json: bool, **given: Any) -> None:
    """Write SRC to a zarr store DST with other chunks, inside a memory budget."""
    from xchunk.core.units import format_bytes, format_seconds

    request = request_of(given)
    ds = open_named(**where(given))
    planned = planned_by(ds, request)
    if dry_run:
        show_plan(planned, as_json)
        return
    talks = not (quiet or as_json)
    if talks:
        show_plan(planned, as_json=False)
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
        show({**planned.to_dict(), **done})
    elif talks:
        said = f"\n{given['dst']}: {format_bytes(planned.nbytes)} in {format_seconds(seconds)}"
        if verify:
            said += "; read back, and identical to the source bit by bit"
        show(said)


@xchunk.command(
    epilog=examples("xchunk verify era5.nc series.zarr", "xchunk verify in.zarr out.zarr --json")
)
@options(source, click.argument("dst"), memory_options, json_flag, debug)
def verify(dst: str, memory: str | None, max_mem: str | None, as_json: bool, **source: Any) -> None:
    """Compare a zarr store DST with SRC: stored bits and metadata."""
    sizes = sizes_of(memory, max_mem)
    options = pairs(source["storage"])
    proof = open_named(**source).chunking.verify(dst, storage_options=options, **sizes)
    show(proof.to_dict() if as_json else str(proof))


@xchunk.command(epilog=examples("xchunk clean series.zarr", "xchunk clean series.zarr --delete"))
@click.argument("target")
@click.option("--delete", is_flag=True, help="Delete it; otherwise it is only listed.")
@options(storage_option, json_flag, debug)
def clean(target: str, delete: bool, as_json: bool, storage: tuple[str, ...]) -> None:
    """List what a rechunk that was stopped has left at TARGET, or delete it."""
    from xchunk.functions import clean as delete_ours

    done = delete_ours(target, dry_run=not delete, storage_options=pairs(storage))
    show(done.to_dict() if as_json else str(done))


@xchunk.command(epilog=examples("xchunk demo", "xchunk demo --keep demo --report demo.html"))
@click.option("--keep", metavar="DIR", help="Keep the demo's files in DIR.")
@click.option("--report", metavar="FILE", help="Write what was shown as an HTML page too.")
@debug
def demo(keep: str | None, report: str | None) -> None:
    """Tell the whole story on made data, in under a minute."""
    from xchunk.demo import tell

    tell(keep=keep, report=report)


xchunk.add_command(check)
xchunk.add_command(probe)
