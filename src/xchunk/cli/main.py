"""The command line: what a user types in, delegated to the Python API, and shown.

What a user may get wrong ends in one line on stderr and an exit code of its family, which
the error carries (`xchunk.errors`): 2 for the command line itself, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from xchunk.cli.cluster import cluster_options, on_cluster
from xchunk.cli.options import (
    common,
    completion,
    config,
    debug,
    defaults_of,
    details,
    encoding,
    examples,
    finished_of,
    memory_options,
    more_use,
    named_for_zarr,
    open_given,
    options,
    place,
    plan_given,
    request_of,
    source,
    storage_option,
    target,
    target_storage,
    target_storage_option,
    use,
)
from xchunk.cli.output import Command, EventProgress, Output, Stopped, progress_of, steps_of
from xchunk.cli.values import access_of, pairs, pattern_of, sizes_of
from xchunk.core import __version__
from xchunk.core.types import ProgressLike
from xchunk.errors import LayoutChangeWarning, TargetExistsError, XchunkError, XchunkWarning

if TYPE_CHECKING:
    from xchunk.batching.run import JobResult
    from xchunk.core.plan.stages import RechunkPlan

#: The exit code of a check that found what it was told to fail on.
FOUND = 11


@click.command(
    cls=Command,
    epilog=examples(
        "xchunk check era5.zarr --memory 4GiB",
        "xchunk check s3://bucket/era5.zarr --fail-on warning --json",
        "xchunk check 'raw/*.nc' --quiet || echo 'rechunk it first'",
    ),
    short_help="Check how SRC is stored, with remedies.",
)
@options(source, memory_options, cluster_options)
@click.option(
    "--fail-on",
    type=click.Choice(["note", "warning", "error", "never"]),
    default="error",
    show_default=True,
    help=f"Exit with {FOUND} if there is anything as bad as this, for CI.",
)
@common
@click.pass_obj
def check(out: Output, /, fail_on: str, **given: Any) -> int:
    """Check how SRC is stored: chunks, shards, coordinates; with remedies as code."""
    sizes = sizes_of(given["memory"], given["max_mem"])
    with on_cluster(out, given):
        # without dask: blocks that this command has made are no news
        opened = open_given(out, given, chunks=None, blocks="fitting", sizes=sizes)
        report = opened.chunking.check(**sizes)
    out.report("check", report)
    if fail_on == "never":
        return 0
    return FOUND if report.at_least("info" if fail_on == "note" else fail_on) else 0


@click.command(
    cls=Command,
    epilog=examples(
        "xchunk probe era5.nc",
        "xchunk probe era5.zarr --variable t2m",
        "xchunk probe s3://bucket/era5.zarr --max-bytes 64MB --json",
    ),
    short_help="Measure SRC in a second: store, codec or lock.",
)
@options(source)
@click.option("--variable", metavar="NAME", help="What is read; the largest by default.")
@click.option(
    "--max-bytes", metavar="SIZE", default="256MB", show_default=True, help="What may be read."
)
@common
@click.pass_obj
def probe(out: Output, /, variable: str | None, max_bytes: str, **given: Any) -> None:
    """Measure SRC in a second, and tell whether it is the store, the codec or a lock."""
    from xchunk.core.units import parse_bytes

    most = parse_bytes(max_bytes, "--max-bytes")
    rates = open_given(out, given, chunks=None).chunking.probe(variable, max_bytes=most)
    out.report("probe", rates)


#: The exit code of a batch of which some jobs failed, and of one that was interrupted.
FAILED, INTERRUPTED = 12, 130
#: How the names of reports end.
_REPORTS = (".html", ".json", ".md", ".txt")


@click.command(
    cls=Command,
    epilog=examples(
        "xchunk batch jobs.toml --dry-run",
        "xchunk batch jobs.toml --workers 4 --memory-limit 4GiB",
        "xchunk batch jobs.toml --only surface --report surface.html",
        "xchunk batch jobs.toml --shard 3/10",
    ),
    short_help="Rechunk all that a job file names.",
)
@click.argument("jobs", type=place)
@click.option("--dry-run", is_flag=True, help="Plan every job; write nothing.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Run only jobs of this name, or pattern of names. May be repeated.",
)
@click.option(
    "--keep-going/--stop",
    default=True,
    show_default=True,
    help="Whether the rest is run after a job that failed.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Whether finished jobs are skipped and unfinished ones resumed; or all is done again.",
)
@click.option("--shard", metavar="K/N", help="Run the K-th of N parts of the jobs.")
@click.option("--state", type=place, help="Folder of state and logs; beside JOBS by default.")
@click.option(
    "--report",
    multiple=True,
    type=place,
    help="Write the report to a .html, .json, .md or .txt file. May be repeated.",
)
@options(cluster_options, common)
@click.pass_obj
def batch(out: Output, /, jobs: str, report: tuple[str, ...], **given: Any) -> int:
    """Rechunk all that the job file JOBS names, unattended.

    JOBS is TOML: a table of defaults, and a list of jobs with source, target, and chunks or
    access. It is safe to start it again: what is finished is skipped, and what is not goes on.
    """
    from xchunk.batching.run import start_batch

    for file in report:
        _check(file)
    with on_cluster(out, given):
        done = start_batch(jobs, watcher=_Told(out), **given)
    for file in report:
        done.save(file)
    out.result("batch", done.to_dict, lambda: repr(done))
    if out.quiet and not out.log_json:
        for result in done.failed:
            out.complain(f"error: {result.name}: {result.message}")
    if any(result.status == "interrupted" for result in done):
        return INTERRUPTED
    return FAILED if done.failed or done.interrupted else 0


def _check(file: str) -> None:
    """Refuse a report that could not be written, before hours of work."""
    path = Path(file)
    if path.suffix.lower() not in _REPORTS:
        raise click.UsageError(f"--report {file}: give a {', '.join(_REPORTS)} file")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise click.UsageError(f"--report {file}: cannot be written; is there such a folder?")


class _Told:
    """Who is told how far a batch is: lines or JSON events on stderr, or nothing."""

    def __init__(self, out: Output):
        from xchunk.display.progress import Lines

        self._out = out
        self._lines = Lines(enabled=not (out.quiet or out.log_json))

    def begin(self, number: int, total: int, name: str, why: str) -> None:
        self._lines.begin(number, total, name, why)
        self._out.event("job", number=number, total=total, name=name, status="running", message=why)

    def end(self, number: int, total: int, result: JobResult) -> None:
        self._lines.end(number, total, result)
        self._out.event("job", number=number, total=total, **result.to_dict())

    def progress(self, name: str) -> ProgressLike:
        return EventProgress(self._out) if self._out.log_json else self._lines.progress(name)


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

    - ``args``: the arguments, without the program's name.
    - returns: the exit code.
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
            "; what is written is kept. The same command resumes, and "
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


#: What people type for commands that are called otherwise.
_MEANT = {
    "append": "rechunk SRC DST --append-dim DIM",
    "region": "rechunk SRC DST --region DIM=START:STOP",
    "write-region": "rechunk SRC DST --region DIM=START:STOP",
    "apply": "rechunk",
    "convert": "rechunk",
    "compare": "verify",
    "info": "inspect",
    "show": "inspect",
}


class _Group(click.Group):
    """The group of all commands, each of which tells when it begins and ends."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; say which one is meant by a name that others use for it."""
        if args[0] in _MEANT:
            ctx.fail(f"No such command {args[0]!r}. Did you mean 'xchunk {_MEANT[args[0]]}'?")
        return super().resolve_command(ctx, args)


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
@click.pass_context
def xchunk(ctx: click.Context) -> None:
    """Automatic rechunking for xarray.

    How is it stored, which chunks fit the way it will be used, and a rechunked zarr store
    within a memory budget. SRC is a netCDF, HDF5 or zarr dataset: a path or any fsspec URL.
    Several, a glob in quotes, or a folder of netCDF files are joined.

    Defaults are read from XCHUNK_* variables and the nearest xchunk.toml or pyproject.toml; see
    xchunk config.
    """
    if isinstance(ctx.command, click.Group):
        ctx.default_map = defaults_of(ctx.command.commands)


@xchunk.command(
    epilog=examples(
        "xchunk inspect era5.nc",
        "xchunk inspect 'raw/sfc_*.nc'",
        "xchunk inspect s3://bucket/era5.zarr --storage-option anon=true --json",
    ),
    short_help="Show how every variable is stored.",
)
@options(source)
@click.option("--files", is_flag=True, help="Show what each of several files holds.")
@common
@click.pass_obj
def inspect(out: Output, /, files: bool, **given: Any) -> None:
    """Show how every variable of SRC is stored: chunks, codecs, bytes on disk, missing chunks.

    Several files are shown as one, with what differs between them.
    """
    # without dask, which takes as long to load as xarray
    report = open_given(out, given, chunks=None).chunking.layout(count=True)
    typed = given["src"]
    of = typed[0] if len(typed) == 1 else f"{typed[0]} … {typed[-1]} ({len(typed)} files)"
    out.report("inspect", report, of=of, dask=False, files=files)


@xchunk.command(
    epilog=examples(
        "xchunk suggest era5.nc --access timeseries --memory 4GiB",
        "xchunk suggest era5.nc --access timeseries:0.7 --access map:0.3",
        "xchunk suggest era5.nc --whole latitude,longitude --max-mem 500MB",
        "xchunk suggest era5.nc --groupby time.month --scheduler tcp://head:8786",
    ),
    short_help="Say which chunks fit a use and a worker, and why.",
)
@options(source, use, more_use, memory_options, cluster_options)
@click.option("--why", is_flag=True, help="Say all that is known of each variable, with reasons.")
@common
@click.pass_obj
def suggest(out: Output, /, why: bool, **given: Any) -> None:
    """Say which chunks of SRC fit a use and a worker.

    The command that follows the advice stands at the end, ready to copy.
    """
    typed = dict(given)
    asked, pattern = access_of(given["access"], given["whole"]), pattern_of(given)
    if asked is None and not pattern.keys() - {"passes", "growing"}:
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

    steps = steps_of(suggestion, typed, out.secrets.mask)
    out.report("suggest", suggestion, document, details=why, steps=steps)


@xchunk.command(
    epilog=examples(
        "xchunk plan era5.nc out.zarr --chunks time=-1,lat=20,lon=20 --max-mem 1GB",
        "xchunk plan era5.nc out.zarr --access timeseries --workers 4 --memory 4GiB",
        "xchunk plan in.zarr s3://bucket/out.zarr --access map --json",
    ),
    short_help="Show what a rechunk would do; nothing is written.",
)
@options(source, target, use, memory_options, cluster_options, details, common)
@click.pass_obj
def plan(out: Output, /, details: bool, **given: Any) -> None:
    """Show what rechunking SRC to DST would do; nothing is written."""
    request = request_of(out, given)
    with on_cluster(out, given):
        ds = _opened(out, given, request)
        try:
            planned = plan_given(ds, given, request).plan
        except TargetExistsError:
            found = finished_of(ds, given, request)
            if found is None:
                raise
            _say_finished(out, ds, given, request, found, schema="plan")
            return
    out.report("plan", planned, details=details)


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
@options(details, common)
@click.pass_obj
def rechunk(out: Output, /, dry_run: bool, verify: bool, details: bool, **given: Any) -> None:
    """Write SRC to a zarr store DST with other chunks, within a memory budget.

    A run that was stopped goes on with the same command.
    """
    from xchunk.core.units import format_bytes, format_seconds

    given["dst"] = named_for_zarr(out, given["dst"])
    request = request_of(out, given)
    with on_cluster(out, given):
        ds = _opened(out, given, request)
        try:
            job = plan_given(ds, given, request)
        except TargetExistsError:
            found = finished_of(ds, given, request)
            if found is None:
                raise
            schema, verify = ("plan", False) if dry_run else ("rechunk", verify)
            _say_finished(out, ds, given, request, found, schema=schema, verify=verify)
            return
        planned = job.plan
        if dry_run:
            out.report("plan", planned, details=details)
            return
        if not out.as_json:
            out.report("plan", planned, details=details)
        if not (out.quiet or out.as_json or out.log_json):
            # the plan's notes have just said it
            warnings.simplefilter("ignore", LayoutChangeWarning)
        out.event("plan", **_plan_facts(planned))
        start = time.perf_counter()
        job.run(verify=verify, progress=progress_of(out))
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


def _say_finished(
    out: Output,
    ds: Any,
    given: dict[str, Any],
    request: dict[str, Any],
    found: RechunkPlan,
    *,
    schema: str,
    verify: bool = False,
) -> None:
    """Say that an earlier run of the same command has made the target; compare it if asked."""
    said = f"{found.target}: already complete"
    if verify:
        how = {k: request[k] for k in ("memory", "max_mem", "storage_options") if k in request}
        ds.chunking.verify(given["dst"], progress=progress_of(out), **how)
        what = "the source, so encoded," if given["encoding"] else "the source"
        said += f"; read back, and identical to {what} bit by bit"
    else:
        said += (
            ". Its metadata are those that this would write; the values were not compared: "
            "--verify does that"
        )
    done: dict[str, Any] = {"complete": True}
    if schema == "rechunk":
        done = {
            "predicted_seconds": found.seconds,
            "seconds": 0.0,
            "verified": True if verify else None,
        }
    out.result(schema, lambda: {**found.to_dict(), **done}, lambda: said)


def _opened(out: Output, given: dict[str, Any], request: dict[str, Any]) -> Any:
    """Open the source; files that are joined in the blocks that fit the budget."""
    sizes = {k: request[k] for k in ("memory", "max_mem") if k in request}
    return open_given(out, given, blocks="fitting", sizes=sizes)


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
@click.option("--delete", is_flag=True, help="Delete what is listed; it is not done otherwise.")
@click.option(
    "--mixed",
    is_flag=True,
    help="Delete the mark of a half-written region too; TARGET keeps old and new values.",
)
@options(storage_option, common)
@click.pass_obj
def clean(out: Output, /, target: str, delete: bool, mixed: bool, storage: tuple[str, ...]) -> None:
    """List what a rechunk that was stopped has left at TARGET, or delete it.

    Only objects that xchunk wrote are counted and deleted: chunks and metadata of an unfinished
    target, and scratch data. A complete store and files of others stay.
    """
    from xchunk.display.document import Block, Code, Paragraph
    from xchunk.rechunking.clean import clean as delete_ours

    options = pairs(storage)
    out.secrets.learn(options)
    done = delete_ours(target, dry_run=not delete, mixed=mixed, storage_options=options)
    steps: list[Block] = []
    if not delete and (done.keys or done.repaired):
        steps = [
            Paragraph(
                "The command that began it finishes it, and nothing else does. To delete the mark "
                "that tells of it, and leave old and new values side by side:"
                if done.mixed
                else "The command that began it resumes it. To delete these objects instead, and "
                "nothing else:"
            ),
            Code(f"xchunk clean {shlex.quote(target)} --delete{' --mixed' * done.mixed}"),
        ]
    out.report("clean", done, steps=steps)


@xchunk.command(
    epilog=examples("xchunk demo", "xchunk demo --keep demo --report demo.html"),
    short_help="Tell the whole story on synthetic data.",
)
@click.option("--keep", metavar="DIR", type=place, help="Keep the demo's files in DIR.")
@click.option(
    "--report", metavar="FILE", type=place, help="Write what was shown as an HTML page too."
)
@common
@click.pass_obj
def demo(out: Output, /, keep: str | None, report: str | None) -> None:
    """Report the whole story on synthetic data, in under a minute."""
    from xchunk.cli.demo import tell

    told = tell(keep=keep, report=report, echo=out.say, progress=not (out.quiet or out.log_json))
    out.document("demo", told)


xchunk.add_command(batch)
xchunk.add_command(check)
xchunk.add_command(probe)
xchunk.add_command(completion)
xchunk.add_command(config)
