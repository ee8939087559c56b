"""The glossary as a dialog. A click on any link to a term opens it, wherever on a page the link stands."""

import streamlit as st

from maml_core.glossary import ANCHOR, find_term, glossary, linked

ASKED = "term"

_OPEN = "glossary"
"""Where the term that the open glossary shows first waits in the session state; None stands for no term."""

_clicks = st.components.v2.component(
    "maml_terms",
    html="<span hidden></span>",
    js=f"""
export default function ({{ setTriggerValue }}) {{
  const open = (href) => setTriggerValue("term", href.slice({len(ANCHOR)}));
  const opened = (event) => {{
    const link = event.target.closest?.('a[href^="{ANCHOR}"]');
    if (!link) return;
    event.preventDefault();
    open(link.getAttribute("href"));
  }};
  if (location.hash.startsWith("{ANCHOR}")) {{ // clicked before this was there
    open(location.hash);
    history.replaceState(history.state, "", location.pathname + location.search);
  }}
  document.addEventListener("click", opened);
  return () => document.removeEventListener("click", opened);
}}
""",
)


def note(text: str) -> None:
    """A caption whose terms open the glossary."""
    st.caption(linked(text))


def answer_terms() -> None:
    """Open the glossary where a term was clicked, or where the link asks for one (`?term=inner_lr`).

    It stays open however often the page is drawn anew behind it, until the reader closes it.
    """
    asked: str | None = _clicks(key="terms", on_term_change=lambda: None).term or st.query_params.get(ASKED)
    st.query_params.pop(ASKED, None)
    if asked is not None:
        found = find_term(asked)
        if found is None:
            st.warning(f"term = {asked[:40]!r} is not in the glossary.", icon=":material/link_off:")
        else:
            st.session_state[_OPEN] = found
    if _OPEN in st.session_state:
        _explain(st.session_state[_OPEN])


def glossary_button() -> None:
    """A button that opens the whole glossary."""

    def open_all() -> None:
        st.session_state[_OPEN] = None

    st.button("Glossary", icon=":material/menu_book:", type="tertiary", on_click=open_all)


def _close() -> None:
    st.session_state.pop(_OPEN, None)


@st.dialog("Glossary", width="large", on_dismiss=_close)
def _explain(chosen: str | None) -> None:
    """All terms, one of them first."""
    terms = glossary()
    names = list(terms)
    name = st.selectbox("Term", names, index=names.index(chosen) if chosen else None, placeholder="Type to search")
    if name:
        st.markdown(f"**{name}**: {terms[name]}")
        st.divider()
    for other, text in terms.items():
        st.markdown(f"**{other}**: {text}")
