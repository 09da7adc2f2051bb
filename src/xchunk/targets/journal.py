"""The journal of a run: which boxes are written, and of what source, plan and target.

It lies below ``.xchunk/journal`` in the store in which the target is made:

* ``header.json`` holds the facts of every array (source, plan, target), with a digest.
* ``confirmed.json`` names boxes whose data were flushed to the disk (`xchunk.targets.fsync`).
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zarr.abc.store import Store

from xchunk.errors import ResumeMismatchError
from xchunk.stores.adapter import (
    delete_keys,
    delete_prefix,
    get_key,
    get_keys,
    has_key,
    list_prefix,
    put_key,
)
from xchunk.stores.stores import is_zarr, local_path
from xchunk.targets.fsync import boot, flush, put_all_durably, put_durably
from xchunk.targets.scratch import PREFIX, Workspace

#: Version of what is written here; another one is not read.
FORMAT = 1
#: What is known of one array: JSON types only.
Facts = Mapping[str, Any]

#: The key of what tells what a run does.
HEADER = f"{PREFIX}/journal/header.json"
_CONFIRMED = f"{PREFIX}/journal/confirmed.json"


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
    def name(self) -> str:
        """What tells these boxes from those of other stages and arrays."""
        return f"{self.digest[:32]}/{self.stage}"

    @property
    def _prefix(self) -> str:
        return f"{PREFIX}/journal/{self.name}"

    def _record(self, box: int) -> bytes:
        return f"{self.digest}:{self.stage}:{box}".encode()

    def put(self, box: int) -> None:
        """Note that a box is written; its data have to be."""
        put_key(self.store, f"{self._prefix}/{box}", self._record(box))

    @property
    def dropped(self) -> str:
        """The key that tells that scratch data of the array were deleted."""
        return f"{PREFIX}/journal/{self.digest[:32]}/dropped"

    def drop(self) -> None:
        """Note that scratch data of the array are about to be deleted.

        It is only asked for after another boot, of which stores that are not local know nothing.
        """
        if local_path(self.store) is not None and not has_key(self.store, self.dropped):
            put_durably(self.store, self.dropped, b"1")

    def delete(self, boxes: Iterable[int]) -> None:
        """Take back that these boxes are written."""
        delete_keys(self.store, [f"{self._prefix}/{box}" for box in boxes])

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
    boot: str = field(default="", compare=False)
    """Which boot of the machine it was written in, where the store is local."""

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

        - raises `ResumeMismatchError` if it is damaged, or was written by another version.
        """
        raw = get_key(self.store, HEADER)
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
                dict(body["arrays"]),
                tuple(body["groups"]),
                body["documents"],
                dict(body["budget"]),
                str(body.get("boot", "")),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, ResumeMismatchError):
                raise
            raise ResumeMismatchError(
                f"the journal of the unfinished target is damaged ({error}), so that what is "
                "written already cannot be trusted. Nothing was written. Give resume=False "
                "(--no-resume) to start anew."
            ) from error

    def write(
        self, header: Header, *, version: str, beside: Mapping[str, bytes] | None = None
    ) -> None:
        """Write the header, before any box; and other objects beside it."""
        body = {
            "format": FORMAT,
            "version": version,
            "arrays": dict(header.arrays),
            "groups": list(header.groups),
            "documents": header.documents,
            "budget": dict(header.budget),
            "boot": "" if local_path(self.store) is None else boot(),
        }
        document = {"digest": digest_of(body), "body": body}
        raw = json.dumps(document, allow_nan=False).encode()
        put_all_durably(self.store, {**(beside or {}), HEADER: raw})

    def marks(self, facts: Facts, stage: int) -> BoxMarks:
        """Return where the boxes of one stage of an array are noted."""
        return BoxMarks(self.store, digest_of(facts), stage)

    def finished(self, header: Header, facts: Facts) -> tuple[frozenset[int], ...]:
        """Return the boxes of each stage of an array whose data are surely written.

        Those that were noted in another boot of the machine count where a flush confirmed them.
        """
        marks = [self.marks(facts, i) for i in range(len(facts["plan"]["stages"]))]
        found = [m.read() for m in marks]
        if header.boot in ("", boot()):
            return tuple(found)
        known = self._confirmed()
        sure = [f & known.get(m.name, frozenset()) for f, m in zip(found, marks, strict=True)]
        if has_key(self.store, marks[-1].dropped):
            # some of what was confirmed of scratch was deleted, for boxes that may be in doubt now
            sure[:-1] = [frozenset()] * (len(sure) - 1)
        return tuple(sure)

    def drop_scratch(self, facts: Facts) -> None:
        """Note that the scratch data of an array are about to be deleted."""
        self.marks(facts, 0).drop()

    def confirm(self, stores: Iterable[Store | None] = ()) -> None:
        """Flush what is written, here and in other stores, and name the boxes that it confirms."""
        names: dict[str, set[int]] = {}
        for key in list_prefix(self.store, f"{PREFIX}/journal/"):
            box = _number(key)
            if box is not None:
                names.setdefault("/".join(key.split("/")[-3:-1]), set()).add(box)
        flush([self.store, *stores])
        body = {name: _ranges(boxes) for name, boxes in sorted(names.items())}
        document = {"digest": digest_of(body), "body": body}
        put_durably(self.store, _CONFIRMED, json.dumps(document).encode())

    def _confirmed(self) -> dict[str, frozenset[int]]:
        raw = get_key(self.store, _CONFIRMED)
        try:
            document = json.loads(raw or b"{}")
            body = document["body"]
            if document["digest"] != digest_of(body):
                return {}
            return {
                str(name): frozenset(i for first, last in pairs for i in range(first, last + 1))
                for name, pairs in body.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def forget_doubtful(self, header: Header) -> None:
        """Delete the notes of another boot that nothing confirms, before this run adds its own."""
        if header.boot in ("", boot()):
            return
        for facts in header.arrays.values():
            for stage, sure in enumerate(self.finished(header, facts)):
                marks = self.marks(facts, stage)
                marks.delete(marks.read() - sure)
            delete_keys(self.store, [self.marks(facts, 0).dropped])

    def has_boxes(self, facts: Facts) -> bool:
        """Return whether any box of an array is noted as written."""
        return any(self.marks(facts, i).read() for i in range(len(facts["plan"]["stages"])))

    def forget(self, facts: Facts) -> None:
        """Delete the notes of one array, before its data are."""
        delete_prefix(self.store, f"{PREFIX}/journal/{digest_of(facts)[:32]}")


def _ranges(boxes: Iterable[int]) -> list[list[int]]:
    """Return numbers as ranges, both ends included."""
    out: list[list[int]] = []
    for box in sorted(boxes):
        if out and out[-1][1] == box - 1:
            out[-1][1] = box
        else:
            out.append([box, box])
    return out


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
    """Say in words which facts are not what they were: digests only where nothing else tells."""
    out, digests = [], []
    for key in [*before, *(k for k in now if k not in before)]:
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += differences(a, b, (*at, key))
        elif a != b:
            name = " ".join([*at, key])
            if key == "stages":
                out.append("plan: other boxes, as another budget or other chunks make them")
            elif _is_digest(a) and _is_digest(b):
                digests.append(f"{name} differ")
            else:
                out.append(f"{name} was {_short(a)}, is {_short(b)}")
    return out or digests


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
