"""Servers that ignore the range of a request: a part of a shard would be read as something else."""

from __future__ import annotations

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import FsspecStore, ObjectStore

from xchunk.errors import SourceError
from xchunk.storage.stores import describe
from xchunk.storage.zarr_io import get_key

__all__ = ["refuse_without_ranges"]

#: Places that have answered rightly, so that each is asked once in a process.
_known: set[str] = set()
_MOST_KNOWN = 1000


def refuse_without_ranges(store: Store, key: str) -> None:
    """Refuse a remote store of sharded arrays whose server does not serve parts of objects.

    Parameters
    ----------
    store : zarr store
        The store; those on disk and in memory are not asked.
    key : str
        An object of more than one byte that is there.

    Raises
    ------
    SourceError
        If the first byte of the object, or its last, is not what is answered when it is asked for.
    """
    place = describe(store)
    if not isinstance(store, FsspecStore | ObjectStore) or place in _known:
        return
    whole = get_key(store, key)
    if not whole or len(whole) < 2:
        return
    try:
        first = get_key(store, key, RangeByteRequest(0, 1))
        last = get_key(store, key, SuffixByteRequest(1))
    except OSError as error:
        raise _refusal(place) from error
    if (first, last) != (whole[:1], whole[-1:]):
        raise _refusal(place)
    if len(_known) < _MOST_KNOWN:
        _known.add(place)


def _refusal(place: str) -> SourceError:
    return SourceError(
        f"the server of {place} ignores which bytes of an object are asked for, so that sharded "
        "arrays cannot be read from it: parts of shards would be taken for others. Nothing was "
        "copied. Use a server with range requests (nginx, or an object store), or copy the store "
        "to a disk first."
    )
