from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import xchunk
from xchunk.core.memory import MemoryBudget
from xchunk.core.shown import Shown
from xchunk.display import plot, reports


def every_class() -> list[type[Shown]]:
    """All results, those of modules that are imported late too."""
    root = Path(xchunk.__file__).parent
    for path in root.rglob("*.py"):
        if "import Shown" in path.read_text():
            parts = path.relative_to(root.parent).with_suffix("").parts
            import_module(".".join(parts))
    return [c for c in Shown.__subclasses__() if c.__module__.startswith("xchunk.")]


@pytest.mark.parametrize("cls", every_class(), ids=lambda c: c.__name__)
def test_every_result_shows_itself_by_a_view_of_its_own(cls: type[Shown]) -> None:
    module = import_module(reports.ELSEWHERE.get(cls.shown_as, reports.__name__))
    assert callable(getattr(module, cls.shown_as))
    # a dataclass's own repr would hide it
    assert cls.__repr__ is Shown.__repr__
    assert cls._repr_html_ is Shown._repr_html_
    assert callable(cls.to_dict)  # type: ignore[attr-defined]
    if hasattr(cls, "plot"):
        assert callable(getattr(plot, f"{cls.shown_as}_axes"))


def test_no_two_results_share_a_view() -> None:
    views = [c.shown_as for c in every_class()]
    assert len(views) == len(set(views)) >= 18
    assert set(views) == {*reports.__all__, *reports.ELSEWHERE} - {"accessor", "document"}


def test_what_is_shown_stays_what_it_is(budget: MemoryBudget) -> None:
    assert repr(budget).startswith("xchunk memory budget")
    assert pickle.loads(pickle.dumps(budget)) == budget
    assert {f.name for f in dataclasses.fields(budget)} == set(vars(budget))


def test_nothing_is_drawn_before_something_is_shown() -> None:
    code = (
        "import sys; import xchunk;"
        "late = ('rich', 'click', 'jinja2', 'xchunk.display.render');"
        "print([m for m in late if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_is_all_that_it_takes() -> None:
    code = "from xchunk.core.memory import MemoryBudget; print(repr(MemoryBudget.of_growth(1000)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("xchunk memory budget")


def test_of_a_long_batch_the_failed_jobs_come_first_and_are_all_shown() -> None:
    from xchunk.batching.run import BatchReport, JobResult

    def job(i: int) -> JobResult:
        status = "failed" if i % 10 == 0 else "done"
        return JobResult(f"j{i:04d}", "j", (), f"{i}.zarr", status, message="why" * (i % 10 == 0))

    report = BatchReport(tuple(map(job, range(1500))), "jobs.toml")
    text, page = repr(report), report._repr_html_()
    for i in range(0, 1500, 10):
        assert f"j{i:04d}" in text
        assert f"j{i:04d}" in page
    assert "j0001" not in text
    assert "1,350 jobs more" in text
    assert "0849" in page
    assert "500 jobs more" in page
