"""Pictures of tasks: one, many, and one being adapted to step by step."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maml_core.evaluation.side_by_side import NAMES
from maml_core.figures.arena import Arena
from maml_core.figures.board import Boards
from maml_core.figures.plane import Fields, plane_points
from maml_core.figures.squares import Squares
from maml_core.figures.style import (
    COLORS,
    Figure,
    Ghost,
    Moving,
    Narrow,
    Trace,
    base_layout,
    frames_of,
    log_scale,
    number,
    plain,
    rounded,
    slot,
    trace_of,
)
from maml_core.learning.adaptation import CurveFit, ends
from maml_core.learning.board_fits import BoardFit
from maml_core.learning.fits import TaskFit
from maml_core.learning.generated import FunctionFamily, GeneratedFamily
from maml_core.learning.path_fits import PathFit
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.plane_fits import PlaneFit
from maml_core.words import counted_steps

CORNER = 14
"""Letters in a line of the words in a corner: a phone has room for no more."""

_SQUARES: dict[type[TaskFit], Squares[Any]] = {PlaneFit: Fields(), PathFit: Arena(), BoardFit: Boards()}
"""How fits are drawn whose tasks lie in the plane; all others are curves."""


def task_figure(fit: TaskFit, trained_steps: int) -> Figure:
    """One task, and the model that moves from before adaptation to after, its steps left behind as ghosts.

    `trained_steps` is how many steps training took; what lies beyond is said to.
    """
    if type(fit) in _SQUARES:
        return _SQUARES[type(fit)].task(fit, trained_steps)
    assert isinstance(fit, CurveFit)
    last = len(fit.predictions) - 1
    frames = frames_of(last)
    traces = [*(band | {"showlegend": False} for band in _band(fit, "after")), *_known(fit), _before(fit)]
    ghosts, behind = _ghosts(fit, frames, len(traces), "after")
    traces += behind
    ending = f"after {counted_steps(last)}: error {_ending(fit)}"
    moving: list[Moving] = [{"trace": len(traces), "y": [rounded(fit.predictions[step]) for step in frames]}]
    traces.append(trace_of(fit.x, fit.predictions[last], "after", ending, width=3.2, **_drawn(fit)))
    traces.append(trace_of(fit.support_x, fit.support_y, "support", "support points", mode="markers", size=11))
    layout = base_layout(x=_x_title(fit), y=plain(fit.axes[1]), left=44)
    layout["yaxis"]["range"] = value_range(fit)
    layout["hovermode"] = "closest"
    beyond = f" (trained for {trained_steps})"
    labels = [f"error {number(float(fit.query_loss[step]))}{beyond if step > trained_steps else ''}" for step in frames]
    return {
        "data": traces,
        "layout": layout,
        "replay": {"steps": frames, "moving": moving, "ghosts": ghosts, "labels": labels, "autoplay": True},
    }


def task_grid(
    fits: Sequence[TaskFit], *, columns: int = 3, narrow_columns: int | None = None, mark_ends: bool = False
) -> Figure:
    """Many small tasks, before and after adaptation, each titled with its two losses; best and worst if asked for.

    Each trace carries its task's seed in `customdata`, so that a click tells which task it was. On a phone there are
    `narrow_columns` in a row.
    """
    best, worst = ends(fits) if mark_ends else (-1, -1)
    marks = {worst: "worst: ", best: "best: "}
    traces: list[Trace] = []
    layout = base_layout(left=30)
    layout |= {"showlegend": False, "annotations": [], "margin": {"l": 30, "r": 8, "t": 26, "b": 22}}
    layout.pop("xaxis")
    layout.pop("yaxis")
    for i, fit in enumerate(fits):
        suffix, x_axis, y_axis, title = small_axes(i, len(fits), columns)
        squares = _SQUARES.get(type(fit))
        if squares:
            across, up = squares.axes(fit)
            small, said = squares.small(fit, suffix), squares.title(fit)
            up["scaleanchor"] = "x" + suffix
        else:
            assert isinstance(fit, CurveFit)
            across, up = {}, {"range": value_range(fit)}
            small, said = _small_traces(fit, suffix), f"{number(fit.query_loss[0])} → <b>{_ending(fit)}</b>"
        layout["xaxis" + suffix] = x_axis | across
        layout["yaxis" + suffix] = y_axis | up
        traces += [trace | {"customdata": [fit.seed]} for trace in small]
        layout["annotations"].append(title | {"text": marks.get(i, "") + said})
    figure: Figure = {"data": traces, "layout": layout}
    if narrow_columns is not None:
        figure["narrow"] = _narrow(layout, len(fits), columns, narrow_columns)
    return figure


def _narrow(layout: dict[str, Any], count: int, columns: int, narrow_columns: int) -> Narrow:
    """The same small pictures with fewer in a row."""
    moved: dict[str, Any] = {"annotations": []}
    for i, said in enumerate(layout["annotations"]):
        suffix, x_axis, y_axis, title = small_axes(i, count, narrow_columns)
        moved["xaxis" + suffix] = layout["xaxis" + suffix] | {"domain": x_axis["domain"], "nticks": 3}
        moved["yaxis" + suffix] = layout["yaxis" + suffix] | {"domain": y_axis["domain"]}
        moved["annotations"].append(said | {"x": title["x"], "y": title["y"]})
    return {"layout": moved, "taller": -(-count // narrow_columns) / -(-count // columns)}


GHOSTS = 8
"""Earlier steps left standing, faint, behind the current one."""


def replay_figure(found: Mapping[str, TaskFit]) -> Figure:
    """One task adapted from several initializations, with all that a browser needs to play it step by step.

    `found` maps the names of initializations ("learned", "pretrained", "random") to the fit from each. Curves on the
    left, loss at each step on the right.
    """
    squares = _SQUARES.get(type(found["learned"]))
    if squares:
        return squares.replay(found)
    fits = {name: fit for name, fit in found.items() if isinstance(fit, CurveFit)}
    main = fits["learned"]
    steps = max(len(fit.predictions) for fit in fits.values()) - 1
    frames = frames_of(steps)
    right: dict[str, Any] = {"xaxis": "x2", "yaxis": "y2"}
    traces: list[Trace] = []
    moving: list[Moving] = []
    traces += [*_band(main, "learned"), *_known(main), _before(main)]
    ghosts, behind = _ghosts(main, frames, len(traces), "learned")
    traces += behind
    for meaning in reversed(NAMES):  # the meta-learned one last: on top
        if meaning not in fits:
            continue
        fit = fits[meaning]
        last = len(fit.predictions) - 1
        at = [min(step, last) for step in frames]
        moving.append({"trace": len(traces), "y": [rounded(fit.predictions[k]) for k in at]})
        traces.append(
            trace_of(
                fit.x,
                fit.predictions[-1],
                meaning,
                NAMES[meaning],
                width=3 if meaning == "learned" else 2,
                **_drawn(fit),
            )
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
    if main.truth is not None or main.rows is not None:
        traces.append(
            trace_of(
                np.arange(len(main.support_loss)),
                main.support_loss,
                "support",
                "on support",
                dash="dot",
                width=1.6,
                **right,
            )
        )
    support = trace_of(main.support_x, main.support_y, "support", "support", mode="markers", size=11)
    traces.append(support | _picks(main, 0))
    layout = base_layout(x=_x_title(main), y=plain(main.axes[1]), left=44)
    layout["hovermode"] = "closest"
    low, high = float(main.x[0]), float(main.x[-1])
    room = 0.04 * (high - low) if main.rows is not None else 0.0
    layout["xaxis"] |= {"domain": [0, 0.59], "range": [low - room, high + room]}
    layout["xaxis"]["title"]["font"] = {"size": 13}
    layout["yaxis"]["range"] = value_range(main)
    layout["xaxis2"] = {
        "domain": [0.71, 1],
        "anchor": "y2",
        "title": {"text": "step", "standoff": 6, "font": {"size": 13}},
        "zeroline": False,
        "range": [-0.03 * max(steps, 1), 1.04 * max(steps, 1)],
    }
    layout["yaxis2"] = {"anchor": "x2", **log_scale(*(fit.query_loss for fit in fits.values())), "zeroline": False}
    layout["annotations"] = [_in_the_corner(main.error_name)]

    def said(meaning: str, step: int) -> str:
        losses = fits[meaning].query_loss
        return f"{NAMES[meaning]} {number(float(losses[min(step, len(losses) - 1)]))}"

    labels = [" · ".join(said(meaning, step) for meaning in NAMES if meaning in fits) for step in frames]
    return {
        "data": traces,
        "layout": layout,
        "replay": {"steps": frames, "moving": moving, "ghosts": ghosts, "labels": labels},
    }


def _in_the_corner(words: str) -> dict[str, Any]:
    """What the right picture shows, where errors that fall leave room: beside the axis it would lie on the left one."""
    return {
        "x": 0.04,
        "y": 0.03,
        "xref": "x2 domain",
        "yref": "y2 domain",
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
        "showarrow": False,
        "text": "<br>".join(plain(line) for line in textwrap.wrap(words, CORNER, max_lines=3, placeholder=" …")),
        "font": {"size": 12},
    }


def _band(fit: CurveFit, meaning: str) -> list[Trace]:
    """The 95 % interval around the last step's predictions, where there is one."""
    if fit.band is None:
        return []
    middle = fit.predictions[-1]
    around = np.concatenate([middle + fit.band, (middle - fit.band)[::-1]])
    look: dict[str, Any] = {"fill": "toself", "fillcolor": COLORS[meaning] + "30", "hoverinfo": "skip"}
    return [trace_of(np.concatenate([fit.x, fit.x[::-1]]), around, meaning, "95 % band", width=0, **look)]


def _before(fit: CurveFit) -> Trace:
    """Where adaptation begins."""
    name = f"before: error {number(float(fit.query_loss[0]))}"
    return trace_of(fit.x, fit.predictions[0], "before", name, opacity=0.85, width=1.8, hoverinfo="skip", **_drawn(fit))


def _ghosts(fit: CurveFit, frames: Sequence[int], first: int, meaning: str) -> tuple[list[Ghost], list[Trace]]:
    """Earlier steps of a fit, faint, as the traces from number `first` on."""
    last = len(frames) - 1
    shown = sorted({round(k) for k in np.linspace(1, last - 1, min(GHOSTS, last - 1))}) if last > 1 else []
    shown = [frame for frame in shown if frames[frame] < len(fit.predictions)]
    ghosts: list[Ghost] = [{"trace": first + k, "frame": frame} for k, frame in enumerate(shown)]
    look: dict[str, Any] = {"opacity": 0.25, "width": 1.4, "showlegend": False, "hoverinfo": "skip"}
    steps = [frames[frame] for frame in shown]
    return ghosts, [trace_of(fit.x, fit.predictions[step], meaning, "earlier", **look, **_drawn(fit)) for step in steps]


def points_figure(points: Sequence[Sequence[float]], family: GeneratedFamily) -> Figure:
    """Points alone, in a picture wide enough to place more."""
    if isinstance(family, PlaneFamily):
        return plane_points(points, family)
    assert isinstance(family, FunctionFamily)
    cells = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    layout = base_layout(x="x", y="y", left=44)
    layout["xaxis"]["range"] = list(family.x.span)
    layout["yaxis"]["range"] = [-5, 5]
    return {
        "data": [trace_of(cells[:, 0], cells[:, 1], "support", "support", mode="markers", size=11)],
        "layout": layout,
    }


def _small_traces(fit: CurveFit, axis: str) -> list[Trace]:
    """A task before and after adaptation, in few points, on the axes of that suffix."""
    place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
    x, pick = (fit.x, slice(None)) if fit.is_cloud else (fit.x[::2], slice(None, None, 2))
    last = len(fit.predictions) - 1
    drawn = place | _drawn(fit, small=True)
    traces = _known(fit, small=True, **place)
    before = f"before {number(fit.query_loss[0], 2)}"
    traces.append(trace_of(x, fit.predictions[0][pick], "before", before, width=1.8, **drawn))
    if last > 0 or fit.blew_up_at is None:
        after = f"after {counted_steps(last)} {number(fit.query_loss[last], 2)}"
        traces.append(trace_of(x, fit.predictions[last][pick], "after", after, width=2.6, **drawn))
    traces.append(trace_of(fit.support_x, fit.support_y, "support", "support", mode="markers", size=6, **place))
    return traces


def _known(fit: CurveFit, *, small: bool = False, **place: Any) -> list[Trace]:
    """What is known of the task beside its support: the true curve, or a table's other rows."""
    traces = []
    if fit.truth is not None:
        x, pick = (fit.x[::2], slice(None, None, 2)) if small and not fit.is_cloud else (fit.x, slice(None))
        name = "as it should be" if fit.is_cloud else "truth"
        traces.append(trace_of(x, fit.truth[pick], "truth", name, dash="dash", width=2, **place))
    elif fit.rows is not None and len(fit.rows[0]):
        size = 4 if small else 8
        others = trace_of(fit.rows[0], fit.rows[1], "truth", "other rows", mode="markers", size=size, **place)
        traces.append(others | _picks(fit, 1))
    return traces


def _picks(fit: CurveFit, which: int) -> dict[str, Any]:
    """The row number of each point, which a click on it tells."""
    return {} if fit.row_numbers is None else {"customdata": fit.row_numbers[which]}


def _drawn(fit: CurveFit, *, small: bool = False) -> dict[str, Any]:
    """How predictions are drawn: as a curve, or as points where there is none."""
    return {"mode": "markers", "size": 4 if small else 7, **_picks(fit, 1)} if fit.is_cloud else {}


def _x_title(fit: CurveFit) -> str:
    return plain(f"{fit.axes[0]} · this task: {fit.label}" if fit.label else fit.axes[0])


def value_range(fit: CurveFit) -> list[float]:
    """Limits of y that show truth and support points whole; a wild prediction may leave the picture."""
    parts = [fit.support_y, *([] if fit.truth is None else [fit.truth]), *([] if fit.rows is None else [fit.rows[1]])]
    known = np.concatenate(parts)
    low, high = float(known.min()), float(known.max())
    of_table = 0.2 * (high - low) or abs(high) or 1.0  # in a table's own units, of any size
    room = max(0.35 * (high - low), 0.5) if fit.rows is None else of_table
    return [low - room, high + room]


def small_axes(i: int, count: int, columns: int) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Number `i` of `count` small pictures in a grid: the suffix of its axes, both axes, and where its title stands."""
    rows = -(-count // columns)
    suffix = str(i + 1) if i else ""
    left, right = slot(i % columns, columns, 0.035)
    bottom, top = slot(rows - 1 - i // columns, rows, 0.2 if rows > 1 else 0)
    axes = {"zeroline": False, "nticks": 4, "showgrid": True}
    title = {
        "x": (left + right) / 2,
        "y": top,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 12},
    }
    x_axis = {"domain": [left, right], "anchor": "y" + suffix, **axes}
    return suffix, x_axis, {"domain": [bottom, top], "anchor": "x" + suffix, **axes}, title


def _ending(fit: CurveFit) -> str:
    return number(fit.query_loss[-1]) if fit.blew_up_at is None else "diverged"
