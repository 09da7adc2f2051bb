from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xchunk.core.units import format_bytes, format_count, format_seconds, parse_bytes
from xchunk.errors import InvalidChunksError


@pytest.mark.parametrize(
    ("given_", "bytes_"),
    [
        (1, 1),
        (400_000_000, 400_000_000),
        (1.5e9, 1_500_000_000),
        (2.9, 2),
        ("1", 1),
        ("1.5e9", 1_500_000_000),
        ("1e3 kB", 1_000_000),
        ("400MB", 400_000_000),
        ("400 MB", 400_000_000),
        ("  400 mb  ", 400_000_000),
        ("2GiB", 2 * 1024**3),
        ("2 gib", 2 * 1024**3),
        ("2Gi", 2 * 1024**3),
        ("2G", 2_000_000_000),
        (".5kB", 500),
        ("5.kB", 5000),
        ("1.5 KiB", 1536),
        ("3 TB", 3 * 10**12),
        ("1PiB", 1024**5),
        ("64b", 64),
    ],
    ids=str,
)
def test_parse_bytes(given_: int | float | str, bytes_: int) -> None:
    found = parse_bytes(given_)
    assert found == bytes_
    assert type(found) is int


@pytest.mark.parametrize(
    "wrong",
    [
        "10 potatoes",
        "",
        " ",
        "MB",
        "-1",
        "-1GB",
        "1,5 GB",
        "1_000",
        "0x10",
        "1e400",
        "1 GB 2",
        "1 GBB",
        "½ GB",
        "１GB",
        "nan",
        "inf",
        0,
        -1,
        0.5,
        "0",
        "0.1",
        math.nan,
        math.inf,
        -math.inf,
        True,
        None,
        [1],
        {"a": 1},
        b"1GB",
        1j,
    ],
    ids=repr,
)
def test_what_is_no_size_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidChunksError, match="max_mem=") as caught:
        parse_bytes(wrong, "max_mem")  # type: ignore[arg-type]
    said = str(caught.value)
    assert repr(wrong) in said
    assert "400MB" in said  # an example of what to give


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"[0-9.e+-]{0,12} ?[a-zA-Z]{0,4}"),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.none(),
        st.binary(),
    )
)
def test_anything_is_a_size_or_a_clear_error(value: object) -> None:
    try:
        found = parse_bytes(value)  # type: ignore[arg-type]
    except InvalidChunksError as error:
        assert "memory=" in str(error)
    else:
        assert type(found) is int
        assert found >= 1


@given(st.integers(1, 10**18), st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_number_and_its_unit(n: int, unit: str) -> None:
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
    factor |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    # a float carries 53 bits, which is what a person can be asked to mean
    assert parse_bytes(f"{n}{unit}") == pytest.approx(n * factor[unit], rel=1e-15)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1023, "1.02 kB"),
        (12_340, "12.3 kB"),
        (123_400, "123 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_517_875_200, "1.52 GB"),
        (3.2e12, "3.20 TB"),
        (5e15, "5.00 PB"),
        (5e18, "5000 PB"),
        (-2_000_000, "-2.00 MB"),
    ],
)
def test_format_bytes(n: int | float, text: str) -> None:
    assert format_bytes(n) == text


@given(st.integers(1, 10**17))
def test_a_shown_size_reads_back_within_half_a_percent(n: int) -> None:
    assert parse_bytes(format_bytes(n)) == pytest.approx(n, rel=0.0051)


def test_numpy_integers_are_shown_too() -> None:
    assert format_bytes(np.int64(1_500_000)) == "1.50 MB"
    assert format_count(np.int64(12_345)) == "12,345"


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0"), (999, "999"), (12_345, "12,345"), (1e9, "1,000,000,000")]
)
def test_format_count(n: int | float, text: str) -> None:
    assert format_count(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00001, "10 µs"),
        (0.0125, "12 ms"),
        (0.9994, "999 ms"),
        (1.0, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7260, "2 h 1 min"),
        (48 * 3600, "2.0 d"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
