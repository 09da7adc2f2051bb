"""The journal of a run: which boxes are written, and of what source, plan and target.

It lies below ``.xchunk/journal`` in the store in which the target is made:

* ``header.json`` holds the facts of every array (source, plan, target), with a digest.
* ``<digest of the array's facts>/<stage>/<box>`` is put when the data of a box are written,
  by the task that wrote them. What it holds is made of the same digest, so that a damaged
  record, or one of another source or plan, counts for nothing: its box is copied again.

One small object for each box is what every kind of store can do from many processes at once,
without one of them having to wait for another, and it is complete or not there at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zarr.abc.store import Store

from xchunk.errors import ResumeMismatchError
from xchunk.storage.stores import is_zarr
from xchunk.storage.workspace import PREFIX, Workspace
from xchunk.storage.zarr_io import delete_prefix, get_key, get_keys, list_prefix, put_key

__all__ = ["BoxMarks", "Facts", "Header", "Journal", "committed_digest", "differences"]

#: Version of what is written here; another one is not read.
FORMAT = 1
#: What is known of one array: JSON types only.
Facts = Mapping[str, Any]

_HEADER = f"{PREFIX}/journal/header.json"


def digest_of(facts: Facts) -> str:
    """Digest JSON types, whatever the order of their keys."""
    text = json.dumps([FORMAT, facts], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class BoxMarks:
    """Where the boxes of one stage are noted as written; travels to the workers."""

    store: Store
    """The store of the journal."""
    digest: str
    """Digest of the array's facts."""
    stage: int
    """Number of the stage."""

    @property
    def _prefix(self) -> str:
        return f"{PREFIX}/journal/{self.digest[:32]}/{self.stage}"

    def _record(self, box: int) -> bytes:
        return f"{self.digest}:{self.stage}:{box}".encode()

    def put(self, box: int) -> None:
        """Note that a box is written; its data have to be."""
        put_key(self.store, f"{self._prefix}/{box}", self._record(box))

    def read(self) -> frozenset[int]:
        """Return the boxes that are noted as written; what is damaged counts for nothing."""
        keys = [k for k in list_prefix(self.store, f"{self._prefix}/") if _number(k) is not None]
        found = get_keys(self.store, keys)
        boxes = ((_number(key), raw) for key, raw in zip(keys, found, strict=True))
        return frozenset(box for box, raw in boxes if box is not None and raw == self._record(box))


def _number(key: str) -> int | None:
    name = key.rpartition("/")[2]
    return int(name) if name.isascii() and name.isdigit() else None


@dataclass(frozen=True)
class Header:
    """What a run does, as far as going on with it depends on that."""

    arrays: Mapping[str, Facts]
    """Facts of each array, by its path."""
    groups: tuple[str, ...]
    """Keys of the groups' metadata, by which the target can be told when it is deleted."""
    documents: str = ""
    """Digest of the groups' metadata."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    """The budget by which it was planned."""

    @property
    def digest(self) -> str:
        """Digest of all that the target will hold."""
        return digest_of({"arrays": dict(self.arrays), "documents": self.documents})


@dataclass(frozen=True)
class Journal:
    """The journal in one store."""

    store: Store
    """The store in which the target is made."""

    def read(self) -> Header | None:
        """Read the header; None where there is none.

        Raises
        ------
        ResumeMismatchError
            If it is damaged, or was written by another version.
        """
        raw = get_key(self.store, _HEADER)
        if raw is None:
            return None
        try:
            document = json.loads(raw)
            body = document["body"]
            if document["digest"] != digest_of(body):
                raise ValueError("its digest does not match")
            if body["format"] != FORMAT:
                raise ResumeMismatchError(
                    f"the journal of the unfinished target has format {body['format']}, and this "
                    f"version of xchunk reads {FORMAT}. Nothing was written. Finish it with the "
                    f"version that began it ({body.get('version')}), or give resume=False "
                    "(--no-resume) to start anew."
                )
            return Header(
                dict(body["arrays"]), tuple(body["groups"]), body["documents"], dict(body["budget"])
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, ResumeMismatchError):
                raise
            raise ResumeMismatchError(
                f"the journal of the unfinished target is damaged ({error}), so that what is "
                "written already cannot be trusted. Nothing was written. Give resume=False "
                "(--no-resume) to start anew."
            ) from error

    def write(self, header: Header, *, version: str) -> None:
        """Write the header, before any box."""
        body = {
            "format": FORMAT,
            "version": version,
            "arrays": dict(header.arrays),
            "groups": list(header.groups),
            "documents": header.documents,
            "budget": dict(header.budget),
        }
        document = {"digest": digest_of(body), "body": body}
        put_key(self.store, _HEADER, json.dumps(document, allow_nan=False).encode())

    def marks(self, facts: Facts, stage: int) -> BoxMarks:
        """Return where the boxes of one stage of an array are noted."""
        return BoxMarks(self.store, digest_of(facts), stage)

    def has_boxes(self, facts: Facts) -> bool:
        """Tell whether any box of an array is noted as written."""
        return any(self.marks(facts, i).read() for i in range(len(facts["plan"]["stages"])))

    def forget(self, facts: Facts) -> None:
        """Delete the notes of one array, before its data are."""
        delete_prefix(self.store, f"{PREFIX}/journal/{digest_of(facts)[:32]}")


def committed_digest(store: Store) -> str | None:
    """Return the digest of what a complete target of ours holds, which was not cleaned up yet."""
    marker = Workspace(store).read_marker()
    if marker is None or marker.get("clearing") or not is_zarr(store):
        return None
    if marker.get("committed"):
        return str(marker["committed"])
    try:
        header = Journal(store).read()
    except ResumeMismatchError:
        return None
    return None if header is None else header.digest


def differences(before: Facts, now: Facts, at: Sequence[str] = ()) -> list[str]:
    """Say in words which facts are not what they were."""
    out = []
    for key in [*before, *(k for k in now if k not in before)]:
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += differences(a, b, (*at, key))
        elif a != b:
            name = " ".join([*at, key])
            told = not (_is_digest(a) and _is_digest(b))
            out.append(f"{name} was {_short(a)}, is {_short(b)}" if told else f"{name} differ")
    return out


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
