"""How xchunk shows itself: text, HTML, drawings and progress.

The classes of ``core`` and ``storage`` are pure data and know nothing of their looks;
`register` gives them their ``__repr__``, ``_repr_html_``, ``save`` and ``plot`` from here, so
that imports point down. What draws is imported when something is shown.
"""

from __future__ import annotations

from typing import Any, TypeVar

from xchunk.formatting import methods
from xchunk.formatting.views import VIEWS, shown_as

__all__ = ["register", "shown", "shown_as"]

T = TypeVar("T")


def register() -> None:
    """Give the reports of ``core`` their looks; called once, when xchunk is imported."""
    from xchunk.core.findings import CheckReport, Finding
    from xchunk.core.layout import ArrayLayout
    from xchunk.core.measured import MeasuredRates
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.plan import ArrayPlan, RechunkPlan
    from xchunk.core.rechunking import RechunkComparison
    from xchunk.core.suggest import Suggestion, VariableSuggestion
    from xchunk.core.workload import Prediction

    classes: tuple[type, ...] = (
        ArrayLayout,
        ArrayPlan,
        CheckReport,
        Finding,
        MeasuredRates,
        MemoryBudget,
        Prediction,
        RechunkComparison,
        RechunkPlan,
        Suggestion,
        VariableSuggestion,
    )
    for cls in classes:
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
    view = VIEWS[cls.__name__]

    def as_text(self: Any) -> str:
        return shown_as(self, "text")

    def as_html(self: Any) -> str:
        return shown_as(self, "html")

    given: dict[str, Any] = {"__repr__": as_text, "_repr_html_": as_html, "save": methods.save}
    if view.plot:
        given["plot"] = getattr(methods, view.plot)
    for name, method in given.items():
        if method in (as_text, as_html):
            method.__name__, method.__qualname__ = name, f"{cls.__qualname__}.{name}"
        setattr(cls, name, method)
