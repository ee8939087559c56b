"""A run as files: all of it, or what other programs want."""

from collections.abc import Callable

import streamlit as st

from maml_core.store.exchange import export_run, export_weights
from maml_core.store.run import Run
from maml_core.store.script import adapt_script, no_script
from maml_core.training.session import TrainingSession


def downloads(session: TrainingSession, run: Run) -> None:
    """The run as files: all of it, or what other programs want. Each is made when it is asked for."""
    store = session.store
    with st.popover("Export", icon=":material/download:"):
        is_own, is_on_table = run.config.uses_own_model, run.config.is_on_table
        if is_own:
            st.caption("Its model is a class of your own: export its weights at the command line.")
        elif not run.iteration:
            st.caption("Nothing is trained yet: there are no weights to export.")
        files: list[tuple[str, str, Callable[[], str | bytes], bool, str]] = [
            (
                "The whole run",
                f"run-{run.id}.zip",
                lambda: export_run(store, run.id),
                True,
                "Configuration, weights, metrics and history; a lab on another machine can import and resume it."
                + (" Without the rows of its table." if is_on_table else ""),
            ),
            (
                "Weights",
                f"run-{run.id}.safetensors",
                lambda: export_weights(store, run.id),
                True,
                "The learned initialization by parameter name, as safetensors.",
            ),
            (
                "Metrics CSV",
                f"run-{run.id}-metrics.csv",
                lambda: store.metrics(run.id).to_csv(index=False),
                False,
                "Losses and gradient norm over training.",
            ),
            (
                "Config JSON",
                f"run-{run.id}-config.json",
                lambda: run.config.to_json(indent=2),
                False,
                "Every setting of the run.",
            ),
        ]
        if is_own or no_script(run.config) is None:
            script = (
                "Python script",
                "adapt.py",
                lambda: adapt_script(run.config),
                True,
                "Adapts the weights to new data with nothing but torch and safetensors.",
            )
            files.insert(2, script)
        if is_on_table:
            whole = (
                "The whole run, with its table",
                f"run-{run.id}-with-rows.zip",
                lambda: export_run(store, run.id, with_rows=True),
                True,
                "As above, and all rows of the table it was trained on: your data leave this machine.",
            )
            files.insert(1, whole)
        for label, name, make, needs_model, text in files:
            st.download_button(
                label,
                make,
                name,
                icon=":material/download:",
                on_click="ignore",
                help=text,
                width="stretch",
                disabled=needs_model and (is_own or not run.iteration),
            )
