"""The commands that look at what is there: ``xchunk check`` and ``xchunk probe``."""

from __future__ import annotations

from typing import Any

import click

from xchunk.cli_cluster import cluster_options, on_cluster
from xchunk.cli_options import (
    common,
    examples,
    memory_options,
    open_given,
    options,
    source,
)
from xchunk.cli_output import Command, Output
from xchunk.cli_values import sizes_of

__all__ = ["FOUND", "check", "probe"]

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
    from xchunk.formatting import text

    sizes = sizes_of(given["memory"], given["max_mem"])
    with on_cluster(out, given):
        # without dask: blocks that this command has made are no news
        report = open_given(out, given, chunks=None).chunking.check(**sizes)
    out.result("check", report.to_dict, lambda: text.check_report(report))
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
    from xchunk.formatting import text

    most = parse_bytes(max_bytes, "--max-bytes")
    rates = open_given(out, given, first=True).chunking.probe(variable, max_bytes=most)
    out.result("probe", rates.to_dict, lambda: text.measured_rates(rates))
