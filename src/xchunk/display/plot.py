"""Plots for papers, with matplotlib: layouts, amplification, memory over time, cost.

Results call these by their ``plot`` methods. Every function
draws into the Axes that it is given, or into a new figure, and returns the Axes. Artists carry
what they stand for as their ``gid``, so that they can be found and restyled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from xchunk.core.layout import ArrayLayout
from xchunk.core.memory import MemoryBudget
from xchunk.core.plan.stages import RechunkPlan
from xchunk.core.reports.workload import Prediction
from xchunk.core.suggest.access import AccessPattern, parse_access
from xchunk.core.suggest.decision import request_amplification
from xchunk.core.suggest.lazy_pass import item_nbytes, pass_points
from xchunk.core.suggest.suggestion import Suggestion, VariableSuggestion
from xchunk.core.units import format_bytes, format_seconds
from xchunk.display import phrases
from xchunk.display.shapes import Role, layout_scene
from xchunk.errors import InvalidChunksError, XchunkError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xchunk.sources.layouts import LayoutReport

#: Told apart by those who see fewer colours, and in print.
BLUE, ORANGE, RED, PURPLE, GREY = "#2f6f9f", "#b5651d", "#b3261e", "#8a5a9e", "#5b6875"
GREEN = "#4f8f6f"


def _new_axes(ax: Axes | None, size: tuple[float, float] = (6, 3.6)) -> Axes:
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


def _limits(ax: Axes, budget: MemoryBudget) -> None:
    """Lines at what a worker may take, and at dask's thresholds where its limit is known."""
    allowed = budget.max_mem + (0 if budget.memory is None else budget.reserved)
    ax.axhline(allowed, color=RED, linewidth=1.2, label="budget", gid="budget")
    if budget.memory is None:
        return
    for mark, name in phrases.MARKS:
        y = mark * budget.memory
        ax.axhline(y, color=GREY, linewidth=0.7, linestyle="--", gid=name)
        ax.annotate(
            f"{name} {mark:.0%}", (1, y), (-3, 2), ax.get_yaxis_transform(), "offset points",
            ha="right", fontsize="x-small", color=GREY,
        )  # fmt: skip


#: How the faces and lines of a drawing look; what is not named is as matplotlib has it.
_LOOKS: dict[Role, dict[str, Any]] = {
    "array": {"facecolor": "#eef2f5", "edgecolor": GREY, "linewidth": 0.8},
    "chunk": {"facecolor": BLUE, "alpha": 0.5, "linewidth": 0},
    "edge": {"color": BLUE, "linewidth": 0.5},
    "dense": {"color": BLUE, "linewidth": 0.4, "alpha": 0.3},
    "shard": {"facecolor": "none", "edgecolor": PURPLE, "linewidth": 1.4},
    "block": {"facecolor": "none", "edgecolor": ORANGE, "linewidth": 1.4},
    "box": {"facecolor": "none", "edgecolor": ORANGE, "linewidth": 1.4},
    "touched": {"facecolor": BLUE, "alpha": 0.45, "linewidth": 0},
    "needed": {"facecolor": RED, "edgecolor": RED, "alpha": 0.6, "linewidth": 1.2},
}

_NAMES: dict[Role, str] = {
    "chunk": "stored chunk",
    "shard": "shard",
    "block": "dask block",
    "touched": "chunks touched",
    "needed": "one request",
}


def layout_axes(
    layout: ArrayLayout,
    *,
    request: Any = None,
    layouts: Sequence[ArrayLayout] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a layout, with the chunks of one request lit up; ``layouts`` tell what dims are."""
    spans = None
    if request is not None:
        pattern = max(parse_access(request, layouts or [layout]), key=lambda p: p.weight)
        spans = phrases.request_of(pattern, layout)
    scene = layout_scene(layout, spans)
    if scene is None:
        raise InvalidChunksError(
            f"{layout.name} has no elements or no dims, so that there is nothing to draw."
        )
    ax = _new_axes(ax, (4, 3))
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Polygon

    seen: dict[Role, Any] = {}
    for shape in scene:
        look = _LOOKS[shape.role]
        if len(shape.points) == 2:
            xs, ys = zip(*shape.points, strict=True)
            ax.add_line(Line2D(xs, ys, gid=shape.role, **look))
        else:
            ax.add_patch(Polygon(shape.points, closed=True, gid=shape.role, **look))
        if shape.role in _NAMES:
            seen[shape.role] = Patch(label=_NAMES[shape.role], **look)
    left, top, width, height = scene.extent
    ax.set_xlim(left - 0.02 * width, left + 1.02 * width)
    ax.set_ylim(top + 1.02 * height, top - 0.02 * height)
    ax.set_aspect("equal")
    ax.set(xticks=[], yticks=[], facecolor="none")
    ax.spines[:].set_visible(False)
    ax.set_title(layout.name)
    notes = phrases.drawn_notes(layout, scene.drawn, scene.is_true, scene.is_dense)
    if spans is not None:
        notes.insert(0, phrases.touched(layout, spans))
    ax.set_xlabel("\n".join(filter(None, notes)), fontsize="small")
    ax.legend(handles=list(seen.values()), frameon=False, fontsize="small", loc="best")
    return ax


def layouts_axes(
    report: LayoutReport,
    kind: str = "layout",
    *,
    variable: str | None = None,
    access: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot one variable of a layout report; see `LayoutReport.plot`."""
    layouts = tuple(report)
    layout = _picked({v.name: v for v in layouts}, variable, lambda v: v)
    if kind == "layout":
        return layout_axes(layout, request=access, layouts=layouts, ax=ax)
    if kind == "amplification":
        return _amplification(layout, layouts, access, {"as stored": _lengths(layout)}, ax)
    raise _no_kind(kind, ("layout", "amplification"))


def suggestion_axes(
    suggestion: Suggestion,
    kind: str | None = None,
    *,
    variable: str | None = None,
    access: Any = None,
    ax: Any = None,
) -> Any:
    """Plot a suggestion; see `Suggestion.plot`."""
    v = _picked(suggestion.variables, variable, lambda v: v.layout, suggestion)
    layouts = [other.layout for other in suggestion.variables.values()]
    if kind is None or kind == "cost":
        if suggestion.outcomes:
            return _outcomes(suggestion, ax)
        return _cost(suggestion, v, ax)
    if kind == "memory":
        if suggestion.prediction is None:
            raise InvalidChunksError(
                "the memory over time is known for a workload only: "
                "suggest(workload=lambda ds: …).plot('memory')."
            )
        return prediction_axes(suggestion.prediction, budget=suggestion.budget, ax=ax)
    if kind == "amplification":
        cuts = {"as stored": _lengths(v.layout)}
        if v.action == "stage":
            cuts["rechunked"] = v.target_chunks
        return _amplification(v.layout, layouts, access, cuts, ax)
    if kind == "layout":
        return _before_and_after(suggestion, v, ax)
    raise _no_kind(kind, ("cost", "memory", "amplification", "layout"))


def prediction_axes(
    prediction: Prediction, *, budget: MemoryBudget | None = None, ax: Axes | None = None
) -> Axes:
    """Plot predicted memory over the time that a workload takes."""
    ax = _new_axes(ax)
    parts = np.array([(0.0, 0.0), *prediction.over_time, (1.0, 0.0)])
    held = 0 if budget is None or budget.memory is None else budget.reserved
    seconds = parts[:, 0] * prediction.seconds
    nbytes = held + parts[:, 1] * prediction.peak
    who = "the fullest worker" if prediction.workers > 1 else "the process"
    # each value is the most since the one before
    ax.fill_between(seconds, held, nbytes, step="pre", color=BLUE, alpha=0.35, linewidth=0)
    ax.step(seconds, nbytes, where="pre", color=BLUE, label=f"{who}, predicted", gid="memory")
    if prediction.scaled > 1.01:
        ax.set_title(f"predicted from data {prediction.scaled:.0f} times smaller", fontsize="small")
    return _over_time(ax, budget, held, held + prediction.peak, prediction.seconds)


def plan_axes(plan: RechunkPlan, *, ax: Axes | None = None) -> Axes:
    """Plot the predicted memory of each stage over the predicted time."""
    ax = _new_axes(ax)
    budget = plan.budget
    held = 0 if budget.memory is None else budget.reserved
    colours = {"read": BLUE, "write": ORANGE, "move": PURPLE, "direct": GREEN}
    start, named = 0.0, set()
    for array in plan.arrays:
        for stage in array.stages:
            grown = array.worker_mem - (array.projected_mem - stage.projected_mem) * array.threads
            ax.bar(
                start, grown, stage.seconds, held, align="edge", color=colours[stage.kind],
                alpha=0.6, edgecolor="white", linewidth=0.5, gid=f"{stage.kind} {array.name}",
                label="_" * (stage.kind in named) + phrases.STAGES[stage.kind],
            )  # fmt: skip
            named.add(stage.kind)
            if stage.seconds > 0.08 * plan.seconds:
                middle = start + stage.seconds / 2, held + grown / 2
                ax.annotate(array.name, middle, ha="center", va="center", fontsize="small")
            start += stage.seconds
    return _over_time(ax, budget, held, held + plan.projected_mem, start)


def _over_time(
    ax: Axes, budget: MemoryBudget | None, held: int, peak: float, seconds: float
) -> Axes:
    """Finish a plot of the memory of a worker over time: what it may take, scales and labels."""
    if held:
        ax.axhspan(0, held, color="#9aa5b1", alpha=0.5, gid="held", label="held before any data")
    if budget is not None:
        _limits(ax, budget)
    ax.set(xlim=(0, max(seconds, 1e-9)), ylim=(0, 1.05 * max(peak, *ax.get_ylim())))
    ax.set(xlabel="predicted time (s)", ylabel="memory of one worker")
    return _labelled(ax, ax.yaxis)


def _labelled(ax: Axes, axis: Any) -> Axes:
    """Label an axis with sizes such as ``1 MB``, and say what is drawn."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda n, _: _short(n)))
    axis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False, fontsize="small")
    return ax


def _short(n: float) -> str:
    number, _, unit = format_bytes(n).partition(" ")
    return f"{float(number):g} {unit}"


def _amplification(
    layout: ArrayLayout,
    layouts: Sequence[ArrayLayout],
    access: Any,
    cuts: Mapping[str, Sequence[int]],
    ax: Axes | None,
) -> Axes:
    """Bars of elements decoded for each that is needed, by use and by how chunks are cut."""
    given = access if isinstance(access, list | tuple) else None if access is None else [access]
    if given is None:
        patterns = phrases.uses(layouts, layout)
    else:
        patterns = [p for one in given for p in parse_access(one, layouts)]
    if not patterns or layout.chunks is None:
        raise InvalidChunksError(
            f"{layout.name} has no stored chunks, or none of its dims is known as time, vertical "
            "or horizontal. Give the uses by dims: access=[{'time': -1}, {'x': -1, 'y': -1}]."
        )
    ax = _new_axes(ax)
    names = [p.name for p in patterns]
    height = 0.8 / len(cuts)
    for i, ((label, chunks), colour) in enumerate(zip(cuts.items(), (BLUE, ORANGE), strict=False)):
        values = [request_amplification(layout, tuple(chunks), [p.on(layout)]) for p in patterns]
        places = np.arange(len(names)) + (i - (len(cuts) - 1) / 2) * height
        # bars begin at 1, where nothing is decoded in vain
        bars = ax.barh(
            places, np.array(values) - 1, 0.92 * height, left=1, color=colour, label=label
        )
        ax.bar_label(bars, [phrases.times(x) for x in values], padding=3, fontsize="small")
        for bar in bars:
            bar.set_gid(label)
    ax.set_xscale("log")
    ax.set_xlim(1, 10 * max(ax.get_xlim()[1], 10))
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="elements decoded / needed by one request", title=layout.name)
    if len(cuts) > 1:
        ax.legend(frameon=False, fontsize="small")
    return ax


def _cost(suggestion: Suggestion, v: VariableSuggestion, ax: Axes | None) -> Axes:
    """Predicted time of a pass against the size of a block, with the chosen point."""
    if not v.layout.size or not v.layout.ndim:
        raise InvalidChunksError(
            f"{v.name} has no elements or no dims, so that its blocks have no cost."
        )
    pattern = max(suggestion.patterns or (AccessPattern("scan"),), key=lambda p: p.weight)
    budget = suggestion.budget.with_threads(v.threads)
    ax = _new_axes(ax)
    curves = [("as it is stored", v.layout, BLUE, v.seconds_now)]
    if v.action == "stage":
        curves.append(("rechunked", phrases.after(v), ORANGE, v.seconds_after))
    for label, layout, colour, _ in curves:
        points = pass_points(layout, pattern, budget, suggestion.rates)
        fits = points[:, 2] <= budget.max_mem
        for part, style, says in ((fits, "-", label), (~fits, ":", f"{label}, too large")):
            curve = _lowest(points[part])
            if len(curve):
                ax.plot(curve[:, 0], curve[:, 1], style, color=colour, label=says, gid=says)
    _, layout, colour, seconds = curves[-1]
    block = _block_nbytes(v)
    if seconds is not None:
        _chosen(ax, block, seconds)
    ax.set(title=f"{v.name}: {suggestion.access}")
    ax.set(xlabel="size of a dask block", ylabel="predicted time of a pass (s)")
    return _labelled(ax, ax.xaxis)


def _outcomes(suggestion: Suggestion, ax: Axes | None) -> Axes:
    """Time and memory of all candidates for a workload, with the chosen one."""
    ax = _new_axes(ax)
    budget = suggestion.budget
    found = [o for o in suggestion.outcomes if o.prediction is not None]
    pairs = [(o, cast("Prediction", o.prediction)) for o in found]
    for fits, colour, label in ((True, BLUE, "fits"), (False, GREY, "does not fit")):
        some = [p for _, p in pairs if (p.peak <= budget.max_mem) == fits]
        if some:
            ax.scatter(
                [p.block for p in some], [p.seconds for p in some], color=colour, label=label,
                gid=label, marker="o" if fits else "x",
            )  # fmt: skip
    p = suggestion.prediction
    if p is not None:
        _chosen(ax, p.block, p.seconds)
    ax.set(title=suggestion.access)
    ax.set(xlabel="largest part that is read at once", ylabel="predicted time (s)")
    return _labelled(ax, ax.xaxis)


def _chosen(ax: Axes, block: float, seconds: float) -> None:
    """Mark the chosen point; its figures stand in the legend, where they cover nothing."""
    label = f"chosen: {format_bytes(block)}, {format_seconds(seconds)}"
    ax.plot([block], [seconds], "o", color=RED, markersize=8, label=label, gid="chosen", zorder=5)
    ax.set(xscale="log", yscale="log")


def _before_and_after(suggestion: Suggestion, v: VariableSuggestion, axes: Any) -> Any:
    if axes is None:
        _, axes = pyplot().subplots(1, 2, figsize=(9, 4), layout="constrained")
    if len(axes) != 2:
        raise InvalidChunksError("before and after are drawn in two Axes; give ax=(left, right).")
    pattern = max(suggestion.patterns, key=lambda p: p.weight, default=None)
    request = None if pattern is None or pattern.on(v.layout).is_scan else pattern
    after = "rechunked" if v.action == "stage" else "in the suggested blocks"
    layout_axes(v.layout, request=request, ax=axes[0]).set_title(f"{v.name} as it is stored")
    shown = request if v.action == "stage" else None
    layout_axes(phrases.after(v), request=shown, ax=axes[1]).set_title(f"{v.name} {after}")
    return axes


def _lowest(points: NDArray[np.float64], bins: int = 60) -> NDArray[np.float64]:
    """The quickest of points of about one size, the smallest blocks first."""
    if not len(points):
        return points
    size = np.log(points[:, 0])
    step = max(np.ptp(size), 1e-9) / bins
    number = np.minimum(((size - size.min()) / step).astype(int), bins - 1)
    best = [np.flatnonzero(number == i) for i in np.unique(number)]
    rows = [index[np.argmin(points[index, 1])] for index in best]
    return points[rows]


def _block_nbytes(v: VariableSuggestion) -> int:
    """Bytes of the largest block of what is suggested."""
    lengths = [
        n if (c := v.chunks.get(d, -1)) == -1 else min(n, c) if isinstance(c, int) else max(c)
        for d, n in v.layout.sizes.items()
    ]
    return math.prod(lengths) * item_nbytes(v.layout.dtype)


def _lengths(layout: ArrayLayout) -> tuple[int, ...]:
    return tuple(
        c if isinstance(c, int) else max(c, default=1) for c in layout.chunks or (1,) * layout.ndim
    )


def _picked(
    named: Mapping[str, Any],
    variable: str | None,
    layout_of: Callable[[Any], ArrayLayout],
    suggestion: Suggestion | None = None,
) -> Any:
    """The variable that was named; else the largest, of those that a workload reads."""
    if variable is not None:
        if variable not in named:
            raise InvalidChunksError(
                f"there is no variable {variable!r}. The variables are "
                f"{', '.join(map(repr, named)) or '(none)'}."
            )
        return named[variable]
    prediction = None if suggestion is None else suggestion.prediction
    read = () if prediction is None else prediction.reads

    def rank(item: Any) -> tuple[bool, bool, int]:
        layout = layout_of(item)
        return layout.name in read, not layout.is_coord, layout.nbytes

    if not named:
        raise InvalidChunksError("there are no variables, so that there is nothing to plot.")
    return max(named.values(), key=rank)


def _no_kind(kind: object, kinds: Sequence[str]) -> InvalidChunksError:
    return InvalidChunksError(
        f"there is no plot of kind {kind!r}. Give {', '.join(map(repr, kinds[:-1]))} or "
        f"{kinds[-1]!r}."
    )
