"""One item of a batch: opened, planned, rechunked or verified, and closed again.

Libraries in C that read files can end their process. So items that read files run in a child,
one after the other; where it dies, its item has failed, and the next one gets a new child.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Self

import dask
import xarray as xr

from xchunk.batching.schema import Item
from xchunk.core.redact import without_secrets
from xchunk.core.types import ProgressLike
from xchunk.errors import StageFailedError, XchunkWarning
from xchunk.opening.dataset import open_names
from xchunk.opening.encoding import put_encodings
from xchunk.rechunking.run import RechunkJob

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
            put_encodings(ds, options.encoding or {}, options.zarr_format)
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
    return open_names(item.sources, options.group, options.backend, options.source_options, **how)


def _planned(ds: Any, item: Item, made: Made, **how: bool) -> RechunkJob[Any]:
    """Plan an item, and take note of what is planned."""
    given = {**item.options.given(), "storage_options": item.options.for_target, **how}
    job: RechunkJob[Any] = ds.chunking.plan(store=item.target, **given)
    made.plan, made.nbytes, made.seconds = job.plan, job.plan.nbytes, job.plan.seconds
    if item.options.verify:
        made.seconds += job.plan.verify_seconds
    made.notes += job.plan.notes
    return job


def plan_item(item: Item, *, overwrite: bool) -> Made:
    """Plan an item; nothing is written."""
    made = Made()
    with _opened(item, made) as ds:
        _planned(ds, item, made, overwrite=overwrite)
    return made


def run_item(
    item: Item, made: Made, *, overwrite: bool, resume: bool, progress: ProgressLike
) -> None:
    """Rechunk an item, and verify it if that is asked.

    - ``item``: what is read and written.
    - ``made``: takes note of what is done, also where it fails.
    - ``overwrite``, ``resume``, ``progress``: as in ``ds.chunking.apply``.
    """
    with _opened(item, made) as ds:
        job = _planned(ds, item, made, overwrite=overwrite, resume=resume)
        job.run(verify=item.options.verify, progress=progress).close()


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
    for given in (item.options.source_options or {}, item.options.target_options or {}):
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


_STEPS: dict[str, Callable[..., Any]] = {
    "plan": plan_item,
    "run": run_item,
    "verify": verify_item,
}
#: Modules that change how files are read once they are imported: the child has them as well.
_WITH = ("hdf5plugin",)


def can_die(item: Item) -> bool:
    """Return whether an item is read by libraries that may end the process."""
    if os.name != "posix" or "memory://" in item.target:
        return False
    return any(Path(source).is_file() for source in item.sources)


class _DiedError(Exception):
    """The child is no more."""


class _ChildTracebackError(Exception):
    """Where an error was raised in the child."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Child:
    """A child process that does the jobs of a batch; started with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._alive = -1
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def do(
        self, step: str, item: Item, made: Made, progress: ProgressLike | None = None, **how: Any
    ) -> None:
        """Do a step of an item as in this process; what is raised there is raised here.

        - ``step`` ({"plan", "run", "verify"}): what is done.
        - ``item``: what it is done with.
        - ``made``: takes note of what is done, also where it fails.
        - ``progress``: is called for boxes.
        - ``**how``: options of the step.
        - raises `StageFailedError` if the child dies.
        """
        config = {k: v for k, v in dask.config.config.items() if _travels(v)}
        if self._process is None:
            self._start()
        assert self._connection is not None  # noqa: S101 - for the types: it was just started
        done = False
        try:
            self._connection.send((step, item, how, config))
            found, error, text = self._wait(progress)
            done = True
        except (_DiedError, OSError):
            raise self._died() from None
        finally:
            if not done:
                self.close(kill=True)
        vars(made).update(vars(found))
        if error is not None:
            raise error from _ChildTracebackError(text)

    def _start(self) -> None:
        ours, theirs = Pipe()
        watched, self._alive = os.pipe()
        modules = [name for name in _WITH if name in sys.modules]
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from xchunk.batching.item import serve; "
            f"serve({theirs.fileno()}, {watched}, {modules!r})"
        )
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, and this module
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(), watched),
                # Ctrl-C reaches this process only, which hands it on
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(watched)
        self._connection = ours
        self._messages = queue.SimpleQueue()
        threading.Thread(
            target=_receive, args=(ours, self._messages), name="xchunk-batch", daemon=True
        ).start()

    def _wait(self, progress: ProgressLike | None) -> tuple[Made, BaseException | None, str]:
        """Wait for the end of a step; hand on what is told of it, and Ctrl-C."""
        asked_to_stop = False
        while True:
            try:
                kind, *values = self._messages.get()
                if kind == "died":
                    raise _DiedError
                if kind == "done":
                    return values[0], values[1], values[2]
                if progress is not None:
                    _tell(progress, kind, values[0])
            except KeyboardInterrupt:
                if asked_to_stop or self._process is None:
                    raise
                # it lets go of its lease, and answers
                asked_to_stop = True
                self._process.send_signal(signal.SIGINT)

    def _died(self) -> StageFailedError:
        code = 0 if self._process is None else self._process.wait()
        if code == -signal.SIGKILL:
            said = "SIGKILL: Linux does so where memory runs out. Give a smaller memory"
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            said = f"{how}: a library that reads files crashed. Read this source by another engine"
        return StageFailedError(
            f"the process that worked on it was ended by {said}. The other jobs are not concerned, "
            "and nothing incomplete can be opened."
        )

    def close(self, *, kill: bool = False) -> None:
        """End the child; one that is at work only by being killed."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is None or connection is None:
            return
        if kill:
            process.kill()
        # it ends by itself when nobody holds the other end
        os.close(self._alive)
        process.wait()
        with suppress(OSError):
            connection.close()


def _travels(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - of whoever made it
        return False
    return True


def _receive(connection: Connection[Any, Any], messages: queue.SimpleQueue[Any]) -> None:
    """Receive in a thread: Ctrl-C would cut a message in two."""
    try:
        while True:
            messages.put(connection.recv())
    except (EOFError, OSError, TypeError, ValueError):
        messages.put(("died",))


def _tell(progress: ProgressLike, kind: str, value: Any) -> None:
    if kind == "update":
        progress.update(**value)
    elif kind == "enter":
        progress.__enter__()
    elif kind == "exit":
        progress.__exit__(value, None if value is None else value(), None)
    elif kind == "begin" and hasattr(progress, "begin"):
        progress.begin(value)


class _Told:
    """Progress that is told in the child, and shown by its parent."""

    def __init__(self, connection: Connection[Any, Any]):
        self._connection = connection

    def __enter__(self) -> Self:
        self._connection.send(("enter", None))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # an error's own class may not travel
        known = KeyboardInterrupt if kind is KeyboardInterrupt else StageFailedError
        self._connection.send(("exit", None if kind is None else known))

    def begin(self, plan: Any) -> None:
        self._connection.send(("begin", plan))

    def update(self, **told: Any) -> None:
        self._connection.send(("update", told))


def serve(connection: int, alive: int, modules: list[str]) -> None:
    """Do what the parent asks for, in the child, until it is gone.

    - ``connection``: the file descriptor of the connection to the parent.
    - ``alive``: a pipe that ends when the parent does, in whatever way.
    - ``modules``: what is imported first.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)
    parent: Connection[Any, Any] = Connection(connection)
    while True:
        try:
            request = parent.recv()
        except KeyboardInterrupt:
            # it came when all was done
            continue
        except (EOFError, OSError):
            return
        _answer(parent, *request)


def _answer(
    parent: Connection[Any, Any], step: str, item: Item, how: dict[str, Any], config: dict[str, Any]
) -> None:
    made, found, text = Made(), None, ""
    if step == "run":
        how = {**how, "progress": _Told(parent)}
    try:
        with dask.config.set(config):
            if step == "plan":
                made = plan_item(item, **how)
            else:
                _STEPS[step](item, made, **how)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the parent
        found, text = error, "".join(traceback.format_exception(error))
        found.__cause__ = found.__context__ = found.__traceback__ = None
    try:
        answer = pickle.dumps(("done", made, found, text))
        pickle.loads(answer)  # noqa: S301 - it was made here
    except Exception:  # noqa: BLE001 - of another library, and not made to travel
        made.plan = None
        said = StageFailedError(f"{type(found).__name__}: {found}") if found is not None else None
        answer = pickle.dumps(("done", made, said, text))
    parent.send_bytes(answer)


def _end_with(alive: int) -> None:
    with suppress(OSError):
        os.read(alive, 1)
    os._exit(1)
