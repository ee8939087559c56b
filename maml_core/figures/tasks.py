"""Pictures of tasks: one, many, and one being adapted to step by step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maml_core.evaluation.side_by_side import NAMES
from maml_core.figures.style import Figure, Ghost, Moving, Trace, base_layout, number, rounded, trace_of
from maml_core.learning.adaptation import Fit, ends
from maml_core.words import counted_steps


def task_figure(fit: Fit, *, step: int | None = None) -> Figure:
    """One task: truth, support points, and the model before and after adaptation, with losses in the legend."""
    last = len(fit.predictions) - 1 if step is None else min(step, len(fit.predictions) - 1)
    layout = base_layout(x=_x_title(fit), y="y", left=44)
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
    layout = base_layout(left=30)
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
                "text": f"{mark}{number(fit.query_loss[0])} → <b>{_ending(fit)}</b>",
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
        traces.append(trace_of(main.x, main.truth, "truth", "truth", dash="dash", width=2))
    last_frame = len(frames) - 1
    shown = sorted({round(k) for k in np.linspace(0, last_frame - 1, min(GHOSTS, last_frame))}) if last_frame else []
    ghosts: list[Ghost] = [
        {"trace": len(traces) + k, "frame": frame}
        for k, frame in enumerate(frame for frame in shown if frames[frame] < len(main.predictions))
    ]
    for ghost in ghosts:
        step = frames[ghost["frame"]]
        traces.append(
            trace_of(
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
        moving.append({"trace": len(traces), "y": [rounded(fit.predictions[k]) for k in at]})
        traces.append(
            trace_of(fit.x, fit.predictions[-1], meaning, NAMES[meaning], width=3 if meaning == "learned" else 2)
        )
        traces.append(trace_of(np.arange(last + 1), fit.query_loss, meaning, NAMES[meaning], showlegend=False, **right))
        marks = [rounded(fit.query_loss[k : k + 1], 6) for k in at]
        moving.append({"trace": len(traces), "x": [[k] for k in at], "y": marks})
        traces.append(
            trace_of(
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
            trace_of(
                np.arange(len(main.support_loss)),
                main.support_loss,
                "support",
                "loss on support",
                dash="dot",
                width=1.6,
                **right,
            )
        )
    traces.append(trace_of(main.support_x, main.support_y, "support", "support", mode="markers", size=11))
    layout = base_layout(x=_x_title(main), y="y", left=44)
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
        return f"{NAMES[meaning]} {number(float(losses[min(step, len(losses) - 1)]))}"

    labels = [" · ".join(said(meaning, step) for meaning in NAMES if meaning in fits) for step in frames]
    return {
        "data": traces,
        "layout": layout,
        "replay": {"steps": frames, "moving": moving, "ghosts": ghosts, "labels": labels},
    }


def points_figure(points: Sequence[Sequence[float]], x: tuple[float, float]) -> Figure:
    """Points alone, in a picture wide enough to place more."""
    cells = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    layout = base_layout(x="x", y="y", left=44)
    layout["xaxis"]["range"] = list(x)
    layout["yaxis"]["range"] = [-5, 5]
    return {
        "data": [trace_of(cells[:, 0], cells[:, 1], "support", "support", mode="markers", size=11)],
        "layout": layout,
    }


def _task_traces(fit: Fit, last: int, *, axis: str = "", small: bool = False) -> list[Trace]:
    place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
    x, pick = (fit.x[::2], slice(None, None, 2)) if small else (fit.x, slice(None))
    traces = []
    if fit.truth is not None:
        traces.append(trace_of(x, fit.truth[pick], "truth", "truth", dash="dash", width=2, **place))
    traces += [
        trace_of(x, fit.predictions[0][pick], "before", f"before {number(fit.query_loss[0], 2)}", width=1.8, **place),
    ]
    if last > 0 or fit.blew_up_at is None:
        label = f"after {counted_steps(last)} {number(fit.query_loss[last], 2)}"
        traces.append(trace_of(x, fit.predictions[last][pick], "after", label, width=2.6, **place))
    traces.append(
        trace_of(fit.support_x, fit.support_y, "support", "support", mode="markers", size=6 if small else 10, **place)
    )
    return traces


def _x_title(fit: Fit) -> str:
    return f"x · this task: {fit.label}" if fit.label else "x"


def _value_range(fit: Fit) -> list[float]:
    """Limits of y that show truth and support points whole; a wild prediction may leave the picture."""
    known = fit.support_y if fit.truth is None else np.concatenate([fit.truth, fit.support_y])
    low, high = float(known.min()), float(known.max())
    room = max(0.35 * (high - low), 0.5)
    return [low - room, high + room]


def _slot(index: int, count: int, gap: float) -> tuple[float, float]:
    width = (1 - gap * (count - 1)) / count
    return index * (width + gap), index * (width + gap) + width


def _ending(fit: Fit) -> str:
    return number(fit.query_loss[-1]) if fit.blew_up_at is None else "diverged"
