"""Pictures of classes in the plane: the decision field of a model as it adapts, with the points it learns from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maml_core.evaluation.side_by_side import NAMES
from maml_core.figures.style import Figure, Moving, Trace, base_layout, frames_of, plain, rgb, rounded, slot, trace_of
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.plane_fits import PlaneFit
from maml_core.words import counted_steps

CLASS_COLORS = ("#0e7490", "#c2410c", "#7c9a12", "#a21caf", "#b08900", "#64748b")
"""Of the classes of a task, in turn; none of them means anything else."""

FIELDS = 20
"""Steps of adaptation in a replay: a field is a picture, and of more the browser would be sent megabytes."""

GAP = 0.03
"""Between two squares, of the picture's width."""

LEVELS = 100
"""Of certainty, from a class that is as likely as any to one that is sure."""

STRONGEST = 0.6
"""How opaque a field is where its class is sure: what is below, light or dark, shows through."""


def plane_task(fit: PlaneFit, trained_steps: int) -> Figure:
    """One task before adaptation, and the field beside it that moves from there to the last step."""
    frames = frames_of(fit.steps, FIELDS)
    layout = _layout()
    layout["annotations"] = []
    traces: list[Trace] = []
    endings = (f"before: {_said(fit, 0)}", f"after {counted_steps(fit.steps)}: {_ending(fit)}")
    for number, (step, words) in enumerate(zip((0, fit.steps), endings, strict=True)):
        place = _panel(layout, number, slot(number, 2, GAP), words, fit)
        traces.append(_field(fit, step) | place)
        traces += [trace | {"showlegend": not number and trace["showlegend"]} for trace in _points(fit, **place)]
    per_panel = len(traces) // 2
    moving: list[Moving] = [{"trace": per_panel, "z": [_cells(fit, step) for step in frames]}]
    layout["xaxis"]["title"] = {"text": plain(f"this task: {fit.label}"), "standoff": 6}
    beyond = f" (trained for {trained_steps})"
    labels = [_said(fit, step) + (beyond if step > trained_steps else "") for step in frames]
    return {
        "data": traces,
        "layout": layout,
        "replay": {"steps": frames, "moving": moving, "ghosts": [], "labels": labels, "autoplay": True},
    }


def plane_small(fit: PlaneFit, axis: str) -> list[Trace]:
    """A task after adaptation, in few cells, on the axes of that suffix."""
    place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
    field = _field(fit, fit.steps, every=2) | place | {"hoverinfo": "none"}  # a click on it opens its task
    return [field, *(trace | {"showlegend": False} for trace in _points(fit, small=True, **place))]


def plane_title(fit: PlaneFit) -> str:
    """What stands above a small picture."""
    return f"{_percent(fit, 0).removesuffix(' %')} → <b>{_ending(fit, short=True)}</b>"


def plane_axes(fit: PlaneFit) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the axes of a small picture need beside their places: the square, as high as it is wide."""
    half = half_side(fit)
    bare = {
        "range": [-half, half],
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
        "constrain": "domain",
        "ticks": "",
    }
    return dict(bare), dict(bare)


def plane_replay(fits: Mapping[str, PlaneFit]) -> Figure:
    """One task adapted from several initializations: a field for each, and the accuracy of all against steps."""
    shown = {name: fits[name] for name in NAMES if name in fits}
    steps = max(fit.steps for fit in shown.values())
    frames = frames_of(steps, FIELDS)
    layout = _layout()
    layout["annotations"] = []
    traces: list[Trace] = []
    moving: list[Moving] = []
    for number, (name, fit) in enumerate(shown.items()):
        place = _panel(layout, number, slot(number, len(shown) + 1, GAP), NAMES[name], fit)
        moving.append({"trace": len(traces), "z": [_cells(fit, min(step, fit.steps)) for step in frames]})
        traces.append(_field(fit, fit.steps) | place)
        traces += [trace | {"showlegend": not number and trace["showlegend"]} for trace in _points(fit, **place)]
    suffix = str(len(shown) + 1)
    right: dict[str, Any] = {"xaxis": "x" + suffix, "yaxis": "y" + suffix}
    for name, fit in shown.items():
        accuracy = 1 - fit.query_loss
        at = [min(step, fit.steps) for step in frames]
        traces.append(trace_of(np.arange(fit.steps + 1), accuracy, name, NAMES[name], **right))
        marks = [rounded(accuracy[step : step + 1]) for step in at]
        moving.append({"trace": len(traces), "x": [[step] for step in at], "y": marks})
        look: dict[str, Any] = {"mode": "markers", "size": 11, "hoverinfo": "skip", "showlegend": False, **right}
        traces.append(trace_of(np.array([fit.steps]), accuracy[-1:], name, NAMES[name], **look))
    low, high = slot(len(shown), len(shown) + 1, GAP)
    layout["annotations"].append(_heading((low + 0.05, high), "accuracy"))
    layout["xaxis" + suffix] = {
        "domain": [low + 0.05, high],
        "anchor": "y" + suffix,
        "title": {"text": "adaptation step", "standoff": 6},
        "zeroline": False,
        "range": [-0.03 * max(steps, 1), 1.04 * max(steps, 1)],
    }
    layout["yaxis" + suffix] = {
        "anchor": "x" + suffix,
        "tickformat": ".0%",
        "range": [-0.03, 1.03],
        "zeroline": False,
    }
    layout["xaxis"]["title"] = {"text": plain(f"this task: {next(iter(shown.values())).label}"), "standoff": 6}

    def said(name: str, step: int) -> str:
        return f"{NAMES[name]} {_percent(shown[name], min(step, shown[name].steps))}"

    labels = [" · ".join(said(name, step) for name in shown) for step in frames]
    return {
        "data": traces,
        "layout": layout,
        "replay": {"steps": frames, "moving": moving, "ghosts": [], "labels": labels},
    }


def plane_points(points: Sequence[Sequence[float]], family: PlaneFamily) -> Figure:
    """Points alone, in a square to place more."""
    cells = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    layout = _layout()
    square = {"range": [-family.reach, family.reach], "constrain": "domain", "zeroline": False}
    layout |= {"xaxis": dict(square), "yaxis": square | {"scaleanchor": "x"}}
    traces = _classes_of(cells[:, :2], cells[:, 2].astype(int) - 1, family.classes, 12, "class")
    return {"data": traces, "layout": layout}


def half_side(fit: PlaneFit) -> float:
    """Half the side of the square that is shown."""
    return float(fit.axis[-1] + (fit.axis[1] - fit.axis[0]) / 2)


def sureness(field: np.ndarray) -> np.ndarray:
    """From probabilities `[..., classes]`: 0 where no class is likelier than another, 1 where one is certain."""
    least = 1 / field.shape[-1]
    found: np.ndarray = np.clip((field.max(-1) - least) / (1 - least), 0, 1)
    return found


def _field(fit: PlaneFit, step: int, *, every: int = 1) -> Trace:
    """Which class the model takes each place for, and how surely, as a color."""
    stops: list[tuple[float, str]] = []
    for number in range(fit.classes):
        red, green, blue = rgb(CLASS_COLORS[number])
        ends = number / fit.classes, (number + 1) / fit.classes - (1e-6 if number + 1 < fit.classes else 0)
        stops += [(ends[0], f"rgba({red},{green},{blue},0.04)"), (ends[1], f"rgba({red},{green},{blue},{STRONGEST})")]
    axis = fit.axis[::every]
    return {
        "type": "heatmap",
        "x": rounded(axis),
        "y": rounded(axis),
        "z": [row[::every] for row in _cells(fit, step)[::every]],
        "zmin": 0,
        "zmax": LEVELS * fit.classes,
        "colorscale": [list(stop) for stop in stops],
        "showscale": False,
        "hoverinfo": "skip",
        "name": "decision field",
    }


def _cells(fit: PlaneFit, step: int) -> list[list[int]]:
    """The field at a step as whole numbers: `LEVELS` for each class, and how sure it is within."""
    field = fit.fields[step]
    within = np.floor(sureness(field) * (LEVELS - 1)).astype(int)
    cells: list[list[int]] = (LEVELS * field.argmax(-1) + within).tolist()
    return cells


def _points(fit: PlaneFit, *, small: bool = False, **place: Any) -> list[Trace]:
    """The points that are judged, small, and the support on them, large; each class in its color."""
    asked = [] if small else _classes_of(fit.query_x, fit.query_class, fit.classes, 4, "asked", **place)
    return asked + _classes_of(fit.support_x, fit.support_class, fit.classes, 6 if small else 12, "class", **place)


def _classes_of(x: np.ndarray, labels: np.ndarray, classes: int, size: int, name: str, **place: Any) -> list[Trace]:
    """Points `[points, 2]`, a trace for each class."""
    traces = []
    for number in range(classes):
        chosen = x[labels == number]
        trace = trace_of(chosen[:, 0], chosen[:, 1], "support", f"{name} {number + 1}", mode="markers", **place)
        edge = {"color": "rgba(255,255,255,0.95)", "width": 2 if size > 6 else 1 if size > 4 else 0.5}
        trace["marker"] = {"color": CLASS_COLORS[number], "size": size, "line": edge}
        traces.append(trace | {"showlegend": name == "class", "hoverinfo": "skip" if name == "asked" else "name"})
    return traces


def _panel(layout: dict[str, Any], number: int, domain: Sequence[float], words: str, fit: PlaneFit) -> dict[str, Any]:
    """Put a square into the layout, with words above it; returns the axes that its traces stand on."""
    suffix = str(number + 1) if number else ""
    across, up = plane_axes(fit)
    layout["xaxis" + suffix] = across | {"domain": list(domain), "anchor": "y" + suffix}
    layout["yaxis" + suffix] = up | {"anchor": "x" + suffix, "scaleanchor": "x" + suffix}
    layout["annotations"].append(_heading(domain, words))
    return {"xaxis": "x" + suffix, "yaxis": "y" + suffix}


def _heading(domain: Sequence[float], words: str) -> dict[str, Any]:
    return {
        "x": sum(domain) / 2,
        "y": 1,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
        "showarrow": False,
        "text": words,
        "font": {"size": 13},
    }


def _layout() -> dict[str, Any]:
    layout = base_layout(left=10)
    layout |= {"hovermode": "closest", "margin": {"l": 10, "r": 10, "t": 56, "b": 34}}
    layout["legend"] |= {"y": 1.09}
    return layout


def _percent(fit: PlaneFit, step: int) -> str:
    return fit.problem.in_words(float(fit.query_loss[step]))


def _said(fit: PlaneFit, step: int) -> str:
    return f"{fit.problem.score_name} {_percent(fit, step)}"


def _ending(fit: PlaneFit, *, short: bool = False) -> str:
    if fit.blew_up_at is not None:
        return "diverged"
    return _percent(fit, fit.steps) if short else _said(fit, fit.steps)
