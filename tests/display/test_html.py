from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from xchunk.core.memory import MemoryBudget
from xchunk.core.suggest.access import AccessPattern
from xchunk.display import drawing, render, reports
from xchunk.display.document import Bar, Document, Figure, Paragraph
from xchunk.display.phrases import fill

EVIL = "<script>alert('x')</script>\"&"
VOID = {"meta", "polyline", "polygon", "rect", "line"}


class Outline(HTMLParser):
    """Reads the tags and the text of a page, and fails where tags do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.links: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def pages(budget: MemoryBudget, make_report, make_suggestion, make_plan) -> dict[str, str]:
    return {
        "accessor": render.as_html(reports.accessor(make_report())),
        "layout": make_report()._repr_html_(),
        "budget": budget._repr_html_(),
        "suggestion": make_suggestion(budget)._repr_html_(),
        "plan": make_plan(budget)._repr_html_(),
    }


def test_every_report_is_whole_and_needs_nothing_external(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        outline = Outline(page)
        assert outline.links == [], name
        assert "url(" not in page, name
        assert "script" not in outline.tags, name
        assert page.count("<style>") == 1, name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("layout", "int16 → float32"),
        ("layout", "1,460"),
        ("layout", "dask blocks cut stored chunks"),
        ("accessor", ".suggest(access=…)"),
        ("budget", "a worker may grow by"),
        ("suggestion", "rechunk to zarr first"),
        ("suggestion", "259,920 ×"),
        ("plan", "reads 1.52 GB1,460 decodes"),
        ("plan", "(73, 57, 720) pieces"),
        ("plan", "zarr v3 has none"),
    ],
)
def test_reports_say_what_matters(pages: dict[str, str], name: str, said: str) -> None:
    assert said in Outline(pages[name]).text


def test_names_are_text_whatever_they_hold(make_layout, make_report) -> None:
    odd = make_layout(EVIL, dims=(EVIL, "y", "x"), codecs=(EVIL,))
    page = make_report(odd, source=EVIL)._repr_html_()
    outline = Outline(page)
    assert "script" not in outline.tags
    assert outline.text.count(EVIL) >= 4


def test_a_column_that_says_nothing_is_left_out(make_layout, make_report) -> None:
    page = Outline(make_report(make_layout())._repr_html_()).text
    assert "shards" not in page
    assert "codecs" in page


def test_variables_that_are_advised_alike_are_one_card(budget, make_suggestion) -> None:
    made = make_suggestion(budget)
    one = made.variables["t2m"]
    names = [f"v{i:02}" for i in range(40)]
    alike = {n: replace(one, layout=replace(one.layout, name=n)) for n in names}
    other = replace(one, layout=replace(one.layout, name="w"), projected_mem=1)
    page = replace(made, variables={**alike, "w": other})._repr_html_()
    text = " ".join(Outline(page).text.split())
    assert text.count("a task holds") == 2
    assert "v00 +39" in text
    assert all(n in text for n in [*names, "w"])
    alone = replace(made, variables={"v00": alike["v00"]})._repr_html_()
    assert len(page) < 3 * len(alone)


def test_a_page_is_a_document_of_its_own() -> None:
    page = render.page(EVIL, [Document(EVIL, body=[Paragraph(EVIL)])])
    outline = Outline(page)
    assert page.startswith("<!doctype html>")
    assert {"html", "head", "title", "body", "main"} <= outline.tags
    assert outline.text.count(EVIL) == 3
    assert "script" not in outline.tags


def drawn_of(layout, request=None) -> str:
    found = drawing.array_layout(layout, request)
    assert isinstance(found, Figure)
    return render.figure(found)


@pytest.mark.parametrize(
    ("shape", "chunks", "polygons"),
    [
        ((1460, 361, 720), (1, 361, 720), 6),
        ((1460, 361, 720), (1460, 19, 20), 6),
        ((1000, 10), (100, 10), 6),
        ((1460,), (100,), 6),
        ((2, 3, 4, 5), (1, 1, 4, 5), 6),
        ((10**9, 1, 7), (10**6, 1, 7), 6),
    ],
)
def test_layouts_are_drawn_at_no_great_length(
    make_layout, shape: tuple[int, ...], chunks: tuple[int, ...], polygons: int
) -> None:
    dims = tuple("tzyx"[-len(shape) :])
    drawn = drawn_of(make_layout(dims=dims, shape=shape, chunks=chunks, dask_chunks=None))
    Outline(drawn)
    assert drawn.count("<polygon") == polygons
    assert len(drawn) < 60_000


def test_a_drawing_shows_what_a_request_touches(make_layout) -> None:
    layout = make_layout(chunks=(1460, 19, 20))
    lit = drawn_of(layout, [(0, 1460), (100, 101), (200, 201)])
    assert "chunks that one request touches" in lit
    assert "dask block" not in lit


@pytest.mark.parametrize("shape", [(), (0, 3)], ids=["scalar", "empty"])
def test_there_is_nothing_to_draw(make_layout, shape: tuple[int, ...]) -> None:
    dims = ("y", "x")[: len(shape)]
    layout = make_layout(dims=dims, shape=shape, chunks=None, dask_chunks=None)
    assert drawing.array_layout(layout) is None


def test_of_many_dims_those_are_drawn_that_a_request_needs_whole(make_layout) -> None:
    layout = make_layout(
        dims=("time", "level", "lat", "lon"), shape=(1000, 20, 90, 180), chunks=(1, 1, 90, 180),
        dask_chunks=None,
    )  # fmt: skip
    assert "time: 1000, lat: 90, lon: 180" in drawn_of(layout)
    request = ((0, 1), (0, 20), (3, 4), (5, 6))
    drawn = drawn_of(layout, request)
    assert "time: 1000, level: 20, lon: 180" in drawn
    assert "touches 20 of 20,000 chunks" in drawn


def test_a_suggestion_is_drawn_before_and_after(budget: MemoryBudget, make_suggestion) -> None:
    given = replace(make_suggestion(budget), patterns=(AccessPattern("timeseries", ("time",)),))
    shown = Outline(given._repr_html_()).text
    assert "touches 1,460 of 1,460 chunks" in shown
    assert "touches 1 of 684 chunks, decodes 380" in shown


def test_a_plan_is_drawn_as_its_stages(budget: MemoryBudget, make_plan) -> None:
    page = make_plan(budget)._repr_html_()
    assert page.count('class="xc-node"') == 3
    assert page.count('class="xc-arrow"') == 2
    text = Outline(page).text
    text = text[text.index("in two stages") :]
    order = [text.index(s) for s in ("source", "1,460 decodes", "scratch", "684 objects", "target")]
    assert order == sorted(order)


@pytest.mark.parametrize(("part", "kind"), [(0.5, '"g"'), (0.9, '"g w"')])
def test_memory_is_a_bar_against_the_thresholds(part: float, kind: str) -> None:
    limit = MemoryBudget.of_memory(1000, reserved=100, threads=1)
    bar = Bar(fill(limit, int(part * 1000) - 100))
    page = render.as_html(Document("", body=[bar]))
    assert f'<i class={kind} style="left:10.0%;width:{100 * part - 10:.1f}%">' in page
    for mark in ("60%<em>target", "70%<em>spill", "80%<em>pause", "95%<em>terminate"):
        assert mark in page
