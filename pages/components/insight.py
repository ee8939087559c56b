"""What a run's numbers say: a finding with its remedy, the map of its initialization, and which layers move."""

from collections.abc import Callable

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import MamlError
from maml_core.evaluation.diagnosis import Finding, diagnose
from maml_core.evaluation.paths import PathMap, path_map
from maml_core.figures import layers_figure, path_figure, star_figure
from maml_core.glossary import linked
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from pages.components.glossary_view import note
from pages.components.live_chart import live_chart

SECONDS = 2.0
"""Between two looks at what is found in the background."""


def finding(session: TrainingSession, run: Run, train: Callable[[RunConfig], None]) -> bool:
    """What is wrong with a run, if anything, and a button that trains with the remedy; whether more may come."""
    name, version = f"diagnosis {run.id}", (run.iteration, run.status)
    answer = session.background.latest(
        name, version, lambda _: diagnose(session.store, run, turn=lambda done: computing())
    )
    found: Finding | None = answer.value
    if found:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(f":material/stethoscope: {linked(found.sentence)}", width="stretch")
            if st.button(
                f"Train with {found.advice}",
                icon=":material/healing:",
                disabled=not found.remedy,
                on_click=lambda: train(run.config.with_settings(found.remedy)),  # before the form is drawn again
            ):
                st.rerun()
    return not answer.is_newest


def parameter_space(session: TrainingSession, run: Run) -> bool:
    """The path of the initialization, its arms to adapted tasks, and which layers move; whether more may come."""
    try:
        answer = session.background.latest(
            f"map {run.id}",
            run.iteration,
            lambda known: path_map(session.store, run, known=known, turn=computing),
        )
    except MamlError as error:
        st.caption(str(error))
        return False
    found: PathMap | None = answer.value
    if found is None:
        st.caption("The map is being drawn…")
        return True
    charts = (
        ("path", "**The way of the initialization**", path_figure, "Its path as it trains, with an arm to each task"),
        ("star", "**Where tasks adapt to, from there**", star_figure, "Arms from the initialization to adapted tasks"),
        ("layers", "**Which layers move**", layers_figure, "How far each layer moves in adaptation, against its size"),
    )
    for column, (key, title, figure, alt) in zip(st.columns(3), charts, strict=True):
        with column:
            st.markdown(title)
            live_chart(figure(found), key=key, revision=run.id, height=300, alt=alt)
    note(found.sentence())
    return not answer.is_newest
