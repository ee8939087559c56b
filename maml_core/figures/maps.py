"""Pictures of parameter space: the path of an initialization, its arms to adapted tasks, and how far layers move."""

from typing import Any

import numpy as np

from maml_core.evaluation.paths import PathMap
from maml_core.figures.style import COLORS, Figure, Trace, base_layout, plain, rounded, trace_of

NAMES = {"before": "before training", "after": "after training"}


def path_figure(found: PathMap) -> Figure:
    """The path of the initialization as it trains, with an arm from each end to every adapted task."""
    path = found.path
    way = trace_of(path[:, 0], path[:, 1], "truth", "the initialization", mode="lines+markers", size=5)
    way |= {
        "text": [f"{iteration:,} meta-iterations" for iteration in found.iterations],
        "hovertemplate": "%{text}<extra></extra>",
    }
    traces = [way]
    for name, home in (("before", path[0]), ("after", path[-1])):
        traces += [arm | {"showlegend": False} for arm in _arms(home, found.arms[name], name)]
    layout = _plane("first axis of the path", "second axis")
    return {"data": traces, "layout": layout}


def star_figure(found: PathMap) -> Figure:
    """Where a dozen tasks adapt to, seen from the initialization, before and after training, on one scale."""
    traces = [trace for name in ("before", "after") for trace in _arms(np.zeros(2), found.star[name], name)]
    return {"data": traces, "layout": _plane("first axis of the arms", "second axis")}


def layers_figure(found: PathMap) -> Figure:
    """How far each layer moves during adaptation, against its size, before and after training."""
    traces: list[Trace] = [
        {
            "type": "bar",
            "x": [plain(layer) for layer in found.layers],
            "y": rounded(100 * np.asarray(found.moved[name])),
            "name": NAMES[name],
            "meta": name,
            "marker": {"color": COLORS[name]},
            "hovertemplate": "%{x}: %{y:.3g} % of its size<extra></extra>",
        }
        for name in ("before", "after")
    ]
    layout = base_layout(y="change, % of the layer's size", left=52)
    layout |= {"barmode": "group", "hovermode": "closest"}
    return {"data": traces, "layout": layout}


def _arms(home: np.ndarray, ends: np.ndarray, name: str) -> list[Trace]:
    """Lines from one place to each of `ends` `[tasks, 2]`, a point at the end of each, and a mark where they begin."""
    gap = np.full(len(ends), np.nan)
    lines: dict[str, Any] = {}
    for axis, values in (("x", 0), ("y", 1)):
        lines[axis] = np.stack([np.full(len(ends), home[values]), ends[:, values], gap], axis=1).ravel()
    arms = trace_of(lines["x"], lines["y"], name, NAMES[name], width=1.6, hoverinfo="skip")
    tips = trace_of(ends[:, 0], ends[:, 1], name, NAMES[name], mode="markers", size=6, showlegend=False)
    start = trace_of(home[:1], home[1:], name, NAMES[name], mode="markers", size=13, showlegend=False)
    tips["hovertemplate"] = f"a task, adapted {NAMES[name]}<extra></extra>"
    start["hovertemplate"] = f"the initialization {NAMES[name]}<extra></extra>"
    return [arms, tips, start]


def _plane(across: str, up: str) -> dict[str, Any]:
    """A plane in which a distance is as long in one direction as in the other."""
    layout = base_layout(x=across, y=up, left=48)
    layout["hovermode"] = "closest"
    layout["yaxis"] |= {"scaleanchor": "x", "scaleratio": 1}
    return layout
