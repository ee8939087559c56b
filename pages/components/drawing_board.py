"""Canvases for drawings of the reader's own: one for each class, and one to be named, with the answer beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import streamlit as st

from maml_core.figures import class_colors
from pages.components.scripts import script


class BoardData(TypedDict):
    """What the browser is sent; its other half is the typedef of that name in drawing_board.js."""

    text: str  # the drawings, as they stand in a link
    colors: list[str]  # of the classes
    shares: list[float] | None  # the answer: the probability of each class


_mount = st.components.v2.component(
    "maml_drawing_board",
    html='<div class="drawing-board"></div>',
    css=Path(__file__).with_suffix(".css").read_text(encoding="utf-8"),
    js=script("drawing_board.js", "drawing_state.js"),
    isolate_styles=False,
)


def drawing_board(text: str, classes: int, shares: list[float] | None, on_drawn: Callable[[str], None]) -> None:
    """Show what is drawn, and what it is taken for; `on_drawn` is told of every stroke."""

    def told() -> None:
        drawn = st.session_state["drawing-board"].get("drawn")
        if drawn is not None:
            on_drawn(drawn)

    data: BoardData = {"text": text, "colors": class_colors(classes), "shares": shares}
    _mount(key="drawing-board", data=data, on_drawn_change=told, height="content")
