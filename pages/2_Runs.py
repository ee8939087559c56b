"""Every run: look, open, go on, export, import, delete."""

import json
import time

import streamlit as st

from maml_core.evaluation.listing import details, matching, runs_table
from maml_core.fields import label
from maml_core.figures import loss_curve
from maml_core.store.exchange import SIZE_LIMIT
from maml_core.store.run import ACTIVE, NAME_LENGTH, NOTES_LENGTH, RESUMABLE, TAGS_LENGTH, Run
from maml_core.store.store import UNDO_SECONDS
from maml_core.training.session import TrainingSession
from pages.components.config_form import keep_for_form
from pages.components.downloads import downloads
from pages.components.frame import following, page
from pages.components.live_chart import live_chart
from pages.components.markup import as_text
from pages.components.run_view import act, search_box, status_line

FILTERS = {
    "All": None,
    "Active": ACTIVE,
    "Resumable": RESUMABLE,
    "Finished": ("finished",),
    "Failed": ("diverged", "failed"),
}
_EARLIER_FILTERS = {
    "all": "All",
    "active": "Active",
    "can go on": "Resumable",
    "finished": "Finished",
    "in trouble": "Failed",
}
LIVE_SECONDS = 1.0
SMOOTHING = 0.9
WATCH_SECONDS = 3.0


def table(session: TrainingSession, runs: list[Run]) -> Run:
    """The table of runs; returns the one that is selected, at first the one that the link names, or else the first."""
    asked = st.query_params.get("run")
    first = next((i for i, run in enumerate(runs) if run.id == asked), 0)
    event = st.dataframe(
        runs_table(session.store, runs),
        hide_index=True,
        key="runs",
        on_select="rerun",
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [first]}},
        placeholder="–",
        column_config={
            "Name": st.column_config.TextColumn(width="medium"),
            "Loss": st.column_config.LineChartColumn(
                help="Loss after adaptation, on a logarithmic scale.", width="small"
            ),
            "Best loss": st.column_config.NumberColumn(format="%.4g", help="On held-out tasks, after adaptation."),
            "Progress": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1, width="small"),
            "Started": st.column_config.DatetimeColumn(format="distance"),
        },
    )
    chosen = event["selection"]["rows"]
    return runs[chosen[0]] if chosen and chosen[0] < len(runs) else runs[first]


def undo(session: TrainingSession) -> None:
    """For ten seconds after a run was deleted: a way back."""
    name, run_id, when = st.session_state.get("deleted", ("", "", 0.0))
    if not run_id:
        return

    @st.fragment(run_every=1.0)
    @following
    def offer() -> None:
        left = when + UNDO_SECONDS - time.monotonic()
        if left <= 0:
            st.session_state.pop("deleted", None)
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center", border=True, key="undo"):
            st.markdown(f"{as_text(name)} is deleted.", width="stretch")
            if st.button("Undo", icon=":material/undo:"):
                st.session_state.pop("deleted", None)
                act(lambda: session.store.restore(run_id))
                st.rerun()
            st.caption(f"for {left:.0f} s", width="content")

    offer()


def go_on(session: TrainingSession, run: Run) -> None:
    """Resume or stop a run, start another like it, pin it, delete it."""
    is_theirs = not session.store.may_change(run.started_by)
    if run.is_resumable:
        if st.button("Resume", icon=":material/resume:", disabled=is_theirs):
            act(lambda: session.resume(run.id))
            st.rerun()
    elif st.button("Stop", icon=":material/stop:", disabled=not run.is_active or is_theirs):
        act(lambda: session.store.ask(run.id, "stop"))
        st.rerun()
    if st.button("Duplicate", icon=":material/content_copy:", help="Open its configuration in the lab as a new run."):
        keep_for_form(run.config, run.preset)
        st.switch_page("app.py")
    if st.button(
        "Unpin" if run.pinned else "Pin",
        icon=":material/push_pin:",
        help="Pinned runs come first.",
        disabled=is_theirs,
    ):
        act(lambda: session.store.edit(run.id, pinned=not run.pinned))
        st.rerun()
    downloads(session, run)
    if st.button(
        "Delete",
        icon=":material/delete:",
        disabled=run.status == "running" or is_theirs,
        help="Only who started it, or an admin, deletes a run." if is_theirs else "A run must be stopped first.",
    ):

        def discard() -> None:
            session.store.discard(run.id)
            st.session_state["deleted"] = run.name, run.id, time.monotonic()

        act(discard)
        st.rerun()


def selected(session: TrainingSession, run: Run) -> None:
    """The selected run: its curve, what can be done with it, and what it is."""
    status_line(session, run)
    live_chart(
        loss_curve(session.store.metrics(run.id), loss_name=run.config.tasks.problem.loss_name, smoothing=SMOOTHING),
        key="run-loss",
        revision=run.id,
        height=230,
        alt="Meta-loss of the selected run, before and after adaptation",
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.page_link("app.py", label="Open in the lab", icon=":material/science:", query_params={"run": run.id})
        st.page_link("pages/1_Adapt.py", label="Adapt", icon=":material/timeline:", query_params={"run": run.id})
        st.page_link(
            "pages/3_Gradients.py", label="Gradients", icon=":material/north_east:", query_params={"run": run.id}
        )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        go_on(session, run)

    def edit(name: str) -> None:
        act(lambda: session.store.edit(run.id, **{name: st.session_state[f"{name}-{run.id}"]}))

    is_theirs = not session.store.may_change(run.started_by)
    left, right = st.columns(2)
    for place, name, value, most in (
        (left, "name", run.name, NAME_LENGTH),
        (right, "tags", run.tags, TAGS_LENGTH),
    ):
        key = f"{name}-{run.id}"
        hint = "with commas between them" if name == "tags" else None
        place.text_input(
            label(name),
            value,
            max_chars=most,
            key=key,
            on_change=edit,
            args=(name,),
            placeholder=hint,
            disabled=is_theirs,
        )
    st.text_area(
        "Notes",
        run.notes,
        max_chars=NOTES_LENGTH,
        key=f"notes-{run.id}",
        height=68,
        on_change=edit,
        args=("notes",),
        disabled=is_theirs,
    )
    st.table({name: as_text(text) for name, text in details(run).items()}, border="horizontal")
    with st.expander("Every setting, as JSON"):
        st.json(json.loads(run.config.to_json()))


def importer(session: TrainingSession) -> None:
    """Add a run that was exported elsewhere. A file is taken once, however often the page is drawn."""
    with st.popover("Import a run", icon=":material/upload:"):
        file = st.file_uploader(
            "A run exported by this lab, as .zip", type="zip", max_upload_size=SIZE_LIMIT // 2**20, key="import"
        )
    if file and st.session_state.get("imported") != file.file_id:
        st.session_state["imported"] = file.file_id

        def add() -> None:
            run = session.store.run(session.add(file.getvalue()))
            st.toast(f"{as_text(run.name)} was imported.", icon=":material/check:")

        act(add)
        st.rerun()


@page("pages/2_Runs.py")
def main(session: TrainingSession) -> None:
    """Lay the page out."""
    if st.query_params.get("filter") in _EARLIER_FILTERS:  # a link that an earlier version of the page made
        st.session_state["filter"] = st.query_params["filter"] = _EARLIER_FILTERS[st.query_params["filter"]]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("#### Every run", width="content")
        kind = st.segmented_control(
            "Show",
            list(FILTERS),
            default="All",
            key="filter",
            label_visibility="collapsed",
            required=True,
            bind="query-params",
        )
        sought = search_box()
        importer(session)
    active = session.store.count(*ACTIVE)

    @st.fragment(run_every=LIVE_SECONDS if active else WATCH_SECONDS)
    @following
    def listing() -> None:
        runs, unreadable = session.store.listing()
        if unreadable:
            st.warning(
                f"{unreadable} damaged runs cannot be read and are not shown; they are left as they are.",
                icon=":material/database_off:",
            )
        if not runs:
            st.info("No runs yet. Train one in the lab, or with `python -m maml_core train`.", icon=":material/info:")
            st.page_link("app.py", label="Go to the lab", icon=":material/science:")
            return
        wanted, everything = FILTERS[kind], len(runs)
        runs = matching([run for run in runs if wanted is None or run.status in wanted], sought)
        if not runs:
            st.info(
                f"No {kind.lower()} runs{' with these words' if sought else ''} at the moment: choose All"
                f"{' and clear the search' if sought else ''} to see the others.",
                icon=":material/filter_list:",
            )
            return
        left, right = st.columns([3, 2])
        with left:
            run = table(session, runs)
            if len(runs) > 1:
                here = {"runs": ",".join(each.id for each in runs)} if len(runs) < everything else {}
                st.page_link(
                    "pages/5_Compare.py",
                    label=f"Compare these {len(runs)} runs",
                    icon=":material/stacked_line_chart:",
                    query_params=here,
                )
        with right:
            selected(session, run)

    listing()
    undo(session)  # after the list: a fragment that changes its place on the page loses the clicks that are under way


main()
