"""The demo as a story: plain words, and numbers that were all measured."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import xarray as xr
from dask.base import optimize

from xchunk.core.layout import ArrayLayout
from xchunk.core.units import format_bytes, format_count, format_seconds, parse_bytes
from xchunk.demo.compare import Comparison, compare
from xchunk.demo.data import make_reanalysis
from xchunk.demo.measure import Rechunked, Series, read_series, rechunk_in_fresh_process
from xchunk.errors import MemoryBudgetError, SourceError, TargetExistsError
from xchunk.formatting import describe, drawing, html, style, text
from xchunk.sources import open_source

__all__ = ["tell"]

_NAME, _ACCESS = "t2m", "timeseries"
_MAPS, _SERIES = "maps.zarr", "series.zarr"


class _Story:
    """Tells each thing twice: at once as text, and in the page at the end."""

    def __init__(self, echo: Callable[[str], object]) -> None:
        self._echo = echo
        self._page: list[str] = []
        self._chapter = 0

    def chapter(self, title: str) -> None:
        self._chapter += 1
        title = f"{self._chapter}. {title}"
        self._echo(f"{title}\n{'─' * len(title)}")
        self._page.append(f"<h2>{style.esc(title)}</h2>")

    def say(self, *sentences: str) -> None:
        paragraph = " ".join(sentences)
        self._echo(textwrap.fill(paragraph, text.WIDTH, break_long_words=False) + "\n")
        self._page.append(f"<p>{style.esc(paragraph)}</p>")

    def show(self, view: str, report: Any) -> None:
        self._echo(getattr(text, view)(report) + "\n")
        self._page.append(getattr(html, view)(report, style=False))

    def draw(self, *figures: str) -> None:
        self._page.append(f'<div class="xc-flex">{"".join(figures)}</div>')

    def figures(self, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        self._echo("\n".join(text.table(rows, head, indent=2)) + "\n")
        self._page.append(style.table(head, [(list(row), "") for row in rows]))

    def page(self) -> str:
        return style.page("xchunk demo", "".join(self._page))


def tell(
    *,
    keep: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    echo: Callable[[str], object] | None = None,
    shape: tuple[int, int, int] = (1460, 121, 240),
    max_mem: int | str = "80MB",
    progress: bool = True,
) -> dict[str, Any]:
    """Make data, ask how to use them, rechunk them, and show by measurement what it brought.

    Parameters
    ----------
    keep : path, optional
        Folder to keep the files in; by default they are removed at the end.
    report : path, optional
        HTML file to write the same story to.
    echo : callable, optional
        Called with each piece of text; prints to stdout by default.
    shape : tuple of int
        Time steps, latitudes and longitudes of the data.
    max_mem : int or str
        What the rechunk may grow by, in bytes.
    progress : bool
        Whether the rechunk shows how far it is.

    Returns
    -------
    dict
        What was measured, as JSON types.

    Raises
    ------
    VerificationError
        If the rechunked store does not hold what the source holds.
    MemoryBudgetError
        If the rechunk took more memory than it was given.
    """
    import xchunk.accessor  # noqa: F401  registers .chunking

    story = _Story(echo or _echo)
    page = None if report is None else _page_path(report)
    allowed = parse_bytes(max_mem, "max_mem")
    threads = min(2, os.cpu_count() or 1)
    start = time.perf_counter()
    with _folder(keep) as folder, dask.config.set(num_workers=threads):
        maps, series = folder / _MAPS, folder / _SERIES
        ds = _make(story, maps, shape)
        _open(story, ds)
        _ask(story, ds, series, allowed)
        rechunked = _rechunk(
            story, maps, series, max_mem=allowed, threads=threads, progress=progress
        )
        before, after = _read(story, ds, maps, series)
        compared = _compare(story, maps, series, allowed)
        _sum_up(story, (before, after), rechunked, compared, allowed)
        ds.close()
        story.say(
            f"All of it took {format_seconds(time.perf_counter() - start)} on {threads} threads.",
            f"The files are in {folder}." if keep is not None else "The files are removed now.",
        )
        if page is not None:
            page.write_text(story.page(), encoding="utf-8")
            (echo or _echo)(f"The same as a page: {page}")
    if rechunked.grown > allowed:
        raise MemoryBudgetError(
            f"the rechunk grew by {format_bytes(rechunked.grown)}, but {format_bytes(allowed)} "
            "were allowed: the promise was not kept. Please report it.",
            needed=rechunked.grown,
            allowed=allowed,
        )
    return {
        "seconds": time.perf_counter() - start,
        "folder": None if keep is None else str(folder),
        "report": None if page is None else str(page),
        "nbytes": compared.nbytes,
        "max_mem": allowed,
        "rechunk": {"seconds": rechunked.seconds, "grown": rechunked.grown},
        "before": _facts(before),
        "after": _facts(after),
    }


def _facts(series: Series) -> dict[str, Any]:
    return {
        "seconds": series.seconds,
        "chunks": series.chunks,
        "decoded": series.decoded,
        "needed": series.needed,
    }


def _make(story: _Story, path: Path, shape: tuple[int, int, int]) -> xr.Dataset:
    story.chapter("An archive, stored map by map")
    start = time.perf_counter()
    make_reanalysis(path, shape=shape)
    took = time.perf_counter() - start
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    ds = open_source(path)
    story.say(
        f"A synthetic reanalysis was made in {format_seconds(took)}: {shape[0]} six-hourly maps of",
        f"2 m temperature, {format_bytes(ds[_NAME].nbytes)} in memory, {format_bytes(size)} on",
        "disk. Each map is one chunk, as archives usually have it: written as time goes on.",
    )
    return ds


def _open(story: _Story, ds: xr.Dataset) -> None:
    story.chapter("How is it stored?")
    pixel = ds[_NAME].isel(latitude=0, longitude=0)
    (optimized,) = optimize(pixel.data)
    story.show("layout_report", ds.chunking.layout())
    story.say(
        f"Opened with chunks={{}}, the dask graph of {_NAME} has",
        f"{format_count(len(dict(ds[_NAME].data.dask)))} tasks. The time series of a single pixel",
        f"takes {format_count(len(dict(optimized.dask)))} tasks, and reads every chunk of the",
        "archive: no lazy chunking changes that.",
    )


def _ask(story: _Story, ds: xr.Dataset, target: Path, allowed: int) -> None:
    story.chapter("What fits time series, and this memory?")
    story.say(
        f"ds.chunking.suggest(access={_ACCESS!r}, max_mem={format_bytes(allowed)!r}) looks at the",
        "layout, the use and the memory, and gives its reasons:",
    )
    suggestion = ds.chunking.suggest(access=_ACCESS, max_mem=allowed)
    story.show("suggestion", suggestion)
    story.chapter("What would a rechunk do?")
    story.say("ds.chunking.plan(…) counts it beforehand; nothing is written yet:")
    plan = ds.chunking.plan(suggestion, store=str(target), max_mem=allowed)
    story.show("rechunk_plan", plan)


def _rechunk(
    story: _Story, maps: Path, series: Path, *, max_mem: int, threads: int, progress: bool
) -> Rechunked:
    story.chapter("Rechunk it")
    story.say(
        "ds.chunking.apply(…) runs now in a process of its own, so that its peak of memory can be",
        f"measured: it may grow by {format_bytes(max_mem)}.",
    )
    sys.stdout.flush()
    done = rechunk_in_fresh_process(
        maps, series, access=_ACCESS, max_mem=max_mem, threads=threads, progress=progress
    )
    story.say(
        f"Done in {format_seconds(done.seconds)}. At its peak the process had grown by",
        f"{format_bytes(done.grown)}.",
    )
    return done


def _read(story: _Story, ds: xr.Dataset, maps: Path, series: Path) -> tuple[Series, Series]:
    story.chapter("One pixel's series, before and after")
    sizes = ds[_NAME].sizes
    place = {d: sizes[d] // 3 for d in ("latitude", "longitude")}
    before, after = (read_series(path, _NAME, place) for path in (maps, series))
    story.say(
        f"Before, {format_count(before.chunks)} chunks are read and decoded for it, in",
        f"{format_seconds(before.seconds)}; after, {format_count(after.chunks)} in",
        f"{format_seconds(after.seconds)}.",
    )
    request = [(0, sizes["time"]), *((i, i + 1) for i in place.values())]
    with open_source(series) as out:
        layouts = (_layout(ds), _layout(out))
    story.draw(*(drawing.array_layout(layout, request, longest=300) for layout in layouts))
    return before, after


def _layout(ds: xr.Dataset) -> ArrayLayout:
    layout: ArrayLayout = next(a for a in ds.chunking.layout() if a.name == _NAME)
    return layout


def _compare(story: _Story, maps: Path, series: Path, allowed: int) -> Comparison:
    story.chapter("Is it the same data?")
    start = time.perf_counter()
    raw: dict[str, Any] = {"chunks": None, "decode_cf": False, "cache": False}
    with open_source(maps, **raw) as source, open_source(series, **raw) as target:
        compared = compare(source, target, max_mem=allowed)
    story.say(
        f"Both stores were read back in {format_count(compared.boxes)} boxes:",
        f"{format_count(compared.elements)} values of {len(compared.variables)} variables,",
        f"{format_bytes(compared.nbytes)}, are the same bit by bit",
        f"({format_seconds(time.perf_counter() - start)}).",
    )
    return compared


def _sum_up(
    story: _Story,
    series: tuple[Series, Series],
    rechunked: Rechunked,
    compared: Comparison,
    allowed: int,
) -> None:
    story.chapter("Measured")
    before, after = series

    story.figures(
        ("one pixel's series", "before", "after"),
        [
            ("chunks decoded", format_count(before.chunks), format_count(after.chunks)),
            ("bytes decoded", format_bytes(before.decoded), format_bytes(after.decoded)),
            ("decoded / needed", *(describe.times(s.amplification) for s in series)),
            ("time", format_seconds(before.seconds), format_seconds(after.seconds)),
        ],
    )
    part = rechunked.grown / allowed
    verdict = "within the budget" if part <= 1 else "OVER the budget"
    rate = compared.nbytes / rechunked.seconds
    story.figures(
        ("the rechunk", ""),
        [
            ("data", f"{format_bytes(compared.nbytes)}, identical"),
            ("time", f"{format_seconds(rechunked.seconds)} ({format_bytes(rate)}/s)"),
            ("memory it may take", format_bytes(allowed)),
            ("memory it took", f"{format_bytes(rechunked.grown)} ({part:.0%}), {verdict}"),
        ],
    )


@contextmanager
def _folder(keep: str | os.PathLike[str] | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="xchunk-demo-") as name:
            yield Path(name)
        return
    folder = Path(keep)
    taken = [n for n in (_MAPS, _SERIES) if (folder / n).exists()]
    if taken:
        raise TargetExistsError(
            f"{folder / taken[0]} is there already, and the demo replaces nothing. Give --keep "
            "another folder, or remove it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"--keep {folder}: cannot be made ({error.strerror}).") from error
    try:
        yield folder
    except BaseException:
        # A story that broke off leaves nothing behind; what was there before stays.
        for name in (_MAPS, _SERIES):
            shutil.rmtree(folder / name, ignore_errors=True)
        raise


def _page_path(report: str | os.PathLike[str]) -> Path:
    path = Path(report)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SourceError(f"--report {path}: is not a file in a folder that exists.")
    return path


def _echo(what: str) -> None:
    sys.stdout.write(what + "\n")
