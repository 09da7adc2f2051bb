"""The errors and warnings of xchunk, grouped by what a handler would do.

Every error says what is wrong, where, what would have happened and what to do;
each carries the exit code that the command line ends with, and survives pickling,
since it may be raised in a worker of another process.
"""

from __future__ import annotations

from typing import Any, ClassVar

from xchunk.core.redact import without_credentials

__all__ = [
    "ClusterError",
    "EncodingError",
    "ExcessiveIOWarning",
    "InvalidChunksError",
    "InvalidJobError",
    "LayoutChangeWarning",
    "MemoryBudgetError",
    "ResumeMismatchError",
    "SourceError",
    "StageFailedError",
    "TargetExistsError",
    "VerificationError",
    "XchunkError",
    "XchunkWarning",
]


class XchunkError(Exception):
    """The root of all errors that xchunk raises on purpose; none of them shows credentials."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *args: Any):
        super().__init__(*(without_credentials(a) if isinstance(a, str) else a for a in args))


class InvalidChunksError(XchunkError, ValueError):
    """Chunks, dims, variables or an access pattern that do not fit the data."""

    exit_code = 3


class MemoryBudgetError(XchunkError, ValueError):
    """No plan fits the memory.

    Parameters
    ----------
    message : str
        What was asked, in words.
    needed : int
        Bytes by which one worker would have to grow.
    allowed : int
        Bytes by which it may grow.
    smallest : int
        The smallest ``max_mem``, in bytes, for which there is a plan.
    """

    exit_code = 4

    def __init__(self, message: str, *, needed: int = 0, allowed: int = 0, smallest: int = 0):
        super().__init__(message)
        self.needed = needed
        self.allowed = allowed
        self.smallest = smallest

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"needed": self.needed, "allowed": self.allowed, "smallest": self.smallest}
        return (type(self), self.args, state)


class EncodingError(XchunkError, ValueError):
    """A codec, filter, dtype or fill value that the target cannot hold."""

    exit_code = 5


class SourceError(XchunkError, OSError):
    """The source is not there, is not readable, or is not what it was."""

    exit_code = 6

    # OSError.__new__ gives a message of two arguments another meaning.
    def __init__(self, message: str = ""):
        super().__init__(message)


class TargetExistsError(XchunkError, FileExistsError):
    """The target is there already, or is not ours to write to."""

    exit_code = 7

    def __init__(self, message: str = ""):
        super().__init__(message)


class ResumeMismatchError(XchunkError, ValueError):
    """What an earlier run left belongs to another source, plan or version."""

    exit_code = 8


class VerificationError(XchunkError, ValueError):
    """The target does not hold what the source holds."""

    exit_code = 9


class StageFailedError(XchunkError, RuntimeError):
    """A task of a rechunk failed in its worker; the cause is chained."""

    exit_code = 10


class InvalidJobError(XchunkError, ValueError):
    """A job file, or a list of jobs, that cannot be understood."""

    exit_code = 13


class ClusterError(XchunkError, ConnectionError):
    """A dask cluster that does not answer, or whose workers do not start."""

    exit_code = 14

    # OSError.__new__ gives a message of two arguments another meaning.
    def __init__(self, message: str = ""):
        super().__init__(message)


class XchunkWarning(UserWarning):
    """The root of all warnings that xchunk issues; none of them shows credentials."""

    def __init__(self, *args: Any):
        super().__init__(*(without_credentials(a) if isinstance(a, str) else a for a in args))


class ExcessiveIOWarning(XchunkWarning):
    """What was asked reads far more than the data hold.

    Stored chunks are decoded three times and more on average, and that makes a gigabyte and
    more beyond decoding each once.
    """


class LayoutChangeWarning(XchunkWarning):
    """Something about a variable cannot be kept as it is stored; the plan's notes say the same."""
