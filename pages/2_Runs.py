"""Every run: look, open, rename, delete, download."""

import json

import pandas as pd
import streamlit as st

from maml_core.figures import sparkline
from maml_core.session import TrainingSession
from maml_core.store import ACTIVE, Run
from pages.components.frame import duration, open_page
from pages.components.run_view import act, status_line

LIVE_SECONDS = 1.0
WATCH_SECONDS = 3.0


def table(session: TrainingSession, runs: list[Run]) -> Run | None:
    """The table of runs; returns the one that is selected."""
    frame = pd.DataFrame(
        {
            "name": run.name,
            "status": run.status,
            "loss": sparkline(session.store.metrics(run.id)),
            "progress": run.iteration / run.meta_iterations,
            "iterations": run.iteration,
            "last loss": run.post_loss,
            "best loss": run.best_loss,
            "preset": run.preset or "–",
            "family": run.config.tasks.family,
            "shots": run.config.shots,
            "inner_lr": run.config.inner_lr,
            "inner_steps": run.config.inner_steps,
            "engine": run.engine or run.config.engine,
            "started": pd.Timestamp(run.started or run.created, unit="s", tz="UTC"),
            "duration": duration(run.seconds),
            "id": run.id,
        }
        for run in runs
    )
    event = st.dataframe(
        frame,
        hide_index=True,
        key="runs",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "loss": st.column_config.LineChartColumn("loss", help="Loss after adaptation, on a logarithmic scale."),
            "progress": st.column_config.ProgressColumn("progress", format="percent", min_value=0, max_value=1),
            "last loss": st.column_config.NumberColumn(format="%.4g", help="On training tasks, after adaptation."),
            "best loss": st.column_config.NumberColumn(format="%.4g", help="On held-out tasks, after adaptation."),
            "started": st.column_config.DatetimeColumn(format="distance"),
        },
    )
    chosen = event["selection"]["rows"]
    return runs[chosen[0]] if chosen and chosen[0] < len(runs) else None


@st.dialog("Delete this run?")
def confirm_delete(session: TrainingSession, run: Run) -> None:
    """Ask before a run is deleted."""
    st.text(f"{run.name}: {run.iteration:,} meta-iterations, with its metrics and checkpoints. This cannot be undone.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it"):
            st.rerun()
        if st.button("Delete", type="primary", icon=":material/delete:"):
            act(lambda: session.store.delete(run.id))
            st.rerun()


def actions(session: TrainingSession, run: Run) -> None:
    """What can be done with the selected run."""
    status_line(session, run)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.page_link("app.py", label="Open in the lab", icon=":material/science:", query_params={"run": run.id})
        st.page_link("pages/1_Adapt.py", label="Adapt", icon=":material/timeline:", query_params={"run": run.id})
        name = st.text_input("Name", run.name, max_chars=80, key=f"name-{run.id}")
        if name != run.name:
            act(lambda: session.store.edit(run.id, name=name))
            st.rerun()
        st.download_button(
            "Metrics CSV", session.store.metrics(run.id).to_csv(index=False), f"run-{run.id}-metrics.csv", "text/csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        st.download_button(
            "Config JSON", run.config.to_json(indent=2), f"run-{run.id}-config.json", "application/json",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        if st.button(
            "Delete", icon=":material/delete:", disabled=run.status == "running", help="A run must be stopped first."
        ):
            confirm_delete(session, run)
    with st.expander("Configuration"):
        st.json(json.loads(run.config.to_json()))


def main() -> None:
    """Lay the page out."""
    session = open_page("pages/2_Runs.py")
    st.markdown("#### Every run")
    active = session.store.count(*ACTIVE)

    @st.fragment(run_every=LIVE_SECONDS if active else WATCH_SECONDS)
    def listing() -> None:
        runs = session.store.all_runs()
        if not runs:
            st.info("No runs yet. Train one in the lab, or with `python -m maml_core train`.", icon=":material/info:")
            st.page_link("app.py", label="Go to the lab", icon=":material/science:")
            return
        run = table(session, runs)
        if run:
            actions(session, run)
        else:
            st.caption("Select a run to open, rename, delete or download it.")

    listing()


main()
