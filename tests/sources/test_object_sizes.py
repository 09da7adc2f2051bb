"""How large strings and objects are taken to be."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from xchunk.sources.foreign import OBJECT_NBYTES, sampled_nbytes
from xchunk.sources.versions import token_of_values

TEXT = np.dtypes.StringDType()
LONG = np.array(["a" * 100_000, "b" * 100_000], dtype=object)

CASES: dict[str, Any] = {
    "objects": (LONG, True, True),
    "strings of any length": (LONG.astype(TEXT), True, True),
    "bytes": (np.array([b"a" * 100_000] * 2, dtype=object), True, True),
    "short": (np.array(["a", "b"], dtype=object), True, False),
    "none at all": (LONG[:0], True, False),
    "a scalar": (LONG[0:1].reshape(()), True, True),
    "two dims": (LONG.reshape(1, 2), True, True),
    "stored blocks of dask": (da.from_array(LONG.astype(TEXT), chunks=1), True, True),
    "computed blocks of dask": (da.from_array(LONG.astype(TEXT), chunks=1), False, False),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_taken_to_be_as_large_as_a_sample_of_them(case: str) -> None:
    values, read, is_long = CASES[case]
    variable = xr.Variable([f"d{i}" for i in range(values.ndim)], values)
    found = sampled_nbytes(variable, read=read)
    assert 100_000 < found < 101_000 if is_long else found == OBJECT_NBYTES


def test_one_long_value_of_many_is_seen_where_it_lies_in_a_sampled_place() -> None:
    values = np.array(["a"] * 999 + ["b" * 100_000], dtype=object)
    assert sampled_nbytes(xr.Variable("x", values), read=True) > 6_000


SAME = ["a-b", "c"]
OTHERS: dict[str, Any] = {
    "values that differ": ["a-b", "d"],
    "texts cut elsewhere": ["a", "b-c"],
    "more of them": ["a-b", "c", ""],
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("dtype", [np.dtype(object), TEXT], ids=["objects", "strings"])
def test_strings_in_memory_are_told_apart_by_their_values(case: str, dtype: Any) -> None:
    ours = token_of_values(np.array(SAME, dtype=dtype))
    assert ours == token_of_values(np.array(SAME, dtype=dtype))
    assert ours != token_of_values(np.array(OTHERS[case], dtype=dtype))
