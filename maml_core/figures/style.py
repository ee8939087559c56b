"""What every figure is made of: the contract with the browser, colors, lines, numbers.

Dictionaries, not `go.Figure`: a live chart is rebuilt several times a second, and validation would cost more than
the training step it shows. Arrays travel as base64 float32, a third of their size as text.
"""

import base64
import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

Trace = dict[str, Any]
"""One Plotly trace."""


class Moving(TypedDict):
    """A trace that moves in a replay: its values at every frame."""

    trace: int
    x: NotRequired[list[list[float | None]]]
    y: NotRequired[list[list[float | None]]]
    z: NotRequired[list[list[list[int]]]]  # of a field, by frame and row, in place of x and y


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
    autoplay: NotRequired[bool]  # play whenever there is something new, until the reader takes over


class Narrow(TypedDict):
    """What becomes of a figure where it is as narrow as on a phone."""

    layout: dict[str, Any]  # entries that take the place of the figure's own
    taller: float  # how many times as high it is


class Figure(TypedDict):
    """A Plotly figure, and what the live chart adds to it. The browser's half of this contract is in chart_state.js."""

    data: list[Trace]
    layout: dict[str, Any]
    replay: NotRequired[Replay]
    handle: NotRequired[int]  # the trace whose one point the reader may drag
    narrow: NotRequired[Narrow]


COLORS = {
    "truth": "#8b93a1",
    "support": "#d6407a",
    "before": "#e8853d",
    "after": "#2f80e7",
    "learned": "#2f80e7",
    "pretrained": "#2a9d74",
    "random": "#9b6dd0",
    "gp": "#b8860b",
    "neighbor": "#7a8450",
    "means": "#5f7a52",
    "feature-means": "#a3711f",
    "features": "#4a9fb5",
    "oracle": "#c05f8e",
    "straight": "#8d6e63",
}
"""One meaning per color, on every page and in both themes; what is learned is shown after adaptation."""


FAINT = 0.28
MAX_POINTS = 500
"""Points drawn per curve: more cannot be told apart on a screen, and an update stays under 50 KB."""


ALGORITHM_COLORS = {
    "fomaml": "#2f80e7",
    "maml": "#e8853d",
    "fo-b-maml": "#c0392b",
    "reptile": "#2a9d74",
    "joint": "#9b6dd0",
}


GROUP_COLORS = (
    "#2f80e7",
    "#e8853d",
    "#2a9d74",
    "#d6407a",
    "#9b6dd0",
    "#b8860b",
    "#4a9fb5",
    "#c0392b",
    "#6b8e23",
    "#8b93a1",
)
"""Of groups of runs, in turn, where a color has no meaning but which group it is."""


def trace_of(
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
) -> Trace:
    """A trace in the color of its meaning, which it carries in `meta`."""
    color = COLORS[meaning]
    trace = {"type": "scatter", "mode": mode, "x": packed(x), "y": packed(y), "name": name, "meta": meaning, **extra}
    if "lines" in mode:
        trace["line"] = {"color": color, "width": width, "dash": dash}
    if "markers" in mode:
        trace["marker"] = {"color": color, "size": size, "line": {"color": "rgba(255,255,255,0.85)", "width": 1}}
    return trace


def rgb(color: str) -> tuple[int, int, int]:
    """The parts of a color written #rrggbb, from 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def slot(index: int, count: int, gap: float) -> tuple[float, float]:
    """From where to where the picture of that number goes, of `count` side by side in a width of 1."""
    width = (1 - gap * (count - 1)) / count
    return index * (width + gap), index * (width + gap) + width


def filled(template: Path, data: dict[str, Any]) -> str:
    """A page with its data in it, which no text in them can leave."""
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return template.read_text(encoding="utf-8").replace("/*DATA*/null", text)


FRAMES = 100
"""Steps of adaptation in a replay; of more, so many are shown, evenly spaced."""


def frames_of(steps: int, most: int = FRAMES) -> list[int]:
    """The steps of adaptation that a replay shows."""
    return sorted({round(k) for k in np.linspace(0, steps, min(steps, most) + 1)})


def base_layout(*, x: str = "", y: str = "", left: int = 40) -> dict[str, Any]:
    """Margins, legend and axis titles that all figures share."""
    return {
        "margin": {"l": left, "r": 10, "t": 48, "b": 42},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}, "itemwidth": 30},
        "hovermode": "x unified",
        "xaxis": {"title": {"text": x, "standoff": 6}, "zeroline": False},
        "yaxis": {"title": {"text": y, "standoff": 4}, "zeroline": False},
    }


def thin(x: np.ndarray, y: np.ndarray, points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A curve in at most so many points that look like all of them."""
    if len(x) <= points:
        return x, y
    keep = MinMaxLTTBDownsampler().downsample(x, y, n_out=points)
    return x[keep], y[keep]


def packed(values: np.ndarray) -> dict[str, str]:
    """An array as Plotly's base64 float32."""
    return {"dtype": "f4", "bdata": base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()}


def rounded(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Numbers as JSON, in the digits that a screen can show; JSON has no infinity, so None stands for it."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values]


MOST_DECADES = 6
"""Of a logarithmic axis with a tick at 2 and 5 of each decade; beyond, ticks would stand on each other."""


def log_scale(*curves: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis for these values, with as many ticks as there is room for."""
    values = np.concatenate([np.asarray(curve, dtype=np.float64).ravel() for curve in curves])
    values = values[np.isfinite(values) & (values > 0)]
    decades = float(np.log10(values.max() / values.min())) if len(values) else 0.0
    ticks = {"dtick": "D2"} if decades <= MOST_DECADES else {"nticks": 8}
    return {"type": "log", "exponentformat": "power", **ticks}


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, but no power of ten where the whole number is short enough."""
    if not np.isfinite(value):
        return "∞"
    if abs(value) >= 1e4:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def plain(text: str) -> str:
    """A name from a user, with nothing in it that Plotly reads as markup."""
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("$", "&#36;")
        .replace("%{", "%&#123;")
    )
