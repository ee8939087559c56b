"""One initialization on fresh tasks, step by step."""

import pandas as pd
import streamlit as st

from maml_core.adaptation import Fit
from maml_core.errors import MamlError
from maml_core.figures import error_by_step, steps_figure, task_grid
from maml_core.run import Run
from maml_core.session import TrainingSession
from pages.components.frame import open_page
from pages.components.live_chart import live_chart
from pages.components.run_view import fresh_fits, pick_checkpoint, pick_run, query_number, status_line

MAX_STEPS = 100
SMALL_TASKS = 6


def settings(run: Run) -> tuple[int, int, float, int]:
    """Shots, steps, inner learning rate and task seed, kept in the URL."""
    config = run.config
    with st.sidebar:
        shots = st.number_input(
            "Shots", 1, 100, query_number("shots", config.shots, 1, 100), help="Support points the model adapts to."
        )
        steps = st.number_input(
            "Steps",
            0,
            MAX_STEPS,
            query_number("steps", max(config.inner_steps, 5), 0, MAX_STEPS),
            help="Gradient steps.",
        )
        inner_lr = st.number_input(
            "Inner learning rate", 0.0, 10.0, query_number("inner_lr", config.inner_lr, 0.0, 10.0), 0.001, "%g"
        )
        seed = query_number("task", 0, 0, 10**9)
        if st.button("New task", icon=":material/casino:", width="stretch"):
            seed += 1
    st.query_params.update({"shots": shots, "steps": steps, "inner_lr": f"{inner_lr:g}", "task": seed})
    return shots, steps, inner_lr, seed


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def losses_table(fit: Fit) -> None:
    """Losses at every step."""
    frame = pd.DataFrame({"on support": fit.support_loss, "on truth": fit.query_loss})
    frame.index.name = "step"
    st.dataframe(
        frame, height=360, column_config={name: st.column_config.NumberColumn(format="%.4g") for name in frame}
    )


def fresh_task(session: TrainingSession, run: Run) -> None:
    """The pictures of one fresh task, and of a few more."""
    shots, steps, inner_lr, seed = settings(run)
    if steps > run.config.inner_steps:
        st.caption(
            f"Trained for {_count(run.config.inner_steps)} at {run.config.inner_lr:g}: further steps are extrapolation."
        )
    main, *small = fresh_fits(
        session, run.config, run, count=1 + SMALL_TASKS, seed=seed, steps=steps, shots=shots,
        inner_lr=inner_lr or None, iteration=pick_checkpoint(session, run),
    )  # fmt: skip
    if main.blew_up_at is not None:
        st.warning(
            f"Adaptation diverges at step {main.blew_up_at}: the steps before it are shown. "
            "Try a smaller inner learning rate.",
            icon=":material/warning:",
        )
    left, middle, right = st.columns([10, 6, 5])
    revision = f"{run.id}:{seed}"
    with left:
        live_chart(
            steps_figure(main), key="steps", revision=revision, height=420,
            alt="A fresh task: true function, support points, the model before and after every adaptation step",
        )  # fmt: skip
    with middle:
        live_chart(error_by_step(main), key="error", revision=revision, height=420, alt="Error at each adaptation step")
    with right:
        losses_table(main)
    st.caption("More fresh tasks: error before adaptation → **after**")
    live_chart(
        task_grid(small, columns=SMALL_TASKS), key="small", revision=revision, height=170,
        alt="More fresh tasks before and after adaptation",
    )  # fmt: skip


def main() -> None:
    """Lay the page out."""
    session = open_page("pages/1_Adapt.py")
    st.markdown("#### See one initialization learn a new task, step by step")
    with st.sidebar:
        run = pick_run(session)
    if run is None:
        st.info("No runs yet. Train one in the lab first: there is no initialization to adapt.", icon=":material/info:")
        st.page_link("app.py", label="Train one in the lab", icon=":material/science:")
        return
    status_line(session, run)
    if not run.iteration:
        st.info("This run has not trained yet: this is its untrained initialization.", icon=":material/info:")
    try:
        fresh_task(session, run)
    except MamlError as error:
        st.error(str(error), icon=":material/error:")


main()
