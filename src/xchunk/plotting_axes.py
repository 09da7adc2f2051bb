"""What all plots share: Axes, colours, labels in bytes and the lines of a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from xchunk.core.memory import MemoryBudget
from xchunk.core.units import format_bytes
from xchunk.errors import XchunkError
from xchunk.formatting import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "RED",
    "bytes_on",
    "limits",
    "new_axes",
    "pyplot",
]

#: Told apart by those who see fewer colours, and in print.
BLUE, ORANGE, RED, PURPLE, GREY = "#2f6f9f", "#b5651d", "#b3261e", "#8a5a9e", "#5b6875"
GREEN = "#4f8f6f"


def new_axes(ax: Axes | None, size: tuple[float, float] = (6, 3.6)) -> Axes:
    """Take the Axes that were given, or make new ones."""
    if ax is not None:
        return ax
    _, made = pyplot().subplots(figsize=size, layout="constrained")
    return cast("Axes", made)


def pyplot() -> Any:
    """Import what draws, or say what is missing."""
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise XchunkError(
            "plots are drawn by matplotlib, which is not installed: pip install 'xchunk[plot]'. "
            "Reports show themselves without it: print(report), report.save('report.html')."
        ) from error
    return plt


def limits(ax: Axes, budget: MemoryBudget) -> None:
    """Lines at what a worker may take, and at dask's thresholds where its limit is known."""
    allowed = budget.max_mem + (0 if budget.memory is None else budget.reserved)
    ax.axhline(allowed, color=RED, linewidth=1.2, label="budget", gid="budget")
    if budget.memory is None:
        return
    for mark, name in describe.MARKS:
        y = mark * budget.memory
        ax.axhline(y, color=GREY, linewidth=0.7, linestyle="--", gid=name)
        ax.annotate(
            f"{name} {mark:.0%}", (1, y), (-3, 2), ax.get_yaxis_transform(), "offset points",
            ha="right", fontsize="x-small", color=GREY,
        )  # fmt: skip


def bytes_on(axis: Any) -> None:
    """Label an axis with sizes such as ``1 MB``."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda n, _: _short(n)))
    axis.set_minor_formatter(NullFormatter())


def _short(n: float) -> str:
    number, _, unit = format_bytes(n).partition(" ")
    return f"{float(number):g} {unit}"
