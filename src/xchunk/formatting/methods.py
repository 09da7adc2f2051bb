"""The methods that reports have in common; `xchunk.formatting.register` gives them to classes.

They stand apart from what draws, so that they are documented without it being imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xchunk._typing import Access

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_layout",
    "plot_plan",
    "plot_prediction",
    "plot_report",
    "plot_suggestion",
    "save",
]


def save(self: Any, path: str | os.PathLike[str]) -> Path:
    """Save the report to a file, in the form that its suffix names.

    Parameters
    ----------
    path : str or path
        ``.html`` is a whole page that needs nothing else, ``.md`` and ``.txt`` are the text,
        ``.json`` is what ``to_dict`` returns. A file that is there is replaced.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InvalidChunksError
        If the suffix is none of these.
    SourceError
        If the file cannot be written.
    """
    from xchunk.formatting.saving import save_report

    return save_report(self, path)


def plot_layout(
    self: Any,
    *,
    request: Access | Mapping[str, Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the stored chunks, shards and dask blocks on the array's true proportions.

    Parameters
    ----------
    request : str or mapping, optional
        One request, whose chunks are lit up: a preset such as ``"timeseries"``, or its dims,
        whole (-1) or so many elements of them: ``{"time": -1, "lat": 1}``. It is placed in
        the middle of the array.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidChunksError
        If the request cannot be understood, or there is nothing to draw.
    """
    from xchunk.plotting import layout_axes

    return layout_axes(self, request=request, ax=ax)


def plot_report(
    self: Any,
    kind: str = "layout",
    *,
    variable: str | None = None,
    access: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot how a variable is stored, or what that costs by access pattern.

    Parameters
    ----------
    kind : {"layout", "amplification"}
        The layout as it is drawn by `ArrayLayout.plot`; or, for each access pattern, the
        elements decoded for each element that one request needs.
    variable : str, optional
        The variable; the largest one by default.
    access : str, mapping or list, optional
        For a layout, one request that is lit up; for amplification, a list of uses: the
        presets whose dims are found, by default.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InvalidChunksError
        If there is no such variable or kind.
    """
    from xchunk.plotting import report_axes

    return report_axes(self, kind, variable=variable, access=access, ax=ax)


def plot_suggestion(
    self: Any,
    kind: str | None = None,
    *,
    variable: str | None = None,
    access: Any = None,
    ax: Any = None,
) -> Any:
    """Plot what the suggestion was chosen from, or what it does.

    Parameters
    ----------
    kind : {"cost", "memory", "amplification", "layout"}, optional
        ``cost``: predicted time of a pass against the size of a block, with the chosen one
        (of a workload: of each candidate that was simulated); ``memory``: predicted memory over
        the time of a workload; ``amplification``: elements decoded for each element that
        one request needs, by access pattern, as stored and as suggested; ``layout``: before and
        after, with the chunks lit up that one request touches. By default ``cost``.
    variable : str, optional
        The variable; the largest one by default.
    access : list, optional
        For ``amplification``, the uses: the presets whose dims are found, by default.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default. For ``layout``, two of them.

    Returns
    -------
    matplotlib.axes.Axes
        For ``layout`` an array of two.

    Raises
    ------
    InvalidChunksError
        If there is no such variable or kind, or ``memory`` is asked for without a workload.
    """
    from xchunk.plotting import suggestion_axes

    return suggestion_axes(self, kind, variable=variable, access=access, ax=ax)


def plot_prediction(self: Any, *, budget: Any = None, ax: Axes | None = None) -> Axes:
    """Plot the predicted memory over the time that the workload takes.

    Parameters
    ----------
    budget : MemoryBudget, optional
        Drawn as a line, with dask's thresholds where it has a limit.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from xchunk.plotting import prediction_axes

    return prediction_axes(self, budget=budget, ax=ax)


def plot_plan(self: Any, *, ax: Axes | None = None) -> Axes:
    """Plot the predicted memory of each stage over the predicted time, against the budget.

    Parameters
    ----------
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from xchunk.plotting import plan_axes

    return plan_axes(self, ax=ax)
