"""The glossary as a dialog, and the terms that open it."""

import streamlit as st

from maml_core.glossary import find_term, glossary

ASKED = "term"


def term(text: str, name: str) -> None:
    """A term in the text, which opens the glossary at what the field of that name says."""
    if st.button(text, type="tertiary", key=f"term-{name}", help="What is that?"):
        explain(find_term(name))


def glossary_link() -> None:
    """A button that opens the glossary, and the glossary itself where the link asks for a term."""
    if st.button("Glossary", icon=":material/menu_book:", type="tertiary"):
        explain(None)
    asked = st.query_params.get(ASKED)
    if asked is not None:
        del st.query_params[ASKED]
        found = find_term(asked)
        if found is None:
            st.warning(f"term = {asked[:40]!r} is not in the glossary.", icon=":material/link_off:")
        else:
            explain(found)


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
