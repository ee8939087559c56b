"""A Plotly chart that updates in place: zoom, hover and fullscreen survive new data."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import plotly
import streamlit as st
from streamlit.components.v1 import declare_component

from maml_core.figures import Figure
from pages.components.scripts import script

_STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
_PLOTLY_FOLDER = Path(plotly.__file__).parent / "package_data"
_SHARED = "plotly"


class ChartData(TypedDict):
    """What the browser is sent; its other half is the typedef of that name in live_chart.js."""

    figure: str  # JSON of a Figure
    plotly: str
    name: str
    alt: str
    revision: str
    height: int
    picks: bool
    drags: bool
    edits: list[list[float]] | None


class Pick(TypedDict):
    """What the browser answers to a click or a drag."""

    x: float
    y: float
    task: int | None  # the seed of the task, or the number of the row, that was clicked, where the trace carries one


_mount = st.components.v2.component(
    "maml_live_chart",
    html='<div class="live-chart"><div class="chart" role="img"></div><div class="replay" hidden>'
    '<button type="button" aria-label="Play the replay">▶</button>'
    '<input type="range" min="0" step="1" aria-label="Adaptation step">'
    "<output></output></div></div>",
    css=_STYLE,
    js=script("live_chart.js", "chart_state.js"),
    isolate_styles=False,
)


def live_chart(
    figure: Figure,
    *,
    key: str,
    alt: str,
    revision: str,
    height: int = 340,
    on_pick: Callable[[Pick], None] | None = None,
    drags: bool = False,
    on_points: Callable[[list[list[float]]], None] | None = None,
    points: Sequence[Sequence[float]] = (),
) -> None:
    """Show `figure` under a stable `key`; the reader's zoom is kept until `revision` changes.

    `on_pick` is told of a click on something drawn; with `drags`, of where the reader has moved the figure's handle.
    With `on_points` the reader edits `points` by hand, and it is told the new ones.
    """

    def tell(listener: Callable[[Any], None] | None, name: str) -> Callable[[], None]:
        def told() -> None:
            value = st.session_state[key].get(name)
            if listener and value is not None:
                listener(value)

        return told

    data: ChartData = {
        "figure": json.dumps(figure, allow_nan=False),
        "plotly": _plotly_url(),
        "name": key,
        "alt": alt,
        "revision": revision,
        "height": height,
        "picks": on_pick is not None,
        "drags": drags,
        "edits": [list(point) for point in points] if on_points else None,
    }
    _mount(
        key=key,
        data=data,
        on_pick_change=tell(on_pick, "pick"),
        on_points_change=tell(on_points, "points"),
        height="content",
    )


def _plotly_url() -> str:
    """Where this server serves the installed package's own plotly.min.js: one copy, cached by the browser."""
    component = declare_component(_SHARED, path=_PLOTLY_FOLDER)
    base = st.get_option("server.baseUrlPath").strip("/")
    return f"{'/' + base if base else ''}/component/{component.name}/plotly.min.js"
