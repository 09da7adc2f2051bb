"""The command line: what a user types in, delegated to the Python API, and shown.

What a user may get wrong ends in one line on stderr and an exit code of its family, which
the error carries (`xchunk.errors`): 2 for the command line itself, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from xchunk._version import __version__
from xchunk.cli_batch import batch
from xchunk.cli_cluster import cluster_options, on_cluster
from xchunk.cli_completion import completion
from xchunk.cli_diagnose import check, probe
from xchunk.cli_options import (
    common,
    debug,
    encoding,
    examples,
    memory_options,
    more_use,
    open_given,
    options,
    place,
    request_of,
    source,
    storage_option,
    target,
    target_storage,
    target_storage_option,
    use,
)
from xchunk.cli_output import Command, Output, Stopped
from xchunk.cli_progress import progress_of
from xchunk.cli_values import access_of, pairs, pattern_of, sizes_of
from xchunk.errors import LayoutChangeWarning, XchunkError, XchunkWarning

__all__ = ["main", "run", "xchunk"]

#: Exit codes of a command that a signal stopped: Ctrl-C, and what a queue sends.
_INTERRUPTED, _TERMINATED = 130, 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    code = run(sys.argv[1:])
    if code in (_INTERRUPTED, _TERMINATED):
        # Threads that are in the middle of a box are not waited for: a box that is cut off is
        # copied again by the next run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _terminate(*_: Any) -> NoReturn:
    raise _Terminated


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
    out = Output(args)

    def note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        known = issubclass(category, XchunkWarning)
        out.note(str(message), "note" if known else category.__name__)

    try:
        with warnings.catch_warnings():
            if not out.debug:
                warnings.simplefilter("ignore")
            warnings.simplefilter("always", XchunkWarning)
            warnings.showwarning = note
            result = xchunk.main(list(args), prog_name="xchunk", standalone_mode=False, obj=out)
            sys.stdout.flush()
    except click.ClickException as error:
        return _misused(out, error)
    except (click.Abort, Stopped, KeyboardInterrupt) as error:
        return _interrupted(out, error)
    except (BrokenPipeError, SystemExit):
        # Whoever read the output has gone (head, less): nothing more can be said to them.
        # SystemExit is what click makes of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except XchunkError as error:
        _trace(out)
        return out.failed(type(error).__name__, _told(error), error.exit_code, error)
    except Exception as error:  # noqa: BLE001  the last resort: a line rather than a traceback
        _trace(out)
        hint = "" if out.debug else " (run it again with --debug for the traceback)"
        return out.failed(type(error).__name__, f"{type(error).__name__}: {error}{hint}", 1)
    return result if isinstance(result, int) else 0


def _misused(out: Output, error: click.ClickException) -> int:
    """Say what was wrong with the command line."""
    if not (out.as_json or out.log_json):
        error.show()
        return error.exit_code
    kind = "UsageError" if isinstance(error, click.UsageError) else type(error).__name__
    ctx = getattr(error, "ctx", None)
    if ctx is not None and ctx.parent is not None:
        out.command = ctx.command.name or ""
    return out.failed(kind, error.format_message(), error.exit_code)


def _interrupted(out: Output, error: BaseException) -> int:
    """Say that a signal stopped the command, and how it goes on."""
    cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__
    by_signal = isinstance(cause, _Terminated)
    said = "stopped by SIGTERM" if by_signal else "interrupted"
    if isinstance(error, Stopped) and sys.stderr.isatty() and not out.log_json:
        sys.stderr.write("\n")  # the terminal shows ^C
    # the engine leaves a note where something is written already
    if getattr(cause, "__notes__", None):
        said += (
            "; what is written is kept. The same command goes on where it was, and "
            f"'xchunk clean {out.target} --delete' deletes it"
        )
    elif out.target is not None:
        said += "; nothing was written"
    return out.failed("Interrupted", said, _TERMINATED if by_signal else _INTERRUPTED)


def _told(error: XchunkError) -> str:
    """Return what an error says, with what was added to it on its way."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def _trace(out: Output) -> None:
    if out.debug:
        sys.stderr.write(out.secrets.mask(traceback.format_exc()))


# ---- commands -----------------------------------------------------------------------------


class _Group(click.Group):
    """The group of all commands, each of which tells when it begins and ends."""

    command_class = Command


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=examples(
        "xchunk inspect era5.nc",
        "xchunk suggest era5.nc --access timeseries --memory 4GiB",
        "xchunk rechunk era5.nc series.zarr --access timeseries --max-mem 1GB",
        "xchunk rechunk 'raw/sfc_*.nc' sfc.zarr --chunks time=-1,lat=10 --workers 4",
        "xchunk demo",
    ),
)
@click.version_option(__version__, prog_name="xchunk")
@debug
def xchunk() -> None:
    """Automatic rechunking for xarray.

    How is it stored, which chunks fit the way it will be used, and a rechunked zarr store
    inside a memory budget. SRC is a netCDF, HDF5 or zarr dataset: a path or any fsspec URL.
    Several, a glob in quotes, or a folder of netCDF files are joined.
    """


@xchunk.command(
    epilog=examples(
        "xchunk inspect era5.nc",
        "xchunk inspect 'raw/sfc_*.nc'",
        "xchunk inspect s3://bucket/era5.zarr --storage-option anon=true --json",
    ),
    short_help="Show how every variable is stored.",
)
@options(source, common)
@click.pass_obj
def inspect(out: Output, /, **given: Any) -> None:
    """Show how every variable of SRC is stored."""
    from xchunk.formatting import text

    report = open_given(out, given).chunking.layout()
    out.result("inspect", report.to_dict, lambda: text.layout_report(report))


@xchunk.command(
    epilog=examples(
        "xchunk suggest era5.nc --access timeseries --memory 4GiB",
        "xchunk suggest era5.nc --access timeseries:0.7 --access map:0.3",
        "xchunk suggest era5.nc --whole latitude,longitude --max-mem 500MB",
        "xchunk suggest era5.nc --groupby time.month --scheduler tcp://head:8786",
    ),
    short_help="Say which chunks fit a use and a worker, and why.",
)
@options(source, use, more_use, memory_options, cluster_options, common)
@click.pass_obj
def suggest(out: Output, /, **given: Any) -> None:
    """Say which chunks of SRC fit a use and a worker, and why."""
    from xchunk.formatting import text

    asked, pattern = access_of(given["access"], given["whole"]), pattern_of(given)
    if asked is None and not pattern.keys() - {"passes"}:
        raise click.UsageError(
            "say how the data will be used: --access NAME, --whole DIM, --reduce DIM, "
            "--rolling DIM=N, --groupby WHAT or --resample DIM=FREQ"
        )
    sizes = sizes_of(given["memory"], given["max_mem"])
    with on_cluster(out, given):
        suggestion = open_given(out, given).chunking.suggest(access=asked, **pattern, **sizes)

    def document() -> dict[str, Any]:
        # what a workload brings, which is a Python function
        found: dict[str, Any] = suggestion.to_dict()
        return {k: v for k, v in found.items() if k not in ("prediction", "outcomes")}

    out.result("suggest", document, lambda: text.suggestion(suggestion))


@xchunk.command(
    epilog=examples(
        "xchunk plan era5.nc out.zarr --chunks time=-1,lat=20,lon=20 --max-mem 1GB",
        "xchunk plan era5.nc out.zarr --access timeseries --workers 4 --memory 4GiB",
        "xchunk plan in.zarr s3://bucket/out.zarr --access map --json",
    ),
    short_help="Show what a rechunk would do; nothing is written.",
)
@options(source, target, use, memory_options, cluster_options, common)
@click.pass_obj
def plan(out: Output, /, **given: Any) -> None:
    """Show what rechunking SRC to DST would do; nothing is written."""
    request = request_of(out, given)
    with on_cluster(out, given):
        planned = _opened(out, given, request).chunking.plan(**request)
    _show_plan(out, planned)


@xchunk.command(
    epilog=examples(
        "xchunk rechunk era5.nc series.zarr --access timeseries --memory 4GiB",
        "xchunk rechunk era5.nc out.zarr --chunks time=-1,lat=20 --max-mem 1GB",
        "xchunk rechunk in.nc out.zarr --chunks t2m:time=-1 --chunks tp:time=9",
        "xchunk rechunk in.nc out.zarr --chunks time=-1 --encoding compressor=zstd \\",
        "    --encoding t2m:dtype=int16,scale_factor=0.01,_FillValue=-32768",
        "xchunk rechunk 'raw/*.nc' s3://bucket/out.zarr --access timeseries \\",
        "    --workers 4 --threads-per-worker 1 --memory-limit 4GiB --verify",
    ),
    short_help="Write SRC to a zarr store with other chunks.",
)
@options(source, target, use, memory_options, cluster_options)
@click.option("--dry-run", is_flag=True, help="Show the plan; write nothing.")
@click.option("--verify", is_flag=True, help="Compare DST with SRC bit by bit afterwards.")
@common
@click.pass_obj
def rechunk(out: Output, /, dry_run: bool, verify: bool, **given: Any) -> None:
    """Write SRC to a zarr store DST with other chunks, inside a memory budget.

    A run that was stopped goes on with the same command.
    """
    from xchunk.core.units import format_bytes, format_seconds

    request = request_of(out, given)
    with on_cluster(out, given):
        ds = _opened(out, given, request)
        planned = ds.chunking.plan(**request)
        if dry_run:
            _show_plan(out, planned)
            return
        out.say(lambda: _plan_text(planned))
        if not (out.quiet or out.as_json or out.log_json):
            # the plan's notes have just said it
            warnings.simplefilter("ignore", LayoutChangeWarning)
        out.event("plan", **_plan_facts(planned))
        start = time.perf_counter()
        ds.chunking.apply(verify=verify, progress=progress_of(out), **request)
        seconds = time.perf_counter() - start
    said = f"\n{planned.target}: {format_bytes(planned.nbytes)} in {format_seconds(seconds)}"
    if verify:
        what = "the source, so encoded," if given["encoding"] else "the source"
        said += f"; read back, and identical to {what} bit by bit"
    done = {
        "predicted_seconds": planned.seconds,
        "seconds": seconds,
        "verified": True if verify else None,
    }
    out.result("rechunk", lambda: {**planned.to_dict(), **done}, lambda: said)


def _opened(out: Output, given: dict[str, Any], request: dict[str, Any]) -> Any:
    """Open the source; files that are joined in the blocks that fit the budget."""
    sizes = {k: request[k] for k in ("memory", "max_mem") if k in request}
    return open_given(out, given, blocks="fitting", sizes=sizes)


def _show_plan(out: Output, planned: Any) -> None:
    out.result("plan", planned.to_dict, lambda: _plan_text(planned))


def _plan_text(planned: Any) -> str:
    from xchunk.formatting import text

    return text.rechunk_plan(planned)


def _plan_facts(planned: Any) -> dict[str, Any]:
    return {
        "nbytes": planned.nbytes,
        "variables": len(planned.arrays),
        "boxes": sum(s.boxes.count for a in planned.arrays for s in a.stages),
        "max_mem": planned.budget.max_mem,
        "workers": planned.budget.workers,
        "threads": planned.budget.threads,
        "seconds": sum(a.seconds for a in planned.arrays),
    }


@xchunk.command(
    epilog=examples(
        "xchunk verify era5.nc series.zarr",
        "xchunk verify in.zarr out.zarr --json",
        "xchunk verify 'raw/*.nc' s3://bucket/out.zarr --workers 4 --memory 4GiB",
    ),
    short_help="Compare a zarr store with SRC, bit by bit.",
)
@options(
    source,
    click.argument("dst", type=place),
    target_storage_option,
    encoding,
    memory_options,
    cluster_options,
    common,
)
@click.pass_obj
def verify(out: Output, /, **given: Any) -> None:
    """Compare a zarr store DST with SRC: stored bits and metadata."""
    sizes = sizes_of(given["memory"], given["max_mem"])
    options = target_storage(out, given)
    with on_cluster(out, given):
        proof = open_given(out, given, blocks="fitting", sizes=sizes).chunking.verify(
            given["dst"], storage_options=options, progress=progress_of(out), **sizes
        )
    out.result("verify", proof.to_dict, lambda: str(proof))


@xchunk.command(
    epilog=examples("xchunk clean series.zarr", "xchunk clean series.zarr --delete"),
    short_help="List or delete what a stopped rechunk has left.",
)
@click.argument("target", type=place)
@click.option("--delete", is_flag=True, help="Delete it; otherwise it is only listed.")
@options(storage_option, common)
@click.pass_obj
def clean(out: Output, /, target: str, delete: bool, storage: tuple[str, ...]) -> None:
    """List what a rechunk that was stopped has left at TARGET, or delete it."""
    from xchunk.functions import clean as delete_ours

    options = pairs(storage)
    out.secrets.learn(options)
    done = delete_ours(target, dry_run=not delete, storage_options=options)
    out.result("clean", done.to_dict, lambda: str(done))


@xchunk.command(
    epilog=examples("xchunk demo", "xchunk demo --keep demo --report demo.html"),
    short_help="Tell the whole story on made data.",
)
@click.option("--keep", metavar="DIR", type=place, help="Keep the demo's files in DIR.")
@click.option(
    "--report", metavar="FILE", type=place, help="Write what was shown as an HTML page too."
)
@common
@click.pass_obj
def demo(out: Output, /, keep: str | None, report: str | None) -> None:
    """Tell the whole story on made data, in under a minute."""
    from xchunk.demo import tell

    told = tell(keep=keep, report=report, echo=out.say, progress=not (out.quiet or out.log_json))
    out.document("demo", told)


xchunk.add_command(batch)
xchunk.add_command(check)
xchunk.add_command(probe)
xchunk.add_command(completion)
