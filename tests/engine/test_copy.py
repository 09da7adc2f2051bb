"""The buffers of copy tasks."""

from __future__ import annotations

import numpy as np
import pytest

import xchunk.engine.copy


def test_a_buffer_is_not_used_again_after_an_error() -> None:
    """Other requests of the box that failed may still write into it."""
    buffers = xchunk.engine.copy._Buffers()
    with buffers.borrow((4, 4), np.dtype("f4")) as good:
        pass
    with pytest.raises(OSError, match="lost"), buffers.borrow((4, 4), np.dtype("f4")) as bad:  # noqa: PT012
        assert np.shares_memory(bad, good)
        raise OSError("lost")
    with buffers.borrow((4, 4), np.dtype("f4")) as fresh:
        assert not np.shares_memory(fresh, bad)
