"""Many runs at once, asked for in the browser: a grid of settings, or a search by Optuna."""

from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import MamlError, StoreAwayError
from maml_core.presets import DEFAULT, PRESETS
from maml_core.store.run import Run
from maml_core.training.search import parse_search
from maml_core.training.session import TrainingSession
from maml_core.training.sweep import ASK_FROM, grid_configs, parse_grid
from pages.components.frame import following
from pages.components.markup import as_text

GRID, SEARCH = "Every combination", "Search by Optuna"
GRID_EXAMPLE = "inner_lr=0.003,0.01,0.03\nseed=0,1,2"
SEARCH_EXAMPLE = "inner_lr=log:0.001:0.1\ninner_steps=1:5"
MOST_OFFERED = 20
MOST_TRIALS, MOST_SEEDS = 1000, 20
WATCH_SECONDS = 2.0

Started = TypeVar("Started")

_WHY = "sweep-refused"
"""Where it is kept what was refused, and why."""


def _base(run: Run) -> str:
    return f"run {run.name} ({run.id})"


def sweep_form(session: TrainingSession) -> None:
    """What the runs have in common, what varies, and the button that starts them."""
    with st.expander("Train many runs", icon=":material/grid_on:"):
        way = st.segmented_control(
            "How settings are chosen", [GRID, SEARCH], default=GRID, key="sweep-way", label_visibility="collapsed"
        )
        offered: dict[str, tuple[RunConfig, str | None]] = {
            f"preset {preset.title}": (preset.config, name) for name, preset in PRESETS.items()
        }
        trainable = [run for run in session.store.all_runs() if not run.config.uses_own_model]
        asked = st.session_state.get("sweep-base")  # its own runs must not push it out of the list
        kept = [run for i, run in enumerate(trainable) if i < MOST_OFFERED or _base(run) == asked]
        offered |= {_base(run): (run.config, run.preset) for run in kept}
        chosen = st.selectbox(
            "Everything else as in",
            list(offered),
            index=list(PRESETS).index(DEFAULT),
            key="sweep-base",
            help="A preset, or one of the newest runs.",
        )
        try:
            (_search if way == SEARCH else _grid)(session, *offered[chosen])
        except MamlError as error:
            st.error(as_text(str(error)), icon=":material/error:")
    if session.drivers():
        _searches(session)


def _lines(label: str, example: str, *, key: str, rule: str) -> list[str]:
    """What somebody has written, a setting a line."""
    rule = f"A line for each setting, by its name at the command line: {rule}"
    text = st.text_area(label, example, key=key, height=110, help=rule)
    return [line for line in text.splitlines() if line.strip()]


def _grid(session: TrainingSession, base: RunConfig, preset: str | None) -> None:
    grid = parse_grid(
        _lines(
            "Settings to combine",
            GRID_EXAMPLE,
            key="sweep-grid",
            rule="FIELD=VALUE,VALUE,... Every combination is a run. `meta_iterations=2000` on a line of its own makes "
            "all of them shorter.",
        )
    )
    count = len(grid_configs(base, grid))
    means_it = count < ASK_FROM or st.checkbox(f"Yes, start {count:,} runs")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        is_asked = st.button(
            f"Train {count:,} runs", icon=":material/play_arrow:", type="primary", disabled=not means_it
        )
        if is_asked and (opened := _unless_refused(lambda: session.sweep(base, grid, preset=preset), grid)):
            st.query_params["runs"] = ",".join(opened.run_ids)
            st.rerun()
        st.caption(
            "What is there already is not trained again, so seeds can be added later. At the command line: "
            "`python -m maml_core sweep`.",
            width="content",
        )
    _say_why_refused(grid)


def _search(session: TrainingSession, base: RunConfig, preset: str | None) -> None:
    lines = _lines(
        "Settings to search",
        SEARCH_EXAMPLE,
        key="search-spans",
        rule="FIELD=LOW:HIGH, FIELD=log:LOW:HIGH or FIELD=VALUE,VALUE,... A setting with one value, such as "
        "`meta_iterations=2000`, is that in all runs.",
    )
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        trials = st.number_input("Trials", 1, MOST_TRIALS, 20, key="search-trials", width=130)
        seeds = st.number_input(
            "Runs in each",
            1,
            MOST_SEEDS,
            1,
            key="search-seeds",
            width=130,
            help="Runs that differ in the seed alone; what counts is the mean of their best held-out losses.",
        )
        prunes = st.toggle(
            "Stop hopeless ones",
            key="search-prunes",
            help="End a trial whose held-out loss is above the median of earlier ones at the same iteration.",
        )
    spans = parse_search(lines)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if st.button(f"Search with {trials:,} trials", icon=":material/travel_explore:", type="primary"):
            options: dict[str, Any] = {"trials": trials, "seeds": seeds, "prunes": prunes, "preset": preset}
            _unless_refused(lambda: session.search(base, spans, **options), spans)
        st.caption(
            "Optuna chooses what to try next. The search ends with this server, and goes on when it is asked for "
            "again. At the command line: `python -m maml_core sweep --search`.",
            width="content",
        )
    _say_why_refused(spans)


def _unless_refused(start: Callable[[], Started], settings: object) -> Started | None:
    """What was started; where it is refused, why is said for as long as these settings stand there.

    The page is drawn anew whenever something is found in the background, which must not take the sentence away.
    """
    st.session_state.pop(_WHY, None)
    try:
        return start()
    except StoreAwayError:
        raise
    except MamlError as error:
        st.session_state[_WHY] = settings, str(error)
        return None


def _say_why_refused(settings: object) -> None:
    refused, why = st.session_state.get(_WHY, (None, ""))
    if refused == settings:
        st.error(as_text(why), icon=":material/error:")


def _compare(name: str) -> None:
    """Have the page show the runs with that tag."""
    st.query_params.pop("runs", None)
    st.session_state["search"] = name


def _searches(session: TrainingSession) -> None:
    """How far the searches of this server have come."""
    is_watched = any(not driver.is_over for driver in session.drivers())

    @st.fragment(run_every=WATCH_SECONDS if is_watched else None)
    @following
    def shown() -> None:
        for driver in session.drivers():
            name = driver.search.name
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                state = "" if not driver.is_over else " (over)"
                st.markdown(f"**{as_text(name)}**{state}: {as_text(driver.progress())}", width="content")
                icon, key = ":material/stacked_line_chart:", f"{name}-{driver.started_by}"
                if st.button("Compare its runs", key=f"compare-{key}", icon=icon, on_click=_compare, args=(name,)):
                    st.rerun()
                is_theirs = session.store.may_change(driver.started_by)
                if not driver.is_over and st.button(
                    "End the search", key=f"end-{key}", icon=":material/stop:", disabled=not is_theirs
                ):
                    driver.stop()
                    st.rerun()
            if driver.trouble:
                st.error(as_text(driver.trouble), icon=":material/error:")
        if is_watched and all(driver.is_over for driver in session.drivers()):
            st.rerun()

    shown()
