"""What a graph reads of each stored array, counted on the stored grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xchunk.core.blocks import item_nbytes
from xchunk.core.workload import Reads
from xchunk.simulate.standin import Asked, StandIn

__all__ = ["ReadCount"]

#: Stored chunks of one array beyond which those that are touched are not told apart.
_MANY = 50_000_000


@dataclass
class ReadCount:
    """Counts while the graph is walked."""

    stored: StandIn
    """The array."""
    requests: int = 0
    """How many times a part was asked for."""
    decodes: int = 0
    """Chunks decoded."""
    elements: int = 0
    """Elements decoded."""
    _touched: NDArray[np.bool_] | None = field(default=None, repr=False)

    def add(self, asked: Asked) -> None:
        """Count one request."""
        self.requests += 1
        self.decodes += asked.chunks if self.stored.is_chunked else 1
        self.elements += asked.decoded
        counts = self.stored.grid.counts
        if not self.stored.is_chunked or math.prod(counts) > _MANY:
            return
        if self._touched is None:
            self._touched = np.zeros(counts, bool)
        self._touched[np.ix_(*(np.asarray(p, np.intp) for p in asked.picks))] = True

    def total(self) -> Reads:
        """The counts so far."""
        item = item_nbytes(self.stored.layout.stored_dtype)
        distinct = min(self.elements, math.prod(self.stored.shape))
        if self._touched is not None:
            distinct = self._elements(self._touched)
        return Reads(
            self.stored.layout.name,
            self.requests,
            self.decodes,
            self.elements * item,
            distinct * item,
        )

    def _elements(self, touched: NDArray[np.bool_]) -> int:
        total: Any = touched.astype(np.float64)
        for axis in reversed(self.stored.grid.axes):
            bounds = (axis.bounds(i) for i in range(axis.count))
            total = total @ np.array([b - a for a, b in bounds], np.float64)
        return round(float(total))
