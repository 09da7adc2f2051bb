"""The fault table with its counts: python tests/faults/table.py [--quick] [--only PART]

Everything that is counted was checked: a single case that does not hold ends the script with an
error. With --quick every part runs a little, to see that it does.
"""

# ruff: noqa: T201  it is a script
from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import dask
import numpy as np
import zarr
from zarr.storage import LocalStore, MemoryStore

import xchunk
import xchunk.engine.copy
from faults.data import call, maps, opened, same
from faults.shards import CALLS, instants, kill
from faults.stores import FaultyStore
from xchunk.targets import journal
from xchunk.targets.journal import Journal

Row = tuple[str, str, str]


class Kit:
    """Where a part works, and how much it does."""

    def __init__(self, folder: Path, quick: bool):
        self.folder, self.quick = folder, quick
        self.source = maps(folder / "maps.zarr")

    def times(self, many: int, few: int) -> int:
        return few if self.quick else many

    @contextmanager
    def place(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder) as path:
            yield Path(path)

    def rechunk(self, target: Any, **more: Any) -> None:
        given = call(self.source) | more
        opened(self.source).chunking.apply(store=target, progress=False, **given)

    def unfinished(self, target: Path, kind: str, n: int) -> None:
        """Stop a rechunk at its nth box of a kind of stage."""
        real, seen = xchunk.engine.copy._copy, []

        def copy(spec: Any, i: int) -> int:
            if spec.label == f"xchunk-{kind}-v":
                seen.append(i)
                if len(seen) >= n:
                    raise xchunk.StageFailedError("stopped")
            return real(spec, i)

        xchunk.engine.copy._copy = copy
        try:
            self.rechunk(target)
        except xchunk.StageFailedError:
            return
        finally:
            xchunk.engine.copy._copy = real
        raise SystemExit(f"there is no box {n} of {kind}")


def must(condition: bool, said: str) -> None:
    if not condition:
        raise SystemExit(f"does not hold: {said}")


def refused(task: Callable[[], Any], kind: type[Exception]) -> bool:
    try:
        task()
    except kind:
        return True
    return False


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    path.write_bytes(raw)


def kills(kit: Kit) -> Iterator[Row]:
    phases: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, given in CALLS.items():
        own: Counter[str] = Counter()
        for seed in range(kit.times(5, 1)):
            with kit.place() as folder:
                found = kill(folder, instants(seed, kit.times(6, 2)), given)
            phases.update(found["phases"])
            own.update({k: found[k] for k in ("kills", "kept", "copied_after")})
        total.update(own)
        yield f"SIGKILL, {name}", f"{own['kills']} kills", _kept(own)
    said = ", ".join(f"{n} in {phase}" for phase, n in phases.most_common())
    yield "SIGKILL, in all", f"{total['kills']} kills: {said}", _kept(total)


def _kept(own: Counter[str]) -> str:
    return (
        f"all resumed and equal; {own['kept']} finished boxes found after kills, none copied "
        f"again; {own['copied_after']} copied by the last calls"
    )


def stores(kit: Kit) -> Iterator[Row]:
    counted = FaultyStore()
    kit.rechunk(counted)
    calls = counted.calls
    for operation, fault in [
        ("get", "raise"), ("set", "raise"), ("set", "write then raise"), ("delete", "raise"),
        ("list", "raise"), ("get", "short"),
    ]:  # fmt: skip
        went = stopped = 0
        count = min(calls[operation], kit.times(30, 3))
        for i in range(count):
            at = 1 + i * calls[operation] // count
            store = FaultyStore(operation, at, fault)  # type: ignore[arg-type]
            try:
                kit.rechunk(store)
                went += 1
            except xchunk.XchunkError:
                stopped += 1
            must(store.faults == 1, f"{operation} {at} was hit")
            store.heal()
            if not is_openable(store.inner):
                kit.rechunk(store)
            xchunk.clean(store, dry_run=False)
            must(equal(kit, store.inner), f"{operation} {at} {fault}")
        yield (
            f"a store whose {operation} {_done(fault)}",
            f"{count} faults",
            f"{went} outlived, {stopped} stopped with an error and resumed; all equal",
        )


def _done(fault: str) -> str:
    return {"raise": "raises", "short": "comes back short"}.get(fault, "writes, then raises")


def is_openable(store: MemoryStore) -> bool:
    try:
        zarr.open_group(store, mode="r")
    except FileNotFoundError:
        return False
    return True


def equal(kit: Kit, store: MemoryStore) -> bool:
    have, wanted = zarr.open_group(store, mode="r"), zarr.open_group(kit.source, mode="r")
    clean = not any(k.startswith(".xchunk") for k in store._store_dict)
    return clean and all(
        np.asarray(have[n][...]).tobytes() == np.asarray(wanted[n][...]).tobytes()
        for n in ("v", "m", "t")
    )


def bits(kit: Kit) -> Iterator[Row]:
    rng = random.Random("bits")
    with kit.place() as folder:
        target, kept = folder / "t.zarr", folder / "kept"
        kit.unfinished(target, "write", 2)
        shutil.copytree(target, kept)
        found = kit.times(40, 2)
        for _ in range(found):
            shutil.rmtree(target)
            shutil.copytree(kept, target)
            pieces = [p for p in (target / ".xchunk/scratch/0/v/c").rglob("*") if p.is_file()]
            piece = rng.choice(sorted(pieces))
            flip(piece, rng.randrange(piece.stat().st_size * 8))
            stopped = refused(lambda: kit.rechunk(target), xchunk.StageFailedError)
            committed = (target / "zarr.json").exists()
            # what no box needs any more may be flipped; what is committed is right all the same
            must(stopped != committed, "a flipped bit in scratch")
            must(not committed or same(target, kit.source), "a flipped bit in scratch")
        yield "a bit flipped in scratch", f"{found} bits", "never committed"
        header = kept / ".xchunk/journal/header.json"
        whole, count = header.read_bytes(), kit.times(400, 20)
        for _ in range(count):
            flip(header, rng.randrange(len(whole) * 8))
            must(
                refused(Journal(LocalStore(kept)).read, xchunk.ResumeMismatchError),
                "a flipped bit in the header",
            )
            header.write_bytes(whole)
        yield "a bit flipped in the journal's header", f"{count} bits", "all refused"
        count = kit.times(40, 2)
        for _ in range(count):
            shutil.rmtree(target)
            shutil.copytree(kept, target)
            notes = [p for p in sorted(target.glob(".xchunk/journal/*/*/*")) if p.name.isdigit()]
            note = rng.choice(notes)
            flip(note, rng.randrange(note.stat().st_size * 8))
            kit.rechunk(target)
            must(same(target, kit.source), "a flipped bit in a note")
        yield "a bit flipped in the note of a box", f"{count} bits", "copied again; all equal"
        complete, count = folder / "complete.zarr", kit.times(60, 3)
        kit.rechunk(complete)
        ds = opened(kit.source)
        chunks = [p for p in sorted(complete.glob("*/c/**/*")) if p.is_file()]
        for _ in range(count):
            chunk = rng.choice(chunks)
            good = chunk.read_bytes()
            flip(chunk, rng.randrange(len(good) * 8))
            said = refused(lambda: ds.chunking.verify(complete), xchunk.VerificationError)
            must(said or same(complete, kit.source), f"a flipped bit in {chunk}")
            chunk.write_bytes(good)
        yield (
            "a bit flipped in the target",
            f"{count} bits",
            "named by verify, where a value differs",
        )


def power(kit: Kit) -> Iterator[Row]:
    plan = opened(kit.source).chunking.plan(store=kit.folder / "none", **call(kit.source))["v"]
    for confirmed in (False, True):
        count = sure = 0
        for stage in plan.stages:
            for n in range(1, 1 + min(stage.boxes.count, kit.times(20, 2))):
                with kit.place() as folder:
                    sure += lose_power(kit, folder / "t.zarr", stage.kind, n, confirmed)
                    count += 1
        said = f"{sure} boxes that were flushed kept" if confirmed else "nothing kept"
        yield (
            f"loss of power, {'after a flush' if confirmed else 'all unflushed files emptied'}",
            f"{count} losses",
            f"all resumed and equal; {said}, all else copied again",
        )


def lose_power(kit: Kit, target: Path, kind: str, n: int, confirmed: bool) -> int:
    """Stop at a box, lose what is not flushed, start the machine anew, and go on."""
    kit.unfinished(target, kind, n)
    if confirmed:
        Journal(LocalStore(target)).confirm()
    else:
        for path in target.rglob("*"):
            if path.is_file() and "c" in path.parts:
                path.write_bytes(b"")
    real, journal.boot = journal.boot, lambda: "another boot"
    try:
        found = Journal(LocalStore(target))
        header = found.read()
        if header is None:
            raise SystemExit("does not hold: a journal after a loss of power")
        sure = sum(len(b) for f in header.arrays.values() for b in found.finished(header, f))
        kit.rechunk(target)
    finally:
        journal.boot = real
    must(same(target, kit.source), f"power loss at {kind} {n}")
    return sure


PARTS: dict[str, Callable[[Kit], Iterator[Row]]] = {
    "kills": kills,
    "stores": stores,
    "bits": bits,
    "power": power,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=PARTS, action="append")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    dask.config.set(num_workers=2)
    start = time.monotonic()
    print("| fault | injected | held |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="xchunk-faults-") as folder:
        kit = Kit(Path(folder), asked.quick)
        for name in asked.only or PARTS:
            for row in PARTS[name](kit):
                print(f"| {' | '.join(row)} |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
