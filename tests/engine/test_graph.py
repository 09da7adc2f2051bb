"""How the tasks of a rechunk are called."""

from __future__ import annotations

import uuid

import pytest
from dask.utils import key_split

from xchunk.engine.graph import shown_whole


@pytest.mark.parametrize(
    ("variable", "shown"),
    [
        ("air", "xchunk-read-air"),
        ("tas", "xchunk-read-tas"),
        ("größe", "xchunk-read-größe"),
        ("sst-anomaly", "xchunk-read-sst-anomaly"),
        ("t2m", "xchunk_read_t2m"),
        ("u10", "xchunk_read_u10"),
        ("2t", "xchunk_read_2t"),
        ("sst_1", "xchunk_read_sst_1"),
        ("sst-1", "xchunk_read_sst_1"),
        ("sfc/t2m", "xchunk_read_sfc/t2m"),
        ("10 m wind", "xchunk_read_10 m wind"),
        ("deadbeef", "xchunk_read_deadbeef"),
        ("ae05086432ca935f6eba409a8ecd4896", "xchunk_read_ae05086432ca935f6eba409a8ecd4896"),
    ],
)
def test_the_dashboard_shows_the_whole_name(variable: str, shown: str) -> None:
    name = shown_whole(f"xchunk-read-{variable}")
    assert name == shown
    run = uuid.UUID(int=1).hex[:12]
    assert key_split((f"{name}-{run}", 7)) == shown
    assert key_split(str((f"{name}-{run}", 7))) == shown
