"""What every page starts with: its settings, the navigation, the background session."""

import functools
from collections.abc import Callable

import streamlit as st

from maml_core.errors import MamlError, StoreAwayError
from maml_core.training.session import TrainingSession
from pages.components.glossary_view import mount_glossary
from pages.components.markup import as_text
from pages.components.people import signed_in

_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 4.1rem 2rem 2rem; }
[data-testid="stSidebarHeader"] { height: 2.75rem; margin-bottom: 0; }
[data-testid="stSidebar"] [data-testid="stPageLink-NavLink"] { padding: 0.2rem 0.3rem; }
[data-testid="stSidebar"] [data-testid="stPageLink-NavLink"] p { font-size: 0.85rem; }
[data-testid="stPageLink-NavLink"]:focus-visible { outline: 2px solid currentColor; }
[data-testid="stMetricValue"] { font-size: 1.7rem; line-height: 1.2; }
[data-testid="stCaptionContainer"] { color: inherit; }
a[href^="#term-"] { color: inherit !important; text-decoration: underline dotted !important; }
a[href="#term-"]:not(:hover) { text-decoration: none !important; }
.st-key-undo {
  position: fixed; bottom: 1rem; left: 50%; translate: -50%; z-index: 100; width: min(34rem, calc(100vw - 2rem));
  background: light-dark(#ffffff, #11151c); box-shadow: 0 0.25rem 1rem rgb(0 0 0 / 0.25);
}
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding: 3.2rem 1rem 1rem; }
  [data-testid="stMain"] [data-testid="stBaseButton-secondary"], [data-testid="stMain"] [data-testid="stPopoverButton"],
  [data-testid="stMain"] [data-testid="stBaseButton-primary"] { min-height: 2.2rem; padding: 0.1rem 0.6rem; }
}
</style>"""
"""Less room around things: the pictures must be in sight without scrolling at 1280 x 800. Captions have a contrast of
more than 4.5 to 1 in both themes, a term that opens the glossary looks like one, and the offer to undo
floats, so that nothing moves under the pointer when it comes or goes."""

PAGES = {
    "app.py": "Lab",
    "pages/1_Adapt.py": "Adapt",
    "pages/2_Runs.py": "Runs",
    "pages/3_Gradients.py": "Gradients",
    "pages/4_Data.py": "Data",
    "pages/5_Compare.py": "Compare",
}
NAVIGATION_COLUMNS = 3

AGAIN_SECONDS = 2.0
"""How often a page whose store is away looks whether it is back."""

REFUSED = "refused"
"""Where the text of a refused action waits in the session state, until the page has been drawn with it."""


HIDEABLE = ("form", "runs", "controls")
"""Parts of a page that a link can hide (`?hide=form,runs`): the settings, the other pages, the buttons."""


def hidden() -> set[str]:
    """The parts that the link hides."""
    return {part for part in st.query_params.get("hide", "").split(",") if part in HIDEABLE}


def open_page(path: str) -> TrainingSession:
    """Set the page up and return the server's session, for whoever has logged in.

    Without a usable store, or a login where one is asked for, it says so and stops here.
    """
    is_bare = {"form", "runs"} <= hidden()
    st.set_page_config(
        page_title=f"{PAGES[path]} · MAML Lab",
        page_icon="📈",
        layout="wide",
        initial_sidebar_state="collapsed" if is_bare else "auto",
    )
    st.html(_STYLE)
    if "runs" not in hidden():
        columns = st.sidebar.columns(NAVIGATION_COLUMNS, gap="xxsmall")
        for number, (target, label) in enumerate(PAGES.items()):
            columns[number % NAVIGATION_COLUMNS].page_link(target, label=label)
    unknown = [part for part in st.query_params.get("hide", "").split(",") if part and part not in HIDEABLE]
    if unknown:
        st.warning(
            f"hide = {unknown[0][:40]!r} is not a part of the page: it must be of {', '.join(HIDEABLE)}.",
            icon=":material/link_off:",
        )
    person = signed_in()
    mount_glossary()
    if REFUSED in st.session_state:
        st.error(as_text(st.session_state[REFUSED]), icon=":material/error:")
    try:
        session = training_session()
    except MamlError as error:
        st.error(str(error), icon=":material/database_off:")
        st.stop()
    if session.notice:
        st.warning(session.notice, icon=":material/database_off:")
    return session.on_behalf_of(person)


def page(path: str) -> Callable[[Callable[[TrainingSession], None]], Callable[[], None]]:
    """A page: set up, given the server's session, and with its troubles said rather than thrown."""

    def decorate(lay_out: Callable[[TrainingSession], None]) -> Callable[[], None]:
        @functools.wraps(lay_out)
        def shown() -> None:
            refused = st.session_state.get(REFUSED)
            session = open_page(path)
            try:
                lay_out(session)
                if st.session_state.get(REFUSED) is refused:  # not before: a draw that begins anew shows nothing
                    st.session_state.pop(REFUSED, None)
            except StoreAwayError as error:
                st.error(str(error), icon=":material/database_off:")
                _look_again(session)
            except MamlError as error:
                st.error(as_text(str(error)), icon=":material/error:")

        return shown

    return decorate


def following(part: Callable[[], None]) -> Callable[[], None]:
    """A fragment that draws the whole page anew when the store is away, which then says so."""

    @functools.wraps(part)
    def shown() -> None:
        try:
            part()
        except StoreAwayError:
            st.rerun()

    return shown


@st.fragment(run_every=AGAIN_SECONDS)
def _look_again(session: TrainingSession) -> None:
    """Draw the page anew once its store is back."""
    try:
        session.store.count("running")
    except MamlError:
        return
    st.rerun()


@st.cache_resource(show_spinner="Opening the store…")
def training_session() -> TrainingSession:
    """The one session of this server."""
    return TrainingSession()


STATUS_BADGES = {
    "queued": ("orange", ":material/hourglass_top:"),
    "running": ("blue", ":material/play_arrow:"),
    "paused": ("gray", ":material/pause:"),
    "stopped": ("gray", ":material/stop:"),
    "finished": ("green", ":material/check:"),
    "diverged": ("red", ":material/error:"),
    "failed": ("red", ":material/error:"),
    "interrupted": ("orange", ":material/power_off:"),
}
