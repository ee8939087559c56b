"""Training at the command line: `train` and `resume`."""

import argparse
import sys
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from maml_core.cli_tables import refuse_roles, table_config
from maml_core.config import RunConfig, parse_settings
from maml_core.errors import ConfigError, MamlError
from maml_core.evaluation.compare import LAST_ROWS, figures
from maml_core.learning.own_model import brief
from maml_core.logs import LOG, log_to
from maml_core.presets import DEFAULT, get_preset
from maml_core.processes import this_process
from maml_core.store.database import log_path
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.trainer import Progress, Trainer, check_startable
from maml_core.training.worker import train_run, trainer_of
from maml_core.words import duration, loss

LONG_SECONDS = 60.0
"""An estimate above which it is said before training begins."""


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Start a run and train it to its end.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
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
    trainer = Trainer(config)
    check_startable(config, trainer)
    _say_beforehand(trainer)
    store = store or Store(options.store)
    run_id = store.create_run(config, preset=preset, owner=this_process())
    return train_to_end(store, run_id, options, trainer)


def _say_beforehand(trainer: Trainer) -> None:
    """What whoever waits for a run should know before it begins: how long it takes, and what may spoil it."""
    config = trainer.config
    tensors = list(trainer.model.parameters())
    each = config.seconds_estimate(sum(tensor.numel() for tensor in tensors), len(tensors))
    if config.engine in ("higher", "vectorized") or config.uses_own_model:  # the native loop is many times faster
        total = each * config.meta_iterations
        if total > LONG_SECONDS:
            print(f"This run may take {duration(total)}: about {each:.2g} s for a meta-iteration.", file=sys.stderr)
    if trainer.scale:
        print(trainer.scale, file=sys.stderr)


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """Train a run on from its last commit.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
    store = Store(options.store)
    run = store.run(options.run)
    config = _resumed_config(run, options)
    trainer = trainer_of(store, replace(run, config=config))
    check_startable(config, trainer)  # before the run is touched: what is missing here is no fault of its own
    store.resume(options.run, owner=this_process(), config=config if config != run.config else None)
    is_as_it_was = store.run(options.run).iteration == run.iteration
    return train_to_end(store, options.run, options, trainer if is_as_it_was else None)


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


def train_to_end(
    store: Store, run_id: str, options: argparse.Namespace, trainer: Trainer | None = None
) -> dict[str, Any]:
    """Train a run that is this process's own, with a progress bar on stderr."""
    owner, run = this_process(), store.run(run_id)
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
