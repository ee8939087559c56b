"""Correctness made visible: one meta-gradient by every engine, and where those of other algorithms point."""

import streamlit as st

from maml_core.errors import MamlError, RunNotFoundError
from maml_core.evaluation.gradients import Gradients, compared_tasks, gradients_of, gradients_seconds
from maml_core.evaluation.toy import TOY_RANGE, TOY_RATE, toy
from maml_core.figures import cosine_figure, toy_figure
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from maml_core.words import counted_steps
from pages.components.frame import page
from pages.components.glossary_view import note
from pages.components.live_chart import Pick, live_chart
from pages.components.run_view import pick_checkpoint, pick_run, query_number, status_line

LIVE_SECONDS = 3.0
COSTLY_SECONDS = 10.0
"""Between two comparisons of a run that trains: each takes seconds of a core."""
SOON = 0.5
"""Until something is there to be shown."""


def run_gradients(session: TrainingSession, run: Run, iteration: int | None) -> bool:
    """Engines and algorithms compared at a run's initialization, in the background; whether that is still to come."""
    answer = session.background.latest(
        f"gradients {run.id} {iteration}",
        run.iteration if iteration is None else iteration,
        lambda _: gradients_of(session.store, run, iteration, turn=computing),
        every=COSTLY_SECONDS if run.is_active else SOON,
    )
    if answer.value is not None:
        show_gradients(run, answer.value)
    elif answer.is_newest:
        st.info("This run has no checkpoint yet: train it for a moment first.", icon=":material/info:")
    else:
        st.caption("One meta-gradient is being computed by every engine…")
    return not answer.is_newest and (answer.value is None or not run.is_active)


def show_gradients(run: Run, gradients: Gradients) -> None:
    """Tables and a chart of what was compared."""
    engines, found, solved = gradients
    if solved is not None:
        st.markdown("##### Through the solution, or around it")
        st.dataframe(
            solved,
            placeholder="–",
            column_config={str(name): st.column_config.NumberColumn(format="%.4g") for name in solved},
        )
        note(
            "A ridge head's last layer is a function of the features that it is solved on. The meta-gradient goes "
            "through that function; `fo-ridge-head` takes its value for a constant, and so learns features for a head "
            "that will not be there."
        )
    st.markdown("##### One meta-gradient, three engines")
    st.dataframe(
        engines.table,
        hide_index=True,
        placeholder="–",
        column_config={
            "Norm": st.column_config.NumberColumn(format="%.5g"),
            "Largest difference from higher": st.column_config.NumberColumn(format="%.2e"),
            "Relative difference": st.column_config.NumberColumn(format="%.2e"),
            "Milliseconds": st.column_config.NumberColumn(format="%.2f"),
        },
    )
    note(
        f"FOMAML on {compared_tasks(run.config)} held-out tasks, after {counted_steps(run.config.inner_steps)}, "
        "computed by each. `higher` goes task by task; the others must agree with it to rounding. "
        "Where there is no number, the inner steps diverge."
    )
    for name, reason in engines.absent.items():
        st.caption(f"`{name}` takes no part: {reason}.".replace("..", "."))
    left, right = st.columns([3, 2])
    with left:
        st.markdown("##### Where other algorithms point")
        live_chart(
            cosine_figure(found.by_step),
            key="cosines",
            revision=run.id,
            height=380,
            alt="Cosine of the meta-gradients of MAML, Reptile and joint pretraining with that of FOMAML",
        )
    with right:
        st.markdown("##### The same, layer by layer")
        st.dataframe(
            found.by_layer,
            placeholder="–",
            column_config={str(name): st.column_config.NumberColumn(format="%.4f") for name in found.by_layer},
        )
    if not run.config.tasks.problem.predicts:
        note("1 is the same direction, 0 a right angle. Gradients of sampled rollouts differ by chance, too.")
        return
    note(
        "1 is the same direction, 0 a right angle. Below 0, with a zigzag over the steps, the inner steps overshoot: "
        "inner_lr times the curvature is above 1, and the first-order gradient has the opposite sign there. That is "
        "what first-order methods lose by leaving the second derivatives out."
    )


@st.fragment
def toy_part() -> None:
    """Two parameters, three tasks: the true meta-loss and every algorithm's arrow."""
    low, high = TOY_RANGE
    st.markdown("##### Two parameters, three tasks: softplus(a x + b)")
    columns = st.columns(3)
    for name, default in (("a", -1.5), ("b", -0.5)):
        key = f"toy.{name}"
        if key not in st.session_state:
            st.session_state[key] = query_number(key, default, low, high)
    a = columns[0].slider("a", low, high, step=0.01, key="toy.a")
    b = columns[1].slider("b", low, high, step=0.01, key="toy.b")
    steps = columns[2].slider("Inner steps", 0, 10, query_number("toy.steps", 3, 0, 10), key="toy.inner_steps")
    st.query_params.update({"toy.a": f"{a:g}", "toy.b": f"{b:g}", "toy.steps": str(steps)})
    with computing():
        found = toy(a, b, steps)

    def move(pick: Pick) -> None:
        for name, value in (("a", pick["x"]), ("b", pick["y"])):
            st.session_state[f"toy.{name}"] = round(min(high, max(low, float(value))), 2)

    live_chart(
        toy_figure(found, a, b),
        key="toy",
        revision="toy",
        height=520,
        on_pick=move,
        drags=True,
        alt="Contours of the meta-loss after the inner steps, and the update of each algorithm at the initialization",
    )
    note(
        f"Contours: the true meta-loss after {steps} inner steps at inner_lr = {TOY_RATE:g}. Thick arrows: the "
        "direction in which each algorithm moves the initialization; thin ones: each task's own, by FOMAML. "
        "MAML's alone is the slope of the contours. Drag the point to see where the others differ."
    )


@page("pages/3_Gradients.py")
def main(session: TrainingSession) -> None:
    """Lay the page out."""
    with st.sidebar:
        run = pick_run(session)
    if run is None:
        st.info("No runs yet. Train one in the lab to see its gradients.", icon=":material/info:")
        st.page_link("app.py", label="Train one in the lab", icon=":material/science:")
    else:
        status_line(session, run)
        iteration = pick_checkpoint(session, run)

        quick = gradients_seconds(run.config) < LIVE_SECONDS / 4
        key = f"pending gradients {run.id} {iteration}"
        pending = st.session_state.setdefault(key, True)
        is_live = run.is_active and iteration is None and quick

        @st.fragment(run_every=SOON if pending else LIVE_SECONDS if is_live else None)
        def live_part() -> None:
            try:
                now = session.store.run(run.id)
                if now.is_active != run.is_active:
                    st.rerun()
                more = run_gradients(session, now, iteration)
            except RunNotFoundError:  # deleted in another tab
                st.rerun()
            except MamlError as error:
                st.error(str(error), icon=":material/error:")
                more = False
            if more != st.session_state[key]:
                st.session_state[key] = more
                st.rerun()

        live_part()
    toy_part()


main()
