"""Charts of losses and errors: over training, over steps, over parameters; and of gradients."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from maml_core.evaluation.curves import SHOTS, Evaluation
from maml_core.evaluation.published import PublishedReturns
from maml_core.evaluation.rivals import RIVAL_NAMES
from maml_core.evaluation.side_by_side import NAMES
from maml_core.evaluation.toy import TOY_RANGE, TOY_TARGETS, Toy
from maml_core.figures.style import (
    ALGORITHM_COLORS,
    COLORS,
    FAINT,
    MOST_DECADES,
    Figure,
    Trace,
    base_layout,
    log_scale,
    number,
    plain,
    rounded,
    thin,
    trace_of,
)
from maml_core.learning.adaptation import Landscape
from maml_core.learning.problems import Problem, Regression

LEAST_SHOWN = 1e-6
"""An error below it is zero but for rounding: a line there would make the axis all decades and no curve."""


WILD = 10.0
"""Times the error of predicting the support's mean, above which an error says no more than that adaptation diverged."""


def loss_curve(
    frame: pd.DataFrame,
    *,
    loss_name: str = Regression.loss_name,
    smoothing: float = 0.0,
    log_axis: bool = True,
    earlier: pd.DataFrame | None = None,
    earlier_name: str = "",
) -> Figure:
    """The meta-loss over training, before and after adaptation: smoothed lines over faint raw ones.

    `frame` has columns iteration, pre_loss, post_loss. `smoothing` in [0, 1) is the weight of the past in an
    exponential mean. Smoothed first and thinned out for drawing afterwards: the other order bends the curve.
    Of an `earlier` run the loss after adaptation stays behind, for comparison.
    """
    traces = []
    shown = [frame["pre_loss"].to_numpy(), frame["post_loss"].to_numpy()]
    if earlier is not None and len(earlier):
        before = _smoothed(earlier, "post_loss", smoothing)
        name = f"{plain(earlier_name)}, after adaptation"
        x = earlier["iteration"].to_numpy(dtype=np.float64)
        traces.append(trace_of(*thin(x, before), "truth", name, width=1.8, dash="dot"))
        shown.append(before)
    iteration = frame["iteration"].to_numpy(dtype=np.float64)
    for column, meaning, label in (
        ("pre_loss", "before", "before adaptation"),
        ("post_loss", "after", "after adaptation"),
    ):
        if smoothing > 0:
            raw = thin(iteration, frame[column].to_numpy(dtype=np.float64))
            traces.append(trace_of(*raw, meaning, label, opacity=FAINT, width=1, showlegend=False, hoverinfo="skip"))
        traces.append(trace_of(*thin(iteration, _smoothed(frame, column, smoothing)), meaning, label, width=2.2))
    layout = base_layout(x="meta-iteration", y=f"meta-loss ({loss_name})", left=56)
    layout["yaxis"] |= log_scale(*shown) if log_axis else {"rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def _smoothed(frame: pd.DataFrame, column: str, smoothing: float) -> np.ndarray:
    values = frame[column].ewm(alpha=1 - smoothing).mean() if smoothing > 0 else frame[column]
    return values.to_numpy(dtype=np.float64)


def error_curves(result: Evaluation, published: Sequence[PublishedReturns] = ()) -> Figure:
    """Error on held-out tasks against adaptation steps, each with its 95 % band.

    `published` are returns that others have reported before the first step and after each.
    """
    traces = []
    judge = result.judge
    curves = {"random": result.random, "pretrained": result.pretrained, "learned": result.learned}
    for meaning, curve in curves.items():
        if curve is not None:
            found = judge.score(np.asarray(curve.error))
            traces += _with_band(np.arange(len(found)), found, np.asarray(curve.ci95), meaning, NAMES[meaning])
    steps = np.arange(len(result.learned.error))
    guess = np.full(len(steps), judge.score(result.predict_mean))
    traces.append(trace_of(steps, guess, "truth", judge.guess_in_full, dash="dash"))
    shown = [curve.error for curve in curves.values() if curve]
    for name, level in result.rivals.items():
        if level.error >= LEAST_SHOWN or judge.scale != "decades":
            flat = np.full(len(steps), judge.score(level.error))
            said = number(level.error) if judge.scale == "decades" else judge.in_words(level.error)
            traces.append(trace_of(steps, flat, name, f"{RIVAL_NAMES[name]} {said}", dash="dot"))
            shown.append([level.error])
    for each in published:
        known = np.asarray(each.returns[: len(steps)])
        look: dict[str, Any] = {"mode": "lines+markers", "dash": "dashdot", "width": 1.5}
        traces.append(trace_of(np.arange(len(known)), known, each.kind, each.method, **look))
    layout = base_layout(x="adaptation step", y=judge.score_name, left=56)
    layout["yaxis"] |= _score_axis(judge, *(np.asarray(errors) for errors in shown))
    return {"data": traces, "layout": layout}


def shots_curves(result: Evaluation, trained: int) -> Figure:
    """Error against support points, each method with its 95 % band; the number that training used is marked."""
    traces = []
    names = NAMES | RIVAL_NAMES
    for name, levels in result.by_shots.items():
        shots = np.array(list(levels))
        found = result.judge.score(np.array([level.error for level in levels.values()]))
        traces += _with_band(shots, found, np.array([level.ci95 for level in levels.values()]), name, names[name])
    layout = base_layout(x=result.judge.supports, y=result.judge.score_name, left=56)
    layout["xaxis"] |= {"type": "log", "tickvals": list(SHOTS), "ticktext": [str(shots) for shots in SHOTS]}
    errors = np.array([level.error for levels in result.by_shots.values() for level in levels.values()])
    shown = errors[(errors > 0) & (errors < WILD * result.predict_mean)]
    layout["yaxis"] |= _score_axis(result.judge, shown)
    some_diverge = 0 < len(shown) < len(errors)  # from so few points: they leave the picture
    if some_diverge and result.judge.scale == "decades":
        layout["yaxis"]["range"] = [float(np.log10(shown.min() / 2)), float(np.log10(shown.max() * 2))]
        away = {
            names[name]: [str(shots) for shots, level in levels.items() if not level.error < WILD * result.predict_mean]
            for name, levels in result.by_shots.items()
        }
        said = [f"{name} at {', '.join(shots)}" for name, shots in away.items() if shots]
        layout["annotations"] = [  # where errors fall with the points, nothing else is
            {
                "text": "<br>".join(["above the chart:", *said]),
                "x": 0.02,
                "y": 0.02,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "align": "left",
                "showarrow": False,
            }
        ] * bool(said)
    layout["shapes"] = [
        {
            "type": "line",
            "x0": trained,
            "x1": trained,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": COLORS["truth"], "dash": "dot", "width": 1.5},
        }
    ]
    return {"data": traces, "layout": layout}


def shots_grid_figure(grid: pd.DataFrame, judge: Problem) -> Figure:
    """Error by the shots that runs were trained on (up) and the number of support points (across), as colored cells."""
    errors = grid.to_numpy(dtype=np.float64)
    level = np.log10(np.maximum(errors, LEAST_SHOWN))
    in_words = number if judge.scale == "decades" else judge.in_words
    heat = {
        "type": "heatmap",
        "x": [str(shots) for shots in grid.columns],
        "y": [str(shots) for shots in grid.index],
        "z": [rounded(row) for row in level],
        "text": [[in_words(value) for value in row] for row in errors],
        "texttemplate": "%{text}",
        "colorscale": "Viridis",
        "reversescale": True,
        "showscale": False,
        "zmin": float(np.nanmin(level)),
        "zmax": float(min(np.nanmax(level), np.nanmin(level) + MOST_DECADES)),
        "meta": "error",
        "hovertemplate": "trained on %{y}, adapted to %{x}: %{text}<extra></extra>",
    }
    layout = base_layout(x=judge.supports, y="trained on", left=56)
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"type": "category"}
    return {"data": [heat], "layout": layout}


def _score_axis(judge: Problem, *errors: np.ndarray) -> dict[str, Any]:
    """Decades of an error, shares of what is right, or plain numbers."""
    return {"decades": log_scale(*errors), "share": {"tickformat": ".0%"}, "plain": {}}[judge.scale]


def _with_band(x: np.ndarray, y: np.ndarray, half: np.ndarray, meaning: str, name: str) -> list[Trace]:
    """A curve, and the 95 % band around it; where that reaches zero, a logarithmic axis shows a thousandth."""
    low = np.where(y > 0, np.maximum(y - half, 1e-3 * np.abs(y)), y - half)
    band = trace_of(
        np.concatenate([x, x[::-1]]),
        np.concatenate([y + half, low[::-1]]),
        meaning,
        f"{name}, 95 %",
        width=0,
        showlegend=False,
        hoverinfo="skip",
        legendgroup=meaning,
    )
    curve = trace_of(
        x, y, meaning, name, mode="lines+markers", width=3 if meaning == "learned" else 2, legendgroup=meaning
    )
    return [band | {"fill": "toself", "fillcolor": COLORS[meaning] + "30"}, curve]


def landscape_figure(found: Landscape) -> Figure:
    """Error after adaptation over two task parameters, the training range outlined."""
    across, up = found.values
    (x0, x1), (y0, y1) = found.trained
    scale = found.problem.scale
    name = "error" if scale == "decades" else found.problem.score_name
    if scale != "decades":
        level = found.problem.score(found.error)
        low, high = (min(0.5, float(np.nanmin(level))), 1.0) if scale == "share" else _middle(level)
        bar: dict[str, Any] = {"title": {"text": name}, "tickformat": ".0%" if scale == "share" else ""}
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.log10(found.error)
        low, high = _middle(level)
        ticks = list(range(math.floor(low), math.ceil(high) + 1))
        bar = {"title": {"text": name}, "tickvals": ticks, "ticktext": [f"{10.0**k:g}" for k in ticks]}
    heat = {
        "type": "heatmap",
        "x": rounded(across),
        "y": rounded(up),
        "zmin": low,
        "zmax": high,
        "z": [[None if not np.isfinite(v) else round(float(v), 4) for v in row] for row in level],
        "customdata": [
            [found.problem.in_words(float(v)) if np.isfinite(v) else "diverged" for v in row] for row in found.error
        ],
        "colorscale": "Viridis",
        "meta": "error",
        "hovertemplate": f"{found.names[0]} %{{x:.3g}}<br>{found.names[1]} %{{y:.3g}}<br>"
        f"{name} %{{customdata}}<extra></extra>",
        "colorbar": bar,
    }
    layout = base_layout(x=found.names[0], y=found.names[1], left=56)
    layout["hovermode"] = "closest"
    layout["shapes"] = [
        {"type": "rect", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": {"color": "#ffffff", "width": 3}}
    ]
    layout["annotations"] = [
        {
            "text": "trained here",
            "x": x0,
            "y": y1,
            "xanchor": "left",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"color": "#ffffff", "size": 14},
        }
    ]
    return {"data": [heat], "layout": layout}


def _middle(level: np.ndarray) -> tuple[float, float]:
    """From where to where all but the wildest values lie."""
    if not np.isfinite(level).any():
        return -1.0, 1.0
    return float(np.nanpercentile(level, 1)), float(np.nanpercentile(level, 99))


def cosine_figure(frame: pd.DataFrame) -> Figure:
    """Cosine with FOMAML's meta-gradient over inner steps, a line for each column."""
    traces = []
    for name in frame:
        line = trace_of(
            frame.index.to_numpy(), frame[name].to_numpy(dtype=np.float64), "after", str(name), mode="lines+markers"
        )
        color = ALGORITHM_COLORS[str(name)]
        line |= {"line": {"color": color, "width": 2.4}, "marker": {"color": color, "size": 6}, "meta": str(name)}
        traces.append(line)
    layout = base_layout(x="inner steps", y="cosine with FOMAML", left=52)
    layout["yaxis"]["range"] = [min(-0.05, float(np.nanmin(frame.to_numpy())) - 0.05), 1.05]
    return {"data": traces, "layout": layout}


def toy_figure(found: Toy, a: float, b: float) -> Figure:
    """Contours of the toy's meta-loss, and arrows from the initialization (a, b)."""
    surface = np.log10(np.maximum(found.meta_loss, 1e-6))
    gray = "rgba(139,147,161,{})".format
    contour = {
        "type": "contour",
        "meta": "meta-loss",
        "x": rounded(found.axis),
        "y": rounded(found.axis),
        "z": [rounded(row) for row in surface],
        "ncontours": 26,
        "colorscale": [[0, gray(0)], [1, gray(0.75)]],
        "opacity": 0.5,
        "line": {"color": gray(1), "width": 1},
        "showscale": False,
        "hoverinfo": "skip",
    }
    traces = [contour]
    arrows = [("task", update, COLORS["truth"], 2.0, 0.7) for update in found.task_updates]
    arrows += [(name, update, ALGORITHM_COLORS[name], 3.5, 1.0) for name, update in found.updates.items()]
    annotations = []
    for name, (dx, dy), color, width, length in arrows:
        size = math.hypot(dx, dy)
        if not size:
            continue
        annotations.append(
            {
                "x": a + length * dx / size,
                "y": b + length * dy / size,
                "ax": a,
                "ay": b,
                "xref": "x",
                "yref": "y",
                "axref": "x",
                "ayref": "y",
                "showarrow": True,
                "arrowhead": 2,
                "arrowsize": 1,
                "arrowwidth": width,
                "arrowcolor": color,
                "text": "",
            }
        )
        if name != "task":
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [None],
                    "y": [None],
                    "name": name,
                    "meta": name,
                    "line": {"color": color, "width": 4},
                }
            )
    targets = np.array(TOY_TARGETS)
    traces.append(trace_of(targets[:, 0], targets[:, 1], "truth", "tasks", mode="markers", size=9))
    handle = trace_of(np.array([a]), np.array([b]), "support", "initialization: drag it", mode="markers", size=18)
    traces.append(handle | {"meta": "handle", "x": [a], "y": [b]})
    moved = len(traces) - 1
    layout = base_layout(x="a", y="b", left=44)
    layout |= {"hovermode": "closest", "dragmode": False, "annotations": annotations}
    layout["xaxis"]["range"] = layout["yaxis"]["range"] = list(TOY_RANGE)
    return {"data": traces, "layout": layout, "handle": moved}
