"""Rates that were measured on a store, and what they say: the store, the codec or a lock."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from xchunk.core.cost import Rates
from xchunk.core.units import format_bytes, format_seconds

__all__ = ["Bottleneck", "MeasuredRates"]

#: What one waits for: the store, the codec, a lock that lets one thread read at a time, or
#: what libraries do for each chunk however small it is.
Bottleneck: TypeAlias = Literal["store", "codec", "lock", "overhead"]

#: A second thread that is less help than this is no help.
HELPS = 1.4

_ADVICE = {
    "store": "Fewer and larger requests would help, and more of them at once; a faster codec "
    "would not.",
    "codec": "More threads or a faster codec would help; a faster store would not.",
    "lock": "More processes of one thread each would help (threads_per_worker=1), or a copy in "
    "zarr, which has no such lock; more threads would not.",
    "overhead": "Larger chunks would help; a faster store or codec would not.",
}


@dataclass(frozen=True)
class MeasuredRates(Rates):
    """Rates measured on a store; to be given as ``rates=`` wherever rates are taken."""

    variable: str = ""
    """Name of the variable that was read."""
    chunk: tuple[int, ...] = ()
    """Elements of what was read at once along each dim: a stored chunk where there are chunks."""
    chunk_nbytes: int = 0
    """Bytes of it after decoding, as stored."""
    codecs: tuple[str, ...] = ()
    """Names of the codecs."""
    format: str = ""
    """Format of the store."""
    samples: int = 0
    """How many of them were read."""
    nbytes: int = 0
    """Bytes that were read and written in all, decoded."""
    store_seconds: float = 0.0
    """Median time of one chunk that was spent on the store."""
    codec_seconds: float = 0.0
    """Median time of one chunk that was spent on decoding."""
    overhead_seconds: float = 0.0
    """Median time of one chunk that libraries take whatever its size."""
    speedup: float | None = None
    """How much faster two threads read than one; None: not measured."""

    @property
    def read_seconds(self) -> float:
        """Seconds that one thread takes for one chunk."""
        return self.store_seconds + self.codec_seconds + self.overhead_seconds

    @property
    def bottleneck(self) -> Bottleneck:
        """What one waits for."""
        if self.serial_read and self.overhead_seconds < self.read_seconds / 2:
            return "lock"
        spans: dict[Bottleneck, float] = {
            "store": self.store_seconds,
            "codec": self.codec_seconds,
            "overhead": self.overhead_seconds,
        }
        return max(spans, key=lambda name: spans[name])

    @property
    def why(self) -> str:
        """Say in words what one waits for, and what would help."""
        what = f"a chunk of {self.variable}" if self.codecs or self.format else "a chunk"
        spans = [
            ("the store", self.store_seconds),
            ("the codec" + (f" ({' + '.join(self.codecs)})" if self.codecs else ""), None),
            ("libraries", self.overhead_seconds),
        ]
        total = max(self.read_seconds, 1e-12)
        said = []
        for name, seconds in spans:
            took = self.codec_seconds if seconds is None else seconds
            if took >= 0.005 * total:
                said.append(f"{format_seconds(took)} on {name} ({took / total:.0%})")
        text = (
            f"Reading {what}, {format_bytes(self.chunk_nbytes)} decoded, takes one thread "
            f"{format_seconds(self.read_seconds)}: {', '.join(said)}. "
        )
        if self.speedup is not None:
            helps = "helps" if self.speedup >= HELPS else "hardly helps"
            text += f"A second thread {helps}: two read {self.speedup:.1f} times as fast as one. "
        name = {"overhead": "what libraries do for each chunk"}.get(
            self.bottleneck, f"the {self.bottleneck}"
        )
        return f"{text}It is {name} that one waits for. {_ADVICE[self.bottleneck]}"

    def to_dict(self) -> dict[str, Any]:
        """Return the rates, how they were measured and what they say, as JSON types."""
        out = asdict(self)
        out["chunk"], out["codecs"] = list(self.chunk), list(self.codecs)
        return {**out, "bottleneck": self.bottleneck, "why": self.why}
