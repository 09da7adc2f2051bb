from __future__ import annotations

import inspect
import pickle
import traceback
import warnings

import pytest

from xchunk import errors
from xchunk.errors import MemoryBudgetError, XchunkError, XchunkWarning

ERRORS = [
    c
    for _, c in inspect.getmembers(errors, inspect.isclass)
    if issubclass(c, XchunkError) and c.__module__ == "xchunk.errors"
]
WARNINGS = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Warning)]

#: What a handler that knows nothing of xchunk may catch.
TREE = {
    "XchunkError": (Exception, 1),
    "InvalidChunksError": (ValueError, 3),
    "MemoryBudgetError": (ValueError, 4),
    "EncodingError": (ValueError, 5),
    "SourceError": (OSError, 6),
    "TargetExistsError": (FileExistsError, 7),
    "ResumeMismatchError": (ValueError, 8),
    "VerificationError": (ValueError, 9),
    "StageFailedError": (RuntimeError, 10),
    "InvalidJobError": (ValueError, 13),
    "ClusterError": (ConnectionError, 14),
}


def test_the_tree_is_what_is_documented() -> None:
    assert {c.__name__ for c in ERRORS} == set(TREE)
    assert set(errors.__all__) == set(TREE) | {c.__name__ for c in WARNINGS}


@pytest.mark.parametrize("name", TREE)
def test_base_and_exit_code(name: str) -> None:
    cls = getattr(errors, name)
    base, code = TREE[name]
    assert issubclass(cls, XchunkError)
    assert issubclass(cls, base)
    assert cls.exit_code == code


def test_exit_codes_are_unique_and_not_those_of_others() -> None:
    codes = [c.exit_code for c in ERRORS]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes  # success
    assert 2 not in codes  # click's for wrong usage
    assert max(codes) < 126  # the shell's own start here


@pytest.mark.parametrize("cls", [*ERRORS, *WARNINGS], ids=lambda c: c.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_survives_pickling(cls: type[Exception], protocol: int) -> None:
    message = "variable 't2m', dim 'lat': 0 ≠ 721\ndo this"
    back = pickle.loads(pickle.dumps(cls(message), protocol))
    assert type(back) is cls
    assert str(back) == message
    assert back.args == (message,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_numbers_of_a_memory_error_survive_pickling(protocol: int) -> None:
    error = MemoryBudgetError("too little", needed=2**40, allowed=7, smallest=11)
    back = pickle.loads(pickle.dumps(error, protocol))
    assert (back.needed, back.allowed, back.smallest) == (2**40, 7, 11)
    assert str(back) == "too little"


@pytest.mark.parametrize("cls", ERRORS, ids=lambda c: c.__name__)
def test_a_message_is_shown_as_given(cls: type[XchunkError]) -> None:
    shown = traceback.format_exception_only(cls("in 'a': no."))
    assert shown == [f"xchunk.errors.{cls.__name__}: in 'a': no.\n"]


@pytest.mark.parametrize("cls", [*ERRORS, *WARNINGS], ids=lambda c: c.__name__)
def test_documented(cls: type[Exception]) -> None:
    assert cls.__doc__
    assert cls.__doc__.strip().splitlines()[0].endswith(".")


def test_warnings_can_be_silenced_together() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", XchunkWarning)
        for cls in WARNINGS:
            warnings.warn("quiet", cls, stacklevel=1)


def test_a_source_error_is_no_errno() -> None:
    # OSError of two arguments would read the first as an errno.
    assert errors.SourceError("a: gone").errno is None
