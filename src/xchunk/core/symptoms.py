"""What a computation that was watched suffers from, why that is told, and what to change.

All is judged by shares of the threads' time, never by seconds, so that a slow or busy machine
does not change the verdict.
"""

from __future__ import annotations

from collections.abc import Callable

from xchunk.core.diagnosis import Diagnosis, Symptom
from xchunk.core.observed import Facts
from xchunk.core.units import format_bytes, format_count, format_seconds

__all__ = ["diagnose"]

#: Parts of the time from which on something is a symptom.
_SPILL, _TRANSFER, _LOCK, _GIL, _READ, _IDLE, _ALONE = 0.03, 0.25, 0.2, 0.3, 0.45, 0.35, 0.3

#: Part of the time in which threads could run, from which on others' running instead is told.
_CROWDED = 0.25

#: Processors that a process keeps busy, from which on its one thread for reading is the limit.
_SATURATED = 0.7

#: Tasks of a process that run at once, and the processors that they get if only one can.
_AT_ONCE, _ONE = 1.4, 1.2

#: Part of the tasks at once that a processor is wanted for, beyond which no lock holds them up;
#: and for which part of the looks the lock is taken where processors are known to be waited for.
_WANTED, _GIL_BUSY = 0.88, 0.2

#: Seconds of a task below which the scheduler shows: dask itself takes about a millisecond.
_TINY = 0.03

#: Part of the gravest symptom's time that another has to take to be told beside it.
_BESIDE = 0.2

#: Tasks for each thread from which on there are many.
_MANY = 100


def diagnose(facts: Facts) -> Diagnosis:
    """Judge what was seen.

    Parameters
    ----------
    facts : Facts
        The numbers.

    Returns
    -------
    Diagnosis
        The symptoms: what is a cause of others first, then by the time that they take.
    """
    if not facts.tasks:
        return Diagnosis((_NOTHING,), _notes(facts))
    crowded = facts.taken > _CROWDED
    causes = [s for rule in _CAUSES if (s := rule(facts)) is not None]
    others = [s for rule in _RULES if (s := rule(facts)) is not None]
    others.sort(key=lambda s: -s.share)
    # beside the gravest, what takes little would only distract, and rests on few looks
    others = [s for s in others if s.share >= _BESIDE * others[0].share]
    found = (*causes, *others) or (_rest(facts),)
    return Diagnosis(tuple(found), _notes(facts), is_crowded=crowded)


def _lost(f: Facts) -> Symptom | None:
    if not f.restarts:
        return None
    limit = "" if f.limit is None else f" of {format_bytes(f.limit)}"
    return Symptom(
        "workers-lost",
        1.0,
        f"{f.restarts} {'worker' if f.restarts == 1 else 'workers'} died and had to be replaced.",
        f"The usual cause is memory: a nanny ends a worker at 95 % of its limit{limit}, and "
        "what it held is computed again.",
        "Give tasks smaller blocks, or workers more memory or fewer threads.",
        _chunks_for(f, 2),
    )


def _spilling(f: Facts) -> Symptom | None:
    written = f.spilled / (f.limit * f.workers) if f.limit else 0.0
    share = max(f.spill / f.total, f.paused / max(1e-9, f.elapsed * f.workers))
    if share < _SPILL and written < 0.1:
        return None
    parts = []
    if f.spilled:
        parts.append(f"{format_bytes(f.spilled)} were written to disk")
    if f.spill:
        parts.append(f"{f.spill / f.total:.0%} of the threads' time went into it (orange)")
    if f.paused:
        parts.append(f"workers were paused for {format_seconds(f.paused)}")
    full = "" if f.fullest is None else f" The fullest worker reached {f.fullest:.0%} of its limit."
    known = ""
    if f.unmanaged is not None and f.unmanaged > 0.6:
        known = (
            f" {f.unmanaged:.0%} of that is unmanaged: buffers of tasks at work and what the "
            "allocator keeps, which spilling cannot free."
        )
    return Symptom(
        "spilling",
        max(share, min(1.0, written)),
        _sentence(parts) + full + known,
        "Workers hold more results than fit, so that they write them to disk and read them again.",
        "Take smaller blocks, so that fewer bytes are alive at once, or rechunk on disk first "
        "where the result needs blocks from everywhere; or give a worker more memory.",
        _chunks_for(f, 2),
    )


def _memory(f: Facts) -> Symptom | None:
    if f.scheduler == "cluster" or f.fullest is None or f.fullest < 0.85:
        return None
    return Symptom(
        "memory",
        f.fullest,
        f"The process reached {f.fullest:.0%} of the memory that it may have.",
        "There is no spilling without a cluster: a little more, and the system ends the process.",
        "Take smaller blocks or fewer threads.",
        _chunks_for(f, 2),
    )


def _one_chunk(f: Facts) -> Symptom | None:
    alone = f.alone / max(1e-9, f.elapsed)
    if f.slots < 2 or alone < _ALONE or f.longest < 0.3 * f.elapsed:
        return None
    if f.substantial >= f.slots and f.longest < 3 * f.usual:
        return None
    if f.substantial < f.slots and f.tasks < 2 * f.slots:
        return None
    return Symptom(
        "one-chunk",
        alone * (1 - 1 / f.slots),
        f"For {alone:.0%} of the time one thread worked and the others waited. One task of "
        f"{f.longest_name!r} took {format_seconds(f.longest)}"
        + (f", others of its kind {format_seconds(f.usual)}." if f.longest > 2 * f.usual else "."),
        "The blocks are of very different sizes, or one of them holds most of the data.",
        "Cut the data into blocks of one size.",
        "# blocks of one size, along the stored chunks\nds = ds.chunk(ds.chunking.suggest())",
    )


def _too_few(f: Facts) -> Symptom | None:
    if f.slots < 2 or f.idle < _IDLE or f.substantial >= f.slots:
        return None
    if _one_chunk(f) is not None:
        return None
    if f.longest < 0.3 * f.elapsed:
        return None
    return Symptom(
        "too-few-tasks",
        f.idle,
        f"{f.idle:.0%} of the threads' time was idle (white): {f.substantial or 1} of "
        f"{format_count(f.tasks)} tasks did the work, for {f.slots} threads.",
        "There are fewer blocks than threads, so that most threads find nothing to do.",
        "Cut the data into more blocks: two or three for each thread at least.",
        _more_blocks(f),
    )


def _too_many(f: Facts) -> Symptom | None:
    if f.tasks < _MANY * f.slots or f.mean > _TINY:
        return None
    if f.idle < _IDLE and not _is_overhead(f):
        return None
    factor = max(2, min(10_000, round(0.3 / max(f.mean, 1e-4))))
    return Symptom(
        "too-many-tasks",
        max(f.idle, _read_shares(f)[0]) if _is_overhead(f) else f.idle,
        f"{format_count(f.tasks)} tasks took {format_seconds(f.mean)} each; the threads were "
        f"without work for {f.idle:.0%} of the time.",
        "What dask and the libraries do for each task, up to a millisecond however small it is, "
        "takes longer than the work in it.",
        f"Make the blocks about {format_count(factor)} times as large; a task should take a "
        "tenth of a second at least. Chunk when opening, since a later .chunk() keeps the small "
        "tasks and adds to them.",
        "# many stored chunks in one block\nds = xchunk.open_dataset(path)\n"
        "xchunk.graph(result)    # before it runs: how many tasks?",
    )


def _unbalanced(f: Facts) -> Symptom | None:
    if f.workers < 2 or f.uneven < 1.5 or f.idle < _IDLE:
        return None
    return Symptom(
        "unbalanced",
        1 - 1 / f.uneven,
        f"The busiest worker worked {f.uneven:.1f} times as long as the average one, while "
        f"{f.idle:.0%} of the threads' time was idle.",
        "Work stays where its data are: results of one worker, or few large blocks.",
        "Spread what is held, and cut large blocks.",
        "client.rebalance()\nds = ds.chunk(ds.chunking.suggest())",
    )


def _transfer(f: Facts) -> Symptom | None:
    busy = f.compute + f.transfer + f.spill
    share = f.transfer / busy if busy > 0 else 0.0
    if share < _TRANSFER:
        return None
    sent = f" They sent each other {format_bytes(f.transferred)}." if f.transferred else ""
    return Symptom(
        "transfer-bound",
        min(1.0, f.transfer / f.total),
        f"{share:.0%} of the workers' busy time went into transfers (red).{sent}",
        "Tasks need blocks that other workers hold, as a rechunk, a sort or a reduction across "
        "all blocks does.",
        "Chunk the data so that what is combined lies in one block, with fewer and larger "
        "workers; or rechunk on disk once.",
        '# once, on disk\nds = ds.chunking.apply(access="timeseries", store="series.zarr")',
    )


def _lock(f: Facts) -> Symptom | None:
    share = f.doing("lock")
    if share < _LOCK:
        return None
    # what is read and decoded under the lock is done by one thread at a time
    under = f.doing("lock", "file-store", "file-codec")
    return Symptom(
        "lock-bound",
        under * min(1.0, f.compute / f.total),
        f"Threads waited for a lock for {share:.0%} of their tasks' time.",
        "HDF5 and netCDF4 let one thread of a process read at a time, whatever the number of "
        "threads; decompression happens under the lock too.",
        "Use processes of one thread each, or a copy in zarr, which has no such lock.",
        f"client = Client(n_workers={f.slots}, threads_per_worker=1)\n"
        '# or, once and for all\nds.chunking.apply(access="scan", store="copy.zarr")',
    )


def _gil(f: Facts) -> Symptom | None:
    share = f.doing("compute", "blocked")
    clock = max(1e-9, f.elapsed * f.workers)
    # looks come late where the machine is busy, so that they count fewer threads than ran
    at_once = max(sum(f.states.values()), f.compute) / clock
    if f.threads < 2 or share < _READ or at_once < _AT_ONCE or f.cpu / clock > _ONE:
        return None
    # tasks that wait for a processor do not wait for the lock, and looks see less of it then
    wanted = (f.cpu + f.starved) / clock
    if wanted > _WANTED * at_once or f.gil < (_GIL_BUSY if f.starved else _GIL):
        return None
    return Symptom(
        "gil-bound",
        share * (1 - 1 / at_once),
        f"{at_once:.1f} tasks of a process ran at once and got {f.cpu / clock:.1f} processors "
        f"together; Python's interpreter lock was taken {f.gil:.0%} of the time.",
        "The tasks run Python code, which one thread of a process does at a time.",
        "Use processes of one thread each, or write the function with numpy, which lets go of "
        "the lock.",
        f"client = Client(n_workers={f.slots}, threads_per_worker=1)\n"
        '# without a cluster\nresult.compute(scheduler="processes")',
    )


def _read_shares(f: Facts) -> tuple[float, float]:
    """Parts of the tasks' time spent on the store and on codecs."""
    store, codec = f.doing("store", "wait", "file-store"), f.doing("codec", "file-codec")
    file = f.doing("file-store", "file-codec")
    if f.gil < _GIL:
        store += f.doing("blocked")
    if file and f.rates is not None and f.rates.read_seconds > 0:
        # a probe can tell what a file's library hides
        part = f.rates.codec_seconds / f.rates.read_seconds
        codec = f.doing("codec") + part * file
        store += (1 - part) * file - f.doing("file-store")
    return store, codec


def _is_overhead(f: Facts) -> bool:
    """Whether what looks like waiting for a store is the libraries' own work for each chunk."""
    store, codec = _read_shares(f)
    if store < _READ or store < codec:
        return False
    if f.rates is not None:
        return f.rates.bottleneck == "overhead"
    # zarr does that work in one thread of a process, which others wait for
    return (f.cpu + f.starved) / max(1e-9, f.elapsed * f.workers) > _SATURATED


def _overhead(f: Facts) -> Symptom | None:
    if not _is_overhead(f) or _too_many(f) is not None:
        return None
    store, _ = _read_shares(f)
    return Symptom(
        "overhead-bound",
        store * min(1.0, f.compute / f.total),
        f"Tasks waited for {store:.0%} of their time for what libraries do for each stored chunk, "
        f"which kept {min(1.0, f.cpu / max(1e-9, f.elapsed * f.workers)):.0%} of a processor "
        f"busy in each process.{_probed(f)}",
        "The stored chunks are so small that finding them takes longer than reading them.",
        "Store the data in larger chunks; until then, read with processes of one thread each.",
        'ds = ds.chunking.apply(access="scan", store="larger.zarr")',
    )


def _io(f: Facts) -> Symptom | None:
    store, codec = _read_shares(f)
    if store < _READ or store < codec or _is_overhead(f):
        return None
    threads = f"dask.config.set(num_workers={4 * f.slots})"
    if f.scheduler == "cluster":
        threads = f"client = Client(n_workers={f.workers}, threads_per_worker={4 * f.threads})"
    return Symptom(
        "io-bound",
        store * min(1.0, f.compute / f.total),
        f"Tasks waited for the store for {store:.0%} of their time.{_probed(f)}",
        "The data do not come fast enough, and processors are idle meanwhile.",
        "Make fewer and larger requests, and more of them at once: larger stored chunks, blocks "
        "of whole chunks, more threads than processors.",
        "# requests of one task at once, and tasks at once\n"
        'zarr.config.set({"async.concurrency": 64})\n'
        f"{threads}\n"
        "ds = ds.chunk(ds.chunking.suggest(rates=ds.chunking.probe()))",
    )


def _codec(f: Facts) -> Symptom | None:
    store, codec = _read_shares(f)
    if codec < _READ or codec < store:
        return None
    return Symptom(
        "codec-bound",
        codec * min(1.0, f.compute / f.total),
        f"Tasks decoded for {codec:.0%} of their time.{_probed(f)}",
        "The codec is what one waits for; a faster store would not help.",
        "Use more processors, keep each stored chunk in one block so that it is decoded once, or "
        "store a copy with a faster codec.",
        "ds.chunking.check()    # is a chunk decoded more than once?\n"
        '# with zstd, which decodes fast\nds.chunking.apply(access="scan", store="fast.zarr")',
    )


_CAUSES: tuple[Callable[[Facts], Symptom | None], ...] = (_lost, _spilling, _memory)
_RULES: tuple[Callable[[Facts], Symptom | None], ...] = (
    _one_chunk, _too_few, _too_many, _unbalanced, _transfer, _lock, _gil, _overhead, _io, _codec,
)  # fmt: skip


def _rest(f: Facts) -> Symptom:
    """What is said where nothing stands out."""
    used = f"The threads worked for {1 - f.idle:.0%} of the time"
    if f.idle >= 0.6:
        return Symptom(
            "idle",
            f.idle,
            f"{f.idle:.0%} of the threads' time was idle (white), and no task tells why.",
            "They waited for the scheduler, or for this program between computations.",
            "Compute several results together, and look at the graph.",
            "dask.compute(one, two)    # not one after the other\nxchunk.graph(result)",
        )
    means, remedy = (
        "Most of it was computing: neither memory, nor transfers, nor the store held it up.",
        "Nothing has to be changed. More processors would make it faster.",
    )
    if f.taken > _CROWDED:
        means, remedy = (
            "Nothing of its own held it up, but it had to share the processors.",
            "Nothing has to be changed in it. It is quicker where nothing else runs.",
        )
    return Symptom(
        "healthy",
        1 - f.idle,
        f"{used}, in {format_count(f.tasks)} tasks of {format_seconds(f.mean)} each.",
        means,
        remedy,
        "ds.chunking.graph()    # what would other chunks do?",
    )


_NOTHING = Symptom(
    "nothing",
    0.0,
    "No task of dask's ran.",
    "Nothing was lazy, or it was computed before.",
    "Compute something within the block.",
    "with xchunk.observe() as seen:\n    result.compute()",
)


def _notes(f: Facts) -> tuple[str, ...]:
    out = []
    if f.taken > _CROWDED:
        out.append(
            f"The machine was busy: for {f.taken:.0%} of the time in which threads could have run, "
            "other processes had the processors. Times are longer than they would be alone."
        )
    if f.rates is not None:
        out.append(f.rates.why)
    return tuple(out)


def _probed(f: Facts) -> str:
    if f.rates is None:
        return ""
    return f" A probe says that it is the {f.rates.bottleneck}."


def _chunks_for(f: Facts, parts: int) -> str:
    memory = f'memory="{format_bytes(f.limit / parts).replace(" ", "")}"' if f.limit else ""
    return (
        f"ds = ds.chunk(ds.chunking.suggest({memory}))\n"
        "xchunk.graph(result)    # before it runs: what will it hold?"
    )


def _more_blocks(f: Facts) -> str:
    return (
        f"# {{dim: n}} that makes {3 * f.slots} blocks or more\nds = ds.chunk({{dim: n}})\n"
        "ds.chunking.suggest()    # where it says load, do without dask"
    )


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts) or "Results were written to disk"
    return f"{text[0].upper()}{text[1:]}."
