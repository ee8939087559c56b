"""The glossary as a dialog. A click on any link to a term opens it, wherever on a page the link stands."""

import streamlit as st

from maml_core.glossary import ANCHOR, find_term, glossary, linked

ASKED = "term"

_clicks = st.components.v2.component(
    "maml_terms",
    html="<span hidden></span>",
    js=f"""
export default function ({{ setTriggerValue }}) {{
  const opened = (event) => {{
    const link = event.target.closest?.('a[href^="{ANCHOR}"]');
    if (!link) return;
    event.preventDefault();
    setTriggerValue("term", link.getAttribute("href").slice({len(ANCHOR)}));
  }};
  document.addEventListener("click", opened);
  return () => document.removeEventListener("click", opened);
}}
""",
)


def note(text: str) -> None:
    """A caption whose terms open the glossary."""
    st.caption(linked(text))


def answer_terms() -> None:
    """Open the glossary where a term was clicked, or where the link asks for one (`?term=inner_lr`)."""
    asked: str | None = _clicks(key="terms", on_term_change=lambda: None).term or st.query_params.get(ASKED)
    st.query_params.pop(ASKED, None)
    if asked is None:
        return
    found = find_term(asked)
    if found is None:
        st.warning(f"term = {asked[:40]!r} is not in the glossary.", icon=":material/link_off:")
    else:
        explain(found)


def glossary_button() -> None:
    """A button that opens the whole glossary."""
    if st.button("Glossary", icon=":material/menu_book:", type="tertiary"):
        explain(None)


@st.dialog("Glossary", width="large")
def explain(chosen: str | None) -> None:
    """All terms, one of them first."""
    terms = glossary()
    names = list(terms)
    name = st.selectbox("Term", names, index=names.index(chosen) if chosen else None, placeholder="Type to search")
    if name:
        st.markdown(f"**{name}**: {terms[name]}")
        st.divider()
    for other, text in terms.items():
        st.markdown(f"**{other}**: {text}")
