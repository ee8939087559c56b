"""The glossary: a dialog that the browser opens at a click on any link to a term, wherever on a page that stands."""

from pathlib import Path
from typing import TypedDict

import streamlit as st

from maml_core.glossary import ANCHOR, find_term, glossary, linked, slugs

ASKED = "term"


class GlossaryData(TypedDict):
    """What the browser is sent; its other half is the typedef of that name in glossary_view.js."""

    anchor: str  # how a link to a term begins
    terms: dict[str, str]  # what each means
    slugs: dict[str, str]  # the term that each end of such a link means
    asked: str | None  # what the page's own address asked for
    found: str | None  # the term that this means
    said: str  # where there is none


_mount = st.components.v2.component(
    "maml_glossary",
    html="""<dialog class="glossary" aria-labelledby="glossary-title"><div class="box">
<header><h2 id="glossary-title">Glossary</h2><button type="button" aria-label="Close">✕</button></header>
<input type="search" placeholder="Type to search" aria-label="Search the glossary">
<p role="status"></p>
<div class="lists" tabindex="0"><dl class="chosen"></dl><dl class="all"></dl></div>
</div></dialog>""",
    css=Path(__file__).with_suffix(".css").read_text(encoding="utf-8"),
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def note(text: str) -> None:
    """A caption whose terms open the glossary."""
    st.caption(linked(text))


def mount_glossary() -> None:
    """Have the glossary at hand, open where the address asks for a term (`?term=inner_lr`)."""
    asked = st.query_params.get(ASKED)
    if asked is not None:
        st.session_state["asked term"] = asked  # kept, since this draw may be broken off
    asked = st.session_state.get("asked term")
    found = find_term(asked) if asked is not None else None
    data: GlossaryData = {
        "anchor": ANCHOR,
        "terms": glossary(),
        "slugs": slugs(),
        "asked": asked,
        "found": found,
        "said": "" if asked is None or found else f"term = {asked[:40]!r} is not in the glossary.",
    }
    _mount(key="glossary", data=data)
    st.query_params.pop(ASKED, None)


def glossary_link() -> None:
    """A link that opens the whole glossary."""
    st.markdown(f"[:material/menu_book: Glossary]({ANCHOR})", width="content")
