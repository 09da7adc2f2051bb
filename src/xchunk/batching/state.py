"""The state of a batch: what became of each item, and whether it still holds.

They are made without opening anything as a dataset: thousands of finished jobs are looked
through before the first one is run.

Each process appends to a part of its own, one line of JSON for each thing that happens, so that
machines that share nothing but a folder need no lock. A line that was cut off by a kill counts
for nothing. All parts are read at the start: of each item, the latest record stands.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from zarr.storage import LocalStore

from xchunk.errors import InvalidJobError, XchunkError
from xchunk.stores.adapter import get_key
from xchunk.stores.stores import local_path, open_store
from xchunk.targets.location import state_of
from xchunk.targets.ownership import lease
from xchunk.targets.scratch import PREFIX

#: Files of one store whose names and sizes are looked at.
_MOST_FILES = 20_000
_ROOT_DOCUMENTS = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")
#: What file systems call the version of an object.
_VERSIONS = (
    "size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "VersionId",
    "version_id", "generation", "md5Hash", "created",
)  # fmt: skip


def sources_stamp(sources: Sequence[str], options: Mapping[str, Any]) -> str:
    """Digest what can be seen of sources from outside: sizes, times, versions, root metadata."""
    return _digest([_source(name, options) for name in sources])


def _source(name: str, options: Mapping[str, Any]) -> Any:
    path = local_path(name)
    if path is None:
        return _remote(name, options)
    try:
        if path.is_dir():
            return list(_files(str(path), times=True))
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _remote(name: str, options: Mapping[str, Any]) -> Any:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(name, **dict(options))
        info = fs.info(path)
        facts = [(k, str(info[k])) for k in _VERSIONS if info.get(k) is not None]
        documents = []
        if info.get("type") == "directory":
            facts = []
            for key in _ROOT_DOCUMENTS:
                with suppress(FileNotFoundError):
                    documents.append(hashlib.sha256(fs.cat_file(f"{path}/{key}")).hexdigest())
    except Exception:  # noqa: BLE001 - what is wrong is said when it is opened
        return None
    return [facts, documents]


def target_stamp(target: str, options: Mapping[str, Any]) -> str | None:
    """Digest a complete store: its root's metadata, which are written last, and its files.

    - returns: None where there is no complete zarr store.
    """
    store = open_store(target, read_only=True, storage_options=options)
    if state_of(store) not in ("complete", "committed"):
        return None
    documents = [get_key(store, key) or b"" for key in _ROOT_DOCUMENTS]
    path = local_path(store)
    files = [] if path is None else list(_files(str(path), times=False))
    return _digest([[hashlib.sha256(d).hexdigest() for d in documents], files])


def _files(folder: str, *, times: bool) -> Iterator[list[Any]]:
    """List files below a folder with their sizes, in an order that stays the same."""
    stack, seen = [folder], 0
    while stack:
        here = stack.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name == PREFIX:
                continue
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
                continue
            if seen >= _MOST_FILES:
                return
            seen += 1
            with suppress(OSError):
                stat = entry.stat()
                name = os.path.relpath(entry.path, folder)
                yield [name, stat.st_size, *([stat.st_mtime_ns] if times else [])]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


ShownStatus = Literal["running", "done", "failed", "interrupted"]
#: What is done with an item: it is run, verified, or left as it is.
Verdict = Literal["run", "verify", "skip"]


@dataclass(frozen=True)
class Record:
    """What became of one item."""

    key: str
    """The item's target."""
    name: str
    """The item's name."""
    status: ShownStatus
    """How far it is."""
    job: str
    """Digest of what was asked."""
    source: str
    """Stamp of its sources."""
    target: str | None = None
    """Stamp of the complete target."""
    before: str | None = None
    """Stamp of the complete store that was in the target's place when it was begun."""
    ours: bool = False
    """Whether the batch itself had made that store."""
    verified: bool = False
    """Whether the target was read back and compared."""
    seconds: float = 0.0
    """How long it took."""
    nbytes: int = 0
    """Bytes of its variables, as stored before codecs."""
    message: str = ""
    """Why it failed, in words."""
    time: str = ""
    """When it was noted, UTC."""


def decide(
    earlier: Record | None, *, job: str, source: str, target: str | None, verify: bool
) -> tuple[Verdict, str]:
    """Decide what to do with an item, of what is known of it now.

    - ``earlier``: what became of it before.
    - ``job``, ``source``: digest of what is asked, and stamp of its sources, now.
    - ``target``: stamp of the complete store that exists now.
    - ``verify``: whether it is to be verified.
    - returns: the verdict, and why; empty where it goes without saying.
    """
    if earlier is None:
        return "run", ""
    if earlier.status != "done":
        changed = _changed(earlier, job, source)
        if target not in (None, earlier.before) and not changed:
            # killed after its target was complete, and before that was noted
            return "verify", "its target was complete when an earlier run was stopped"
        return "run", f"begun anew: {changed}" if changed else ""
    if target is None:
        return "run", "done again: its target is gone, or not complete"
    if changed := _changed(earlier, job, source):
        return "run", f"done again: {changed}"
    if earlier.target != target:
        return "run", "done again: its target is not what was written"
    if verify and not earlier.verified:
        return "verify", "was done, but not verified"
    return "skip", "done by an earlier run"


def is_ours(earlier: Record | None, target: str | None) -> bool:
    """Return whether the complete store that exists now is one that the batch made."""
    if earlier is None or target is None:
        return False
    if earlier.status == "done":
        return earlier.target == target
    return earlier.ours and earlier.before == target


def _changed(earlier: Record, job: str, source: str) -> str:
    if earlier.source != source:
        return "its source has changed"
    return "its job has changed" if earlier.job != job else ""


class State:
    """The state of a batch in a folder; without a folder, in memory only.

    - ``folder``: where it is kept; made when the first record is written.
    - ``shard``: which of how many shards writes it; None: all items.
    """

    def __init__(self, folder: Path | None, shard: tuple[int, int] | None = None):
        self.folder = folder
        part = "state" if shard is None else f"state-{shard[0]}-of-{shard[1]}"
        self.path = None if folder is None else folder / f"{part}.jsonl"
        self._records: dict[str, Record] = {}
        self._file: Any = None

    @property
    def logs(self) -> Path | None:
        """The folder of the items' logs."""
        return None if self.folder is None else self.folder / "logs"

    def read(self) -> None:
        """Read what earlier runs and other shards have noted."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("state*.jsonl")):
            for said in _lines(path):
                record = _record(said)
                known = None if record is None else self._records.get(record.key)
                if record is not None and (known is None or known.time <= record.time):
                    self._records[record.key] = record

    def get(self, key: str) -> Record | None:
        """Return the latest record of an item."""
        return self._records.get(key)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write to this part while the context lasts.

        - raises `TargetExistsError` if another process is writing this part.
        - raises `InvalidJobError` if the folder cannot be written to.
        """
        if self.path is None:
            yield
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with lease(LocalStore(self.path.with_name(f".{self.path.stem}"))):
                self._compact()
                with self.path.open("a", encoding="utf-8") as self._file:
                    yield
        except OSError as error:
            if isinstance(error, XchunkError) or error.filename is None:
                raise
            raise InvalidJobError(
                f"the state cannot be kept in {self.folder} ({error.strerror or error}). Give "
                "another folder: --state DIR."
            ) from error
        finally:
            self._file = None

    def note(self, record: Record) -> None:
        """Note what became of an item."""
        self._records[record.key] = record
        self._write(asdict(record))

    def _write(self, said: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(_line(said))
            self._file.flush()
            os.fsync(self._file.fileno())

    def _compact(self) -> None:
        """Keep the latest record of each item only, and a file that ends with a line's end."""
        path = self.path
        if path is None or not path.exists():
            return
        latest = {record.key: record for record in map(_record, _lines(path)) if record is not None}
        text = "".join(_line(asdict(record)) for record in latest.values())
        half = path.with_suffix(f".{os.getpid()}.partial")
        half.write_text(text, encoding="utf-8")
        half.replace(path)


def _lines(path: Path | None) -> Iterator[Mapping[str, Any]]:
    """Read the lines that are whole."""
    if path is None or not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                said = json.loads(line)
                if isinstance(said, dict):
                    yield said


def _line(said: Mapping[str, Any]) -> str:
    return json.dumps(said, ensure_ascii=False) + "\n"


def _record(said: Mapping[str, Any]) -> Record | None:
    known = {f.name for f in fields(Record)}
    if not all(isinstance(said.get(k), str) for k in ("key", "status", "job", "source", "time")):
        return None
    try:
        return Record(**{k: v for k, v in said.items() if k in known})
    except TypeError:
        return None
