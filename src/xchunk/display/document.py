"""What a report says: a tree of headings, facts, tables, bars, notes and drawings.

Each report is told once, by `xchunk.display.reports`; `xchunk.display.render` makes text and
HTML of the same tree. All strings are plain text. Drawings are made by the renderer that shows
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xchunk.display.phrases import Fill


class Block:
    """A part of a document."""


@dataclass(frozen=True)
class Heading(Block):
    """Opens a chapter."""

    text: str
    """What it says."""


@dataclass(frozen=True)
class Paragraph(Block):
    """Some sentences."""

    text: str
    """What they say."""
    label: str = ""
    """Its name in text, where it stands in line with facts."""
    mark: str = ""
    """A bullet in text."""
    dim: bool = False
    """Whether it is an aside."""


@dataclass(frozen=True)
class Code(Block):
    """Code to be copied."""

    text: str
    """The code."""
    mark: str = ""
    """A bullet in text."""


@dataclass(frozen=True)
class Facts(Block):
    """Facts by name."""

    rows: Sequence[tuple[str, str]]
    """Name and value of each."""


@dataclass(frozen=True)
class Bar(Block):
    """Memory against its limit."""

    fill: Fill
    """How full it is."""
    label: str = ""
    """Its name in text, where it stands in line with facts."""


@dataclass(frozen=True)
class Table(Block):
    """Short cells in columns."""

    head: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str]]
    """The cells of each row."""
    notes: Sequence[str] = ()
    """What warns of a row, below it; empty where nothing does."""

    @property
    def noted(self) -> list[tuple[Sequence[str], Sequence[str]]]:
        """The rows, each with its notes."""
        notes = self.notes or [""] * len(self.rows)
        return [(row, (n,) if n else ()) for row, n in zip(self.rows, notes, strict=True)]


@dataclass(frozen=True)
class Listing(Block):
    """Things by name: each with some short cells, and what is to be said of it below."""

    head: Sequence[str]
    """Names of the columns; the first one heads the listing in text."""
    rows: Sequence[tuple[Sequence[str], Sequence[str]]]
    """The cells of each thing, its name first; and its notes."""
    what: str
    """What one of them is called."""
    headed: bool = True
    """Whether text has a line for the head."""
    wide: int = 0
    """How many of the last columns there is no room for in text."""
    always: int = 0
    """How many of the first are shown in any case."""


@dataclass(frozen=True)
class Items(Block):
    """A list of names."""

    items: Sequence[str]
    """The names."""


@dataclass(frozen=True)
class Card(Block):
    """What is to be said of one thing."""

    name: str
    """The thing."""
    body: Sequence[Block]
    """What is said of it."""
    tag: str = ""
    """What it is, in a word or two."""
    facts: Sequence[str] = ()
    """Few words that stand beside its name."""
    aside: str = ""
    """More of them, where there is room."""
    level: str = ""
    """How bad it is; stands before its name in text."""

    @property
    def left(self) -> str:
        """What stands at the beginning of its first line."""
        return f"{self.level:<9}{self.name}" if self.level else self.name

    @property
    def right(self) -> str:
        """What stands at the end of its first line."""
        return "  ".join(filter(None, (self.tag, *self.facts)))

    def alone(self, title: str) -> Document:
        """Return one part of a report as a report of its own."""
        right = "  ".join(filter(None, (self.level, self.right)))
        return Document(title, f"of {self.name}", right, (self.aside,), self.body, is_part=True)


@dataclass(frozen=True)
class Many(Block):
    """As many things as there is room for, each made when it is shown."""

    things: Sequence[Any]
    """The things, what matters most first."""
    make: Callable[[int, Any], Block]
    """Makes what is shown of one, by its number and itself."""
    what: str
    """What one of them is called."""


@dataclass(frozen=True)
class Fold(Block):
    """What is folded away where that is possible."""

    title: str
    """What is inside."""
    body: Sequence[Block]
    """The inside."""


@dataclass(frozen=True)
class Either(Block):
    """What text and HTML say in different ways."""

    text: Sequence[Block] = ()
    """What text shows."""
    html: Sequence[Block] = ()
    """What HTML shows."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, legend and caption."""

    shapes: str
    """SVG elements, of numbers and our own styles only."""
    box: tuple[float, float, float, float]
    """Left, top, width and height of the drawing."""
    label: str
    """What it is to those who cannot see it."""
    title: str = ""
    """What stands above."""
    key: Sequence[tuple[str, str]] = ()
    """Colours, as CSS, with what each is."""
    said: Sequence[str] = ()
    """The lines of its caption."""
    fills: bool = False
    """Whether it takes the whole width, its height being given in pixels."""


@dataclass(frozen=True)
class Drawn(Block):
    """Figures side by side; text goes without them."""

    make: Callable[[], Sequence[Figure | None]]
    """Makes the figures; None is left out."""


@dataclass(frozen=True)
class Node:
    """One array on the way from the source to the target."""

    title: str
    """``source``, ``scratch`` or ``target``."""
    chunks: str
    """What it is cut into."""
    parts: str = ""
    """What its chunks lie in, or what they are packed with; empty where there is nothing to say."""


@dataclass(frozen=True)
class Flow(Block):
    """Arrays with what is read and written between them."""

    nodes: Sequence[Node]
    """The arrays, the source first."""
    arrows: Sequence[tuple[Sequence[str], Sequence[str], Sequence[str]]]
    """Between two arrays: what is read, by which tasks, and what is written."""
    draw: Callable[[], Sequence[Figure | None]]
    """Draws each array."""
    key: Sequence[tuple[str, str]] = ()
    """The legend of the drawings."""


@dataclass(frozen=True)
class Runs(Block):
    """Bars of what is going on."""

    rows: Sequence[tuple[str, float, str, str, bool]]
    """Label, part from 0 to 1, numbers, what is left, and whether it warns."""


@dataclass(frozen=True)
class Report(Block):
    """A result of its own among other blocks."""

    report: Any
    """The result."""


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    """What it is, such as ``xchunk plan``."""
    of: str = ""
    """What it is of, with its preposition."""
    right: str = ""
    """What sums it up; stands at the end of the first line."""
    facts: Sequence[str] = ()
    """More of that, below the first line."""
    body: Sequence[Block] = ()
    """What it says."""
    is_part: bool = False
    """Whether it is of one part of another report, and as dense as that."""

    @property
    def words(self) -> list[str]:
        """All that stands beside its title, where there is room."""
        return [*filter(None, (self.of, self.right, *self.facts))]
