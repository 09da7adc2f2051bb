from __future__ import annotations

import pickle
import subprocess
import sys

from xchunk import formatting
from xchunk.core.memory import MemoryBudget
from xchunk.formatting import html, text


def test_reports_show_themselves(budget: MemoryBudget, make_plan, make_suggestion) -> None:
    formatting.register()
    plan, suggestion = make_plan(budget), make_suggestion(budget)
    assert repr(plan) == text.rechunk_plan(plan)
    assert repr(suggestion) == text.suggestion(suggestion)
    assert budget._repr_html_() == html.memory_budget(budget)  # type: ignore[attr-defined]
    assert suggestion._repr_html_() == html.suggestion(suggestion)


def test_what_is_shown_stays_what_it_is(budget: MemoryBudget) -> None:
    formatting.register()
    assert formatting.shown(budget) is budget
    assert pickle.loads(pickle.dumps(budget)) == budget


def test_a_class_gets_its_looks_when_it_is_first_shown() -> None:
    class LayoutReport:
        layouts = ()
        source = "here"

        def __iter__(self):
            return iter(())

    report = formatting.shown(LayoutReport())
    assert repr(report).startswith("xchunk layout of here")


def test_nothing_is_drawn_before_something_is_shown() -> None:
    code = (
        "import sys; from xchunk import formatting; formatting.register();"
        "print([m for m in ('rich', 'click', 'xchunk.formatting.text') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
