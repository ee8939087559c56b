"""One stretch of a run's training: from its claim to its release, with what is learned committed in between.

Whatever ends it, at most the last `COMMIT_SECONDS` of training are done again on resume.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from torch import Tensor

from maml_core.engines import Group, TrainingState
from maml_core.errors import CheckpointError, EngineError, MamlError, RunBusyError, StoreAwayError, StoreError
from maml_core.logs import LOG
from maml_core.milestones import MetricRow
from maml_core.store.base import LEASE_SECONDS, Saved, Snapshot, Vitals
from maml_core.store.checkpoint import Checkpoint, dump_checkpoint, load_checkpoint
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.devices import processor_of
from maml_core.training.trainer import NO_PENDING, Progress, Trainer
from maml_core.words import loss

COMMIT_SECONDS = 0.25
"""How often training is saved: what a crash can cost, and how fresh a live picture is."""

COMMIT_SHARE = 0.05
"""Of the time, what saving may take at most: where a commit is slow, there are fewer."""

CONTROL_SECONDS = 0.05
SHARED = 10.0
"""How much less often a database is asked that many workers share."""

SLOW_COMMIT_SECONDS = 10.0
"""However slow saving is, this often it is done."""

STEADY_SECONDS = 300.0
"""After which a run that trains is not one that ends its processes."""

RENEW_SECONDS = LEASE_SECONDS / 6
"""How often a worker says that it lives, whatever it commits."""

AND_THEN = "; then on "
"""Between the kinds of processor that a run was trained on."""

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
    left_as: str = "interrupted",
    report: Report | None = None,
) -> str:
    """Train a claimed run until it ends, is asked to pause or stop, or `should_end` says so; return its status.

    Where `should_end` ends it, the run is left as `left_as`: for its user to resume, or `queued` for another worker.
    `trainer` is that of the run, where one was made already; else it is made from the run's last commit. What keeps it
    from being made is a fault of the surroundings (a device, a table or a compiler that is missing), not the run's
    outcome: it is interrupted with the reason, and can be resumed.

    Raises:
        RunBusyError: the run was taken away from this owner.
    """
    with _renewed(store, run.id, owner):
        try:
            trainer = trainer or patiently(lambda: trainer_of(store, run), f"run {run.id}", should_end)
        except StoreAwayError:
            raise
        except MamlError as error:
            LOG.warning("run %s cannot be trained: %s", run.id, error)
            status = "failed" if isinstance(error, CheckpointError) else "interrupted"
            store.release(run.id, owner, status, str(error))
            return status
        try:
            LOG.info("run %s begins at iteration %d", run.id, trainer.state.iteration)
            status = _Stretch(store, run, owner, trainer, should_end, left_as, report).train()
            LOG.info("run %s is %s after iteration %d", run.id, status, trainer.state.iteration)
            return status
        except EngineError as error:
            store.release(run.id, owner, "interrupted", str(error))
            return "interrupted"
        finally:
            trainer.close()


@contextmanager
def _renewed(store: Store, run_id: str, owner: str) -> Iterator[None]:
    """Say again and again that a run's owner lives: an iteration, or what precedes the first, may take minutes."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with suppress(StoreError):  # whoever trains meets the same trouble, and says so
                store.renew(run_id, owner)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def trainer_of(store: Store, run: Run, group: Group | None = None) -> Trainer:
    """A trainer that goes on from a run's last commit, together with a group of processes where there is one.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
    saved = store.checkpoint(run.id)
    if saved is None:
        return Trainer(run.config, group=group)
    kept = load_checkpoint(saved, run.config)
    return Trainer(run.config, kept.state, kept.pending, kept.engine, kept.buffers, group)


def patiently(action: Callable[[], T], what: str, should_end: Callable[[], bool] = lambda: False) -> T:
    """What the store answers to `what`, which stands still for as long as it cannot be reached, and loses nothing.

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
                LOG.warning("%s waits for its store: %s", what, error)
            if should_end() or time.monotonic() - waiting > AWAY_SECONDS:
                raise
            time.sleep(0.2)
        else:
            if waiting is not None:
                LOG.info("%s goes on: its store is back after %.0f s", what, time.monotonic() - waiting)
            return found


class _Stretch:
    """One stretch of training: from a claim to a release."""

    def __init__(
        self,
        store: Store,
        run: Run,
        owner: str,
        trainer: Trainer,
        should_end: Callable[[], bool],
        left_as: str,
        report: Report | None,
    ) -> None:
        self.store, self.run, self.owner, self.trainer = store, run, owner, trainer
        self.should_end, self.left_as, self.report = should_end, left_as, report
        self.processor = processor_of(trainer.device)
        self.control_seconds = CONTROL_SECONDS * (SHARED if store.database.is_shared else 1.0)
        self.commit_seconds = COMMIT_SECONDS
        self.source = run.config.source_hash()  # as it is now: its file may be edited while it trains
        self.began = time.monotonic()
        self.first_iteration = trainer.state.iteration
        self.processors = self.followed_by(run.processor)
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
            if first_point or time.monotonic() - self.committed > self.commit_seconds:
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
                    self.notice(),
                ],
            )
        )

    def asked(self) -> str | None:
        """The status that someone wants the run to end this stretch in, if any."""
        if self.should_end():
            return self.left_as
        if time.monotonic() - self.looked < self.control_seconds:
            return None
        self.looked = time.monotonic()
        control = self.patiently(lambda: self.store.control(self.run.id, self.owner))
        if control is None:
            raise RunBusyError(f"run = {self.run.id} is no longer owned by this process.")
        command, self.trainer.pace = control
        return {"pause": "paused", "stop": "stopped"}.get(command)

    def patiently(self, action: Callable[[], T]) -> T:
        return patiently(action, f"run {self.run.id}", self.should_end)

    def followed_by(self, before: str | None) -> str:
        """On what kinds of processor a run was trained, the last of which is this one."""
        if not before or not self.first_iteration or before.endswith(self.processor):
            return before if before and self.first_iteration else self.processor
        return f"{before}{AND_THEN}{self.processor}"

    def notice(self) -> str:
        """What the user should know of how this run is trained, and on what, if anything."""
        is_mixed = AND_THEN in self.processors
        mixed = f"This run was trained on processors that round differently: on {self.processors}." if is_mixed else ""
        return " ".join(filter(None, [self.trainer.notice, mixed]))

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
            message=message or self.notice(),
            processor=self.processors,
        )

        def save() -> float:
            began = time.monotonic()
            self.store.commit(
                self.run.id,
                self.owner,
                rows=self.rows,
                latest=latest,
                snapshots=self.snapshots,
                vitals=vitals,
                release=status,
                is_steady=began - self.began > STEADY_SECONDS,
            )
            return time.monotonic() - began

        took = self.patiently(save)
        self.rows, self.snapshots = [], []
        self.committed = time.monotonic()
        # One slow commit is chance, the first one most of all; several are the database.
        self.commit_seconds = min(
            SLOW_COMMIT_SECONDS, 2 * self.commit_seconds, max(COMMIT_SECONDS, took / COMMIT_SHARE)
        )
        return status or "running"
