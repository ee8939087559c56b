"""What a reader takes away from the Lab page: the task as a page and as a moving picture, and a text with the link."""

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import MamlError
from maml_core.evaluation.listing import markdown_snippet
from maml_core.evaluation.of_runs import fresh_fits
from maml_core.figures import moving_picture, replay_page
from maml_core.learning.adaptation import Fit
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from pages.components.task_source import task_seed


def share(session: TrainingSession, config: RunConfig, run: Run | None) -> None:
    """A popover with all of it; files are made when they are asked for."""
    title = run.name if run else "untrained"

    def shown() -> Fit:
        with computing():
            return fresh_fits(session.store, config, run, count=1, seed=task_seed())[0]

    def page() -> str:
        try:
            return replay_page(shown(), title, "Made with MAML Lab.")
        except MamlError as error:
            return str(error)

    def picture() -> bytes:
        try:
            return moving_picture(shown(), title)
        except MamlError as error:
            return str(error).encode()

    with st.popover("Share", icon=":material/share:"):
        st.download_button(
            "The task as a page that plays",
            page,
            "adaptation.html",
            icon=":material/web:",
            width="stretch",
            on_click="ignore",
            disabled=config.uses_own_model,
            help="One HTML file; it needs no network and no lab.",
        )
        st.download_button(
            "The task as a moving picture",
            picture,
            "adaptation.webp",
            icon=":material/animated_images:",
            width="stretch",
            on_click="ignore",
            disabled=config.uses_own_model,
            help="An animated WebP for slides and chats.",
        )
        st.caption("Each chart has its own buttons for PNG, SVG and CSV. As text, with a link to these settings:")
        st.code(
            markdown_snippet(config, run, st.session_state["form.preset"], st.context.url or ""), language="markdown"
        )
