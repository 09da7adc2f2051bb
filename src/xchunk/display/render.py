"""Documents as text and as HTML.

Text has at most 80 columns, for ``repr``, terminals and logs. In HTML everything is escaped, and
nothing external, dark and light; the markup is that of ``report.html.jinja``, the style that of
``style.css``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cache, singledispatch
from importlib.resources import files
from typing import Any

from xchunk.display.document import (
    Bar,
    Block,
    Card,
    Code,
    Document,
    Either,
    Facts,
    Figure,
    Flow,
    Fold,
    Heading,
    Items,
    Listing,
    Many,
    Paragraph,
    Report,
    Table,
)
from xchunk.display.phrases import counted, plain
from xchunk.display.reports import document

#: Things of one kind that are shown, and that are listed, at most; ``to_dict`` and
#: ``to_dataframe`` have all.
MOST_SHOWN, MOST_LISTED = 200, 1000


def as_html(doc: Document) -> str:
    """Render a document as an element that carries its style."""
    return str(_template().card_of(doc, _text("style.css")))


def page(title: str, docs: Sequence[Document]) -> str:
    """Render documents as a whole page, to be saved as a file."""
    return str(_template().page(title, docs, _text("style.css")))


def figure(drawn: Figure) -> str:
    """Render a drawing alone."""
    return str(_template().figure(drawn))


@cache
def _text(name: str) -> str:
    return files("xchunk.display").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    """The template's macros; compiling it takes some hundredths of a second."""
    from jinja2 import Environment, StrictUndefined

    env = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {
        "kind": lambda block: type(block).__name__.lower(),
        "part": lambda part: f"{100 * min(1.0, part):.1f}%",
    }
    env.globals |= {
        "counted": counted,
        "document": document,
        "most": MOST_SHOWN,
        "most_listed": MOST_LISTED,
    }
    source = _text("report.html.jinja")
    return env.from_string(source).module


#: Columns of a line, at most.
WIDTH = 80

#: Things of one kind that are shown, at most; ``to_dict`` and ``to_dataframe`` have all.
MOST = 40

_UNIT = re.compile(r"(\d) ((?:[kMGTP]?B|µs|ms|s|min|h|d|×)\b)")


#: What is made of sentences, so that they fit where they are read.
_SAY: ContextVar[Callable[[str], str]] = ContextVar("say", default=str)


def as_text(doc: Document, *, say: Callable[[str], str] | None = None) -> str:
    """Render a document.

    - ``doc``: the document.
    - ``say``: turns its sentences into the language of where they are read; code stays as it is.
    """
    if say is not None:
        token = _SAY.set(say)
        try:
            return as_text(doc)
        finally:
            _SAY.reset(token)
    lines = [_sides(f"{doc.title} {doc.of}".strip(), doc.right)]
    if any(doc.facts):
        lines += _wrap(", ".join(filter(None, doc.facts)), 2)
    return "\n".join([*lines, *_body(doc.body, inner=doc.is_part)])


def block_text(*blocks: Block) -> str:
    """Render some blocks."""
    return "\n".join(_body(blocks)).removeprefix("\n")


def cut(text: str, width: int = WIDTH) -> str:
    """Shorten a text to one line of ``width`` columns, taking from its middle."""
    text = plain(text)
    if len(text) <= width:
        return text
    keep = max(1, width - 1)
    return text[: keep - keep // 3] + "…" + text[len(text) - keep // 3 :]


def _wrap(text: str, indent: int = 4, first: str = "") -> list[str]:
    """Fold a paragraph; ``first`` stands before its first line, within the indent."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        # a number stays with its unit: textwrap breaks at ASCII spaces only
        whole = _UNIT.sub("\\1\N{NO-BREAK SPACE}\\2", plain(paragraph))
        lines += textwrap.wrap(
            whole,
            WIDTH,
            initial_indent=(first if not lines else "").ljust(indent),
            subsequent_indent=" " * indent,
            # an option or a name that is copied has to be in one piece
            break_on_hyphens=False,
        ) or [first.rstrip()]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _sides(left: str, right: str, indent: int = 0) -> str:
    """Put two texts at the two ends of a line, shortening the left one if they do not fit."""
    room = max(10, WIDTH - indent - len(right) - 2)
    return cut(" " * indent + cut(left, room).ljust(room) + "  " + right).rstrip()


def _more(left: int, what: str) -> list[str]:
    said = _SAY.get()(f"  … and {counted(left, what)} more, see to_dict()")
    return [said] if left > 0 else []


def _body(blocks: Sequence[Block], *, inner: bool = False) -> list[str]:
    """Render blocks one below the other; those of a card (``inner``) without space between."""
    labels = [b.label for b in blocks if isinstance(b, Paragraph | Bar)]
    labels += [name for b in blocks if isinstance(b, Facts) for name, _ in b.rows]
    column = 6 + max(map(len, labels), default=0)
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Paragraph | Bar) and block.label:
            lines += _labelled(block, column)
        elif isinstance(block, Facts):
            for name, value in block.rows:
                lines += _wrap(value, column, f"    {name}")
        elif isinstance(block, Paragraph) and inner:
            lines += _wrap(_SAY.get()(block.text))
        else:
            lines += _lines(block)
    return lines


def _labelled(block: Paragraph | Bar, column: int) -> list[str]:
    if isinstance(block, Paragraph):
        return _wrap(_SAY.get()(block.text), column, f"    {block.label}")
    return [f"    {block.label}".ljust(column) + _bar(block, 30)]


def _bar(bar: Bar, width: int) -> str:
    fill = bar.fill
    held, upto = round(fill.held * width), round((fill.held + fill.grown) * width)
    if fill.grown > 0:
        upto = max(upto, held + 1)
    cells = ["▒" if i < held else "█" if i < upto else "·" for i in range(width)]
    for mark, _ in fill.marks:
        i = min(width - 1, round(mark * width))
        cells[i] = "┃" if i < upto else "│"
    return "[" + "".join(cells) + "] " + fill.caption


@singledispatch
def _lines(_: Any) -> list[str]:
    """Render a block that stands alone; of drawings there is nothing to read."""
    return []


@_lines.register
def _(block: Heading) -> list[str]:
    return ["", block.text, "─" * len(block.text)]


@_lines.register
def _(block: Paragraph) -> list[str]:
    text = _SAY.get()(block.text)
    return ["", *_wrap(text, 4 if block.mark else 2, block.mark and f"  {block.mark}")]


@_lines.register
def _(block: Code) -> list[str]:
    lines = []
    for i, line in enumerate(block.text.splitlines()):
        first = f"    {block.mark}" if i == 0 else ""
        # what fits keeps its inner space; a shell's command ends where its line ends
        whole = f"{first:<6}{plain(line)}"
        is_shell = "--" in line or line.endswith("\\")
        lines += [whole] if len(whole) <= WIDTH or is_shell else _wrap(line, 6, first)
    return lines


@_lines.register
def _(block: Bar) -> list[str]:
    return [cut("    " + _bar(block, 40))]


@_lines.register
def _(block: Table) -> list[str]:
    head, *_ = body = [[*map(plain, r)] for r in (block.head, *block.rows)]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    # names of columns have spaces in them, so that those between columns are more
    fit, gap = len(widths), "   "
    if 2 + sum(widths) + (fit - 1) * len(gap) > WIDTH:
        gap = "  "
    # columns that there is no room for are named on a line of their own, below each row
    while fit > 2 and 2 + sum(widths[:fit]) + (fit - 1) * len(gap) > WIDTH:
        fit -= 1
    lines = [""]
    for row in body:
        cells = [c.rjust(w) for c, w in zip(row[1:fit], widths[1:fit], strict=True)]
        lines.append(cut("  " + gap.join([row[0].ljust(widths[0]), *cells])).rstrip())
        more = [f"{name}: {cell}" for name, cell in zip(head[fit:], row[fit:], strict=True) if cell]
        if more and row is not head:
            lines += _wrap(", ".join(more), 6)
    return lines


@_lines.register
def _(block: Listing) -> list[str]:
    most = max(MOST, block.always)
    shown = [
        ([*map(plain, cells[: len(cells) - block.wide])], notes)
        for cells, notes in block.rows[:most]
    ]
    rest = [cells[1:] for cells, _ in shown]
    widths = [max(map(len, column)) for column in zip(*rest, strict=True)]
    head, indent = [], 2
    if block.headed:
        head, indent = ["", _sides(block.head[0], block.head[1], 2)], 4
    lines = head
    for (name, *others), notes in shown:
        right = "  ".join(c.rjust(w) for c, w in zip(others, widths, strict=True))
        lines.append(_sides(name, right, indent))
        for note in notes:
            lines += _wrap(_SAY.get()(note), 6)
    return lines + _more(len(block.rows) - most, block.what)


@_lines.register
def _(block: Items) -> list[str]:
    shown = [cut(f"    {item}") for item in block.items[:MOST]]
    return shown + _more(len(block.items) - MOST, "item")


@_lines.register
def _(block: Card) -> list[str]:
    return ["", _sides(block.left, block.right, 2), *_body(block.body, inner=True)]


@_lines.register
def _(block: Many) -> list[str]:
    shown = [block.make(i, thing) for i, thing in enumerate(block.things[:MOST])]
    return _body(shown) + _more(len(block.things) - MOST, block.what)


@_lines.register
def _(block: Fold) -> list[str]:
    return ["", f"  {block.title}", *_body(block.body)]


@_lines.register
def _(block: Either) -> list[str]:
    return _body(block.text)


@_lines.register
def _(block: Flow) -> list[str]:
    return [cut(line) for line in _flow(block)]


def _flow(flow: Flow) -> Iterator[str]:
    for i, node in enumerate(flow.nodes):
        words = ", ".join(filter(None, (node.chunks, node.parts)))
        yield from _wrap(words, 13, f"    {node.title}")
        if i < len(flow.arrows):
            for mark, told in zip("││▼", flow.arrows[i], strict=True):
                yield f"{mark:>7}      {', '.join(told)}"


@_lines.register
def _(block: Report) -> list[str]:
    return ["", *as_text(document(block.report)).splitlines()]
