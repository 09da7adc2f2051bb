"""What counted work costs."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.cost import MAKE, OPEN, Rates, Work, waves

FREE = Rates(
    decode=1e30,
    encode=1e30,
    scratch_write=1e30,
    scratch_read=1e30,
    latency=0.0,
    bandwidth=1e30,
    task=0.0,
    run=0.0,
)

works = st.builds(Work, *(st.integers(0, 10**12) for _ in fields(Work)))


@pytest.mark.parametrize(
    ("work", "rates", "seconds"),
    [
        (Work(decoded_bytes=100), replace(FREE, decode=50), 2),
        (Work(encoded_bytes=100), replace(FREE, encode=50), 2),
        (Work(scratch_read_bytes=100), replace(FREE, scratch_read=50), 2),
        (Work(scratch_write_bytes=100), replace(FREE, scratch_write=50), 2),
        (Work(requests=100), replace(FREE, latency=0.02), 2),
        (Work(requests=100, opened=100), replace(FREE, latency=0.02), 0.04 * OPEN),
        (Work(requests=100, made=100), replace(FREE, latency=0.02), 0.04 * MAKE),
        (
            Work(requests=100, opened=30, made=20),
            replace(FREE, latency=0.02),
            1 + 0.012 * OPEN + 0.008 * MAKE,
        ),
        (Work(runs=100), replace(FREE, run=0.02), 2),
        (Work(decoded_bytes=100), replace(FREE, bandwidth=25, compression=0.5), 2),
        (Work(scratch_read_bytes=50), replace(FREE, bandwidth=25), 2),
    ],
)
def test_each_term(work, rates, seconds):
    assert work.busy_seconds(rates) == pytest.approx(seconds)


@given(works, works)
def test_sums_add_every_count(a, b):
    both = a + b
    for f in fields(Work):
        assert getattr(both, f.name) == getattr(a, f.name) + getattr(b, f.name)
    assert both.busy_seconds(Rates()) == pytest.approx(
        a.busy_seconds(Rates()) + b.busy_seconds(Rates())
    )


def test_the_idle_last_wave_counts():
    rates = replace(FREE, decode=1)
    three = Work(tasks=3, decoded_bytes=3)
    assert three.seconds(rates, 1) == 3
    assert three.seconds(rates, 2) == 2
    assert three.seconds(rates, 3) == 1
    assert three.seconds(rates, 30) == 1
    assert three.seconds(rates, 30, cores=2) == 1.5


def test_tasks_cost_the_scheduler_once():
    assert Work(tasks=100).seconds(replace(FREE, task=0.01), 50) == pytest.approx(1)


def test_threads_share_the_bandwidth_and_workers_do_not():
    work, rates = Work(tasks=100, decoded_bytes=100), replace(FREE, bandwidth=1, compression=1)
    assert work.seconds(rates, 10) == pytest.approx(100)
    assert work.seconds(rates, 10, workers=10) == pytest.approx(10)


def test_a_lock_lets_one_thread_read():
    work = Work(tasks=100, decoded_bytes=100)
    assert work.seconds(replace(FREE, decode=1), 10) == pytest.approx(10)
    assert work.seconds(replace(FREE, decode=1, serial_read=True), 10) == pytest.approx(100)


def test_requests_in_flight_wait_together():
    work, rates = Work(tasks=1, requests=100), replace(FREE, latency=0.1)
    assert work.seconds(rates, 1) == pytest.approx(10)
    assert work.seconds(rates, 1, concurrency=10) == pytest.approx(1)


def test_no_tasks_no_time():
    assert Work(decoded_bytes=10).seconds(Rates(), 2) == 0.0


@pytest.mark.parametrize(("tasks", "slots", "out"), [(0, 2, 0), (5, 2, 3), (5, 0, 5), (4, 4, 1)])
def test_waves(tasks, slots, out):
    assert waves(tasks, slots) == out


def test_packed_scratch_moves_fewer_bytes_at_a_price():
    plain, packed = Rates(), Rates().with_packed_scratch()
    work = Work(tasks=1, scratch_write_bytes=10**9)
    assert work.stored_bytes(packed) < work.stored_bytes(plain)
    assert packed.scratch_write < min(plain.pack, plain.scratch_write / plain.compression)


def test_sharded_scratch_is_slower_and_less_so_when_packed():
    plain = Rates()
    lost = plain.scratch_write / plain.with_sharded_scratch().scratch_write
    packed = plain.with_packed_scratch()
    less = packed.scratch_write / packed.with_sharded_scratch().scratch_write
    assert lost > less > 1


def test_json():
    assert json.loads(json.dumps(Rates().to_dict()))["decode"] == 1e9
    assert json.loads(json.dumps(Work(tasks=2).to_dict()))["tasks"] == 2
