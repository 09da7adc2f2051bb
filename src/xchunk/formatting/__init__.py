"""How xchunk shows itself: text, HTML, drawings and progress.

The classes of ``core`` and ``storage`` are pure data and know nothing of their looks;
`register` gives them their ``__repr__`` and ``_repr_html_`` from here, so that imports
point down. What draws is imported when something is shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

__all__ = ["register", "shown"]

T = TypeVar("T")

#: By the name of the class, the function of ``text`` and of ``html`` that shows it.
_VIEWS = {
    "CheckReport": "check_report",
    "LayoutReport": "layout_report",
    "MemoryBudget": "memory_budget",
    "MeasuredRates": "measured_rates",
    "RechunkComparison": "rechunk_comparison",
    "RechunkPlan": "rechunk_plan",
    "Suggestion": "suggestion",
}


def register() -> None:
    """Give the reports of ``core`` their looks; called once, when xchunk is imported."""
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.plan import RechunkPlan
    from xchunk.core.suggest import Suggestion

    for cls in (MemoryBudget, RechunkPlan, Suggestion):
        _attach(cls)


def shown(report: T) -> T:
    """Make sure that a report shows itself well; for classes that are imported late.

    Parameters
    ----------
    report : object
        A report of xchunk's.

    Returns
    -------
    object
        The report itself; its class has its looks from now on.
    """
    if "_repr_html_" not in type(report).__dict__:
        _attach(type(report))
    return report


def _attach(cls: type) -> None:
    view = _VIEWS[cls.__name__]

    def as_text(self: Any) -> str:
        return str(getattr(import_module("xchunk.formatting.text"), view)(self))

    def as_html(self: Any) -> str:
        return str(getattr(import_module("xchunk.formatting.html"), view)(self))

    for name, method in (("__repr__", as_text), ("_repr_html_", as_html)):
        method.__name__, method.__qualname__ = name, f"{cls.__qualname__}.{name}"
        setattr(cls, name, method)
