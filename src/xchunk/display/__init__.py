"""How xchunk shows itself: text, HTML, drawings and progress.

Results are `xchunk.core.shown.Shown`, and call `Show`, which imports what draws when something is
shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xchunk.core.types import FilePath
from xchunk.errors import InvalidChunksError, SourceError


class Show:
    """Shows any result; a `xchunk.core.shown.Display`."""

    def text(self, report: Any, /, **view: Any) -> str:
        """Return a result as text of at most 80 columns; ``view`` says what of it."""
        from xchunk.display.render import as_text
        from xchunk.display.reports import document

        return as_text(document(report, **view))

    def html(self, report: Any, /) -> str:
        """Return a result as HTML that carries its style."""
        from xchunk.display.render import as_html
        from xchunk.display.reports import document

        return as_html(document(report))

    def plot(self, report: Any, /, **options: Any) -> Any:
        """Plot a result with matplotlib."""
        from xchunk.display import plot

        return getattr(plot, f"{report.shown_as}_axes")(report, **options)

    def save(self, report: Any, path: FilePath, /) -> Path:
        """Save a result; see `xchunk.core.shown.Shown.save`."""
        where = Path(path)
        forms: dict[str, Callable[[Any], str]] = {
            ".html": self._page,
            ".htm": self._page,
            ".md": self._markdown,
            ".txt": lambda report: self.text(report) + "\n",
            ".json": _json,
        }
        make = forms.get(where.suffix.lower())
        if make is None:
            raise InvalidChunksError(
                f"{where}: reports are saved as {', '.join(forms)}, not as "
                f"{where.suffix!r}. Give the file one of these suffixes."
            )
        try:
            where.write_text(make(report), encoding="utf-8")
        except OSError as error:
            raise SourceError(
                f"{where}: the report cannot be written ({error.strerror or error}). Give a file "
                "in a folder that exists and may be written to."
            ) from error
        return where

    def _page(self, report: Any) -> str:
        from xchunk.display.render import page
        from xchunk.display.reports import document

        # what the report is of: its first line, up to the wide gap before what stands at its end
        title = self.text(report).partition("\n")[0].strip().partition("  ")[0]
        return page(title, [document(report)])

    def _markdown(self, report: Any) -> str:
        first, _, rest = self.text(report).partition("\n")
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
