"""Many runs side by side: mean and spread over seeds, only the settings that differ, what was reached against them."""

import streamlit as st

from maml_core.errors import MamlError
from maml_core.evaluation.compare import (
    FIGURES,
    MOST_RUNS,
    SPREADS,
    Group,
    as_latex,
    comparison,
    curves,
    grouped,
    heat,
    importance,
    of_runs,
    settings_in,
    varied,
)
from maml_core.evaluation.listing import matching, tick_list
from maml_core.figures import axes_of, compare_curves, heat_figure, parallel_figure, scatter_figure
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession
from pages.components.adapted_view import adapted_part, tasks_part, what_decides
from pages.components.frame import following, page
from pages.components.live_chart import live_chart
from pages.components.markup import as_text
from pages.components.run_view import search_box
from pages.components.sweep_form import sweep_form

WATCH_SECONDS = 3.0
ALL_BUT_THE_SEED = "all but the seed"


def choose(session: TrainingSession) -> list[Run]:
    """The runs to compare, kept in the URL: those named there, or those that the search finds."""
    runs = session.store.all_runs()
    asked = [run_id for run_id in st.query_params.get("runs", "").split(",") if run_id]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("#### Runs side by side", width="content")
        sought = search_box()
    found = matching(runs, sought)[:MOST_RUNS]
    gone = [run_id for run_id in asked if run_id not in {run.id for run in runs}]
    if gone:
        st.warning(
            f"{len(gone)} of the runs in the link do not exist here, {as_text(gone[0][:40])} among them: the others "
            "are shown.",
            icon=":material/link_off:",
        )
    if not found:
        st.info(
            "No runs with these words." if sought else "No runs yet. Train some in the lab, or a grid of them here.",
            icon=":material/info:",
        )
        st.page_link("app.py", label="Go to the lab", icon=":material/science:")
        return []
    ticked = [i for i, run in enumerate(found) if run.id in asked] if asked else list(range(len(found)))
    with st.expander(f"Runs: {len(ticked)} of {len(runs)} compared", icon=":material/checklist:"):
        event = st.dataframe(
            tick_list(found),
            hide_index=True,
            key=f"ticks-{sought}-{len(found)}",
            on_select="rerun",
            selection_mode="multi-row",
            selection_default={"selection": {"rows": ticked}},
            placeholder="–",
            height=260,
        )
    chosen = [found[i] for i in event["selection"]["rows"] if i < len(found)]
    if not chosen:
        st.info("No run is ticked: open the list and tick some.", icon=":material/checklist:")
    if len(chosen) == len(found):
        st.query_params.pop("runs", None)
    else:
        st.query_params["runs"] = ",".join(run.id for run in chosen)
    return chosen


def choices(runs: list[Run]) -> tuple[str, str, list[str]]:
    """What to compare by, what to draw around a mean, and what to group by."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        figure = st.selectbox(
            "Compare by", list(FIGURES), format_func=FIGURES.__getitem__, key="figure", bind="query-params", width=230
        )
        spread = st.selectbox(
            "Around a mean",
            list(SPREADS),
            format_func=SPREADS.__getitem__,
            key="spread",
            bind="query-params",
            width=200,
        )
        by = st.multiselect(
            "Group by",
            varied(runs),
            key="by",
            placeholder=ALL_BUT_THE_SEED,
            help="Runs that agree in all of these are one group. Unless told otherwise: in all but the seed.",
            width=320,
        )
    return figure, spread, by


def groups_part(session: TrainingSession, groups: list[Group], figure: str, spread: str) -> None:
    """The curves of the groups, and the table of what they reached."""
    live_chart(
        compare_curves(curves(session.store, groups, spread=spread)),
        key="compare",
        revision=",".join(group.name for group in groups),
        height=380,
        alt="Loss after adaptation over training: the mean of each group, and the spread of its runs",
    )
    st.caption(
        f"A line is the mean of a group's runs, smoothed; the band is their {SPREADS[spread]}; N is how many they are. "
        "Where some have not come as far as others, the mean is that of those that have."
    )
    reference = st.selectbox(
        "Reference",
        [group.name for group in groups],
        index=None,
        key="reference",
        placeholder="none: choose a group to see how far the others are from it",
        help="Differences are taken seed by seed, with the 95 % interval of a paired t-test.",
    )
    table = comparison(session.store, groups, figure=figure, spread=spread, reference=reference)
    st.dataframe(
        table,
        hide_index=True,
        placeholder="–",
        column_config={
            FIGURES[figure]: st.column_config.NumberColumn(format="%.4g"),
            "Difference": st.column_config.NumberColumn(format="%+.3g"),
        },
    )
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "Table as CSV", table.to_csv(index=False), "comparison.csv", "text/csv", icon=":material/table:"
        )
        st.download_button(
            "Table as LaTeX", lambda: as_latex(table), "comparison.tex", "text/plain", icon=":material/function:"
        )


def settings_part(session: TrainingSession, runs: list[Run], figure: str) -> None:
    """What was reached against the settings that vary."""
    if any(run.status == "diverged" for run in runs) and st.toggle("Leave out runs that diverged", key="whole"):
        runs = [run for run in runs if run.status != "diverged"]
    frame = of_runs(session.store, runs, figure)
    settings = settings_in(frame)
    left_out = len(runs) - len(frame)
    if left_out:
        st.caption(f"{left_out} of {len(runs)} runs have no such figure (yet) and are not drawn.")
    if len(frame) < 2 or not settings:
        st.caption("With runs that differ in a setting, what they reached is drawn against it here.")
        return
    left, right = st.columns([3, 2])
    with left:
        st.markdown("**What leads where**", help="Drag along an axis to keep the runs that pass there.")
        live_chart(
            parallel_figure(frame),
            key="parallel",
            revision=",".join(frame.columns),
            height=360,
            alt="A line for each run across the settings that vary, to what it reached",
        )
        drawn = axes_of(frame)
        if len(drawn) < len(settings):
            st.caption(f"Of {len(settings)} settings that vary, the first {len(drawn)} that all of these runs have.")
    with right:
        setting = st.selectbox("Against", settings, key="against-setting")
        live_chart(
            scatter_figure(frame, setting),
            key="scatter",
            revision=setting,
            height=300,
            alt=f"What each run reached against its {setting}",
        )
    pairs = [name for name in settings if name != "seed"]
    if len(pairs) > 1:
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            across = st.selectbox("Across", pairs, key="heat-across", width=200)
            up = st.selectbox("Up", [name for name in pairs if name != across], key="heat-up", width=200)
        live_chart(
            heat_figure(heat(frame, across, up), FIGURES[figure]),
            key="heat",
            revision=f"{across}:{up}",
            height=320,
            alt=f"What runs reached by {across} and {up}: the mean of the runs of each pair",
        )
    what_decides(session, lambda: importance(frame), len(frame), frame.to_json())


@page("pages/5_Compare.py")
def main(session: TrainingSession) -> None:
    """Lay the page out."""
    runs = choose(session)
    sweep_form(session)
    if not runs:
        return
    figure, spread, by = choices(runs)

    @st.fragment(run_every=WATCH_SECONDS if any(run.is_active for run in runs) else None)
    @following
    def part() -> None:
        chosen = {run.id for run in runs}
        now = [run for run in session.store.all_runs() if run.id in chosen]
        try:
            groups_part(session, grouped(now, by), figure, spread)
            settings_part(session, now, figure)
        except MamlError as error:
            st.error(str(error), icon=":material/error:")

    part()
    try:
        groups = grouped(runs, by)
        adapted_part(session, groups, spread)
        tasks_part(session, groups)
    except MamlError as error:
        st.error(str(error), icon=":material/error:")


main()
