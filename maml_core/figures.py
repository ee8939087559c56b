"""Plotly figures from plain arrays, as dictionaries ready for JSON.

Dictionaries, not `go.Figure`: a live chart is rebuilt several times a second, and validation would cost more than
the training step it shows. Arrays travel as base64 float32, a third of their size as text.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import pandas as pd
from tsdownsample import MinMaxLTTBDownsampler

from maml_core.evaluation.curves import Evaluation
from maml_core.evaluation.side_by_side import NAMES
from maml_core.evaluation.toy import TOY_RANGE, TOY_TARGETS, Toy
from maml_core.learning.adaptation import Fit, Landscape, ends
from maml_core.words import counted_steps

Trace = dict[str, Any]
"""One Plotly trace."""


class Moving(TypedDict):
    """A trace that moves in a replay: its values at every frame."""

    trace: int
    x: NotRequired[list[list[float]]]
    y: list[list[float]]


class Ghost(TypedDict):
    """A trace that stays behind in a replay, once its frame is over."""

    trace: int
    frame: int


class Replay(TypedDict):
    """What a browser needs to play adaptation without asking the server."""

    steps: list[int]  # the adaptation step of each frame
    moving: list[Moving]
    ghosts: list[Ghost]
    labels: list[str]  # what to say at each frame


class Figure(TypedDict):
    """A Plotly figure, and what the live chart adds to it. The browser's half of this contract is in chart_state.js."""

    data: list[Trace]
    layout: dict[str, Any]
    replay: NotRequired[Replay]
    handle: NotRequired[int]  # the trace whose one point the reader may drag


COLORS = {
    "truth": "#8b93a1",
    "support": "#d6407a",
    "before": "#e8853d",
    "after": "#2f80e7",
    "learned": "#2f80e7",
    "pretrained": "#2a9d74",
    "random": "#9b6dd0",
}
"""One meaning per color, on every page and in both themes; what is learned is shown after adaptation."""

FAINT = 0.28
MAX_POINTS = 500
"""Points drawn per curve: more cannot be told apart on a screen, and an update stays under 50 KB."""


def loss_curve(frame: pd.DataFrame, *, smoothing: float = 0.0, log_axis: bool = True) -> Figure:
    """The meta-loss over training, before and after adaptation: smoothed lines over faint raw ones.

    `frame` has columns iteration, pre_loss, post_loss. `smoothing` in [0, 1) is the weight of the past in an
    exponential mean. Smoothed first and thinned out for drawing afterwards: the other order bends the curve.
    """
    traces = []
    iteration = frame["iteration"].to_numpy(dtype=np.float64)
    for column, meaning, label in (
        ("pre_loss", "before", "before adaptation"),
        ("post_loss", "after", "after adaptation"),
    ):
        raw = frame[column].to_numpy(dtype=np.float64)
        if smoothing > 0:
            traces.append(
                _line(
                    *_thin(iteration, raw), meaning, label, opacity=FAINT, width=1, showlegend=False, hoverinfo="skip"
                )
            )
            raw = frame[column].ewm(alpha=1 - smoothing).mean().to_numpy(dtype=np.float64)
        traces.append(_line(*_thin(iteration, raw), meaning, label, width=2.2))
    layout = _layout(x="meta-iteration", y="meta-loss (MSE on query points)", left=56)
    layout["yaxis"] |= (
        {"type": "log", "dtick": "D2", "exponentformat": "power"} if log_axis else {"rangemode": "tozero"}
    )
    return {"data": traces, "layout": layout}


def task_figure(fit: Fit, *, step: int | None = None) -> Figure:
    """One task: truth, support points, and the model before and after adaptation, with losses in the legend."""
    last = len(fit.predictions) - 1 if step is None else min(step, len(fit.predictions) - 1)
    layout = _layout(x=_x_title(fit), y="y", left=44)
    layout["yaxis"]["range"] = _value_range(fit)
    return {"data": _task_traces(fit, last), "layout": layout}


def task_grid(fits: Sequence[Fit], *, columns: int = 3, mark_ends: bool = False) -> Figure:
    """Many small tasks, before and after adaptation, each titled with its two losses; best and worst if asked for.

    Each trace carries its task's seed in `customdata`, so that a click tells which task it was.
    """
    rows = -(-len(fits) // columns)
    best, worst = ends(fits) if mark_ends else (-1, -1)
    marks = {worst: "worst: ", best: "best: "}
    traces: list[Trace] = []
    layout = _layout(left=30)
    layout |= {"showlegend": False, "annotations": [], "margin": {"l": 30, "r": 8, "t": 26, "b": 22}}
    layout.pop("xaxis")
    layout.pop("yaxis")
    for i, fit in enumerate(fits):
        suffix = str(i + 1) if i else ""
        left, right = _slot(i % columns, columns, 0.035)
        bottom, top = _slot(rows - 1 - i // columns, rows, 0.2 if rows > 1 else 0)
        axes = {"zeroline": False, "nticks": 4, "showgrid": True}
        layout["xaxis" + suffix] = {"domain": [left, right], "anchor": "y" + suffix, **axes}
        layout["yaxis" + suffix] = {"domain": [bottom, top], "anchor": "x" + suffix, "range": _value_range(fit), **axes}
        small = _task_traces(fit, len(fit.predictions) - 1, axis=suffix, small=True)
        traces += [trace | {"customdata": [fit.seed]} for trace in small]
        mark = marks.get(i, "")
        layout["annotations"].append(
            {
                "text": f"{mark}{_number(fit.query_loss[0])} → <b>{_ending(fit)}</b>",
                "x": (left + right) / 2,
                "y": top,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "center",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 12},
            }
        )
    return {"data": traces, "layout": layout}


GHOSTS = 8
"""Earlier steps left standing, faint, behind the current one."""
FRAMES = 100
"""Steps of adaptation in a replay; of more, so many are shown, evenly spaced."""


def replay_figure(fits: Mapping[str, Fit]) -> Figure:
    """One task adapted from several initializations, with all that a browser needs to play it step by step.

    `fits` maps the names of initializations ("learned", "pretrained", "random") to the fit from each. Curves on the
    left, loss at each step on the right.
    """
    main = fits["learned"]
    steps = max(len(fit.predictions) for fit in fits.values()) - 1
    frames = sorted({round(k) for k in np.linspace(0, steps, min(steps, FRAMES) + 1)})
    right: dict[str, Any] = {"xaxis": "x2", "yaxis": "y2"}
    traces: list[Trace] = []
    moving: list[Moving] = []
    if main.truth is not None:
        traces.append(_line(main.x, main.truth, "truth", "truth", dash="dash", width=2))
    last_frame = len(frames) - 1
    shown = sorted({round(k) for k in np.linspace(0, last_frame - 1, min(GHOSTS, last_frame))}) if last_frame else []
    ghosts: list[Ghost] = [
        {"trace": len(traces) + k, "frame": frame}
        for k, frame in enumerate(frame for frame in shown if frames[frame] < len(main.predictions))
    ]
    for ghost in ghosts:
        step = frames[ghost["frame"]]
        traces.append(
            _line(
                main.x,
                main.predictions[step],
                "before" if step == 0 else "learned",
                "before" if step == 0 else "earlier",
                opacity=0.85 if step == 0 else 0.25,
                width=1.4,
                showlegend=step == 0,
                hoverinfo="skip",
            )
        )
    for meaning in reversed(NAMES):  # the meta-learned one last: on top
        if meaning not in fits:
            continue
        fit = fits[meaning]
        last = len(fit.predictions) - 1
        at = [min(step, last) for step in frames]
        moving.append({"trace": len(traces), "y": [_rounded(fit.predictions[k]) for k in at]})
        traces.append(
            _line(fit.x, fit.predictions[-1], meaning, NAMES[meaning], width=3 if meaning == "learned" else 2)
        )
        traces.append(_line(np.arange(last + 1), fit.query_loss, meaning, NAMES[meaning], showlegend=False, **right))
        marks = [[float(f"{fit.query_loss[k]:.6g}")] for k in at]
        moving.append({"trace": len(traces), "x": [[k] for k in at], "y": marks})
        traces.append(
            _line(
                np.array([last]),
                fit.query_loss[-1:],
                meaning,
                NAMES[meaning],
                mode="markers",
                size=11,
                showlegend=False,
                hoverinfo="skip",
                **right,
            )
        )
    if main.truth is not None:
        traces.append(
            _line(
                np.arange(len(main.support_loss)),
                main.support_loss,
                "support",
                "loss on support",
                dash="dot",
                width=1.6,
                **right,
            )
        )
    traces.append(_line(main.support_x, main.support_y, "support", "support", mode="markers", size=11))
    layout = _layout(x=_x_title(main), y="y", left=44)
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {"domain": [0, 0.62], "range": [float(main.x[0]), float(main.x[-1])]}
    layout["yaxis"]["range"] = _value_range(main)
    layout["xaxis2"] = {
        "domain": [0.7, 1],
        "anchor": "y2",
        "title": {"text": "adaptation step", "standoff": 6},
        "zeroline": False,
        "range": [-0.03 * max(steps, 1), 1.04 * max(steps, 1)],
    }
    layout["yaxis2"] = {
        "anchor": "x2",
        "type": "log",
        "dtick": "D2",
        "exponentformat": "power",
        "zeroline": False,
        "title": {"text": "mean squared error", "standoff": 4},
    }

    def said(meaning: str, step: int) -> str:
        losses = fits[meaning].query_loss
        return f"{NAMES[meaning]} {_number(float(losses[min(step, len(losses) - 1)]))}"

    labels = [" · ".join(said(meaning, step) for meaning in NAMES if meaning in fits) for step in frames]
    return {
        "data": traces,
        "layout": layout,
        "replay": {"steps": frames, "moving": moving, "ghosts": ghosts, "labels": labels},
    }


def points_figure(points: Sequence[Sequence[float]], x: tuple[float, float]) -> Figure:
    """Points alone, in a picture wide enough to place more."""
    cells = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    layout = _layout(x="x", y="y", left=44)
    layout["xaxis"]["range"] = list(x)
    layout["yaxis"]["range"] = [-5, 5]
    return {"data": [_line(cells[:, 0], cells[:, 1], "support", "support", mode="markers", size=11)], "layout": layout}


def error_curves(result: Evaluation) -> Figure:
    """Error on held-out tasks against adaptation steps, each with its 95 % band."""
    traces = []
    curves = {"random": result.random, "pretrained": result.pretrained, "learned": result.learned}
    for meaning, curve in curves.items():
        if curve is None:
            continue
        mse, half = np.asarray(curve.mse), np.asarray(curve.ci95)
        steps = np.arange(len(mse))
        low = np.maximum(mse - half, 1e-3 * np.abs(mse))
        band = _line(
            np.concatenate([steps, steps[::-1]]),
            np.concatenate([mse + half, low[::-1]]),
            meaning,
            f"{NAMES[meaning]}, 95 %",
            width=0,
            showlegend=False,
            hoverinfo="skip",
        )
        traces += [
            band | {"fill": "toself", "fillcolor": COLORS[meaning] + "30"},
            _line(steps, mse, meaning, NAMES[meaning], mode="lines+markers", width=3 if meaning == "learned" else 2),
        ]
    steps = np.arange(len(result.learned.mse))
    mean = np.full(len(steps), result.predict_mean)
    traces.append(_line(steps, mean, "truth", "predict the mean of the support", dash="dash"))
    layout = _layout(x="adaptation step", y="mean squared error", left=56)
    layout["yaxis"] |= {"type": "log", "dtick": "D2", "exponentformat": "power"}
    return {"data": traces, "layout": layout}


def landscape_figure(found: Landscape) -> Figure:
    """Error after adaptation over two task parameters, the training range outlined."""
    across, up = found.values
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log10(found.error)
    low, high = (float(np.nanpercentile(level, q)) for q in (1, 99)) if np.isfinite(level).any() else (-1.0, 1.0)
    ticks = list(range(math.floor(low), math.ceil(high) + 1))
    (x0, x1), (y0, y1) = found.trained
    heat = {
        "type": "heatmap",
        "x": _rounded(across),
        "y": _rounded(up),
        "zmin": low,
        "zmax": high,
        "z": [[None if not np.isfinite(v) else round(float(v), 4) for v in row] for row in level],
        "customdata": [[f"{v:.3g}" if np.isfinite(v) else "diverged" for v in row] for row in found.error],
        "colorscale": "Viridis",
        "meta": "error",
        "hovertemplate": f"{found.names[0]} %{{x:.3g}}<br>{found.names[1]} %{{y:.3g}}<br>"
        "error %{customdata}<extra></extra>",
        "colorbar": {"title": {"text": "error"}, "tickvals": ticks, "ticktext": [f"{10.0**k:g}" for k in ticks]},
    }
    layout = _layout(x=found.names[0], y=found.names[1], left=56)
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


ALGORITHM_COLORS = {"fomaml": "#2f80e7", "maml": "#e8853d", "reptile": "#2a9d74", "joint": "#9b6dd0"}


def cosine_figure(frame: pd.DataFrame) -> Figure:
    """Cosine with FOMAML's meta-gradient over inner steps, a line for each column."""
    traces = []
    for name in frame:
        line = _line(
            frame.index.to_numpy(), frame[name].to_numpy(dtype=np.float64), "after", str(name), mode="lines+markers"
        )
        color = ALGORITHM_COLORS[str(name)]
        line |= {"line": {"color": color, "width": 2.4}, "marker": {"color": color, "size": 6}, "meta": str(name)}
        traces.append(line)
    layout = _layout(x="inner steps", y="cosine with FOMAML", left=52)
    layout["yaxis"]["range"] = [min(-0.05, float(np.nanmin(frame.to_numpy())) - 0.05), 1.05]
    return {"data": traces, "layout": layout}


def toy_figure(found: Toy, a: float, b: float) -> Figure:
    """Contours of the toy's meta-loss, and arrows from the initialization (a, b)."""
    surface = np.log10(np.maximum(found.meta_loss, 1e-6))
    gray = "rgba(139,147,161,{})".format
    contour = {
        "type": "contour",
        "meta": "meta-loss",
        "x": _rounded(found.axis),
        "y": _rounded(found.axis),
        "z": [_rounded(row) for row in surface],
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
    traces.append(_line(targets[:, 0], targets[:, 1], "truth", "tasks", mode="markers", size=9))
    handle = _line(np.array([a]), np.array([b]), "support", "initialization: drag it", mode="markers", size=18)
    traces.append(handle | {"meta": "handle", "x": [a], "y": [b]})
    moved = len(traces) - 1
    layout = _layout(x="a", y="b", left=44)
    layout |= {"hovermode": "closest", "dragmode": False, "annotations": annotations}
    layout["xaxis"]["range"] = layout["yaxis"]["range"] = list(TOY_RANGE)
    return {"data": traces, "layout": layout, "handle": moved}


def _task_traces(fit: Fit, last: int, *, axis: str = "", small: bool = False) -> list[Trace]:
    place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
    x, pick = (fit.x[::2], slice(None, None, 2)) if small else (fit.x, slice(None))
    traces = []
    if fit.truth is not None:
        traces.append(_line(x, fit.truth[pick], "truth", "truth", dash="dash", width=2, **place))
    traces += [
        _line(x, fit.predictions[0][pick], "before", f"before {_number(fit.query_loss[0], 2)}", width=1.8, **place),
    ]
    if last > 0 or fit.blew_up_at is None:
        label = f"after {counted_steps(last)} {_number(fit.query_loss[last], 2)}"
        traces.append(_line(x, fit.predictions[last][pick], "after", label, width=2.6, **place))
    traces.append(
        _line(fit.support_x, fit.support_y, "support", "support", mode="markers", size=6 if small else 10, **place)
    )
    return traces


def _line(
    x: np.ndarray,
    y: np.ndarray,
    meaning: str,
    name: str,
    *,
    mode: str = "lines",
    width: float = 2.0,
    dash: str = "solid",
    size: float = 6,
    **extra: Any,
) -> dict[str, Any]:
    color = COLORS[meaning]
    trace = {"type": "scatter", "mode": mode, "x": _packed(x), "y": _packed(y), "name": name, "meta": meaning, **extra}
    if "lines" in mode:
        trace["line"] = {"color": color, "width": width, "dash": dash}
    if "markers" in mode:
        trace["marker"] = {"color": color, "size": size, "line": {"color": "rgba(255,255,255,0.85)", "width": 1}}
    return trace


def _layout(*, x: str = "", y: str = "", left: int = 40) -> dict[str, Any]:
    return {
        "margin": {"l": left, "r": 10, "t": 48, "b": 42},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}, "itemwidth": 30},
        "hovermode": "x unified",
        "xaxis": {"title": {"text": x, "standoff": 6}, "zeroline": False},
        "yaxis": {"title": {"text": y, "standoff": 4}, "zeroline": False},
    }


def _x_title(fit: Fit) -> str:
    return f"x · this task: {fit.label}" if fit.label else "x"


def _value_range(fit: Fit) -> list[float]:
    """Limits of y that show truth and support points whole; a wild prediction may leave the picture."""
    known = fit.support_y if fit.truth is None else np.concatenate([fit.truth, fit.support_y])
    low, high = float(known.min()), float(known.max())
    room = max(0.35 * (high - low), 0.5)
    return [low - room, high + room]


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= MAX_POINTS:
        return x, y
    keep = MinMaxLTTBDownsampler().downsample(x, y, n_out=MAX_POINTS)
    return x[keep], y[keep]


def _slot(index: int, count: int, gap: float) -> tuple[float, float]:
    width = (1 - gap * (count - 1)) / count
    return index * (width + gap), index * (width + gap) + width


def _packed(values: np.ndarray) -> dict[str, str]:
    return {"dtype": "f4", "bdata": base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()}


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _ending(fit: Fit) -> str:
    return _number(fit.query_loss[-1]) if fit.blew_up_at is None else "diverged"


def _number(value: float, digits: int = 3) -> str:
    """So many significant digits, but no power of ten where the whole number is short enough."""
    if abs(value) >= 1e4:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"
