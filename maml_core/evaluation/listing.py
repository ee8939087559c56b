"""The runs of a store as a table for people."""

import json
import math
from collections.abc import Sequence
from urllib.parse import urlencode

import pandas as pd

from maml_core.config import RunConfig, settings_text
from maml_core.evaluation.remembered import Remembered
from maml_core.fields import label
from maml_core.presets import get_preset
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.words import duration, loss

SPARKLINE_POINTS = 40


def runs_table(store: Store, runs: Sequence[Run]) -> pd.DataFrame:
    """A row per run, what matters most first, with words as column heads."""
    curves = _sparklines(store, runs)
    is_shared = any(run.started_by for run in runs)
    return pd.DataFrame(
        {
            "Name": f"📌 {run.name}" if run.pinned else run.name,
            "Status": run.status.capitalize(),
            "Loss": curves[run.id],
            "Best loss": run.best_loss,
            "Progress": run.iteration / run.meta_iterations,
            "Tags": run.tags,
            "Started": pd.Timestamp(run.started or run.created, unit="s", tz="UTC"),
            **({"Started by": run.started_by} if is_shared else {}),
        }
        for run in runs
    )


def tick_list(runs: Sequence[Run]) -> pd.DataFrame:
    """A row per run to choose from."""
    return pd.DataFrame(
        {
            "Name": run.name,
            "Status": run.status.capitalize(),
            "Best loss": run.best_loss,
            "Seed": run.config.seed,
            "Tags": run.tags,
            "Started": pd.Timestamp(run.started or run.created, unit="s", tz="UTC"),
        }
        for run in runs
    )


def details(run: Run) -> dict[str, str]:
    """What people compare runs by, by the words for it."""
    config = run.config
    reached = f"{loss(run.best_loss)} at iteration {run.best_iteration:,}" if run.best_iteration is not None else "–"
    return {
        "Preset": run.preset or "none",
        "Tasks": config.tasks.title,
        "Algorithm": config.method.title,
        label("shots"): str(config.shots),
        label("inner_lr"): f"{config.inner_lr:g}",
        label("inner_steps"): str(config.inner_steps),
        label("meta_lr"): f"{config.meta_lr:g}",
        "Loss on held-out tasks, best": reached,
        "Loss on training tasks, last": loss(run.post_loss),
        "Engine": run.engine or config.engine,
        "Trained for": duration(run.seconds),
        **({"Started by": run.started_by} if run.started_by else {}),
        "Its id": run.id,
    }


def markdown_snippet(config: RunConfig, run: Run | None, preset: str, page: str) -> str:
    """Settings and what they came to, as Markdown, with a link that opens them in any lab at that address."""
    changed = config.settings_beyond(get_preset(preset).config)
    link = f"{page}?{urlencode({'preset': preset} | settings_text(changed))}"
    rows = [("preset", preset), *((name, json.dumps(value)) for name, value in changed.items())]
    if run and run.post_loss is not None:
        rows += [
            ("meta-iterations", f"{run.iteration:,}"),
            ("loss before and after adaptation", f"{loss(run.pre_loss)} → {loss(run.post_loss)}"),
        ]
    table = "\n".join(f"| {name} | `{value}` |" for name, value in rows)
    return f"[Open in MAML Lab]({link})\n\n| setting | value |\n|---|---|\n{table}\n"


def matching(runs: Sequence[Run], text: str) -> list[Run]:
    """The runs in whose name, tags, notes or settings every word of `text` is found, whatever its case."""
    words = text.casefold().split()

    def said(run: Run) -> str:
        parts = (run.name, run.tags, run.notes, run.status, *details(run).values())
        return " ".join(parts).casefold()

    return [run for run in runs if all(word in said(run) for word in words)] if words else list(runs)


def _courses(store: Store, run_ids: Sequence[str]) -> dict[str, list[float]]:
    """The course of the loss after adaptation, as its logarithm, which shows small losses too."""
    found = store.courses(run_ids, SPARKLINE_POINTS)
    return {run_id: [math.log10(max(mean, 1e-12)) for mean in means] for run_id, means in found.items()}


_sparklines = Remembered(_courses)
