from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from xchunk.sources.decoding import quietly


def test_threads_give_the_filters_of_warnings_back() -> None:
    """The first to come in is the first to go, which `warnings.catch_warnings` does not bear."""
    before = list(warnings.filters)
    is_second_in, is_first_out = threading.Event(), threading.Event()

    def first() -> None:
        with quietly():
            assert is_second_in.wait(10)
        is_first_out.set()

    def second() -> float:
        with quietly():
            is_second_in.set()
            assert is_first_out.wait(10)
            warnings.warn("nobody is to hear of this", stacklevel=1)
            return float(np.float64(1) / np.float64(0))

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(second)
        one.result()
        assert other.result() == np.inf
    assert warnings.filters == before
