"""What takes long to find out about compared runs: how they adapt, to many tasks and to a few; and what decides."""

from collections.abc import Callable

import streamlit as st

from maml_core.evaluation.adapted import FEW_TASKS, MOST_ADAPTED, TASKS, Adaptations, adapted_curves, shown_of
from maml_core.evaluation.compare import LEAST_FOR_IMPORTANCE, Group, Importance
from maml_core.evaluation.of_runs import fresh_fits
from maml_core.figures import compare_curves, importance_figure, task_grid
from maml_core.training.session import TrainingSession, computing
from pages.components.frame import following
from pages.components.live_chart import live_chart
from pages.components.markup import as_text

ADAPTING_SECONDS = 1.0
MOST_ROWS, FRESH_TASKS = 6, 4


@st.cache_resource
def adaptations() -> Adaptations:
    """What this server has found out so far."""
    return Adaptations()


def adapted_part(session: TrainingSession, groups: list[Group], spread: str) -> None:
    """How the groups adapt to held-out tasks, found in the background."""
    runs = [run for group in groups for run in group.runs]
    st.markdown("##### On tasks that none of them has seen")
    if len(runs) > MOST_ADAPTED:
        st.caption(
            f"Up to {MOST_ADAPTED} runs are adapted to held-out tasks here, and these are {len(runs)}: tick fewer, or "
            "narrow the search."
        )
        return
    key = f"adapting {','.join(sorted(run.id for run in runs))}"
    pending = st.session_state.setdefault(key, True)

    @st.fragment(run_every=ADAPTING_SECONDS if pending else None)
    @following
    def part() -> None:
        known = adaptations()
        missing = known.missing(session.store, runs)
        if missing:

            def find(_before: object) -> None:
                known.find(session.store, runs, seconds=ADAPTING_SECONDS, turn=computing)

            session.background.latest("adapted runs", (key, len(missing)), find)
            done = len(runs) - len(missing)
            st.progress(done / len(runs), text=f"Adapting to {TASKS} held-out tasks: {done} of {len(runs)} runs…")
        by_step, by_shots = adapted_curves(known.known(session.store, runs), groups, spread=spread)
        left, right = st.columns(2)
        with left:
            live_chart(
                compare_curves(by_step, x="adaptation steps", y="error", cuts=True),
                key="adapted-steps",
                revision=key,
                height=300,
                alt="Error on held-out tasks against adaptation steps: the mean of each group, and its spread",
            )
        with right:
            live_chart(
                compare_curves(by_shots, x="support points", y="error", logarithmic=True, cuts=True),
                key="adapted-shots",
                revision=key,
                height=300,
                alt="Error on held-out tasks against support points: the mean of each group, and its spread",
            )
        if bool(missing) != st.session_state[key]:
            st.session_state[key] = bool(missing)
            st.rerun()

    part()
    st.caption(
        f"The best checkpoint of each run, on {TASKS} held-out tasks (of control {FEW_TASKS}), the same for all runs "
        "of a family; against support points, or rollouts, after the steps that it was trained for. What is far "
        "above the others is cut off; where a curve ends, adaptation diverged."
    )


def tasks_part(session: TrainingSession, groups: list[Group]) -> None:
    """The same fresh tasks, adapted by one run of each group: a row each."""
    shown = shown_of(groups, MOST_ROWS)
    if not shown:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("##### The same fresh tasks, before and after", width="content")
        if st.button("Other tasks", icon=":material/casino:"):
            st.session_state["compare-tasks"] = st.session_state.get("compare-tasks", 0) + 1
    seed = st.session_state.get("compare-tasks", 0)
    for name, run in shown.items():
        with computing():
            fits = fresh_fits(session.store, run.config, run, count=FRESH_TASKS, seed=seed)
        st.caption(f"{as_text(name)}: {as_text(run.name)}")
        live_chart(
            task_grid(fits, columns=FRESH_TASKS),
            key=f"fresh-{run.id}",
            revision=f"{run.id}:{seed}",
            height=140,
            alt=f"Fresh tasks before and after adaptation by {run.name}, with what each comes to",
        )
    left_out = len(groups) - len(shown)
    if left_out:
        st.caption(f"The best run of each of the best groups; {left_out} more are not drawn.")


def what_decides(session: TrainingSession, find: Callable[[], Importance | None], runs: int, version: str) -> None:
    """Which settings decide what these runs reach, where there are enough of them to say so."""
    if runs < LEAST_FOR_IMPORTANCE:
        st.caption(f"From {LEAST_FOR_IMPORTANCE} runs on, how much each setting decides is shown here.")
        return
    pending = st.session_state.setdefault("deciding", True)

    @st.fragment(run_every=ADAPTING_SECONDS if pending else None)
    def part() -> None:
        found, is_newest = session.background.latest("importance", version, lambda _: find())
        if found is not None:
            st.markdown("##### What decides")
        if found is not None and found.explained <= 0:
            st.caption("These settings explain nothing of what the runs reached: the differences look like luck.")
        elif found is not None:
            live_chart(
                importance_figure(found),
                key="importance",
                revision=",".join(found.shares),
                height=60 + 34 * len(found.shares),
                alt="How much each setting decides of what runs reach",
            )
            st.caption(
                f"A random forest explains {max(0.0, found.explained):.0%} of the differences between runs that it has "
                "not seen; a bar is how much worse that gets once a setting's values are shuffled. With few runs, or "
                "settings that were changed together, take it as a hint."
            )
        elif not is_newest:
            st.caption("Finding out how much each setting decides…")
        if is_newest == st.session_state["deciding"]:
            st.session_state["deciding"] = not is_newest
            st.rerun()

    part()
