"""What a person is told of a target that another call has begun."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from zarr.storage import MemoryStore

from xchunk.errors import ResumeMismatchError
from xchunk.rechunking.resume import compare
from xchunk.targets.journal import Header


def header(names: list[str], **source: Any) -> Header:
    facts = {"source": {"shape": [3], "data": "1" * 64} | source, "plan": {}, "target": {}}
    return Header(dict.fromkeys(names, facts), (), "", {})


def test_what_differs_is_said_once_for_all_arrays() -> None:
    names = [f"v{i}" for i in range(20)]
    earlier = header([*names, "gone"])
    journal: Any = SimpleNamespace(
        read=lambda: earlier, has_boxes=lambda _: True, store=MemoryStore()
    )
    with pytest.raises(ResumeMismatchError) as error:
        compare(journal, header(names, shape=[4], data="2" * 64))
    said = str(error.value)
    assert "v0, v1, v2 and 17 more: source shape was [3], is [4]; gone: not written" in said
    assert "data differ" not in said
    with pytest.raises(ResumeMismatchError, match="v0, v1, v2 and 17 more: source data differ"):
        compare(journal, header(names, data="2" * 64))
