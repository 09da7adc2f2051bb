"""One item of a batch: opened, planned, rechunked or verified, and closed again."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import dask
import xarray as xr

from xchunk._typing import ProgressLike
from xchunk.batching.expand import Item
from xchunk.encodings import put_encodings
from xchunk.errors import XchunkWarning
from xchunk.named import open_names
from xchunk.storage.fingerprint import without_secrets

__all__ = ["Made", "masked", "plan_item", "run_item", "verify_item"]

_SECRET = re.compile(r"secret|passw|passphrase|token|cred|signature|auth|cookie|sas", re.IGNORECASE)
#: Names of options that may hold half of a credential, which is hidden from this length on:
#: shorter ones are words, which text is full of.
_HALF, _SHORT = re.compile(r"key|account|user|login|client_id", re.IGNORECASE), 8


@dataclass
class Made:
    """What was planned, written or compared."""

    nbytes: int = 0
    """Bytes of the variables, as stored before codecs."""
    seconds: float = 0.0
    """How long it is predicted to take."""
    plan: Any = None
    """The plan."""
    notes: list[str] = field(default_factory=list)
    """What is to be said of it."""


@contextmanager
def _opened(item: Item, made: Made) -> Iterator[Any]:
    """Open an item's sources as a Dataset or DataTree; note warnings, leave nothing open."""
    options = item.options
    with ExitStack() as stack:
        heard = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", XchunkWarning)
        if options.threads is not None:
            stack.enter_context(dask.config.set(num_workers=options.threads))
        try:
            ds = _open(item)
            stack.callback(ds.close)
            put_encodings(ds, options.encoding, options.zarr_format)
            yield ds
        finally:
            made.notes += [" ".join(str(w.message).split()) for w in heard]


def _open(item: Item) -> xr.Dataset | xr.DataTree:
    options = item.options
    how: dict[str, Any] = {}
    if options.joined:
        along = options.concat_dim
        how = {
            "combine": options.combine,
            "concat_dim": list(along) if isinstance(along, tuple) else along,
            "blocks": "fitting",
            "sizes": {"memory": options.memory, "max_mem": options.max_mem},
        }
    return open_names(item.sources, options.group, options.engine, options.storage_options, **how)


def _request(item: Item) -> dict[str, Any]:
    options = item.options
    return {
        "what": options.chunks,
        "store": item.target,
        "access": options.access,
        "memory": options.memory,
        "max_mem": options.max_mem,
        "shards": options.shards,
        "zarr_format": options.zarr_format,
        "unpack": options.unpack,
        "storage_options": options.for_target,
    }


def plan_item(item: Item, *, overwrite: bool) -> Made:
    """Plan an item; nothing is written."""
    made = Made()
    with _opened(item, made) as ds:
        plan = ds.chunking.plan(**_request(item), overwrite=overwrite)
    made.plan, made.nbytes, made.seconds = plan, plan.nbytes, plan.seconds
    made.notes += plan.notes
    return made


def run_item(
    item: Item, made: Made, *, overwrite: bool, resume: bool, progress: ProgressLike
) -> None:
    """Rechunk an item, and verify it if that is asked.

    Parameters
    ----------
    item : Item
        What is read and written.
    made : Made
        Takes note of what is done, also where it fails.
    overwrite, resume, progress : bool
        As in ``ds.chunking.apply``.
    """
    how = {"overwrite": overwrite, "resume": resume}
    with _opened(item, made) as ds:
        request = _request(item)
        made.plan = ds.chunking.plan(**request, **how)
        made.notes += made.plan.notes
        out = ds.chunking.apply(**request, **how, verify=item.options.verify, progress=progress)
        made.nbytes = made.plan.nbytes
        out.close()


def verify_item(item: Item, made: Made) -> None:
    """Compare an item's target, which is complete, with its sources."""
    options = item.options
    with _opened(item, made) as ds:
        proof = ds.chunking.verify(
            item.target,
            memory=options.memory,
            max_mem=options.max_mem,
            storage_options=options.for_target,
        )
    made.nbytes = proof.nbytes


def masked(text: str, item: Item) -> str:
    """Take an item's credentials out of a text."""
    for place in (*item.sources, item.target):
        if without_secrets(place) != place:
            text = text.replace(place, without_secrets(place))
    for given in (item.options.storage_options, item.options.target_options or {}):
        for secret in _secrets(given):
            text = text.replace(secret, "…")
    return text


def _secrets(given: Mapping[str, Any]) -> Iterator[str]:
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and _hides(key, value):
            yield value


def _hides(key: str, value: str) -> bool:
    if _SECRET.search(key):
        return len(value) > 1
    return len(value) >= _SHORT and _HALF.search(key) is not None
