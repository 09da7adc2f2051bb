"""Every report in a browser: no script errors, nothing missing, faint, tiny or cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from looked_at.browser import Browser, Seen
from looked_at.reports import EVIL, progress_page
from looked_at.shells import in_jupyterlab, in_vscode
from xchunk.display import render
from xchunk.display.reports import document

WIDTHS = [400, 1400]
THEMES = [False, True]


def assert_well(seen: Seen, said: tuple[str, ...] = ()) -> None:
    assert seen.errors == []
    assert seen.outside == []
    assert seen.reaches <= seen.width
    assert seen.overlapping == []
    assert seen.faint == []
    assert seen.smallest >= 11
    text = " ".join(seen.text.split())
    assert [s for s in said if " ".join(s.split()) not in text] == []


def look_everywhere(eyes: Browser, page: Path, said: tuple[str, ...]) -> None:
    for width in WIDTHS:
        for dark in THEMES:
            assert_well(eyes.look(page, width=width, dark=dark), said)


def test_all_reports_on_one_page(eyes: Browser, reports, tmp_path: Path) -> None:
    docs = [document(report) for report, _ in reports.values()]
    page = tmp_path / "all.html"
    page.write_text(render.page("all reports", docs), encoding="utf-8")
    look_everywhere(eyes, page, tuple(s for _, said in reports.values() for s in said))


def test_progress_in_a_notebook(eyes: Browser, tmp_path: Path) -> None:
    shown, said = progress_page()
    page = tmp_path / "progress.html"
    page.write_text(in_jupyterlab(shown, dark=False), encoding="utf-8")
    look_everywhere(eyes, page, said)


@pytest.mark.slow
def test_every_report_as_it_is_saved(eyes: Browser, reports, tmp_path: Path) -> None:
    for name, (report, said) in reports.items():
        look_everywhere(eyes, report.save(tmp_path / f"{name}.html"), said)


@pytest.mark.slow
@pytest.mark.parametrize("shell", [in_jupyterlab, in_vscode])
@pytest.mark.parametrize("dark", THEMES, ids=["light", "dark"])
def test_every_report_in_a_notebook_of_the_other_theme_than_the_system(
    eyes: Browser, reports, tmp_path: Path, shell: Callable[..., str], dark: bool
) -> None:
    for name, (report, said) in reports.items():
        page = tmp_path / f"{name}.html"
        page.write_text(shell(report._repr_html_(), dark=dark), encoding="utf-8")
        for width in WIDTHS:
            assert_well(eyes.look(page, width=width, dark=not dark), said)


def test_a_name_that_is_a_script_is_text(eyes: Browser, reports, tmp_path: Path) -> None:
    page = reports["layout"][0].save(tmp_path / "evil.html")
    seen = eyes.look(page, width=1400)
    assert EVIL in seen.text
    assert eyes.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<script>nope()</script>", "errors"),
        ("<script>console.error('no')</script>", "errors"),
        ("<img src='nothing.png'>", "errors"),
        ("<div style='width:900px'>wide</div>", "outside"),
        ("<p style='color:#bbb;background:#fff'>faint</p>", "faint"),
        ("<p>one</p><p style='margin-top:-30px'>another</p>", "overlapping"),
    ],
    ids=["script", "console", "load", "wide", "faint", "overlapping"],
)
def test_what_is_wrong_is_seen(eyes: Browser, tmp_path: Path, body: str, found: str) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!doctype html><body>{body}</body>", encoding="utf-8")
    assert getattr(eyes.look(page, width=400), found)
    page.write_text("<!doctype html><body><p>well</p></body>", encoding="utf-8")
    assert_well(eyes.look(page, width=400), ("well",))
