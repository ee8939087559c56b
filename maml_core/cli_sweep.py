"""A grid of runs at the command line."""

import argparse
import json
import sys
import time
from contextlib import closing
from dataclasses import asdict
from typing import Any

import pandas as pd
from tqdm import tqdm

from maml_core.config import RunConfig, parse_settings
from maml_core.errors import ConfigError
from maml_core.evaluation.compare import comparison, grouped
from maml_core.presets import DEFAULT, get_preset
from maml_core.store.store import Store
from maml_core.training.ray_fleet import RayFleet
from maml_core.training.search import Search, parse_search
from maml_core.training.session import TrainingSession, default_limit
from maml_core.training.stretch import patiently
from maml_core.training.sweep import ASK_FROM, Sweep, grid_configs, open_sweep, parse_grid
from maml_core.words import loss, said

LOOK_SECONDS = 0.5


def add_sweep_options(command: argparse.ArgumentParser) -> None:
    """What `sweep` takes, beside --set, --preset and --store."""
    command.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=VALUE,VALUE,...", help="values to combine with all others"
    )
    command.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="FIELD=RANGE",
        help="instead of a grid, what Optuna may try: LOW:HIGH, log:LOW:HIGH or VALUE,VALUE,...",
    )
    command.add_argument("--trials", type=int, default=20, metavar="N", help="of a search (default 20)")
    command.add_argument("--seeds", type=int, default=1, metavar="N", help="runs in each trial of a search (default 1)")
    command.add_argument("--prune", action="store_true", help="stop trials that are worse than the median halfway")
    command.add_argument("--name", metavar="NAME", help="tag of the runs (default: one that follows from the grid)")
    command.add_argument("--jobs", type=int, metavar="N", help="runs at once (cores less one)")
    command.add_argument("--on", choices=("here", "ray"), default="here", help="where: this machine, or a Ray cluster")
    command.add_argument("--yes", action="store_true", help=f"start {ASK_FROM} runs or more")


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """Train every run of a grid, and print how they compare; what is there already is not trained again.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
    preset = options.preset or DEFAULT
    if options.jobs is None and options.on == "here":
        options.jobs = default_limit()
    base = get_preset(preset).config.with_settings(parse_settings(options.settings))
    if options.search:
        return _search(options, base, preset)
    grid = parse_grid(options.grid, flag="--grid ")
    count = len(grid_configs(base, grid))
    if count >= ASK_FROM and not options.yes:
        raise ConfigError(f"The grid has {count:,} runs: add --yes to start them, or give fewer values.")
    _check_counts(options, "jobs")
    store = Store(options.store)
    opened = open_sweep(store, base, grid, name=options.name, preset=preset)
    known = len(opened.run_ids) - opened.made
    print(f"{opened.name}: {opened.made} new runs{f', {known} known' if known else ''}", file=sys.stderr)
    _work_off(store, opened, options)
    runs = opened.runs(store)
    table = comparison(store, grouped(runs))
    if not options.json:
        print(table.to_string(index=False, float_format=loss, na_rep="–"))
    return {
        "sweep": opened.name,
        "runs": [{"run": run.id, "status": run.status, "held_out_loss": run.best_loss} for run in runs],
        "groups": json.loads(table.to_json(orient="records")),
    }


def _check_counts(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)} is not allowed: it must be at least 1.")


def _search(options: argparse.Namespace, base: RunConfig, preset: str) -> dict[str, Any]:
    """Have Optuna choose settings, and print what they came to."""
    if options.grid:
        raise ConfigError("--search and --grid are not allowed together: a value that stays goes into --set.")
    _check_counts(options, "trials", "seeds", "jobs")
    store = Store(options.store)
    spans = parse_search(options.search, flag="--search ")
    with closing(_workers(store, options)) as workers:
        search = Search(
            store,
            base,
            spans,
            trials=options.trials,
            seeds=options.seeds,
            at_once=max(1, workers.limit // options.seeds),
            prunes=options.prune,
            name=options.name,
            preset=preset,
        )
        print(f"{search.name}: its trials are a study of that name in {store.database.name}", file=sys.stderr)
        with tqdm(total=options.trials, unit="trial", file=sys.stderr, mininterval=0.2) as bar:

            def report(now: Search) -> None:
                done = [trial for trial in now.results() if trial.state != "running"]
                bar.update(len(done) - bar.n)
                if done and done[0].value is not None:
                    bar.set_postfix_str(f"best {loss(done[0].value)}", refresh=False)

            search.work(workers.ensure_workers, report)
    found = search.results()
    if not options.json:
        rows = [
            {"trial": trial.number, "held-out loss": trial.value, "state": trial.state}
            | {name: said(value) for name, value in trial.settings.items()}
            for trial in found
        ]
        print(pd.DataFrame(rows).to_string(index=False, float_format=loss, na_rep="–"))
    return {"search": search.name, "trials": [asdict(trial) for trial in found]}


def _workers(store: Store, options: argparse.Namespace) -> TrainingSession | RayFleet:
    """Those that train what is queued, here or on a cluster."""
    return RayFleet(store, options.jobs) if options.on == "ray" else TrainingSession(store.url, limit=options.jobs)


def _work_off(store: Store, opened: Sweep, options: argparse.Namespace) -> None:
    """Keep workers until no run of the sweep is queued or running; those of a lab on the same store help."""
    runs = opened.runs(store)
    if not any(run.is_active for run in runs):
        return
    workers = _workers(store, options)
    total = sum(run.meta_iterations for run in runs)
    with closing(workers), tqdm(total=total, unit="it", file=sys.stderr, mininterval=0.2) as bar:
        while True:
            runs = patiently(lambda: opened.runs(store), opened.name)
            bar.update(sum(run.iteration for run in runs) - bar.n)
            left = sum(run.is_active for run in runs)
            bar.set_postfix_str(f"{len(runs) - left} of {len(runs)} runs done", refresh=False)
            if not left:
                return
            patiently(workers.ensure_workers, opened.name)
            time.sleep(LOOK_SECONDS)
