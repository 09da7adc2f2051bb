"""What a command says: text, one JSON document, lines or JSON events; and its progress.

All of it passes here, so that one place leaves credentials out, keeps ``--quiet`` and knows the
names and versions of the JSON schemas, which docs/reference/json.md describes.

Keywords of Python in messages and reports become flags, and commands are ready to be copied.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import click
from click.core import ParameterSource

from xchunk.cli.values import Secrets, access_of, pairs, pattern_of, settle
from xchunk.core import __version__
from xchunk.core.shown import Shown
from xchunk.core.types import ProgressLike
from xchunk.errors import MemoryBudgetError
from xchunk.rechunking.options import options_of

if TYPE_CHECKING:
    from xchunk.core.suggest.suggestion import Suggestion, VariableSuggestion
    from xchunk.display.document import Block

#: Columns of a command; longer ones are continued on the next line.
_WIDTH = 72
#: Keywords of Python that are options here too, besides those of a rechunk.
_FLAGS = {
    "access": "--access",
    "concat_dim": "--concat-dim",
    "drop_variables": "--open drop_variables=",
    "group": "--group",
    "groupby": "--groupby",
    "passes": "--passes",
    "region": "--region",
    "reduce": "--reduce",
    "resample": "--resample",
    "rolling": "--rolling",
    "threads_per_worker": "--threads-per-worker",
    "growing": "--growing",
    **{name: about.flag for name, about in options_of() if about.flag},
}
#: What both call by name: ``overwrite=True (--overwrite)``, ``ds.chunking.verify (xchunk verify)``.
_BOTH = re.compile(r"[\w.]+(?:=\w+)? \((--[a-z-]+|xchunk [a-z]+)\)")
#: A keyword with a value, or without one.
_KEYWORD = re.compile(
    rf"(?<![\w.-])(?<!\w\()({'|'.join(map(re.escape, _FLAGS))})="
    r"(\{(?:[^{}]|\{[^{}]*\})*\}|\[[^\]]*\]|'[^']*'|[\d.,]*\d(?: ?[kMGTP]i?B\b)?|…|\w+)?"
)
#: Encodings that Python gives to a variable: ``ds['t2m'].encoding = {'dtype': 'int16'}``.
_ENCODING = re.compile(r"ds\['([^']+)'\]\.encoding = \{([^{}]*)\}")
#: A slice, alone or of a dim: ``{'time': slice(0, 24)}``.
_SLICE = re.compile(r"(?:\{'(\w+)': )?slice\(([^,()]+), ([^,()]+)(?:, None)?\)\}?")
#: The advice on uses that no preset stands for.
_USES = (
    "the dims of one request such as {'time': -1, 'lat': 1}, or a list of such uses with weights"
)
_OTHERS = {
    _USES: "or the dims that one request needs whole: --whole DIM",
    "ds.chunking.append() appends": "--append-dim DIM appends",
    "as workload=": "as workload= in Python",
    "with preprocess=…": "with preprocess=… in Python",
    "join='outer'": "join='outer' in Python",
    "print(suggestion.details())": "--why",
    ".to_dict()": "--json",
    "to_dict()": "--json",
}


def in_flags(said: str) -> str:
    """Say in the command line's options what a sentence says in Python's keywords.

    - ``said``: a sentence, such as ``give overwrite=True (--overwrite)``, ``give max_mem=5.52 MB``.
    """
    said = _SLICE.sub(lambda m: f"{m[1]}={m[2]}:{m[3]}" if m[1] else f"{m[2]}:{m[3]}", said)
    said = _KEYWORD.sub(_flag, _BOTH.sub(r"\1", said))
    said = _ENCODING.sub(_encoding, said)
    for python, here in _OTHERS.items():
        said = said.replace(python, here)
    return said


def _encoding(found: re.Match[str]) -> str:
    values = found.group(2).replace("': ", "=").replace("'", "").replace(" ", "")
    return f"--encoding {shlex.quote(f'{found.group(1)}:{values}')}"


def _flag(found: re.Match[str]) -> str:
    name, value = found.group(1), found.group(2) or ""
    if each := re.findall(r"'([^']+)': (\{[^{}]*\})", value):
        spelt = (shlex.quote(f"{variable}:{_pairs(spec)}") for variable, spec in each)
        return " ".join(f"{_FLAGS[name]} {one}" for one in spelt)
    if name == "access" and (whole := re.findall(r"'(\w+)': -1", value)):
        return f"--whole {','.join(whole)}"
    if value.startswith("{"):
        value = _pairs(value)
    elif value.startswith("["):
        value = ",".join(re.findall(r"[\w.-]+", value)) or "…"
    value = value.strip("'").replace(" ", "")
    if value in ("True", "False"):
        value = ""
    flag = _FLAGS[name]
    return f"{flag}{'' if flag.endswith('=') else ' '}{value}".rstrip()


def _pairs(spec: str) -> str:
    """Spell a mapping of dims as the command line takes it: ``time=-1,lat=8``."""
    pairs = re.findall(r"['\"]?(\w+)['\"]?\s*:\s*['\"]?([\w.-]+)", spec)
    return ",".join(f"{k.upper() if k == 'dim' else k}={v}" for k, v in pairs)


def steps_of(
    suggestion: Suggestion, given: Mapping[str, Any], mask: Callable[[str], str] = str
) -> list[Block]:
    """Return how to follow a suggestion: a command and the same in Python, ready to copy.

    - ``suggestion``: what was suggested.
    - ``given``: the options of the command that asked for it.
    - ``mask``: takes credentials out of a text, which has to be done before its lines are folded.
    """
    from xchunk.core.suggest.suggestion import more_memory, needs_format_3
    from xchunk.display.document import Code, Paragraph
    from xchunk.display.phrases import SMALL
    from xchunk.opening.dataset import patterned

    ctx = click.get_current_context()
    src = patterned(given["src"]) or [given["src"][0], "…", given["src"][-1]]
    large = [v for v in suggestion.variables.values() if v.layout.nbytes > SMALL]
    large = large or [v for v in suggestion.variables.values() if v.layout.ndim]
    grows = {d for p in suggestion.patterns for d in p.grows}
    chunks = _shared({v.name: _spec(v, v.target_chunks, grows) for v in large})
    shards = _shared(
        {v.name: _spec(v, v.target_shards, grows) for v in large if v.target_shards is not None}
    )
    command = _folded(
        mask,
        ["xchunk rechunk", *map(shlex.quote, src), _target_beside(src)],
        _typed(ctx, ("group", "engine", "concat_dim", "dims", "storage")),
        _option("--chunks", chunks),
        _option("--shards", shards),
        ["--zarr-format 3"] if needs_format_3(large) else [],
        _typed(ctx, ("memory", "max_mem", "scheduler", "workers", "memory_limit")),
        _typed(ctx, ("threads_per_worker",)),
    )
    python = _python(suggestion, given, src, (chunks, shards), mask)
    unlike = [v.layout for v in large if not v.layout.alike]
    decoded = [
        Paragraph(
            f"{', '.join(v.name for v in unlike)}: not all files are packed alike, so it writes "
            f"{' and '.join(sorted({str(v.dtype) for v in unlike}))}. xchunk plan says what keeps "
            "them packed."
        )
    ]
    about = [
        *(decoded if unlike else []),
        Paragraph("Reasons: --why. All numbers: --json.", dim=True),
    ]
    more = more_memory(suggestion)
    if suggestion.action == "stage":
        if more:
            return [Paragraph(more), *about]
        return [
            Paragraph("Next:"),
            Code(command),
            Paragraph("The same in Python:"),
            Code(python),
            *about,
        ]
    stored_so = all((v.target_chunks, v.target_shards) == (v.layout.chunks, v.layout.shards)
                    for v in large)  # fmt: skip
    again = [Paragraph("To write zarr in chunks for this use all the same:"), Code(command)]
    return [
        Paragraph("Nothing needs to be written. Next, in Python:"),
        Code(python),
        *([] if stored_so else [Paragraph(more)] if more else again),
        *about,
    ]


def _spec(
    v: VariableSuggestion, lengths: Iterable[int], grows: Collection[str] = ()
) -> dict[str, int]:
    """Name the lengths by dim; a dim that grows has a number, or each append rewrote all of it."""
    return {
        d: -1 if c >= n and d not in grows else c
        for (d, n), c in zip(v.layout.sizes.items(), lengths, strict=True)
    }


def _shared(specs: Mapping[str, dict[str, int]]) -> dict[str, Any]:
    """Return lengths for all variables at once where they agree, else for each variable."""
    merged: dict[str, int] = {}
    for spec in specs.values():
        if any(merged.get(d, c) != c for d, c in spec.items()):
            return {**specs}
        merged |= spec
    return merged


def _option(flag: str, spec: Mapping[str, Any]) -> Iterator[str]:
    """Type lengths as the command line takes them."""
    if not spec:
        return
    per = spec if isinstance(next(iter(spec.values())), dict) else {"": spec}
    for name, lengths in per.items():
        said = ",".join(f"{d}={n}" for d, n in lengths.items())
        yield f"{flag} {shlex.quote(f'{name}:{said}' if name else said)}"


def _typed(ctx: click.Context, names: Sequence[str]) -> Iterator[str]:
    """Type again what was given for some options."""
    for param in ctx.command.params:
        value = ctx.params.get(str(param.name))
        if ctx.get_parameter_source(str(param.name)) is not ParameterSource.COMMANDLINE:
            continue
        if param.name in names and value not in (None, (), False):
            for one in value if isinstance(value, tuple) else (value,):
                yield f"{param.opts[0]} {shlex.quote(str(one))}"


def _target_beside(src: Sequence[str]) -> str:
    """Name a target that is none of the sources."""
    name = "rechunked.zarr"
    while any(one.rstrip("/").endswith(name) for one in src):
        name = f"again-{name}"
    return name


def _folded(mask: Callable[[str], str], *parts: Iterable[str]) -> str:
    """Put the words of a command on as few lines as they fit."""
    lines = [""]
    for word in (mask(word) for part in parts for word in part):
        if lines[-1].strip() and len(lines[-1]) + len(word) + 3 > _WIDTH:
            lines[-1] += " \\"
            lines.append("    " + word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return "\n".join(lines)


def _python(
    suggestion: Suggestion,
    given: Mapping[str, Any],
    src: Sequence[str],
    stored: tuple[Mapping[str, Any], Mapping[str, Any]],
    mask: Callable[[str], str],
) -> str:
    from xchunk.core.suggest.suggestion import needs_format_3

    chunks, shards = stored
    opened = [_quoted(src[0]) if len(src) == 1 else f"[{', '.join(map(_quoted, src))}]"]
    opened += [f"{k}={_quoted(given[k])}" for k in ("group", "engine") if given[k]]
    if given["concat_dim"]:
        opened += [f'combine="nested", concat_dim={_quoted(given["concat_dim"])}']
    if given["storage"]:
        opened.append(mask(f"storage_options={_literal(pairs(given['storage']))}"))
    sizes = [f"{k}={_quoted(given[k])}" for k in ("memory", "max_mem") if given[k]]
    cluster = _client(given, mask)
    if suggestion.action != "stage":
        access = access_of(given["access"], given["whole"])
        use = [] if access is None else [_literal(access)]
        use += [
            f"{k}={_literal(v)}"
            for k, v in pattern_of(given).items()
            if k not in ("passes", "growing")
        ]
        return cluster + _call("ds = xchunk.open_dataset", [opened[0], *use, *opened[1:], *sizes])
    target = _quoted(_target_beside(src))
    apply = [_literal(chunks), *([f"shards={_literal(shards)}"] if shards else [])]
    apply += ["zarr_format=3"] if needs_format_3(suggestion.variables.values()) else []
    written = _call("ds.chunking.apply", [*apply, f"store={target}", *sizes])
    return f"{cluster}{_call('ds = xchunk.open_dataset', opened)}\n{written}"


def _client(given: Mapping[str, Any], mask: Callable[[str], str]) -> str:
    """Spell the cluster whose workers' memory the chunks fit; empty without one."""
    if given["scheduler"]:
        how = [_quoted(mask(given["scheduler"]))]
    elif given["workers"]:
        names = {"workers": "n_workers", "threads_per_worker": "threads_per_worker"}
        how = [f"{name}={given[key]}" for key, name in names.items() if given[key]]
        if given["memory_limit"]:
            how.append(f"memory_limit={_quoted(str(given['memory_limit']))}")
    else:
        return ""
    return f"from distributed import Client\n{_call('client = Client', how)}\n"


def _call(name: str, args: Sequence[str]) -> str:
    """Write a call on one line, or on several where it does not fit."""
    line = f"{name}({', '.join(args)})"
    if len(line) <= _WIDTH:
        return line
    folded = (
        # lists and tables go on below themselves
        textwrap.fill(arg, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 5) + ",\n"
        if arg[0] in "[{" or "={" in arg
        else f"    {arg},\n"
        for arg in args
    )
    return f"{name}(\n{''.join(folded)})"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(str(k))}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        left, right = "[]" if isinstance(value, list) else "()"
        return left + ", ".join(map(_literal, value)) + right
    return _quoted(value) if isinstance(value, str) else repr(value)


#: The version of each JSON document. It goes up when a key changes its meaning or its type, or
#: goes away; new keys may come without.
SCHEMAS = {
    "batch": 1,
    "check": 1,
    "clean": 1,
    "config": 1,
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
    "Source": frozenset({"group", "engine", "concat_dim", "dims", "how", "storage"}),
    "Use": frozenset(
        {"access", "whole", "passes", "reduce", "rolling", "groupby", "resample", "growing"}
    ),
    "Target": frozenset(
        {
            "append_dim", "chunks", "message", "no_check_labels", "no_resume", "overwrite",
            "rechunk_engine", "region", "scratch", "shards", "target_storage", "unpack",
            "zarr_format",
        }
    ),
    _OTHER: frozenset(),
    "Memory": frozenset({"memory", "max_mem"}),
    "Cluster": frozenset({"scheduler", "workers", "memory_limit", "threads_per_worker"}),
    "Output": frozenset({"as_json", "quiet", "log_json", "debug", "details", "why", "help"}),
}  # fmt: skip
#: Columns of the options in a command's help.
_COLUMN = 28


class Output:
    """Where the words of one command go.

    - ``args``: the arguments of the command line: errors of usage come before options are parsed.
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

        - ``schema``: name of the schema, of `SCHEMAS`.
        - ``document``, ``text``: make the one or the other.
        """
        if self.as_json:
            self.document(schema, document())
        else:
            self.say(text)

    def report(
        self,
        schema: str,
        report: Shown,
        document: Callable[[], Mapping[str, Any]] | None = None,
        **view: Any,
    ) -> None:
        """Say what a report says, in the command line's language.

        - ``schema``: name of the schema, of `SCHEMAS`.
        - ``document``: makes the document, where it is not the report's own.
        - ``**view``: what of it text shows, as its view takes it.
        """
        from xchunk.display.render import as_text
        from xchunk.display.reports import document as told

        made = document or report.to_dict
        self.result(schema, made, lambda: as_text(told(report, **view), say=in_flags))

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
        message = _one_line(self.secrets.mask(_in_flags(message)))
        self._warnings.append(message)
        if self.log_json:
            self.event("warning", kind=kind, message=message)
        elif not self.quiet:
            self.complain(f"{kind}: {message}")

    def complain(self, message: str) -> None:
        """Print a line on stderr; in a terminal it is folded."""
        said = f"xchunk: {self.secrets.mask(message)}"
        if sys.stderr.isatty():
            from xchunk.display.phrases import folded

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

        - ``kind``: class of the error.
        - ``message``: what it says.
        - ``exit_code``: what the command line ends with.
        - ``error``: the error itself, of which more may be told.
        - returns: the exit code.
        """
        message = _in_flags(message)
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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; one path alone is SRC, and it is DST that misses."""
        typed = [*args]
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            last = next((p for p in self.params if p.name == "dst"), None)
            if last is None or error.param is None or error.param.name != "src":
                raise
            if not self.make_parser(ctx).parse_args(typed)[0].get("dst"):
                raise
            raise click.MissingParameter("It is the zarr store.", ctx, last) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        out = ctx.find_object(Output)
        if out is None:
            return super().invoke(ctx)
        settle(ctx)
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

    - ``value``: mappings, sequences, numbers, strings and what has an ``item`` method, such as
      numpy's.
    - ``mask``: applied to each string.
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


def _in_flags(message: str) -> str:

    return in_flags(message)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def progress_of(out: Output) -> bool | ProgressLike:
    """Return what ``progress=`` is to be for a command."""
    return EventProgress(out) if out.log_json else not out.quiet


@dataclass
class _Stage:
    began: float
    said: float
    tenth: int = 0
    done: int = 0
    nbytes: int = 0
    is_over: bool = False


class EventProgress:
    """Report how far a rechunk is by events: one each 10 s or 10 %, and when a stage is over.

    - ``out``: where the events go.
    - ``every``: seconds after which there is an event in any case.
    - ``least``: seconds between two events of a stage at the least, but for the one at its end.
    """

    def __init__(self, out: Output, *, every: float = 10.0, least: float = 1.0) -> None:
        self._out = out
        self._every = every
        self._least = least
        self._lock = threading.Lock()
        self._stages: dict[tuple[str, str], _Stage] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, *, name: str, stage: str, done: int, total: int, nbytes: int) -> None:
        """Take note that a box is done.

        - ``name``, ``stage``: the variable, and the kind of the stage.
        - ``done``, ``total``: boxes of the stage that are done, and that there are.
        - ``nbytes``: bytes of this box.
        """
        now = time.monotonic()
        with self._lock:
            state = self._stages.get((name, stage))
            if state is None:
                state = self._stages[name, stage] = _Stage(self._last, self._last)
            self._last = now
            state.done = max(state.done, done)
            state.nbytes += nbytes
            took = now - state.began
            facts = {
                "variable": name,
                "stage": stage,
                "done": state.done,
                "total": total,
                "nbytes": state.nbytes,
                "seconds": took,
            }
            if state.done >= total:
                if not state.is_over:
                    state.is_over = True
                    self._out.event("stage", **facts)
                return
            waited, tenth = now - state.said, 10 * state.done // total
            if waited < self._least or (tenth == state.tenth and waited < self._every):
                return
            state.said, state.tenth = now, tenth
            left = took / max(1, state.done) * (total - state.done)
            self._out.event("progress", **facts, seconds_left=left)
