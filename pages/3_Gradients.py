"""Correctness made visible: one meta-gradient by every engine, and what other algorithms' point at."""

import streamlit as st

from maml_core.checkpoint import run_layout
from maml_core.errors import MamlError
from maml_core.figures import cosine_figure, toy_figure
from maml_core.gradients import TOY_RANGE, cosines, engines_table, toy
from maml_core.measured import run_parameters
from maml_core.run import Run
from maml_core.session import TrainingSession, computing
from pages.components.frame import open_page
from pages.components.live_chart import live_chart
from pages.components.run_view import pick_checkpoint, pick_run, query_number, status_line


def run_gradients(session: TrainingSession, run: Run) -> None:
    """Engines and algorithms compared at a run's initialization."""
    iteration = pick_checkpoint(session, run)
    learned = run_parameters(session.store, run, iteration)
    if learned is None:
        st.info("This run has no checkpoint yet: train it for a moment first.", icon=":material/info:")
        return
    flat = run_layout(run.config).flatten(learned)
    with computing():
        table = engines_table(run.config, flat)
        found = cosines(run.config, flat)
    st.markdown("##### One meta-gradient, three engines")
    st.dataframe(
        table, hide_index=True,
        column_config={
            "norm": st.column_config.NumberColumn(format="%.5g"),
            "largest difference": st.column_config.NumberColumn("largest difference to higher", format="%.2e"),
            "relative": st.column_config.NumberColumn("relative difference", format="%.2e"),
            "seconds": st.column_config.NumberColumn(format="%.4f"),
        },
    )  # fmt: skip
    st.caption(
        f"FOMAML on {run.config.meta_batch_size} held-out tasks, {run.config.inner_steps} inner steps, "
        "computed now. `higher` goes task by task; the others must agree with it to rounding."
    )
    left, right = st.columns([3, 2])
    with left:
        st.markdown("##### Where other algorithms point")
        live_chart(
            cosine_figure(found.by_step), key="cosines", revision=run.id, height=380,
            alt="Cosine of the meta-gradients of MAML, Reptile and joint pretraining with that of FOMAML",
        )  # fmt: skip
    with right:
        st.markdown("##### The same, layer by layer")
        st.dataframe(
            found.by_layer, height=360,
            column_config={name: st.column_config.NumberColumn(format="%.4f") for name in found.by_layer},
        )  # fmt: skip


def toy_part() -> None:
    """Two parameters, three tasks: the true meta-loss and every algorithm's arrow."""
    low, high = TOY_RANGE
    st.markdown("##### Two parameters, three tasks: softplus(a x + b)")
    columns = st.columns(3)
    for name, default in (("a", -1.5), ("b", -0.5)):
        key = f"toy.{name}"
        if key not in st.session_state:
            st.session_state[key] = query_number(key, default, low, high)
    a = columns[0].slider("a", low, high, step=0.05, key="toy.a")
    b = columns[1].slider("b", low, high, step=0.05, key="toy.b")
    steps = columns[2].slider("Inner steps", 0, 10, query_number("toy.steps", 3, 0, 10))
    st.query_params.update({"toy.a": f"{a:g}", "toy.b": f"{b:g}", "toy.steps": str(steps)})
    with computing():
        found = toy(a, b, steps)

    def move(pick: dict[str, float]) -> None:
        st.session_state["toy.a"], st.session_state["toy.b"] = float(pick["x"]), float(pick["y"])

    live_chart(
        toy_figure(found, a, b), key="toy", revision="toy", height=520, on_pick=move,
        alt="Contours of the meta-loss after the inner steps, and the update of each algorithm at the initialization",
    )  # fmt: skip
    st.caption(
        "Contours: the true meta-loss after the inner steps. Thick arrows: where each algorithm moves the "
        "initialization; thin ones: each task's own, by FOMAML. Click in the picture to move the initialization."
    )


def main() -> None:
    """Lay the page out."""
    session = open_page("pages/3_Gradients.py")
    with st.sidebar:
        run = pick_run(session)
    if run is None:
        st.info("No runs yet. Train one in the lab to see its gradients.", icon=":material/info:")
        st.page_link("app.py", label="Train one in the lab", icon=":material/science:")
    else:
        status_line(session, run)
        try:
            run_gradients(session, run)
        except MamlError as error:
            st.error(str(error), icon=":material/error:")
    toy_part()


main()
