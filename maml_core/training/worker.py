"""A process that trains runs out of the store, one after another.

Started by a server, it stays warm between runs and ends with the server; started by the command line, it trains
the one run it is given. Whatever ends it, at most the last `COMMIT_SECONDS` of training are done again on resume.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from maml_core.engines import TrainingState
from maml_core.errors import CheckpointError, EngineError, MamlError, RunBusyError, StoreAwayError, StoreError
from maml_core.logs import LOG, log_to
from maml_core.milestones import MetricRow
from maml_core.presets import DEFAULT, get_preset
from maml_core.processes import this_process, when_parent_is_gone
from maml_core.store.base import Saved, Snapshot, Vitals
from maml_core.store.checkpoint import Checkpoint, dump_checkpoint, load_checkpoint
from maml_core.store.database import log_path
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.trainer import NO_PENDING, Progress, Trainer
from maml_core.words import loss

COMMIT_SECONDS = 0.25
"""How often training is saved: what a crash can cost, and how fresh a live picture is."""

CONTROL_SECONDS = 0.05
IDLE_SECONDS = 0.05
GRACE_SECONDS = 1.5
"""How long a worker whose server has gone may take to commit before it is ended in mid-iteration."""

AWAY_SECONDS = 600.0
"""How long training waits for a store that cannot be reached, with what it has not saved yet in memory."""

SERVER_ENDED = "The server that trained this run has ended; resume it from where it was."

T = TypeVar("T")

Report = Callable[[Run, Progress, float], None]
"""report(run, progress, iterations per second), called after every chunk."""


def train_run(
    store: Store,
    run: Run,
    owner: str,
    *,
    trainer: Trainer | None = None,
    should_end: Callable[[], bool] = lambda: False,
    report: Report | None = None,
) -> str:
    """Train a claimed run until it ends, is asked to pause or stop, or `should_end` says so; return its status.

    `trainer` is that of the run, where one was made already; else it is made from the run's last commit. What keeps it
    from being made is a fault of the surroundings (a device, a table or a compiler that is missing), not the run's
    outcome: it is interrupted with the reason, and can be resumed.

    Raises:
        RunBusyError: the run was taken away from this owner.
    """
    try:
        trainer = trainer or trainer_of(store, run)
    except MamlError as error:
        LOG.warning("run %s cannot be trained: %s", run.id, error)
        status = "failed" if isinstance(error, CheckpointError) else "interrupted"
        store.release(run.id, owner, status, str(error))
        return status
    try:
        LOG.info("run %s begins at iteration %d", run.id, trainer.state.iteration)
        status = _Stretch(store, run, owner, trainer, should_end, report).train()
        LOG.info("run %s is %s after iteration %d", run.id, status, trainer.state.iteration)
        return status
    except EngineError as error:
        store.release(run.id, owner, "interrupted", str(error))
        return "interrupted"
    finally:
        trainer.close()


def trainer_of(store: Store, run: Run) -> Trainer:
    """A trainer that goes on from a run's last commit.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
    saved = store.checkpoint(run.id)
    if saved is None:
        return Trainer(run.config)
    checkpoint = load_checkpoint(saved, run.config)
    return Trainer(run.config, checkpoint.state, checkpoint.pending, checkpoint.engine, checkpoint.buffers)


class _Stretch:
    """One stretch of training: from a claim to a release."""

    def __init__(
        self,
        store: Store,
        run: Run,
        owner: str,
        trainer: Trainer,
        should_end: Callable[[], bool],
        report: Report | None,
    ) -> None:
        self.store, self.run, self.owner, self.trainer = store, run, owner, trainer
        self.should_end, self.report = should_end, report
        self.source = run.config.source_hash()  # as it is now: its file may be edited while it trains
        self.began = time.monotonic()
        self.first_iteration = trainer.state.iteration
        self.rows: list[MetricRow] = []
        self.snapshots: list[Snapshot] = []
        self.committed = self.looked = 0.0
        self.last: Progress | None = None

    def train(self) -> str:
        self.trainer.pace, self.trainer.limit = self.run.pace, self.run.until
        for progress in self.trainer.run():
            self.last = progress
            self.rows += progress.rows
            if progress.snapshot is not None and progress.held_out is not None:
                kept = self.dump(progress.snapshot, NO_PENDING)
                self.snapshots.append(Snapshot(progress.snapshot.iteration, progress.held_out, kept))
            if self.report:
                self.report(self.run, progress, self.rate())
            if progress.diverged:
                return self.commit("diverged", progress.diverged)
            asked = self.asked()
            if asked:
                return self.commit(asked, SERVER_ENDED if asked == "interrupted" else "")
            first_point = self.rows and self.rows[0].iteration == 1  # the screen is waiting for something to draw
            if first_point or time.monotonic() - self.committed > COMMIT_SECONDS:
                self.commit()
        if self.trainer.state.iteration < self.run.meta_iterations:
            return self.commit("paused")
        return self.commit("finished", self.never_better())

    def never_better(self) -> str:
        """What to say of a run whose held-out loss was never below that of its start; empty for any other."""
        history = self.patiently(lambda: self.store.history(self.run.id))
        judged = {at: held_out for at, held_out, *_ in history}
        judged |= {snapshot.iteration: snapshot.held_out for snapshot in self.snapshots}
        start = judged.pop(0, None)
        later = [value for value in judged.values() if value is not None]
        if start is None or not later or min(later) < start:
            return ""
        advice = f"a lower meta_lr than {self.run.config.meta_lr:g} or inner_lr than {self.run.config.inner_lr:g}"
        return " ".join(
            filter(
                None,
                [
                    f"Training has not helped: on held-out tasks the loss was {loss(start)} at the start and "
                    f"{loss(min(later))} at its best afterward. Try {advice}.",
                    self.trainer.notice,
                ],
            )
        )

    def asked(self) -> str | None:
        """The status that someone wants the run to end this stretch in, if any."""
        if self.should_end():
            return "interrupted"
        if time.monotonic() - self.looked < CONTROL_SECONDS:
            return None
        self.looked = time.monotonic()
        control = self.patiently(lambda: self.store.control(self.run.id, self.owner))
        if control is None:
            raise RunBusyError(f"run = {self.run.id} is no longer owned by this process.")
        command, self.trainer.pace = control
        return {"pause": "paused", "stop": "stopped"}.get(command)

    def patiently(self, action: Callable[[], T]) -> T:
        """What the store answers; training stands still for as long as it cannot be reached, and nothing is lost.

        Raises:
            StoreAwayError: it was away for too long, or this process is to end.
        """
        waiting = None
        while True:
            try:
                found = action()
            except StoreAwayError as error:
                if waiting is None:
                    waiting = time.monotonic()
                    LOG.warning("run %s waits for its store: %s", self.run.id, error)
                if self.should_end() or time.monotonic() - waiting > AWAY_SECONDS:
                    raise
                time.sleep(0.2)
            else:
                if waiting is not None:
                    LOG.info("run %s goes on: its store is back after %.0f s", self.run.id, time.monotonic() - waiting)
                return found

    def rate(self) -> float:
        """Meta-iterations per second of this stretch."""
        return (self.trainer.state.iteration - self.first_iteration) / max(1e-9, time.monotonic() - self.began)

    def dump(self, state: TrainingState, pending: Tensor) -> bytes:
        trainer, config = self.trainer, self.trainer.config
        buffers = dict(trainer.model.named_buffers()) if config.uses_own_model else {}
        shapes = trainer.engine.layout.file_shapes()
        return dump_checkpoint(Checkpoint(state, pending, trainer.engine.status, shapes, buffers, self.source))

    def commit(self, status: str | None = None, message: str = "") -> str:
        progress = self.last or Progress(self.trainer.state, self.trainer.pending)
        latest = Saved(progress.state.iteration, self.dump(progress.state, progress.pending))
        vitals = Vitals(
            rate=self.rate(),
            seconds=self.run.seconds + time.monotonic() - self.began,
            started=self.run.started or time.time() - (time.monotonic() - self.began),
            engine=self.trainer.engine.status,
            device=self.trainer.device.type,
            message=message or self.trainer.notice,
        )
        self.patiently(
            lambda: self.store.commit(
                self.run.id,
                self.owner,
                rows=self.rows,
                latest=latest,
                snapshots=self.snapshots,
                vitals=vitals,
                release=status,
            )
        )
        self.rows, self.snapshots = [], []
        self.committed = time.monotonic()
        return status or "running"


def serve(url: str, parent: int) -> None:
    """Train whatever is queued, until the server that started this process is gone."""
    torch.set_num_threads(1)  # small networks: one thread is faster than two, and leaves the screen a core
    ending = threading.Event()
    when_parent_is_gone(parent, lambda: _end(ending))
    log_to(log_path(url), "worker")
    store = Store(url)
    owner = this_process()
    LOG.info("ready for runs")
    _warm_up()
    kept: dict[str, tuple[str, str]] = {}  # run: status and message that it could not be given back with
    while not ending.is_set():
        try:
            for run_id, (status, message) in list(kept.items()):
                store.release(run_id, owner, status, message)
                del kept[run_id]
            run = store.claim(owner)
            if run is None:
                ending.wait(IDLE_SECONDS)
                continue
            end = train_safely(store, run, owner, ending)
            if end:
                kept[run.id] = end
        except StoreError as error:
            LOG.warning("%s", error)
            ending.wait(1.0)  # a full disk or a locked database: what is committed stays, so try again


def _warm_up() -> None:
    """Pay for torch's one-off imports and for the first run's native loop now, not after someone has pressed Train."""
    trainer = Trainer(get_preset(DEFAULT).config)
    next(trainer.run())
    trainer.close()


def train_safely(store: Store, run: Run, owner: str, ending: threading.Event) -> tuple[str, str] | None:
    """Train a run; where that ends out of order, the status and message to give it back with."""
    try:
        train_run(store, run, owner, should_end=ending.is_set)
    except RunBusyError:
        return None  # deleted or taken over: the owner is the one that goes on
    except StoreError as error:
        LOG.warning("run %s is interrupted: %s", run.id, error)
        return "interrupted", f"{error} Training was interrupted; resume it from its last commit."
    except Exception as error:  # a defect must not take the worker with it, and must be seen
        LOG.exception("run %s failed because of a bug", run.id)
        reason = f"{type(error).__name__}: {error}"[:300]
        return "failed", f"Training failed because of a bug in the lab ({reason}); see the log {log_path(store.url)}."
    return None


def _end(ending: threading.Event) -> None:
    """Tell the training loop to commit and end; insist after a grace period."""
    ending.set()
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    """Entry point of `python -m maml_core.training.worker`, which only a server should start."""
    parser = argparse.ArgumentParser(prog="python -m maml_core.training.worker", description=serve.__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--parent", required=True, type=int)
    arguments = parser.parse_args()
    try:
        serve(arguments.store, arguments.parent)
    except Exception as error:
        log_to(log_path(arguments.store), "worker")
        LOG.exception("the worker ended because of a bug")
        print(f"A worker ended ({type(error).__name__}); see the log {log_path(arguments.store)}.", file=sys.stderr)
        os._exit(1)
    os._exit(0)  # everything is committed, and taking torch down in order can take a second


if __name__ == "__main__":
    main()
