from __future__ import annotations

import json
from pathlib import Path

import pytest

from xchunk.core.memory import MemoryBudget
from xchunk.display import render
from xchunk.display.document import (
    Card,
    Code,
    Document,
    Facts,
    Fold,
    Heading,
    Items,
    Listing,
    Many,
    Paragraph,
    Table,
)
from xchunk.display.render import as_html
from xchunk.errors import InvalidChunksError, SourceError

LIMIT = MemoryBudget.of_memory(2 * 1024**3, reserved=180_000_000, threads=2, origin="cgroup")


@pytest.mark.parametrize("suffix", ["html", "HTM", "md", "txt", "json"])
def test_a_report_is_saved_by_its_suffix(tmp_path: Path, make_plan, suffix: str) -> None:
    plan = make_plan(LIMIT)
    where = plan.save(tmp_path / f"plan.{suffix}")
    said = where.read_text(encoding="utf-8")
    if suffix == "json":
        assert json.loads(said) == plan.to_dict()
    elif suffix == "txt":
        assert said == repr(plan) + "\n"
    elif suffix == "md":
        assert said.startswith("# xchunk plan to series.zarr 1.52 GB\n\n```text\n")
    else:
        assert said.startswith("<!doctype html>")
        assert "<title>xchunk plan to series.zarr</title>" in said
        assert said.count("<style>") == 1


def test_a_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        where = LIMIT.save(tmp_path / "budget.txt")
    assert where.read_text() == repr(LIMIT) + "\n"


def test_names_stay_text_in_markdown_and_html(tmp_path: Path, make_layout, make_report) -> None:
    report = make_report(make_layout("```<script>x</script>\n# no title"), source="# <script>")
    page = report.save(tmp_path / "a.html").read_text()
    assert "<script" not in page
    lines = report.save(tmp_path / "a.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("#")] == [lines[0]]
    # the fence is longer than what the name holds
    assert lines[2] == "````text"
    assert lines[-1] == "````"


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.html.gz"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidChunksError, match=r"\.html, \.htm, \.md, \.txt, \.json"):
        LIMIT.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file or directory"):
        LIMIT.save(tmp_path / "nowhere" / "a.html")


def test_parts_show_themselves_in_80_columns(make_layout, make_plan, make_suggestion) -> None:
    shown = [
        make_layout(),
        make_plan(LIMIT)["t2m"],
        make_suggestion(LIMIT).variables["t2m"],
    ]
    for part, said in zip(
        shown, ("146 blocks", "reads 1.52 GB, 1,460 decodes", "rechunk to zarr first"), strict=True
    ):
        assert said in repr(part)
        assert max(map(len, repr(part).splitlines())) <= render.WIDTH
        assert part._repr_html_().startswith('<div class="xchunk">')


def test_every_block_says_the_same_twice() -> None:
    doc = Document(
        "xchunk sheet", "of <b>", "right", ("few",), [
            Heading("Chapter"),
            Facts([("fact", "a & b")]),
            Paragraph("Said.", label="why"),
            Card("thing", [Code("code()", mark="→")], "tag", ("beside",), level="error"),
            Table(("h", "n"), [("row", "7")]),
            Listing(("name", "size"), [(("listed", "9"), ("note",))], "thing"),
            Fold("folded", [Paragraph("inside")]),
            Items([f"item{i}" for i in range(500)]),
            Many(range(500), lambda _, n: Card(f"number {n}.", ()), "thing"),
        ],
    )  # fmt: skip
    told, page = render.as_text(doc), as_html(doc)
    for said in (
        "right", "few", "Chapter", "fact", "Said.", "thing", "code()", "tag", "beside", "error",
        "row", "7", "listed", "9", "note", "folded", "inside", "item0", "item39", "number 39.",
    ):  # fmt: skip
        assert said in told
        assert said in page
    assert "xchunk sheet of <b>" in told
    assert "of &lt;b&gt;" in page
    assert "a &amp; b" in page
    assert "460 items more" in told
    assert "300 items more" in page
    assert "460 things more" in told
    assert "300 things more" in page
    assert "item40" not in told
    assert "item200" not in page
    assert max(map(len, told.splitlines())) <= render.WIDTH
