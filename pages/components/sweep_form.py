"""A grid of runs, asked for in the browser."""

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import MamlError
from maml_core.presets import DEFAULT, PRESETS
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession
from maml_core.training.sweep import ASK_FROM, grid_configs, parse_grid
from pages.components.markup import as_text

EXAMPLE = "inner_lr=0.003,0.01,0.03\nseed=0,1,2"
MOST_OFFERED = 20


def _base(run: Run) -> str:
    return f"run {run.name} ({run.id})"


def sweep_form(session: TrainingSession) -> None:
    """Settings to combine, how many runs that makes, and the button that starts them."""
    with st.expander("Train a grid of runs", icon=":material/grid_on:"):
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
        text = st.text_area(
            "Settings to combine",
            EXAMPLE,
            key="sweep-grid",
            height=110,
            help="A line for each setting, by its name at the command line: FIELD=VALUE,VALUE,... Every combination is "
            "a run. `meta_iterations=2000` on a line of its own makes all of them shorter.",
        )
        base, preset = offered[chosen]
        try:
            grid = parse_grid(line for line in text.splitlines() if line.strip())
            count = len(grid_configs(base, grid))
        except MamlError as error:
            st.error(as_text(str(error)), icon=":material/error:")
            return
        means_it = count < ASK_FROM or st.checkbox(f"Yes, start {count:,} runs")
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if st.button(f"Train {count:,} runs", icon=":material/play_arrow:", type="primary", disabled=not means_it):
                try:
                    opened = session.sweep(base, grid, preset=preset)
                except MamlError as error:
                    st.error(as_text(str(error)), icon=":material/error:")
                    return
                st.query_params["runs"] = ",".join(opened.run_ids)
                st.rerun()
            st.caption(
                "What is there already is not trained again, so seeds can be added later. At the command line: "
                "`python -m maml_core sweep`.",
                width="content",
            )
