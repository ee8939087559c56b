"""Pictures of tables: their tasks, and what a run on one is worth."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maml_core.evaluation.worth import METHODS, SHORT, Interval, Worth
from maml_core.figures.board import INK, PAPER, SHADES, css
from maml_core.figures.style import COLORS, Figure, Trace, base_layout, number, plain, trace_of
from maml_core.figures.tasks import small_axes
from maml_core.learning.fresh_rows import RowTasks
from maml_core.learning.own_images import ClassSample

METHOD_COLORS = {
    "learned": COLORS["learned"],
    "line": "#8a5a2b",
    "gp": COLORS["gp"],
    "features": COLORS["features"],
    "mean": COLORS["truth"],
    "pooled": "#7fc3ab",
    "tuned": COLORS["pretrained"],
    "random": COLORS["random"],
}


FEW = 10
"""Tasks, of which a chart counts each."""


def rows_grid(tasks: RowTasks, along: int, *, columns: int = 6) -> Figure:
    """Many tasks of a table, each a small picture of its output over one input, on common axes."""
    x_name, y_name = tasks.inputs[along], tasks.outputs[tasks.output]
    layout = base_layout(left=44)
    layout |= {"showlegend": False, "annotations": [], "margin": {"l": 44, "r": 8, "t": 26, "b": 34}}
    layout.pop("xaxis")
    layout.pop("yaxis")
    points = []
    for task in tasks.tasks:
        inputs, outputs = tasks.scaling.original_x(task.x.double()), tasks.scaling.original_y(task.y.double())
        points.append((inputs[:, along].numpy(), outputs[:, tasks.output].numpy()))
    limits = [_limits(np.concatenate([pair[i] for pair in points])) for i in (0, 1)]
    traces: list[Trace] = []
    for i, (x, y) in enumerate(points):
        suffix, x_axis, y_axis, title = small_axes(i, len(points), columns)
        layout["xaxis" + suffix] = x_axis | {"range": limits[0], "showticklabels": i >= len(points) - columns}
        layout["yaxis" + suffix] = y_axis | {"range": limits[1], "showticklabels": i % columns == 0}
        layout["annotations"].append(title | {"text": _short(tasks.tasks[i].label)})
        order = np.argsort(x, kind="stable")
        place = {"xaxis": "x" + suffix, "yaxis": "y" + suffix}
        traces.append(
            trace_of(
                x[order],
                y[order],
                "support",
                tasks.tasks[i].label,
                mode="lines+markers",
                width=1,
                size=5,
                hovertemplate=f"{plain(x_name)} %{{x:.4g}}<br>{plain(y_name)} %{{y:.4g}}<extra></extra>",
                **place,
            )
        )
    return {"data": traces, "layout": layout}


def classes_grid(samples: Sequence[ClassSample], *, columns: int = 6, across: int = 3) -> Figure:
    """Classes of images, each a square of the first few, under its name."""
    layout = base_layout(left=8)
    layout |= {"showlegend": False, "annotations": [], "margin": {"l": 8, "r": 8, "t": 26, "b": 8}}
    layout.pop("xaxis")
    layout.pop("yaxis")
    bare = {"showgrid": False, "showticklabels": False, "ticks": "", "constrain": "domain"}
    traces: list[Trace] = []
    for i, sample in enumerate(samples):
        suffix, x_axis, y_axis, title = small_axes(i, len(samples), columns)
        layout["xaxis" + suffix] = x_axis | bare
        layout["yaxis" + suffix] = (
            y_axis | bare | {"scaleanchor": "x" + suffix, "autorange": "reversed", "constraintoward": "top"}
        )
        layout["annotations"].append(title | {"text": _short(sample.name)})
        size = sample.pixels.shape[-1]
        wall = np.zeros((across**2, size, size))
        wall[: len(sample.pixels)] = sample.pixels[: across**2]
        shades = wall.reshape(across, across, size, size).transpose(0, 2, 1, 3).reshape(across * size, across * size)
        trace: Trace = {
            "type": "heatmap",
            "z": np.round(SHADES * shades).astype(int).tolist(),
            "zmin": 0,
            "zmax": SHADES,
            "colorscale": [[0, css(PAPER)], [1, css(INK)]],
            "showscale": False,
            "hoverinfo": "skip",
            "name": plain(sample.name),
            "xaxis": "x" + suffix,
            "yaxis": "y" + suffix,
        }
        traces.append(trace)
    return {"data": traces, "layout": layout}


def rows_per_task(counts: list[int], *, rows: str = "rows", task: str = "task", tasks: str = "tasks") -> Figure:
    """How many tasks have how many rows; or classes images."""
    layout = base_layout(x=f"{rows} in a {task}", y=tasks, left=44)
    layout |= {"margin": {"l": 44, "r": 10, "t": 10, "b": 42}, "hovermode": "closest", "bargap": 0.05}
    if len(counts) <= FEW:
        layout["yaxis"]["dtick"] = 1
    bars = {
        "type": "histogram",
        "x": counts,
        "nbinsx": 30,
        "meta": "support",
        "marker": {"color": COLORS["support"]},
        "hovertemplate": f"%{{x}} {rows}: %{{y}} {tasks}<extra></extra>",
    }
    return {"data": [bars], "layout": layout}


def worth_figure(worth: Worth) -> Figure:
    """Each method's error on held-out tasks with its 95 % interval, the best on top."""
    found = {name: worth.error(name) for name in METHODS if name in worth.squares}
    names = sorted(found, key=lambda name: -found[name].value if np.isfinite(found[name].value) else -np.inf)
    traces = [_bar(name, found[name]) for name in names if np.isfinite(found[name].value)]
    layout = base_layout(x=error_title(worth), y="", left=124)
    layout |= {"showlegend": False, "hovermode": "closest", "margin": {"l": 124, "r": 14, "t": 10, "b": 42}}
    layout["xaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": layout}


def worth_curves(worth: Worth, *, against: str) -> Figure:
    """Error with its 95 % band against adaptation steps ("steps"), or the number of support rows ("rows")."""
    squares = worth.by_rows if against == "rows" else {n: dict(enumerate(c)) for n, c in worth.curves.items()}
    traces: list[Trace] = []
    for name in reversed(METHODS):
        if name not in squares:
            continue
        at = np.array([point for point, each in squares[name].items() if each], dtype=np.float64)
        found = [Worth.interval(each) for each in squares[name].values() if each]
        value, low, high = (np.array([part[i] for part in found]) for i in range(3))
        color, width = METHOD_COLORS[name], 3 if name == "learned" else 2
        band = trace_of(
            np.concatenate([at, at[::-1]]),
            np.concatenate([high, low[::-1]]),
            "truth",
            SHORT[name],
            width=0,
            showlegend=False,
            hoverinfo="skip",
        )
        line = trace_of(at, value, "truth", SHORT[name], mode="lines+markers", width=width)
        line["line"]["color"] = line["marker"]["color"] = color
        traces += [band | {"fill": "toself", "fillcolor": color + "26", "meta": name}, line | {"meta": name}]
    x = "rows in the support" if against == "rows" else "adaptation step"
    layout = base_layout(x=x, y=error_title(worth), left=56)
    layout["yaxis"]["rangemode"] = "tozero"
    if against == "rows":
        shapes = {"type": "line", "x0": worth.shots, "x1": worth.shots, "y0": 0, "y1": 1, "yref": "paper"}
        layout["shapes"] = [shapes | {"line": {"color": COLORS["truth"], "width": 1, "dash": "dot"}}]
        layout["annotations"] = [
            {
                "text": "trained with",
                "x": worth.shots,
                "y": 0.02,
                "yref": "paper",
                "showarrow": False,
                "xanchor": "left",
            }
        ]
    return {"data": traces, "layout": layout}


def error_title(worth: Worth) -> str:
    """What the errors are called on an axis."""
    unit = f", in {worth.unit}" if worth.unit else ""
    return f"root mean squared error of {_short(worth.outputs[0])}{unit}" if len(worth.outputs) == 1 else f"error{unit}"


def _bar(name: str, found: Interval) -> Trace:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "x": [found.value],
        "y": [SHORT[name]],
        "name": SHORT[name],
        "meta": name,
        "marker": {"color": METHOD_COLORS[name], "size": 13 if name == "learned" else 10},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [found.high - found.value],
            "arrayminus": [found.value - found.low],
            "color": METHOD_COLORS[name],
            "thickness": 2.5,
            "width": 6,
        },
        "hovertemplate": f"{number(found.value)} ({number(found.low)} to {number(found.high)})<extra></extra>",
    }
    return trace


def _limits(values: np.ndarray) -> list[float]:
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]


def _short(text: str) -> str:
    """A name for a small picture, with nothing in it that Plotly reads as markup."""
    return plain(text if len(text) <= 18 else text[:17] + "…")
