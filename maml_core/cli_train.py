"""Training at the command line: `train` and `resume`."""

import argparse
import sys
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from maml_core.cli_tables import refuse_roles, table_config
from maml_core.config import RunConfig, parse_settings
from maml_core.errors import ConfigError, MamlError, brief
from maml_core.evaluation.compare import LAST_ROWS, figures
from maml_core.logs import LOG, log_to
from maml_core.presets import DEFAULT, get_preset
from maml_core.processes import this_process
from maml_core.store.database import log_path
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.stretch import train_run, trainer_of
from maml_core.training.torchrun import Torchrun, joined
from maml_core.training.trainer import Progress, Trainer, check_startable
from maml_core.words import duration, loss

LONG_SECONDS = 60.0
"""An estimate above which it is said before training begins."""


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Start a run and train it to its end; among processes that torchrun has started, together with the others.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
    with joined() as group:
        return _follow(group, options) if group and group.rank else _train(options, group)


def _follow(group: Torchrun, options: argparse.Namespace) -> dict[str, Any]:
    """Do this process's share, and say nothing: the leader does."""
    group.follow()
    options.json = False
    return {}


def _train(options: argparse.Namespace, group: Torchrun | None) -> dict[str, Any]:
    settings = parse_settings(options.settings)
    preset = options.preset or DEFAULT
    store: Store | None = None
    if options.table is not None:
        store = Store(options.store)
        config = table_config(store, options).with_settings(settings)
    else:
        refuse_roles(options)
        config = get_preset(preset).config.with_settings(settings)
        if config.is_on_table:
            store = Store(options.store)  # which the trainer asks for the rows
    tags = group.job if group else ""
    if tags:
        store = store or Store(options.store)
        begun = _begun(store, config, tags)
        if begun is not None:
            return _go_on(store, begun, config, options, group)
    trainer = Trainer(config, group=group)
    check_startable(config, trainer)
    _say_beforehand(trainer)
    store = store or Store(options.store)
    run_id = store.create_run(config, preset=preset, owner=this_process(), tags=tags)
    return train_to_end(store, run_id, options, trainer)


def _begun(store: Store, config: RunConfig, job: str) -> Run | None:
    """What the same call of torchrun has begun, and lost a process of: it goes on instead of beginning again."""
    store.mark_lost()
    same = (run for run in store.all_runs() if job in run.tags.split(", ") and run.config == config)
    return next((run for run in same if run.status == "queued" or run.is_resumable), None)


def _say_beforehand(trainer: Trainer) -> None:
    """What whoever waits for a run should know before it begins: how long it takes, and what may spoil it."""
    config = trainer.config
    sizes = config.sizes(trainer.model)
    each = config.seconds_estimate(sizes, len(list(trainer.model.parameters())))
    if config.engine in ("higher", "vectorized") or config.uses_own_model:  # the native loop is many times faster
        total = each * config.meta_iterations
        if total > LONG_SECONDS:
            print(f"This run may take {duration(total)}: about {each:.2g} s for a meta-iteration.", file=sys.stderr)
    if trainer.scale:
        print(trainer.scale, file=sys.stderr)


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """Train a run on from its last commit; among processes that torchrun has started, together with the others.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
    with joined() as group:
        if group and group.rank:
            return _follow(group, options)
        store = Store(options.store)
        run = store.run(options.run)
        return _go_on(store, run, _resumed_config(run, options), options, group)


def _go_on(
    store: Store, run: Run, config: RunConfig, options: argparse.Namespace, group: Torchrun | None
) -> dict[str, Any]:
    trainer = trainer_of(store, replace(run, config=config), group)
    check_startable(config, trainer)  # before the run is touched: what is missing here is no fault of its own
    store.resume(run.id, owner=this_process(), config=config if config != run.config else None)
    if store.run(run.id).iteration != run.iteration:  # another process was quicker, and has given it back
        trainer = trainer_of(store, store.run(run.id), group)
    return train_to_end(store, run.id, options, trainer)


def _resumed_config(run: Run, options: argparse.Namespace) -> RunConfig:
    """A run's configuration with what may change when it goes on: how it is computed, and where it ends.

    Raises:
        ConfigError: another setting, or an end that cannot be moved there.
    """
    settings = parse_settings(options.settings)
    for name in settings:
        if name not in ("engine", "device"):
            raise ConfigError(
                f"--set {name} is not allowed with resume: only engine and device can change without changing what the "
                "run is; start another with train."
            )
    if options.iterations is not None:
        if options.iterations <= run.iteration:
            raise ConfigError(
                f"--iterations {options.iterations} is not allowed: the run has {run.iteration:,} behind it; "
                "name a larger number."
            )
        if run.config.schedule != "constant" and options.iterations != run.meta_iterations:
            raise ConfigError(
                f"--iterations {options.iterations} is not allowed: with schedule = {run.config.schedule} the end was "
                f"part of the plan ({run.meta_iterations:,}); start another run with train."
            )
        settings["meta_iterations"] = options.iterations
    return run.config.with_settings(settings) if settings else run.config


def train_to_end(store: Store, run_id: str, options: argparse.Namespace, trainer: Trainer) -> dict[str, Any]:
    """Train a run that is this process's own, with a progress bar on stderr."""
    owner, run = this_process(), store.run(run_id)
    if isinstance(trainer.group, Torchrun):
        trainer.group.order(trainer)
    log_to(log_path(store.url), "terminal")
    print(f"run {run.id} ({run.name})", file=sys.stderr)
    with tqdm(total=run.meta_iterations, initial=run.iteration, unit="it", file=sys.stderr, mininterval=0.2) as bar:

        def report(_: Run, progress: Progress, rate: float) -> None:
            bar.update(progress.state.iteration - bar.n)
            if progress.rows:
                bar.set_postfix_str(f"query loss {progress.rows[-1].post_loss:.4g}", refresh=False)

        try:
            train_run(store, run, owner, trainer=trainer, report=report)
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, MamlError) and not run.config.uses_own_model:
                LOG.exception("run %s failed because of a bug", run.id)
                reason = (
                    f"Training failed because of a bug in the lab ({brief(error)}); see the log {log_path(store.url)}."
                )
                store.release(run.id, owner, "failed", reason)
            else:
                store.release(
                    run.id, owner, "interrupted", "Training was ended at the terminal; resume it to continue."
                )
            if run.config.uses_own_model and isinstance(error, Exception):
                raise ConfigError(
                    f"{run.config.model.kind} failed ({brief(error)}) after {store.run(run_id).iteration:,} "
                    f"iterations: mend it, then go on with `python -m maml_core resume {run_id}`."
                ) from None
            raise
    done = store.run(run_id)
    if done.message:
        print(done.message, file=sys.stderr)
    if not options.json:
        print(f"{done.id}: {done.status} after {done.iteration:,} iterations, {_reached(store, done)}")
    return {
        "run": done.id,
        "status": done.status,
        "iterations": done.iteration,
        "iterations_per_second": done.rate,
        "query_loss": done.post_loss,
        "held_out_loss": done.best_loss,
    }


def _reached(store: Store, run: Run) -> str:
    """What a run has come to, in figures of many tasks: on held-out ones, and over its last metric rows."""
    text = f"query loss {loss(figures(store, [run], 'last').get(run.id))} over its last {LAST_ROWS} metric rows"
    if run.best_loss is None:
        return text
    return f"{text}; on held-out tasks {loss(run.best_loss)} at its best, after {run.best_iteration:,} iterations"
