"""The pictures of the Lab page: a task as it adapts, the loss as it falls, six more tasks."""

import time
from collections.abc import Callable, Hashable, Sequence

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import RunNotFoundError
from maml_core.evaluation.of_runs import fresh_fits
from maml_core.figures import Figure, loss_curve, task_figure, task_grid
from maml_core.glossary import linked
from maml_core.learning.fits import TaskFit
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from pages.components.live_chart import live_chart
from pages.components.task_source import task_seed

SMALL_TASKS = 6
SMALL_SECONDS = 1.0
PICTURE_HEIGHT = 350


def pictures(session: TrainingSession, config: RunConfig, run: Run | None) -> None:
    """A fresh task, the live curve beside it, and more tasks below."""
    name = run.id if run else "untrained"
    seed = task_seed()
    hero, loss = st.columns([3, 2])
    with loss:
        if run:
            earlier = _earlier_run(session, run)
            curve = loss_curve(
                session.store.metrics(run.id),
                loss_name=config.tasks.problem.loss_name,
                smoothing=st.session_state["smoothing"],
                log_axis=st.session_state["log_axis"],
                earlier=session.store.metrics(earlier.id) if earlier else None,
                earlier_name=earlier.name if earlier else "",
            )
            live_chart(
                curve,
                key="loss",
                revision=name,
                height=PICTURE_HEIGHT,
                alt="Meta-loss over meta-iterations, before and after adaptation",
            )
        else:
            with st.container(
                border=True, height=PICTURE_HEIGHT, vertical_alignment="center", horizontal_alignment="center"
            ):
                st.markdown("#### Press **Train**", text_alignment="center")
                st.caption(
                    linked(
                        "On the left, an untrained network takes a few gradient steps on the support points of a "
                        "task that it has never seen, and misses. Training finds an initialization from which those "
                        "steps are enough. The meta-loss will fall here."
                    ),
                    text_alignment="center",
                )
    with hero:  # after the curve, which is there even for a model that only the command line loads
        main, *small = _fits(session, config, run, seed)
        live_chart(
            task_figure(main, config.inner_steps),
            key="task",
            revision=f"{name}:{seed}",
            height=PICTURE_HEIGHT,
            alt="A fresh task: what is true, support points, and the model as it adapts step by step",
        )
    live_chart(
        _at_most_every(
            SMALL_SECONDS,
            f"{name}:{seed}",
            run,
            lambda: task_grid(small, columns=SMALL_TASKS, narrow_columns=SMALL_TASKS // 2),
        ),
        key="small-tasks",
        revision=f"{name}:{seed}",
        height=150,
        alt="Six more fresh tasks before and after adaptation, with what each comes to",
    )


def _fits(session: TrainingSession, config: RunConfig, run: Run | None, seed: int) -> Sequence[TaskFit]:
    """The tasks as they adapt; computed anew only where there is something new to see."""
    version = (run.id, run.iteration, seed) if run else (config.to_json(), seed)
    kept: tuple[Hashable, Sequence[TaskFit]] | None = st.session_state.get("fits")
    if kept is None or kept[0] != version:
        with computing():
            found = fresh_fits(session.store, config, run, count=1 + SMALL_TASKS, seed=seed)
        kept = st.session_state["fits"] = version, found
    return kept[1]


def _earlier_run(session: TrainingSession, run: Run) -> Run | None:
    """The run whose curve stays in the chart for comparison, if the URL names one."""
    earlier = st.query_params.get("against")
    if not earlier or earlier == run.id:
        return None
    try:
        other = session.store.run(earlier)
        return (
            other if other.config.tasks.problem.name == run.config.tasks.problem.name else None
        )  # else its loss is another
    except RunNotFoundError:  # deleted meanwhile: there is nothing to compare with
        del st.query_params["against"]
        return None


def _at_most_every(seconds: float, name: str, run: Run | None, make: Callable[[], Figure]) -> Figure:
    """A figure, made anew; while its run trains the last one stands for so long: drawing costs a browser the most."""
    kept: tuple[str, float, Figure] | None = st.session_state.get("small")
    is_fresh = kept is not None and kept[0] == name and time.monotonic() - kept[1] < seconds
    if kept is None or not is_fresh or run is None or not run.is_active:
        kept = st.session_state["small"] = name, time.monotonic(), make()
    return kept[2]
