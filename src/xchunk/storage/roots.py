"""What a dask array was opened from, where that is more than one stored array.

Of files that are put together, xarray keeps the encoding of the first. Packed with its scale, or
cast to its dtype, the values of the others may be rounded or wrap around; so it has to be known
whether all were stored alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from xchunk.storage.joined import JoinedArray
from xchunk.storage.refs import FileRef, OneRef
from xchunk.storage.stale import VALUE_KEYS, is_left

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["as_all_are_stored", "is_mixed", "made_from"]

#: xarray's, and thereby dask's, name of the layer that holds what was opened.
_OPENED = "original-"


def is_mixed(variable: xr.Variable) -> bool:
    """Tell whether a variable was put together from arrays that are stored in different ways.

    Parameters
    ----------
    variable : xarray.Variable
        The variable; its data are neither read nor computed.

    Returns
    -------
    bool
        False where it was opened from one array, from several that are stored alike, or where
        that cannot be told.
    """
    layers = getattr(getattr(variable.data, "dask", None), "layers", None)
    if variable.chunks is None or not layers:
        return False
    opened = [layer for name, layer in layers.items() if str(name).startswith(_OPENED)]
    if len(opened) < 2:
        return False
    found = {_stored(value) for layer in opened for value in dict(layer).values()}
    return len(found) > 1


def _stored(node: Any) -> tuple[str, ...] | None:
    """Say how an array is stored that a layer holds: its dtype, and each step of its decoding."""
    try:
        from xchunk.storage._wrappers import lazy_part, reference

        part = lazy_part(getattr(node, "value", node))
        _, dtype = reference(part)
        return (np.dtype(dtype).newbyteorder("=").str, *(d.text for d in part.decoders))
    # Private parts of other libraries may fail in any way; what is not known is like nothing known.
    except Exception:  # noqa: BLE001
        return None


def as_all_are_stored(variable: xr.Variable) -> tuple[xr.Variable, list[str]]:
    """Take from a variable's encoding what does not hold for all that it was put together from.

    Returns
    -------
    tuple
        The variable, whose values are then stored as they are, and a note that says so.
    """
    encoding = variable.encoding
    if not is_left(encoding) or not is_mixed(variable):
        return variable, []
    plain = variable.copy(deep=False)
    plain.encoding = {k: v for k, v in encoding.items() if k not in VALUE_KEYS}
    note = (
        "it was put together from arrays that are stored in different ways (dtype, packing or "
        f"fill value), so its values are stored as they are, as {variable.dtype}"
    )
    return plain, [note]


def made_from(array: da.Array) -> tuple[list[OneRef], list[str]]:
    """Tell what the blocks of a dask array are computed from, as far as that is known.

    dask's name of an array says what is done, and to which place: it does not change where a
    store is written anew, or where the data of an earlier computation are kept in memory.

    Returns
    -------
    refs : list
        Where it is stored, without repetitions.
    tokens : list of str
        What else tells values apart: digests of those in memory, clients that hold others.
    """
    refs: dict[Any, OneRef] = {}
    tokens: list[str] = []
    try:
        from xchunk.storage._tasks import held_by

        # an array may be held by each task that reads from it
        items = list({id(item): item for item in held_by(array)}.values())
        for place in _places(items):
            if isinstance(place, np.ndarray):
                tokens.append(str(tokenize(place)))
            elif isinstance(place, str):
                tokens.append(place)
            else:
                refs.setdefault(_key(place), place)
    # Private parts of other libraries may fail in any way once they change.
    except Exception:  # noqa: BLE001
        return list(refs.values()), sorted(tokens)
    return list(refs.values()), sorted(tokens)


def _key(ref: OneRef) -> tuple[Any, ...]:
    return (ref.filename,) if isinstance(ref, FileRef) else (id(ref.store), ref.path)


def _places(items: list[Any]) -> Iterator[OneRef | np.ndarray[Any, Any] | str]:
    from xchunk.storage._wrappers import place_of

    for item in items:
        if isinstance(item, JoinedArray):
            yield from _places(list(item.variables.flat))
        elif type(item).__name__ == "Future":
            # its values lie on a cluster; another client has computed others
            yield str(getattr(getattr(item, "client", None), "id", ""))
        elif (place := place_of(item)) is not None:
            yield place
