"""What a command says: text or one JSON document on stdout, lines or JSON events on stderr.

All of it passes here, so that one place leaves credentials out, keeps ``--quiet`` and knows the
names and versions of the JSON schemas, which docs/reference/json.md describes.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from xchunk._version import __version__
from xchunk.cli_secrets import Secrets
from xchunk.errors import MemoryBudgetError

__all__ = ["SCHEMAS", "Command", "Output", "Stopped", "jsonable"]

#: The version of each JSON document. It goes up when a key changes its meaning or its type, or
#: goes away; new keys may come without.
SCHEMAS = {
    "batch": 1,
    "check": 1,
    "clean": 1,
    "demo": 1,
    "error": 1,
    "inspect": 1,
    "log": 1,
    "plan": 1,
    "probe": 1,
    "rechunk": 1,
    "suggest": 1,
    "verify": 1,
}

_OTHER = "Options"
#: The headings of a command's help, and the parameters below each; the rest is `_OTHER`.
_SECTIONS: dict[str, frozenset[str]] = {
    "Source": frozenset({"group", "engine", "concat_dim", "storage"}),
    "Use": frozenset(
        {"access", "whole", "passes", "reduce", "rolling", "groupby", "resample"}
    ),
    "Target": frozenset(
        {
            "append_dim", "chunks", "message", "no_resume", "overwrite", "region",
            "rechunk_engine", "scratch", "shards", "target_storage", "unpack", "zarr_format",
        }
    ),
    _OTHER: frozenset(),
    "Memory": frozenset({"memory", "max_mem"}),
    "Cluster": frozenset({"scheduler", "workers", "memory_limit", "threads_per_worker"}),
    "Output": frozenset({"as_json", "quiet", "log_json", "debug", "help"}),
}  # fmt: skip
#: Columns of the options in a command's help.
_COLUMN = 28


class Output:
    """Where the words of one command go.

    Parameters
    ----------
    args : sequence of str
        The arguments of the command line: errors of usage come before options are parsed.
    """

    def __init__(self, args: Sequence[str] = ()) -> None:
        given = set(args[: args.index("--")] if "--" in args else args)
        self.as_json = "--json" in given
        """Whether stdout gets one JSON document and nothing else."""
        self.quiet = bool({"-q", "--quiet"} & given)
        """Whether nothing but errors is said."""
        self.log_json = "--log-json" in given
        """Whether stderr gets one JSON object a line."""
        self.debug = "--debug" in given
        """Whether tracebacks are shown."""
        self.command = ""
        """The command that runs."""
        self.target: str | None = None
        """What it writes, as it was typed."""
        self.secrets = Secrets()
        """The credentials that it was given."""
        self._warnings: list[str] = []
        self._has_document = False
        self._lock = threading.Lock()
        self._began = time.perf_counter()

    # ---- stdout ---------------------------------------------------------------------------

    def result(
        self, schema: str, document: Callable[[], Mapping[str, Any]], text: Callable[[], str]
    ) -> None:
        """Say what came out: as a document of a schema, or as text.

        Parameters
        ----------
        schema : str
            Name of the schema, of `SCHEMAS`.
        document, text : callable
            Make the one or the other.
        """
        if self.as_json:
            self.document(schema, document())
        else:
            self.say(text)

    def say(self, text: Callable[[], str] | str) -> None:
        """Print text for people."""
        if not (self.quiet or self.as_json):
            click.echo(self.secrets.mask(text if isinstance(text, str) else text()))

    def document(self, schema: str, content: Mapping[str, Any]) -> None:
        """Print the document of a schema, where JSON is asked for."""
        if not self.as_json:
            return
        head = {
            "schema": f"xchunk.{schema}",
            "schema_version": SCHEMAS[schema],
            "xchunk": __version__,
            "warnings": list(self._warnings),
        }
        found = jsonable({**head, **content}, self.secrets.mask)
        click.echo(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False))
        self._has_document = True

    # ---- stderr ---------------------------------------------------------------------------

    def note(self, message: str, kind: str = "note") -> None:
        """Say something that is worth to know, and no error."""
        message = _one_line(self.secrets.mask(message))
        self._warnings.append(message)
        if self.log_json:
            self.event("warning", kind=kind, message=message)
        elif not self.quiet:
            self.complain(f"{kind}: {message}")

    def complain(self, message: str) -> None:
        """Print a line on stderr; in a terminal it is folded."""
        said = f"xchunk: {self.secrets.mask(message)}"
        if sys.stderr.isatty():
            from xchunk.formatting.describe import folded

            said = folded(said)
        with self._lock:
            click.echo(said, err=True)

    def event(self, name: str, /, **facts: Any) -> None:
        """Write an event of ``--log-json``; nothing without it."""
        if not self.log_json:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"schema": "xchunk.log", "schema_version": SCHEMAS["log"], "time": now}
        found = {**head, "event": name, "command": self.command, **facts}
        line = json.dumps(jsonable(found, self.secrets.mask), ensure_ascii=False, allow_nan=False)
        with self._lock:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    # ---- the run of a command -------------------------------------------------------------

    def begin(self, command: str, source: Sequence[str] = (), target: str | None = None) -> None:
        """Take note that a command begins."""
        self.command = command
        self.target = target
        self._began = time.perf_counter()
        self.event(
            "start",
            source=list(source),
            target=target,
            xchunk=__version__,
            pid=os.getpid(),
            host=socket.gethostname(),
        )

    def end(self, exit_code: int) -> None:
        """Take note that a command has done what it was to do."""
        self.event("done", exit_code=exit_code, seconds=time.perf_counter() - self._began)

    def failed(
        self, kind: str, message: str, exit_code: int, error: BaseException | None = None
    ) -> int:
        """Say why a command failed, in words and as JSON where that is asked for.

        Parameters
        ----------
        kind : str
            Class of the error.
        message : str
            What it says.
        exit_code : int
            What the command line ends with.
        error : exception, optional
            The error itself, of which more may be told.

        Returns
        -------
        int
            The exit code.
        """
        facts: dict[str, Any] = {"type": kind, "message": message, "exit_code": exit_code}
        if isinstance(error, MemoryBudgetError):
            facts |= {
                "needed": error.needed,
                "allowed": error.allowed,
                "smallest": error.smallest,
            }
        if self.log_json:
            self.event("error", **facts, seconds=time.perf_counter() - self._began)
        else:
            said = message if kind == "VerificationError" else _one_line(message)
            self.complain(said if kind == "Interrupted" else f"error: {said}")
        if not self._has_document:
            self.document("error", {"command": self.command, "error": facts})
        return exit_code


class Stopped(Exception):  # noqa: N818 - it is no fault
    """A command was stopped by a signal; its cause tells by which."""


class Command(click.Command):
    """A command that tells its `Output` when it begins and ends."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options by what they are about."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in _SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                name = "help" if "--help" in param.opts else param.name
                own = (heading for heading, names in _SECTIONS.items() if name in names)
                sections[next(own, _OTHER)].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records, col_max=_COLUMN)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        out = ctx.find_object(Output)
        if out is None:
            return super().invoke(ctx)
        src = ctx.params.get("src") or ()
        target = ctx.params.get("dst") or ctx.params.get("target")
        out.begin(self.name or "", [src] if isinstance(src, str) else src, target)
        try:
            code = super().invoke(ctx)
        except KeyboardInterrupt as error:
            # click would write an empty line to stderr, which may be a log
            raise Stopped from error
        out.end(code if isinstance(code, int) else 0)
        return code


def jsonable(value: Any, mask: Callable[[str], str] = str) -> Any:
    """Turn a value into JSON types: numbers that JSON has not become null.

    Parameters
    ----------
    value : object
        Mappings, sequences, numbers, strings and what has an ``item`` method, such as numpy's.
    mask : callable
        Applied to each string.
    """
    if isinstance(value, Mapping):
        return {mask(str(k)): jsonable(v, mask) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v, mask) for v in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return mask(value)
    item = getattr(value, "item", None)
    return jsonable(item(), mask) if callable(item) else mask(str(value))


def _one_line(message: str) -> str:
    return " ".join(message.split())
