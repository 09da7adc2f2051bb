"""The commands that look at what is there: ``xchunk check`` and ``xchunk probe``."""

from __future__ import annotations

from typing import Any

import click

from xchunk.cli_options import (
    debug,
    examples,
    json_flag,
    memory_options,
    open_named,
    options,
    show,
    sizes_of,
    source,
)

__all__ = ["FOUND", "check", "probe"]

#: The exit code of a check that found what it was told to fail on.
FOUND = 11


@click.command(
    epilog=examples(
        "xchunk check era5.zarr --memory 4GiB",
        "xchunk check s3://bucket/era5.zarr --fail-on warning --json",
    )
)
@options(source, memory_options)
@click.option(
    "--fail-on",
    type=click.Choice(["note", "warning", "error", "never"]),
    default="error",
    show_default=True,
    help=f"Exit with {FOUND} if there is anything as bad as this, for CI.",
)
@options(json_flag, debug)
def check(
    fail_on: str, memory: str | None, max_mem: str | None, as_json: bool, **source: Any
) -> int:
    """Check how SRC is stored: chunks, shards, coordinates; with remedies as code."""
    from xchunk.formatting import text

    sizes = sizes_of(memory, max_mem)
    # without dask: blocks that this command has made are no news
    report = open_named(**source, chunks=None).chunking.check(**sizes)
    show(report.to_dict() if as_json else text.check_report(report))
    if fail_on == "never":
        return 0
    return FOUND if report.at_least("info" if fail_on == "note" else fail_on) else 0


@click.command(epilog=examples("xchunk probe era5.nc", "xchunk probe era5.zarr --variable t2m"))
@options(source)
@click.option("--variable", metavar="NAME", help="What is read; the largest by default.")
@click.option(
    "--max-bytes", metavar="SIZE", default="256MB", show_default=True, help="What may be read."
)
@options(json_flag, debug)
def probe(variable: str | None, max_bytes: str, as_json: bool, **source: Any) -> None:
    """Measure SRC in a second, and tell whether it is the store, the codec or a lock."""
    from xchunk.core.units import parse_bytes
    from xchunk.formatting import text

    most = parse_bytes(max_bytes, "--max-bytes")
    rates = open_named(**source).chunking.probe(variable, max_bytes=most)
    show(rates.to_dict() if as_json else text.measured_rates(rates))
