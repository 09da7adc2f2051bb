"""Drawings in HTML: layouts, what one request touches of them, and plans as their stages.

They are inline SVG in the colours of the style sheet; the shapes are those of
`xchunk.formatting.scene`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xchunk.core.grid import Grid
from xchunk.core.layout import ArrayLayout
from xchunk.core.plan import ArrayPlan, Stage
from xchunk.formatting import captions
from xchunk.formatting.scene import Role, Scene, grids_scene, layout_scene
from xchunk.formatting.style import esc

__all__ = ["LOOKS", "array_layout", "figure", "flow"]

#: How each role looks; a face and a line of one role look alike where both exist.
LOOKS: dict[Role, str] = {
    "array": "fill:var(--xc-soft);stroke:var(--xc-dim);stroke-width:1",
    "chunk": "fill:var(--xc-chunk);fill-opacity:.5;stroke:none",
    "edge": "stroke:var(--xc-chunk);stroke-width:.6",
    "dense": "stroke:var(--xc-chunk);stroke-width:.6;opacity:.3",
    "shard": "fill:none;stroke:var(--xc-shard);stroke-width:1.6",
    "block": "fill:none;stroke:var(--xc-dask);stroke-width:1.6",
    "box": "fill:none;stroke:var(--xc-dask);stroke-width:1.6",
    "touched": "fill:var(--xc-lit);fill-opacity:.45;stroke:none",
    "needed": "fill:var(--xc-need);fill-opacity:.45;stroke:var(--xc-need);stroke-width:1.4",
}

#: What each role is called, and its colour.
_LEGEND: dict[Role, tuple[str, str]] = {
    "chunk": ("stored chunk", "--xc-chunk"),
    "shard": ("shard", "--xc-shard"),
    "block": ("dask block", "--xc-dask"),
    "box": ("box of one task", "--xc-dask"),
    "needed": ("one request", "--xc-need"),
    "touched": ("chunks that one request touches", "--xc-chunk"),
}


def svg(scene: Scene, label: str) -> str:
    """Draw a scene; ``label`` (plain text) says what it is to who cannot see it."""
    shapes = []
    for shape in scene:
        look = LOOKS[shape.role]
        if len(shape.points) == 2:
            (x1, y1), (x2, y2) = shape.points
            shapes.append(
                f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{look}"/>'
            )
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            shapes.append(f'<polygon points="{path}" style="{look}"/>')
    left, top, width, height = scene.extent
    pad = 2.0
    view = f"{left - pad:.1f} {top - pad:.1f} {width + 2 * pad:.1f} {height + 2 * pad:.1f}"
    return (
        f'<svg role="img" aria-label="{esc(label)}" viewBox="{view}" '
        f'width="{width + 2 * pad:.0f}" height="{height + 2 * pad:.0f}">{"".join(shapes)}</svg>'
    )


def figure(drawn: str, legend: Iterable[Role], said: Iterable[str], title: str = "") -> str:
    """Put a drawing together with its title, legend and words (plain text)."""
    head = f"<b>{esc(title)}</b>" if title else ""
    swatches = "".join(
        f'<span><i style="color:var({colour})"></i>{esc(text)}</span>'
        for text, colour in (_LEGEND[r] for r in legend)
    )
    lines = "".join(f"<div>{esc(c)}</div>" for c in said if c)
    below = f"<div>{swatches}</div>{lines}" if swatches else lines
    return f"<figure>{head}{drawn}<figcaption>{below}</figcaption></figure>"


def array_layout(
    layout: ArrayLayout,
    request: Sequence[tuple[int, int]] | None = None,
    *,
    longest: float = 200.0,
    title: str = "",
    named: bool = True,
) -> str:
    """Draw a variable's layout as a figure with a caption.

    Parameters
    ----------
    layout : ArrayLayout
        What is drawn.
    request : sequence of (int, int), optional
        First element and stop along each dim of one request; the stored chunks that it
        touches are lit up.
    longest : float, optional
        Pixels of the drawing's longer side.
    title : str, optional
        What stands above, as plain text.
    named : bool, optional
        Whether the caption says which variable it is, and how true the drawing is to it.

    Returns
    -------
    str
        HTML; empty for a scalar or an empty array, of which there is nothing to draw.
    """
    scene = layout_scene(layout, request, longest=longest)
    if scene is None:
        return ""
    there = {shape.role for shape in scene}
    legend = [role for role in _LEGEND if role in there]
    said = [
        "" if request is None else captions.touched(layout, request),
        "; ".join(captions.drawn_notes(layout, scene.drawn, scene.is_true, scene.is_dense))
        if named or layout.ndim > 3
        else "",
    ]
    return figure(svg(scene, f"layout of {layout.name}"), legend, said, title)


def flow(array: ArrayPlan, *, longest: float = 120.0) -> str:
    """Draw a plan as its stages: arrays, with what is read and written on the arrows."""
    if not array.stages:
        return ""
    job = array.job
    out = []
    cut = job.source if job.source_chunked else None
    for i, node in enumerate(captions.flow_nodes(array)):
        stage = array.stages[i] if i < len(array.stages) else None
        scene = grids_scene(
            job.shape, cut, [] if stage is None else [("box", stage.boxes)], longest=longest
        )
        if scene is None:
            return ""
        out.append(
            '<div class="xc-node">'
            + figure(svg(scene, node.title), (), (node.chunks, node.parts), node.title)
            + "</div>"
        )
        if stage is not None:
            out.append(_arrow(stage, array.threads))
            cut = _written(stage, job.shape, job.target)
    key = '<span><i style="color:var(--xc-dask)"></i>the box that one task copies</span>'
    return f'<div class="xc-plan">{"".join(out)}</div><div class="xc-key">{key}</div>'


def _written(stage: Stage, shape: Sequence[int], target: Grid) -> Grid:
    return target if stage.scratch is None else Grid.of(shape, stage.scratch.chunks)


def _arrow(stage: Stage, threads: int) -> str:
    reads, tasks, writes = ("<br>".join(map(esc, t)) for t in captions.arrow(stage, threads))
    return (
        f'<div class="xc-arrow"><div>{reads}</div><div class="xc-shaft" aria-hidden="true"></div>'
        f'<div>{writes}<div class="xc-dim">{tasks}</div></div></div>'
    )
