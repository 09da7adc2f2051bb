"""How xchunk shows itself: text, HTML, drawings and progress.

The classes of ``core`` and ``storage`` are pure data and know nothing of their looks;
`register` gives them their ``__repr__``, ``_repr_html_``, ``save`` and ``plot`` from here, so
that imports point down. What draws is imported when something is shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from xchunk.formatting import methods

__all__ = ["View", "register", "shown"]

T = TypeVar("T")

_HERE = "xchunk.formatting"


class View(NamedTuple):
    """Where a class has its looks: functions of a report, each as ``module:function``."""

    text: str
    """Makes the text."""
    html: str
    """Makes the HTML; takes ``style=False`` where a page has the style already."""
    plot: str = ""
    """The method of `xchunk.formatting.methods` that plots it; empty: none does."""


def _view(name: str, plot: str = "") -> View:
    """The looks of what ``text`` and ``html`` show by a function of the same name."""
    return View(f"{_HERE}.text:{name}", f"{_HERE}.html:{name}", plot)


def _small(name: str) -> View:
    """The looks of a part of a report."""
    return View(f"{_HERE}.parts:{name}_text", f"{_HERE}.parts:{name}_html")


#: By the name of the class, what shows it.
_VIEWS: dict[str, View] = {
    "ArrayLayout": _small("layout")._replace(plot="plot_layout"),
    "ArrayPlan": _small("plan"),
    "BatchReport": View(f"{_HERE}.batches:text", f"{_HERE}.batches:html"),
    "CheckReport": _view("check_report"),
    "Cleaning": _small("cleaning"),
    "Diagnosis": View(f"{_HERE}.observed:diagnosis_text", f"{_HERE}.observed:diagnosis_html"),
    "Finding": _small("finding"),
    "GraphReport": View(f"{_HERE}.graph:graph_text", f"{_HERE}.graph:graph_html"),
    "LayoutReport": _view("layout_report", "plot_report"),
    "MeasuredRates": _view("measured_rates"),
    "MemoryBudget": _view("memory_budget"),
    "Observation": View(f"{_HERE}.observed:text", f"{_HERE}.observed:html"),
    "Prediction": _small("prediction")._replace(plot="plot_prediction"),
    "Proof": _small("proof"),
    "RechunkComparison": _view("rechunk_comparison"),
    "RechunkPlan": _view("rechunk_plan", "plot_plan"),
    "Suggestion": _view("suggestion", "plot_suggestion"),
    "VariableSuggestion": _small("variable"),
}


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


def shown_as(report: object, how: str, **options: Any) -> str:
    """Show a report as ``text`` or ``html``."""
    module, _, name = getattr(_VIEWS[type(report).__name__], how).partition(":")
    return str(getattr(import_module(module), name)(report, **options))


def _attach(cls: type) -> None:
    view = _VIEWS[cls.__name__]

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
