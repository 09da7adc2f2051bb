"""Saving reports: a page, a text or JSON, by the suffix of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xchunk.errors import InvalidChunksError, SourceError
from xchunk.formatting import style
from xchunk.formatting.views import shown_as

__all__ = ["save_report"]


def save_report(report: Any, path: str | os.PathLike[str]) -> Path:
    """Save a report; see `xchunk.formatting.methods.save`."""
    where = Path(path)
    make = _FORMS.get(where.suffix.lower())
    if make is None:
        raise InvalidChunksError(
            f"{where}: reports are saved as {', '.join(_FORMS)}, not as "
            f"{where.suffix!r}. Give the file one of these suffixes."
        )
    try:
        where.write_text(make(report), encoding="utf-8")
    except OSError as error:
        raise SourceError(
            f"{where}: the report cannot be written ({error.strerror or error}). Give a file in a "
            "folder that exists and may be written to."
        ) from error
    return where


def _title(report: Any) -> str:
    """What the report is of: its first line, up to the wide gap before what stands at its end."""
    return shown_as(report, "text").partition("\n")[0].strip().partition("  ")[0]


def _html(report: Any) -> str:
    return style.document(_title(report), shown_as(report, "html", style=False))


def _text(report: Any) -> str:
    return shown_as(report, "text") + "\n"


def _markdown(report: Any) -> str:
    first, _, rest = shown_as(report, "text").partition("\n")
    title = " ".join(first.split())
    for mark in "\\`*_[]<>#|":
        title = title.replace(mark, "\\" + mark)
    # a fence that is longer than any run of backticks inside
    fence = "```"
    while fence in rest:
        fence += "`"
    body = rest.strip("\n")
    return f"# {title}\n\n{fence}text\n{body}\n{fence}\n" if body else f"# {title}\n"


def _json(report: Any) -> str:
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


_FORMS: dict[str, Callable[[Any], str]] = {
    ".html": _html,
    ".htm": _html,
    ".md": _markdown,
    ".txt": _text,
    ".json": _json,
}
