"""Plotly figures from plain arrays, as dictionaries ready for JSON.

Dictionaries, not `go.Figure`: a live chart is rebuilt several times a second, and validation would cost more than
the training step it shows. Arrays travel as base64 float32, a third of their size as text.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tsdownsample import MinMaxLTTBDownsampler

from maml_core.adaptation import Fit

Figure = dict[str, Any]

COLORS = {
    "truth": "#8b93a1",
    "support": "#d6407a",
    "before": "#e8853d",
    "after": "#2f80e7",
    "baseline": "#9b6dd0",
}
"""One meaning per color, on every page and in both themes."""

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


def task_grid(fits: Sequence[Fit], *, columns: int = 3, marks: dict[int, str] | None = None) -> Figure:
    """Many small tasks, before and after adaptation, each titled with its two losses."""
    rows = -(-len(fits) // columns)
    traces: list[dict[str, Any]] = []
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
        traces += _task_traces(fit, len(fit.predictions) - 1, axis=suffix, small=True)
        mark = (marks or {}).get(i, "")
        layout["annotations"].append(
            {
                "text": f"{mark}{_number(fit.query_loss[0])} → <b>{_ending(fit)}</b>",
                "x": (left + right) / 2, "y": top, "xref": "paper", "yref": "paper",
                "xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 12},
            }
        )  # fmt: skip
    return {"data": traces, "layout": layout}


def steps_figure(fit: Fit) -> Figure:
    """One task with the curve after every adaptation step, faint to strong."""
    traces = _task_traces(fit, len(fit.predictions) - 1)
    last = len(fit.predictions) - 1
    between = [
        _line(fit.x, fit.predictions[step], "after", "between",
              opacity=0.15 + 0.45 * step / last, width=1.4, showlegend=step == last - 1)
        for step in range(1, last)
    ]  # fmt: skip
    layout = _layout(x=_x_title(fit), y="y", left=44)
    layout["yaxis"]["range"] = _value_range(fit)
    return {"data": traces[:2] + between + traces[2:], "layout": layout}


def error_by_step(fit: Fit) -> Figure:
    """Loss on support points and on the true curve at each adaptation step."""
    steps = np.arange(len(fit.query_loss))
    traces = [
        _line(steps, fit.support_loss, "support", "on support", mode="lines+markers"),
        _line(steps, fit.query_loss, "after", "on truth", mode="lines+markers"),
    ]
    layout = _layout(x="adaptation step", y="mean squared error", left=56)
    layout["yaxis"] |= {"type": "log", "dtick": "D2"}
    return {"data": traces, "layout": layout}


def sparkline(frame: pd.DataFrame, points: int = 40) -> list[float]:
    """The course of the loss after adaptation, as its logarithm, in few points."""
    values = np.log10(frame["post_loss"].to_numpy(dtype=np.float64).clip(min=1e-12))
    return [float(part.mean()) for part in np.array_split(values, min(points, len(values)))] if len(values) else []


def _task_traces(fit: Fit, last: int, *, axis: str = "", small: bool = False) -> list[dict[str, Any]]:
    place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
    x, pick = (fit.x[::2], slice(None, None, 2)) if small else (fit.x, slice(None))
    steps = "step" if last == 1 else "steps"
    traces = [
        _line(x, fit.truth[pick], "truth", "truth", dash="dash", width=2, **place),
        _line(x, fit.predictions[0][pick], "before", f"before {_number(fit.query_loss[0])}", width=1.8, **place),
    ]
    if last > 0 or fit.blew_up_at is None:
        label = f"after {last} {steps} {_number(fit.query_loss[last])}"
        traces.append(_line(x, fit.predictions[last][pick], "after", label, width=2.6, **place))
    traces.append(
        _line(fit.support_x, fit.support_y, "support", "support", mode="markers", size=6 if small else 10, **place)
    )
    return traces


def _line(
    x: np.ndarray, y: np.ndarray, meaning: str, name: str, *, mode: str = "lines", width: float = 2.0,
    dash: str = "solid", size: float = 6, **extra: Any,
) -> dict[str, Any]:  # fmt: skip
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
    low = float(min(fit.truth.min(), fit.support_y.min()))
    high = float(max(fit.truth.max(), fit.support_y.max()))
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


def _ending(fit: Fit) -> str:
    return _number(fit.query_loss[-1]) if fit.blew_up_at is None else "diverged"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.1e}"
