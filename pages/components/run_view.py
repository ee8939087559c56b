"""A run on screen: its status line, its controls, and the pictures of what its initialization has learned."""

from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from maml_core.errors import MamlError
from maml_core.evaluation.of_runs import reproduction
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from maml_core.words import duration, loss, shortened
from pages.components.frame import REFUSED, STATUS_BADGES
from pages.components.markup import as_text

N = TypeVar("N", int, float)
SEARCH_WIDTH = 250
NAME_SHOWN = 28
"""Characters of a run's name in a list: what tells runs apart must fit on a phone."""


def pick_run(session: TrainingSession) -> Run | None:
    """A select box over all runs, kept in the URL; None if there are none."""
    runs = {run.id: run for run in session.store.all_runs()}
    if not runs:
        return None
    asked = st.query_params.get("run")
    if asked and asked not in runs:
        st.warning(f"run = {asked[:40]!r} does not exist: the newest run is shown.", icon=":material/link_off:")
    ids = list(runs)
    named = {
        run_id: f"{shortened(run.name, NAME_SHOWN)} · {run.status} · {run.iteration:,} iterations"
        for run_id, run in runs.items()
    }
    chosen = st.selectbox(
        "Run",
        ids,
        index=ids.index(asked) if asked in runs else 0,
        format_func=lambda run_id: named[run_id],
    )
    st.query_params["run"] = chosen
    return runs[chosen]


def pick_checkpoint(session: TrainingSession, run: Run) -> int | None:
    """A slider over a run's checkpoint history, kept in the URL; None is its latest state."""
    kept = [iteration for iteration, _ in session.store.history(run.id)]
    asked = query_number("checkpoint", -1, 0, run.meta_iterations)
    if len(kept) < 2:
        return None
    chosen: int | None = st.select_slider(
        "Checkpoint, by meta-iterations",
        [*kept, None],
        value=asked if asked in kept else None,
        format_func=lambda at: "latest" if at is None else f"{at:,}{' (best)' if at == run.best_iteration else ''}",
        key=f"checkpoint-{run.id}",
    )
    if chosen is None:
        st.query_params.pop("checkpoint", None)
    else:
        st.query_params["checkpoint"] = str(chosen)
    return chosen


def search_box() -> str:
    """The words that runs are searched for, kept in the URL."""
    words: str = st.text_input(
        "Search",
        key="search",
        placeholder="Search names, tags, settings",
        label_visibility="collapsed",
        icon=":material/search:",
        bind="query-params",
        width=SEARCH_WIDTH,
    )
    return words


def query_number(name: str, default: N, low: N, high: N) -> N:
    """A number from the URL, or the default where it is absent, no number, or out of bounds."""
    try:
        value = type(default)(st.query_params.get(name, default))
    except ValueError:
        return default
    return value if low <= value <= high else default


def status_line(session: TrainingSession, run: Run) -> None:
    """Name, status, engine and device of a run, how far it is, what it reached, and its message, if any."""
    color, icon = STATUS_BADGES[run.status]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{as_text(run.name)}**", width="content")
        st.badge(run.status, icon=icon, color=color)  # type: ignore[arg-type]
        if run.engine:
            st.badge(run.engine, icon=":material/memory:", color="gray", help=_engine_help(run))
            st.badge(
                run.device or "",
                icon=":material/developer_board:",
                color="gray",
                help="The device used for training. Small networks are trained on the CPU even where there is a GPU, "
                "unless device names it: starting a GPU's many small steps takes longer than the work itself.",
            )
        st.caption(progress_text(run), width="content", help="Loss on query points, before and after adaptation.")
        if run.started_by:
            st.caption(f"started by {as_text(run.started_by)}", width="content")
    st.progress(min(1.0, run.iteration / run.meta_iterations))
    if run.status == "queued":
        busy = session.store.count("running")
        if run.message:
            st.warning(as_text(run.message), icon=":material/info:")
        if not session.limit:
            st.info(
                "Waiting for a worker: this lab only watches. `python -m maml_core work`, on any machine that reaches "
                "the store, trains what is queued.",
                icon=":material/hourglass_top:",
            )
        elif busy >= session.limit:
            st.info(
                f"Waiting for a place: {busy} of {session.limit} runs at once are training. It starts by itself.",
                icon=":material/hourglass_top:",
            )
    elif run.status in ("diverged", "failed"):
        st.error(as_text(run.message), icon=":material/error:")
    elif run.message:
        st.warning(as_text(run.message), icon=":material/info:")


def _engine_help(run: Run) -> str:
    text = "The engine that computes meta-gradients."
    if run.swapped_at is not None:
        text += f" The compiled loop of an earlier version took over at iteration {run.swapped_at:,}."
    return text


def progress_text(run: Run) -> str:
    """How far a run is, how fast, how long it will take, and what adaptation does to its loss."""
    parts = [f"{run.iteration:,} of {run.meta_iterations:,} meta-iterations"]
    if run.rate and run.is_active:
        left = (run.meta_iterations - run.iteration) / min(run.rate, run.pace or run.rate)
        parts += [
            f"{run.rate:,.0f} per second" if run.rate >= 10 else f"{run.rate:.1f} per second",
            f"{duration(left)} left",
        ]
    elif run.seconds:
        parts.append(f"trained for {duration(run.seconds)}")
    if run.pre_loss is not None and run.post_loss is not None:
        parts.append(f"loss {loss(run.pre_loss)} → **{loss(run.post_loss)}**")
    return " · ".join(parts)


def reproduction_note(session: TrainingSession, run: Run) -> None:
    """Whether a finished run of a preset reached what the preset did; nothing for any other run."""
    said = reproduction(session.store, run, lambda done: computing())
    if said:
        st.info(said, icon=":material/verified:")


def act(action: Callable[[], object]) -> None:
    """Do something to a run; if it is refused, say why at the next draw of the page."""
    try:
        action()
    except MamlError as error:
        st.session_state[REFUSED] = str(error)
