"""Budgets and the buffers of one task."""

from __future__ import annotations

import json

import pytest

from xchunk.core.memory import (
    DECODE_COPIES,
    ENCODE_COPIES,
    TARGET,
    CopyBuffers,
    MemoryBudget,
    codec_copies,
)
from xchunk.errors import MemoryBudgetError


def test_growth_is_what_the_target_fraction_leaves():
    budget = MemoryBudget.of_memory(1000, reserved=200, threads=2)
    assert budget.max_mem == int(TARGET * 1000) - 200
    assert budget.per_task == budget.max_mem // 2
    assert budget.fraction_of_limit(100) == pytest.approx(0.3)


def test_a_process_that_fills_its_limit_is_refused():
    with pytest.raises(MemoryBudgetError, match="leaves nothing for data") as caught:
        MemoryBudget.of_memory(1000, reserved=600)
    assert caught.value.needed > caught.value.allowed


def test_growth_is_taken_as_it_is():
    budget = MemoryBudget.of_growth(1000, threads=3, workers=2)
    assert (budget.max_mem, budget.per_task, budget.slots) == (1000, 333, 6)
    assert budget.fraction_of_limit(10) is None
    assert budget.with_threads(1).per_task == 1000
    assert json.loads(json.dumps(budget.to_dict()))["per_task"] == 333


@pytest.mark.parametrize(
    ("buffers", "peak"),
    [
        pytest.param(CopyBuffers(100, 5, 10), 122, id="writing-is-more"),
        pytest.param(CopyBuffers(100, 20, 10), 140, id="reading-is-more"),
        pytest.param(CopyBuffers(100, 20, 10, queued=(2, 0)), 220, id="in-flight"),
        pytest.param(CopyBuffers(100, 20, 10, overhead=7), 147, id="overhead"),
        pytest.param(CopyBuffers(100, 0, 0), 100, id="box"),
    ],
)
def test_projected_mem(buffers, peak):
    assert buffers.projected_mem == peak


def test_what_codecs_hold():
    plain, packed, gzip = (codec_copies(c) for c in ((), ("shuffle", "zstd"), ("GZip",)))
    assert plain[0] < packed[0] < gzip[0]
    assert plain[1] < packed[1] < gzip[1]
    assert codec_copies(("zlib",)) == gzip


def test_the_usual_codec_is_the_default():
    buffers = CopyBuffers(0, 1, 1)
    assert (buffers.read_copies, buffers.write_copies) == (DECODE_COPIES, ENCODE_COPIES)
    assert codec_copies(("blosc",)) == (DECODE_COPIES, ENCODE_COPIES)
