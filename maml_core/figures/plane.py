"""Pictures of classes in the plane: the decision field of a model as it adapts, with the points it learns from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maml_core.figures.squares import Squares, square_layout
from maml_core.figures.style import Figure, Trace, rgb, rounded, trace_of
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.plane_fits import PlaneFit

CLASS_COLORS = ("#0e7490", "#c2410c", "#7c9a12", "#a21caf", "#b08900", "#64748b")
"""Of the classes of a task, in turn; none of them means anything else."""

_AGAIN = ((0.0, 0), (0.5, 255), (0.5, 0), (0.75, 255))
"""How far the colors go toward white or black each time they come."""


def class_colors(classes: int) -> list[str]:
    """The color of each class; after the sixth they come again, lighter, darker and lighter still."""
    found = []
    for number in range(classes):
        again, base = divmod(number, len(CLASS_COLORS))
        share, end = _AGAIN[again]
        found.append("#" + "".join(f"{round(part + share * (end - part)):02x}" for part in rgb(CLASS_COLORS[base])))
    return found


LEVELS = 100
"""Of certainty, from a class that is as likely as any to one that is sure."""

STRONGEST = 0.6
"""How opaque a field is where its class is sure: what is below, light or dark, shows through."""


class Fields(Squares[PlaneFit]):
    """Decision fields: which class the model takes each place for."""

    def at(self, fit: PlaneFit, step: int, meaning: str) -> Trace:
        """The field, whose colors are those of the classes."""
        return _field(fit, step)

    def moved(self, fit: PlaneFit, steps: Sequence[int]) -> dict[str, Any]:
        """The fields."""
        return {"z": [_cells(fit, step) for step in steps]}

    def still(self, fit: PlaneFit, **place: Any) -> list[Trace]:
        """The points that are judged, small, and the support on them, large; each class in its color."""
        asked = _classes_of(fit.query_x, fit.query_class, fit.classes, 4, "asked", **place)
        return asked + _classes_of(fit.support_x, fit.support_class, fit.classes, 12, "class", **place)

    def small(self, fit: PlaneFit, axis: str) -> list[Trace]:
        """The field in few cells, and the support."""
        place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
        field = _field(fit, fit.steps, every=2) | place | {"hoverinfo": "none"}  # a click on it opens its task
        points = _classes_of(fit.support_x, fit.support_class, fit.classes, 6, "class", **place)
        return [field, *(trace | {"showlegend": False} for trace in points)]


def plane_points(points: Sequence[Sequence[float]], family: PlaneFamily) -> Figure:
    """Points alone, in a square to place more."""
    cells = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    layout = square_layout()
    square = {"range": [-family.reach, family.reach], "constrain": "domain", "zeroline": False}
    layout |= {"xaxis": dict(square), "yaxis": square | {"scaleanchor": "x"}}
    traces = _classes_of(cells[:, :2], cells[:, 2].astype(int) - 1, family.classes, 12, "class")
    return {"data": traces, "layout": layout}


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
