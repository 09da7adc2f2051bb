"""The built documentation in a browser; the folder is named by ``XCHUNK_BUILT_DOCS``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from looked_at.browser import Browser

FOLDER = os.environ.get("XCHUNK_BUILT_DOCS", "")

#: Pages that Sphinx makes of nothing but links, and pages without any.
_MADE = {"genindex.html", "search.html", "py-modindex.html"}

#: What the theme says where a reader has not chosen dark or light yet.
_HARMLESS = "Got invalid theme mode: . Resetting to auto."

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="XCHUNK_BUILT_DOCS names no built documentation"),
]


def pages() -> list[Path]:
    root = Path(FOLDER)
    found = [p for p in root.rglob("*.html") if not p.relative_to(root).parts[0].startswith("_")]
    return sorted(p for p in found if p.name not in _MADE)


@pytest.mark.parametrize("page", pages() if FOLDER else [], ids=lambda p: p.stem)
def test_a_page_reads_well(eyes: Browser, page: Path) -> None:
    for width in (400, 1400):
        for dark in (False, True):
            seen = eyes.look(page, width=width, dark=dark)
            where = f"{page.name} at {width} px, {'dark' if dark else 'light'}"
            assert [e for e in seen.errors if _HARMLESS not in e] == [], where
            assert seen.reaches <= seen.width, f"{where}: {seen.outside}"
            # the theme's own buttons are fainter than we would have them
            assert [f for f in seen.faint if "button" not in f and "kbd" not in f] == [], where
            assert len(seen.text) > 200, where


def test_there_are_pages() -> None:
    assert (Path(FOLDER) / "index.html").is_file()
    assert len(pages()) > 5


def test_errors_that_are_shown_happen() -> None:
    """A cell that is to fail may also succeed without a word, once what it asks for fits."""
    docs = Path(__file__).parents[2] / "docs"
    lost = []
    for page in pages():
        written = docs / page.relative_to(FOLDER).with_suffix(".md")
        if written.is_file():
            asked = written.read_text().count(":tags: [raises-exception]")
            if page.read_text().count('class="output traceback') != asked:
                lost.append(page.name)
    assert lost == []
