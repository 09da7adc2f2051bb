"""Which functions show which report, by the name of its class."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["VIEWS", "View", "shown_as"]

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
VIEWS: dict[str, View] = {
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


def shown_as(report: object, how: str, **options: Any) -> str:
    """Show a report as ``text`` or ``html``."""
    module, _, name = getattr(VIEWS[type(report).__name__], how).partition(":")
    return str(getattr(import_module(module), name)(report, **options))
