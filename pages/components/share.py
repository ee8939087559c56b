"""What a reader takes away: a task's adaptation as a page and as a moving picture, and a text with the link."""

from collections.abc import Callable, Mapping

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import MamlError
from maml_core.evaluation.listing import markdown_snippet
from maml_core.evaluation.of_runs import fresh_fits
from maml_core.figures import moving_picture, replay_page
from maml_core.learning.fits import TaskFit
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from pages.components.task_source import task_seed


def share_task(fits: Callable[[], Mapping[str, TaskFit]], title: str, *, disabled: bool = False) -> None:
    """Buttons for a task's adaptation, from one initialization ("learned") or several; made when asked for."""

    def made(make: Callable[[Mapping[str, TaskFit]], str | bytes]) -> Callable[[], str | bytes]:
        def content() -> str | bytes:
            try:
                return make(fits())
            except MamlError as error:
                return str(error)

        return content

    files: list[tuple[str, str, str, str, Callable[[Mapping[str, TaskFit]], str | bytes]]] = [
        (
            "The task as a page that plays",
            "adaptation.html",
            ":material/web:",
            "One HTML file; it needs no network and no lab.",
            lambda fits: replay_page(fits, title, "Made with MAML Lab."),
        ),
        (
            "The task as a moving picture",
            "adaptation.webp",
            ":material/animated_images:",
            "An animated WebP for slides and chats.",
            lambda fits: moving_picture(fits["learned"], title),
        ),
    ]
    for text, name, icon, help_text, make in files:
        st.download_button(
            text,
            made(make),
            name,
            icon=icon,
            width="stretch",
            on_click="ignore",
            disabled=disabled,
            help=help_text,
        )


def share(session: TrainingSession, config: RunConfig, run: Run | None) -> None:
    """The Lab page's popover: the task shown, and a text with the link."""

    def shown() -> Mapping[str, TaskFit]:
        with computing():
            return {"learned": fresh_fits(session.store, config, run, count=1, seed=task_seed())[0]}

    with st.popover("Share", icon=":material/share:"):
        share_task(shown, run.name if run else "untrained", disabled=config.uses_own_model)
        st.caption("Each chart has its own buttons for PNG, SVG and CSV. As text, with a link to these settings:")
        st.code(
            markdown_snippet(config, run, st.session_state["form.preset"], st.context.url or ""), language="markdown"
        )
