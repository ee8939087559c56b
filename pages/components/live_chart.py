"""A Plotly chart that updates in place: zoom, hover and fullscreen survive new data."""

import json
from pathlib import Path

import plotly
import streamlit as st
from streamlit.components.v1 import declare_component

from maml_core.figures import Figure

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
_PLOTLY_FOLDER = Path(plotly.__file__).parent / "package_data"
_SHARED = "plotly"

_mount = st.components.v2.component(
    "maml_live_chart",
    html='<div class="live-chart"><div class="chart" role="img"></div></div>',
    css=".live-chart, .live-chart .chart { width: 100%; height: 100%; }"
    ".live-chart:fullscreen { height: 100% !important; }",
    js=_SCRIPT,
    isolate_styles=False,
)


def live_chart(figure: Figure, *, key: str, alt: str, revision: str, height: int = 340) -> None:
    """Show `figure` under a stable `key`; the reader's zoom is kept until `revision` changes."""
    _mount(
        key=key,
        data={
            "figure": json.dumps(figure),
            "plotly": _plotly_url(),
            "name": key,
            "alt": alt,
            "revision": revision,
            "height": height,
        },
        height="content",
    )


def _plotly_url() -> str:
    """Where this server serves the installed package's own plotly.min.js: one copy, cached by the browser."""
    component = declare_component(_SHARED, path=_PLOTLY_FOLDER)
    base = st.get_option("server.baseUrlPath").strip("/")
    return f"{'/' + base if base else ''}/component/{component.name}/plotly.min.js"
