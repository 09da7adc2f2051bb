"""How xchunk shows itself: text, HTML, drawings and progress.

The classes of ``core`` and ``storage`` are pure data and know nothing of their looks;
`register` gives them their ``__repr__`` and ``_repr_html_`` from here, so that imports
point down. What draws is imported when something is shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["register", "shown_as"]


def shown_as(cls: type, view: str) -> type:
    """Let ``formatting.text`` and ``formatting.html`` show a class's instances.

    Parameters
    ----------
    cls : type
        The class; its ``__repr__`` and ``_repr_html_`` are set.
    view : str
        Name of the function that shows it, the same in both modules.

    Returns
    -------
    type
        The class, so that this works as part of a decorator.
    """

    def __repr__(self: Any) -> str:
        return str(getattr(import_module("xchunk.formatting.text"), view)(self))

    def _repr_html_(self: Any) -> str:
        return str(getattr(import_module("xchunk.formatting.html"), view)(self))

    for method in (__repr__, _repr_html_):
        method.__qualname__ = f"{cls.__qualname__}.{method.__name__}"
        setattr(cls, method.__name__, method)
    return cls


def register() -> None:
    """Give the reports of the lower floors their looks; called once, when xchunk is imported."""
    from xchunk.core.memory import MemoryBudget
    from xchunk.core.plan import RechunkPlan
    from xchunk.core.suggest import Suggestion

    shown_as(MemoryBudget, "memory_budget")
    shown_as(RechunkPlan, "rechunk_plan")
    shown_as(Suggestion, "suggestion")
