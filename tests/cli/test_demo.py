from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xchunk.cli import demo
from xchunk.cli.demo import Rechunked, make_reanalysis, read_series, tell
from xchunk.errors import (
    MemoryBudgetError,
    SourceError,
    StageFailedError,
    TargetExistsError,
    VerificationError,
)
from xchunk.opening.formats import open_source

pytestmark = pytest.mark.filterwarnings("ignore:.*[Cc]onsolidated.*")

SMALL, TINY = (400, 31, 60), (60, 13, 24)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rechunk right here: a process of its own takes its time, and small data little memory."""

    def rechunk(source: Path, target: Path, **job: object) -> Rechunked:
        done = demo.rechunk(source, target, **job)  # type: ignore[arg-type]
        assert isinstance(done, Rechunked), done
        return Rechunked(done.seconds, 1_000_000)

    monkeypatch.setattr(demo, "rechunk_in_fresh_process", rechunk)


def test_the_data_are_smooth_maps_with_one_chunk_each() -> None:
    make_reanalysis(Path("maps.zarr"), shape=SMALL)
    with open_source("maps.zarr") as ds:
        assert ds.t2m.shape == SMALL
        assert ds.t2m.encoding["chunks"] == (1, 31, 60)
        assert 200 < float(ds.t2m.min()) < float(ds.t2m.max()) < 330
        # neighbours are alike, as in nature
        assert float(abs(ds.t2m.diff("time")).mean()) < 5
        assert ds.time.dtype.kind == "M"


def test_a_series_counts_the_chunks_that_it_reads() -> None:
    values = np.zeros((40, 6, 8), dtype="float32") + np.arange(40, dtype="float32")[:, None, None]
    ds = xr.Dataset({"t": (("time", "y", "x"), values + 1)})
    for name, chunks in (("maps", (1, 6, 8)), ("bricks", (20, 3, 4))):
        ds.to_zarr(f"{name}.zarr", encoding={"t": {"chunks": chunks}})
    maps, bricks = (
        read_series(Path(f"{n}.zarr"), "t", {"y": 2, "x": 3}) for n in ("maps", "bricks")
    )
    assert (maps.chunks, maps.decoded, maps.needed) == (40, 40 * 48 * 4, 160)
    assert (bricks.chunks, bricks.decoded) == (2, 2 * 240 * 4)


def test_the_story_is_told_whole() -> None:
    said: list[str] = []
    tell(
        keep="kept", report="page.html", echo=said.append, shape=SMALL, max_mem="200MB",
        progress=False,
    )  # fmt: skip
    told = "\n".join(said)
    for words in (
        "xchunk layout of",
        "xchunk suggestion for",
        "xchunk plan to",
        "the same bit by bit",
        "chunks decoded",
        "within the budget",
        "The files are in kept",
    ):
        assert words in told
    assert max(map(len, told.splitlines())) <= 80
    page = Path("page.html").read_text()
    assert "<h2>8. Measured</h2>" in page
    assert page.count("<svg") >= 6
    assert page.count("<style>") == 1
    with open_source("kept/maps.zarr") as maps, open_source("kept/series.zarr") as series:
        assert series.t2m.encoding["chunks"][0] == SMALL[0]
        xr.testing.assert_identical(maps.load(), series.load())


def test_without_keep_nothing_stays(in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(Path("temp").absolute()))
    tell(echo=lambda text: None, shape=TINY, max_mem="20MB", progress=False)
    assert list(Path("temp").iterdir()) == []


def test_a_broken_budget_is_an_error(
    monkeypatch: pytest.MonkeyPatch, in_this_process: None
) -> None:
    real = demo.rechunk_in_fresh_process
    monkeypatch.setattr(
        demo, "rechunk_in_fresh_process", lambda *a, **k: Rechunked(real(*a, **k).seconds, 10**9)
    )
    said: list[str] = []
    with pytest.raises(MemoryBudgetError, match=r"grew by 1\.00 GB") as caught:
        tell(echo=said.append, shape=TINY, max_mem="20MB", progress=False)
    assert caught.value.exit_code == 4
    assert "OVER the budget" in "\n".join(said)


def test_a_wrong_copy_is_an_error(monkeypatch: pytest.MonkeyPatch, in_this_process: None) -> None:
    import zarr

    real = demo.rechunk_in_fresh_process

    def spoil(source: Path, target: Path, **kwargs: object) -> Rechunked:
        done = real(source, target, **kwargs)  # type: ignore[arg-type]
        zarr.open_group(target, mode="r+")["t2m"][7, 7, 7] += np.float32(2**-10)
        return done

    monkeypatch.setattr(demo, "rechunk_in_fresh_process", spoil)
    with pytest.raises(VerificationError, match=r"t2m.* is altered: its values differ"):
        tell(keep="kept", echo=lambda text: None, shape=TINY, max_mem="20MB", progress=False)
    assert list(Path("kept").iterdir()) == []


def test_an_error_of_the_other_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    make_reanalysis(Path("maps.zarr"), shape=TINY)
    with pytest.raises(StageFailedError, match="MemoryBudgetError"):
        demo.rechunk_in_fresh_process(
            Path("maps.zarr"), Path("series.zarr"), max_mem=1000, threads=1, progress=False
        )


def test_what_is_there_is_not_replaced() -> None:
    Path("kept/maps.zarr").mkdir(parents=True)
    with pytest.raises(TargetExistsError, match=r"maps\.zarr is there already"):
        tell(keep="kept", echo=lambda text: None)
    with pytest.raises(SourceError, match="--report"):
        tell(report="no/such/folder/page.html", echo=lambda text: None)


@pytest.mark.slow
def test_the_real_demo_keeps_its_promises() -> None:
    said: list[str] = []
    tell(echo=said.append, progress=False)
    assert "within the budget" in "\n".join(said)
