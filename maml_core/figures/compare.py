"""Charts of many runs: groups with their spread, settings against what was reached."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from maml_core.evaluation.compare import PARTS, Curve, Importance, settings_in
from maml_core.figures.style import (
    FAINT,
    GROUP_COLORS,
    MAX_POINTS,
    Figure,
    Trace,
    base_layout,
    log_scale,
    number,
    packed,
    plain,
    rgb,
    rounded,
    thin,
)
from maml_core.words import said

MOST_SINGLES = 60
"""Runs of all groups together up to which each is drawn by itself, faintly."""
LEAST_POINTS, MOST_POINTS = 100, 30_000
"""Of one line, however many there are; and of all of them together: a browser draws no more without stalling."""
MOST_AXES = 12
"""Settings that have an axis beside each other, the first ones: of more, no name could be read."""
AXES_ABREAST = 5
"""Up to which their names have room beside each other; those of more are set aslant."""
MOST_NAMED = 12
"""Groups up to which a chart names them; more names would leave no room for it, and the table has them too."""
FAR = 30.0
"""Times the median of all that is drawn: what is above may be cut off."""
_RATIO = 20.0
"""Largest over smallest value of a setting from which on its axis is logarithmic."""


def compare_curves(
    curves: Sequence[Curve],
    *,
    x: str = "meta-iteration",
    y: str = "loss after adaptation",
    logarithmic: bool = False,
    cuts: bool = False,
) -> Figure:
    """Each group's mean, the spread of its runs, and the runs themselves.

    `logarithmic` is how x is drawn; `cuts` leaves out of sight what is far above the rest, which would flatten it.
    """
    traces: list[Trace] = []
    shown = []
    draws_singles = sum(len(curve.singles) for curve in curves) <= MOST_SINGLES
    points = max(LEAST_POINTS, min(MAX_POINTS, MOST_POINTS // (3 * max(1, len(curves)))))
    for place, curve in enumerate(curves):
        color = GROUP_COLORS[place % len(GROUP_COLORS)]
        if not len(curve.grid):
            continue
        shown += [curve.middle, curve.bottom, curve.top]
        if len(curve.singles) > 1:
            low = thin(curve.grid, curve.bottom, points)
            around: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False, "legendgroup": curve.name}
            traces.append(_line(*low, color, width=0, **around))
            high = thin(curve.grid, curve.top, points)
            traces.append(_line(*high, color, width=0, fill="tonexty", fillcolor=_see_through(color), **around))
            if draws_singles:
                for name, *whole in curve.singles:
                    course = thin(whole[0], whole[1], points)
                    traces.append(_line(*course, color, width=1, opacity=FAINT, name=plain(name), **around))
        count = f"{plain(curve.name)} (N = {len(curve.singles)})"
        traces.append(_line(*thin(curve.grid, curve.middle, points), color, name=count, legendgroup=curve.name))
    layout = base_layout(x=x, y=y, left=56)
    layout["showlegend"] = len(curves) <= MOST_NAMED
    if shown and not cuts:
        layout["yaxis"] |= log_scale(*shown)
    elif shown:
        values = np.concatenate([curve.middle for curve in curves])
        values = values[values > 0]  # every point of every task right: an error of zero has no place on this axis
        if not len(values):
            return {"data": traces, "layout": layout}
        ends = np.array([0.8 * values.min(), 1.25 * min(values.max(), FAR * np.median(values))])
        layout["yaxis"] |= log_scale(ends) | {"range": np.log10(ends).tolist()}
    if shown and logarithmic:
        layout["xaxis"] |= log_scale(*(curve.grid for curve in curves if len(curve.grid)))
    return {"data": traces, "layout": layout}


def _line(x: np.ndarray, y: np.ndarray, color: str, *, width: float = 2.2, **extra: Any) -> Trace:
    line = {"color": color, "width": width}
    return {"type": "scatter", "mode": "lines", "x": packed(x), "y": packed(y), "line": line, **extra}


def _see_through(color: str) -> str:
    red, green, blue = rgb(color)
    return f"rgba({red},{green},{blue},0.16)"


def parallel_figure(frame: pd.DataFrame) -> Figure:
    """A line per run across its settings to what it reached; brush an axis to see which runs pass there.

    `frame` is that of `of_runs`: the figure is its last column. Where some runs diverged, an axis tells them apart.
    """
    names = [*(["Status"] if _diverged(frame).any() else []), *axes_of(frame), frame.columns[-1]]
    dimensions = [_dimension(name, frame[name]) for name in names]
    last = np.log10(frame[names[-1]].clip(lower=1e-12).to_numpy(dtype=float))
    line = {"color": last.tolist(), "colorscale": "Viridis", "reversescale": True}
    is_crowded = len(dimensions) > AXES_ABREAST
    layout = {"margin": {"l": 70, "r": 110 if is_crowded else 50, "t": 120 if is_crowded else 60, "b": 30}}
    trace = {"type": "parcoords", "dimensions": dimensions, "line": line, "labelangle": -35 if is_crowded else 0}
    return {"data": [trace], "layout": layout}


def axes_of(frame: pd.DataFrame) -> list[str]:
    """The settings that `parallel_figure` draws: the first of those that all runs have, whatever tasks and models."""
    names = settings_in(frame)
    return [name for name in names if not (name.startswith(PARTS) and frame[name].isna().any())][:MOST_AXES]


def _diverged(frame: pd.DataFrame) -> np.ndarray:
    """Which runs `[runs]` diverged: what they reached is from before."""
    return (frame["Status"] == "diverged").to_numpy(dtype=bool)


def _dimension(name: str, values: pd.Series) -> dict[str, Any]:
    """One axis: a number's, logarithmic where it spans much, else one place for each value."""
    label = plain(name)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = values.to_numpy(dtype=float)
        is_wide = numbers.min() > 0 and numbers.max() / numbers.min() >= _RATIO
        if not is_wide:
            return {"label": label, "values": numbers.tolist()}
        logs = np.log10(numbers)
        ticks = [*range(math.ceil(logs.min() - 1e-9), math.floor(logs.max() + 1e-9) + 1)]
        text = [f"{10.0**tick:g}" for tick in ticks]
        limits = [float(logs.min()), float(logs.max())]
        return {"label": label, "values": logs.tolist(), "tickvals": ticks, "ticktext": text, "range": limits}
    words = [plain(said(value)) for value in values]
    places = {word: place for place, word in enumerate(dict.fromkeys(words))}
    return {
        "label": label,
        "values": [places[word] for word in words],
        "tickvals": [*places.values()],
        "ticktext": [word[:24] for word in places],
    }


def heat_figure(table: pd.DataFrame, figure: str) -> Figure:
    """What runs reached by two of their settings, as `heat` has it: colored cells with their numbers."""
    values = table.to_numpy(dtype=float)
    level = np.log10(np.clip(values, 1e-12, None))
    cells = {
        "type": "heatmap",
        "x": [plain(str(name)) for name in table.columns],
        "y": [plain(str(name)) for name in table.index],
        "z": [rounded(row) for row in level],
        "text": [[number(value) if np.isfinite(value) else "" for value in row] for row in values],
        "texttemplate": "%{text}",
        "colorscale": "Viridis",
        "reversescale": True,
        "showscale": False,
        "hovertemplate": f"%{{x}}, %{{y}}<br>{plain(figure)}: %{{text}}<extra></extra>",
    }
    layout = base_layout(x=plain(str(table.columns.name)), y=plain(str(table.index.name)), left=56)
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"type": "category", "automargin": True}
    return {"data": [cells], "layout": layout}


def importance_figure(found: Importance) -> Figure:
    """A bar for each setting: how much of what runs reach it decides."""
    names = [plain(name) for name in reversed(found.shares)]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": rounded(np.array([*reversed(found.shares.values())])),
        "y": names,
        "marker": {"color": GROUP_COLORS[0]},
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    layout = base_layout(x="importance", left=56)
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] |= {"type": "category", "automargin": True}
    return {"data": [bars], "layout": layout}


def scatter_figure(frame: pd.DataFrame, setting: str) -> Figure:
    """What each run reached against one of its settings; a cross is one that diverged."""
    figure, diverged = frame.columns[-1], _diverged(frame)
    x = frame[setting]
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in x)
    y = frame[figure].to_numpy(dtype=float)
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": x.tolist() if is_number else [plain(said(value)) for value in x],
        "y": packed(y),
        "text": [
            f"{plain(name)}{' (diverged)' if is_lost else ''}"
            for name, is_lost in zip(frame["Run"], diverged, strict=True)
        ],
        "hovertemplate": "%{text}<br>%{x}: %{y:.4g}<extra></extra>",
        "marker": {
            "color": [GROUP_COLORS[1] if is_lost else GROUP_COLORS[0] for is_lost in diverged],
            "symbol": ["x" if is_lost else "circle" for is_lost in diverged],
            "size": 8,
            "opacity": 0.75,
        },
    }
    layout = base_layout(x=plain(setting), y=figure.lower(), left=56)
    layout["hovermode"] = "closest"
    layout["yaxis"] |= log_scale(y)
    if not is_number:
        layout["xaxis"] |= {"type": "category"}
    elif x.min() > 0 and x.max() / x.min() >= _RATIO:
        layout["xaxis"] |= log_scale(x.to_numpy(dtype=float))
    return {"data": [trace], "layout": layout}
