"""Stores that cannot travel to the workers of a cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import xchunk
from xchunk.core.grid import Grid
from xchunk.engine.copy import StageSpec
from xchunk.engine.graph import Chain, refuse_blind_workers, run_chains
from xchunk.sources.refs import ZarrRef


class Fixed(MemoryStore):
    """A store that cannot be pickled, as obstore's in memory cannot."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle 'Fixed' object")


class Client:
    """A cluster that is never asked."""

    def run(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the store was to be refused before")


def in_obstore() -> Any:
    store = pytest.importorskip("obstore.store")
    return zarr.storage.ObjectStore(store.MemoryStore())


STORES = {"any store": Fixed, "obstore's in memory": in_obstore}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_a_target_that_cannot_travel_is_refused(make: Any) -> None:
    client: Any = Client()
    with pytest.raises(xchunk.SourceError, match="cannot be sent to the workers"):
        refuse_blind_workers(client, make(), "zarr.json")


@pytest.mark.parametrize("side", ["source", "target"])
def test_no_box_is_copied_from_or_to_what_cannot_travel(side: str) -> None:
    client: Any = Client()
    store, other = Fixed(), MemoryStore()
    places = {"source": other, "target": other, side: store}
    spec = StageSpec(
        run="run",
        label="xchunk-direct-a",
        array="a",
        number=0,
        source=ZarrRef(places["source"], "a", 3),
        target=ZarrRef(places["target"], "a", 3),
        origin=(0,),
        boxes=Grid.of((4,), (4,)),
        dtype=np.dtype("f8"),
    )
    with pytest.raises(xchunk.SourceError, match="cannot be sent to the workers"):
        run_chains([Chain((spec,))], threads=1, client=client)
