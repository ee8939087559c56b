"""What adaptation comes to over many held-out tasks, beside what other methods make of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from maml_core.evaluation.curves import Turn, pretraining
from maml_core.evaluation.of_runs import (
    At,
    measure,
    measure_table_run,
    most_tasks,
    pretrained_run,
    shots_grid,
    usual_tasks,
)
from maml_core.evaluation.published import published_returns
from maml_core.figures import error_curves, shots_curves, shots_grid_figure, worth_curves, worth_figure
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from pages.components.glossary_view import note
from pages.components.live_chart import live_chart
from pages.components.markup import as_text
from pages.components.run_view import act, query_number, reproduction_note

_NUMBER = st.column_config.NumberColumn(format="%.4g")


def pretraining_button(session: TrainingSession, run: Run) -> None:
    """Train the baseline once, as an ordinary run with the same budget."""
    if run.config.algorithm == "joint":
        return
    other = pretrained_run(session.store, run)
    if other is None:
        text = "Train the joint-pretraining baseline"
        if st.button(text, icon=":material/model_training:", help="The same tasks, network and number of iterations."):
            act(lambda: session.start(pretraining(run.config), preset=None))
            st.rerun()
    elif other.is_active or not other.iteration:
        st.caption(f"Joint pretraining is under way: {other.iteration:,} of {other.meta_iterations:,} iterations.")


def quality(session: TrainingSession, run: Run, iteration: int | None, steps: int) -> None:
    """Error against steps on many held-out tasks."""
    tasks = query_number("tasks", usual_tasks(run.config), 10, most_tasks(run.config))
    at: At = "latest" if iteration is None else iteration
    with _progress(f"Adapting to {tasks} held-out tasks…") as turn:
        result = measure(session.store, run, tasks=tasks, steps=steps, at=at, turn=turn)
    score = result.judge.score_name.capitalize()
    reproduction_note(session, run)
    left, right = st.columns(2)
    with left:
        live_chart(
            error_curves(result, published_returns(run.config)),
            key="quality",
            revision=f"{run.id}:{steps}",
            height=430,
            alt=f"{score} on held-out tasks against adaptation steps, with 95 % bands, and that of other methods",
        )
    with right:
        live_chart(
            shots_curves(result, run.config.shots),
            key="shots",
            revision=run.id,
            height=430,
            alt=f"{score} on held-out tasks against the number of {result.judge.supports}, with 95 % bands",
        )
    st.markdown(f"##### {result.sentence(run.config.inner_steps)}")
    with _progress("Adapting runs of other shots…") as turn:
        grid = shots_grid(session.store, run, turn=turn)
    if grid is not None:
        st.markdown("###### Runs that differ in nothing but their shots")
        live_chart(
            shots_grid_figure(grid, result.judge),
            key="shots-grid",
            revision=run.id,
            height=90 + 44 * len(grid),
            alt=f"{score} by the shots that runs were trained on, against the number of {result.judge.supports}",
        )
    with st.expander("The numbers"):
        for frame, name in ((result.table(), "evaluation"), (result.shots_table(), "shots")):
            st.dataframe(frame, placeholder="–", column_config={str(column): _NUMBER for column in frame})
            _as_csv(run, frame.to_csv(), name)
    note(
        f"{score} on {result.tasks} held-out tasks, {run.config.shots} {result.judge.supports}, "
        f"{run.config.tasks.judged_by}, inner learning rate {run.config.inner_lr:g}; the bands are 95 % intervals of "
        "the mean. "
        f"The same numbers as `python -m maml_core evaluate {run.id} --tasks {tasks} --steps {steps} --checkpoint "
        f"{at}`."
    )
    pretraining_button(session, run)


def worth(session: TrainingSession, run: Run, iteration: int | None, steps: int) -> None:
    """What a run on a table is worth, beside what people would do otherwise."""
    at: At = ("best" if run.best_iteration is not None else "latest") if iteration is None else iteration
    with _progress("Adapting to held-out tasks…") as turn:
        result = measure_table_run(session.store, run, steps=steps, at=at, turn=turn)
    st.markdown(f"##### {as_text(result.sentence())}")
    pretraining_button(session, run)
    live_chart(
        worth_figure(result),
        key="worth",
        revision=f"{run.id}:{steps}",
        height=300,
        alt="Error of each method on held-out tasks, with 95 % intervals",
    )
    left, right = st.columns(2)
    with left:
        live_chart(
            worth_curves(result, against="rows"),
            key="worth-rows",
            revision=f"{run.id}:{steps}",
            height=380,
            alt="Error against the number of rows in the support, with 95 % bands",
        )
    with right:
        live_chart(
            worth_curves(result, against="steps"),
            key="worth-steps",
            revision=f"{run.id}:{steps}",
            height=380,
            alt="Error against adaptation steps, with 95 % bands",
        )
    with st.expander("The numbers"):
        st.dataframe(
            result.table(),
            placeholder="–",
            column_config={str(name): _NUMBER for name in result.table() if name != "steps"},
        )
        _as_csv(run, result.rows_table().to_csv(), "support-rows")
        _as_csv(run, result.steps_table().to_csv(), "steps")
    note(
        f"{len(result.tasks)} tasks that training never saw; of each, {result.supports} random supports of "
        f"{result.shots} rows, and all its other rows to judge by. Intervals are 95 %, by bootstrap over tasks; "
        "differences are paired. "
        "The line is a ridge regression whose penalty is chosen inside the support; starts that were not trained to "
        "adapt take as many steps as suit them best on the validation tasks. "
        f"The same numbers as `python -m maml_core evaluate {run.id} --steps {steps} --checkpoint {at}`."
    )


@contextmanager
def _progress(text: str) -> Iterator[Turn]:
    """Turns at computing, and a bar that comes with the first and moves with each."""
    bar = st.empty()

    @contextmanager
    def turn(done: float) -> Iterator[None]:
        bar.progress(min(done, 1.0), text=text)
        with computing():
            yield

    yield turn
    bar.empty()


def _as_csv(run: Run, text: str, name: str) -> None:
    """A button for the numbers of a table."""
    st.download_button(
        f"{name.replace('-', ' ').capitalize()} as CSV",
        text,
        f"{run.id}-{name}.csv",
        icon=":material/download:",
    )
