"""The meta-training loop: a generator of progress that knows no process, store or screen."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maml_core.config import SECONDS_LIMIT, RunConfig
from maml_core.engines import Alone, Engine, EngineStatus, Group, TrainingState, initial_state
from maml_core.engines.native import Sampler
from maml_core.errors import ConfigError, EngineError, brief
from maml_core.learning.initialization import Initialization
from maml_core.learning.own_model import OwnModel, set_buffers
from maml_core.learning.scale import far_from_unit
from maml_core.learning.tasks import TaskBatch, TaskStream
from maml_core.milestones import MetricRow, ends_row, held_out_count, snapshot_iterations
from maml_core.training.parts import (
    device_of,
    engine_class,
    held_out_tasks,
    make_engine,
    quicken,
    training_engine,
    training_stream,
)

CHUNK_SECONDS = 0.1
"""How long a chunk of meta-iterations should take: Stop, pace and live updates wait for no more than this."""

HELD_OUT_AT_ONCE = 100
"""Held-out tasks judged together, fewer where the model is so large that their copies would fill the memory."""
HELD_OUT_NUMBERS = 10**7
HELD_OUT_HIDDEN = 2**26
"""Numbers in the hidden layers at once, of all points that are judged."""

NO_PENDING = torch.zeros(0, 3, dtype=torch.float64)


@dataclass(frozen=True)
class Progress:
    """What has happened since the last report."""

    state: TrainingState
    pending: Tensor  # [rows, 3] float64: metrics that await the end of their row; part of what a resume needs
    rows: list[MetricRow] = field(default_factory=list)
    snapshot: TrainingState | None = None  # a state to keep in the run's history
    held_out: float | None = None  # its mean query loss after adaptation on held-out tasks
    diverged: str | None = None  # what happened and what to try; the state is then the last finite one
    finished: bool = False


class Trainer:
    """Trains one run. Iterate over `run()`; stop iterating to pause, set `pace` at any time."""

    def __init__(
        self,
        config: RunConfig,
        state: TrainingState | None = None,
        pending: Tensor | None = None,
        engine_before: str | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        group: Group | None = None,
    ) -> None:
        """Start at the initialization, or go on from `state` and `pending` as a `Progress` gave them.

        `engine_before` is what computed the iterations before `state`, where that is known; another engine rounds
        differently, which `notice` then says. `buffers` are those that a user's own module began with. A `group` of
        processes shares out the run's shards; without one they are all this process's.

        Raises:
            ConfigError: the run would need too much memory.
            DeviceError: the chosen device is not on this machine.
            EngineError: the chosen engine cannot take the model, or the shards cannot be shared out evenly.
        """
        self.group = group or Alone()
        self.config = config
        self.model = config.network()
        set_buffers(self.model, buffers or {})
        config.check_memory(config.sizes(self.model))  # a user's own module is known only now
        self.device = device_of(config, self.model)
        self.model.to(self.device)
        costly = config.tasks.is_costly
        self._held_out = held_out_tasks(config, held_out_count(config.meta_iterations, is_costly=costly), self.device)
        self._snapshots = snapshot_iterations(config.meta_iterations, is_costly=costly)
        self.engine = training_engine(config, self.model, self.group, self._held_out.query_x.shape[1])
        self._judge = self._make_judge()
        self._resumed_at = state.iteration if state is not None else 0
        self._engine_before = engine_before
        self.state = (
            state.to(self.device)
            if state is not None
            else initial_state(self.model, config.method, averages=config.ema_decay is not None)
        )
        self.pending = pending if pending is not None else NO_PENDING
        self.scale = far_from_unit(config.tasks)
        self.pace: float | None = None
        self.limit: int | None = None
        self._stream = training_stream(config, self.device, self.group)
        self._sampler: Sampler | None = None
        self._is_quickened = False
        self._seconds_each = 0.0

    def run(self) -> Iterator[Progress]:
        """Train to the end, reporting about ten times a second.

        `pace` (meta-iterations per second) slows training down for teaching; `limit` ends the generator early, at
        that iteration. Neither changes the numbers, nor does how often the caller looks.
        """
        unjudged = [self.state] if self.state.iteration in self._snapshots else []
        first = self._stream.take(self.state.iteration, 1)
        while not self.engine.is_ready(self.state.iteration, first):
            time.sleep(0.05)
            yield Progress(self.state, self.pending)
        self.engine.prepare(first.at(0))
        del first  # a view: it would keep a whole block of tasks in memory
        due = time.perf_counter()
        while self.state.iteration < self._end():
            if self.pace:
                wait = due - time.perf_counter()
                if wait > 0:
                    time.sleep(min(wait, 0.05))
                    if wait > 0.05:  # hand control back, so that a pause need not wait for a slow pace
                        yield Progress(self.state, self.pending)
                    continue
            count = self._chunk_size()
            progress = self._advance(count)
            due = max(due, time.perf_counter() - CHUNK_SECONDS) + count / self.pace if self.pace else 0.0
            yield progress
            if progress.diverged:
                return
            # Judged after the report, not before: at the start of a run someone is waiting for its first point.
            yield from map(self._judged, unjudged)
            if self.state.iteration in self._snapshots:
                yield self._judged(self.state)
            unjudged = []
        yield from map(self._judged, unjudged)  # where the last commit was that of the last iteration

    def take_part(self, state: TrainingState, count: int) -> None:
        """Compute this process's shards of the `count` meta-iterations after `state`, for a group that another leads.

        Raises:
            EngineError: one of the other processes was lost.
        """
        self.engine.run(state, self._stream.take(state.iteration, count))

    def _judged(self, snapshot: TrainingState) -> Progress:
        """What to report of a state that is kept."""
        return Progress(
            self.state,
            self.pending,
            snapshot=snapshot,
            held_out=self._held_out_loss(snapshot),
            finished=self.state.iteration >= self.config.meta_iterations,
        )

    @property
    def notice(self) -> str:
        """What the user should know of how this run is trained, if anything."""
        found = [said for said in (self.engine.notice, self.scale) if said]
        now, before = self.engine.status, self._engine_before or "an earlier version's engine"
        if self._resumed_at and now != EngineStatus.COMPILING and now != before:
            found.append(
                f"Up to iteration {self._resumed_at:,} this run was trained by {before}; from there on by {now}, "
                "which rounds differently."
            )
        return " ".join(found)

    def close(self) -> None:
        """Release background resources."""
        self._stream.close()
        if self._sampler is not None:
            self._sampler.close()
        self.engine.close()

    def _make_judge(self) -> Engine:
        """What measures the held-out loss: the engine that trains, but not task by task where that can be helped."""
        if self.engine.status is not EngineStatus.HIGHER:
            return self.engine
        try:
            return make_engine(self.config, self.model, "vectorized")
        except EngineError:
            return self.engine

    def _end(self) -> int:
        total = self.config.meta_iterations
        return total if self.limit is None else min(total, self.limit)

    def _chunk_size(self) -> int:
        """Iterations of the next chunk: about `CHUNK_SECONDS`, never across a snapshot."""
        here = self.state.iteration
        count = int(CHUNK_SECONDS / self._seconds_each) if self._seconds_each else 1
        if self.pace:
            count = min(count, int(self.pace * CHUNK_SECONDS))
        until = next((i for i in self._snapshots if i > here), self.config.meta_iterations)
        return max(1, min(count, until - here, self._end() - here))

    def _advance(self, count: int) -> Progress:
        began = time.perf_counter()
        if self.engine.status is EngineStatus.NATIVE and isinstance(self._stream, TaskStream):
            self._stream.draw_ahead(self._end())  # while the loop runs; the other engines would wait for Python
            if not self._is_quickened:  # now, not before: the loop is what its compiler was to be asked for first
                self._sampler = quicken(self._stream, self._end() - self.state.iteration)
                self._is_quickened = True
        tasks = self._stream.take(self.state.iteration, count)
        state, metrics = self.engine.run(self.state, tasks)
        rows = metrics.double().cpu()
        good = self._good(rows)
        if good == count and not state.is_finite():
            good = self._last_finite(tasks, count)
        if good < count:
            return self._diverge(tasks, rows, good)
        elapsed = (time.perf_counter() - began) / count
        # The first chunks carry one-off costs, so trust falls quickly and rises slowly.
        self._seconds_each = min(elapsed, 2 * self._seconds_each) if self._seconds_each else elapsed
        return self._record(state, rows)

    def _good(self, rows: Tensor) -> int:
        """How many of the iterations with these metrics `[iterations, 3]` there are before the run diverges.

        Without clipping, one that is not finite is the end. With it, such a meta-batch changes nothing but Adam's
        moments: the end is a metric row without one that is finite.
        """
        finite = torch.isfinite(rows).all(dim=1)
        if self.config.clip_norm is None:
            return int(finite.long().cumprod(0).sum())
        seen = bool(torch.isfinite(self.pending).all(dim=1).any())
        for i, is_finite in enumerate(finite.tolist()):
            seen = seen or is_finite
            if ends_row(self.state.iteration + i + 1, self.config.meta_iterations):
                if not seen:
                    return i
                seen = False
        return len(rows)

    def _record(self, state: TrainingState, rows: Tensor, diverged: str | None = None) -> Progress:
        self.state = state
        finished_rows = []
        waiting = torch.cat([self.pending, rows])
        are_finite = bool(torch.isfinite(waiting).all())
        for iteration in range(state.iteration - len(rows) + 1, state.iteration + 1):
            if ends_row(iteration, self.config.meta_iterations):
                row_of, waiting = waiting.tensor_split([len(waiting) - (state.iteration - iteration)])
                if not are_finite:
                    row_of = row_of[torch.isfinite(row_of).all(dim=1)]
                finished_rows.append(MetricRow(iteration, *row_of.mean(0).tolist()))
        self.pending = waiting.clone()  # a part alone would keep the whole chunk in memory
        return Progress(
            state,
            self.pending,
            finished_rows,
            diverged=diverged,
            finished=state.iteration >= self.config.meta_iterations,
        )

    def _last_finite(self, tasks: TaskBatch, count: int) -> int:
        """How many iterations of the chunk leave finite parameters, when its metrics are all finite."""
        state = self.state
        for done in range(count):
            state, _ = self.engine.run(state, tasks.at(slice(done, done + 1)))
            if not state.is_finite():
                return done
        return count

    def _diverge(self, tasks: TaskBatch, rows: Tensor, good: int) -> Progress:
        """Do the `good` iterations of the chunk again, so that the state kept is the last finite one."""
        state = self.state
        if good:
            state, _ = self.engine.run(state, tasks.at(slice(good)))
        names = [
            name
            for name, value in zip(
                ("loss before adaptation", "loss after adaptation", "meta-gradient"), rows[good], strict=True
            )
            if not math.isfinite(value)
        ] or ["parameters"]
        config = self.config
        remedies = [f"a lower inner_lr than {config.inner_lr:g}"]
        if config.clip_norm is None:
            remedies.append("clip_norm = 1")
        remedies.append(f"a lower meta_lr than {config.meta_lr:g}")
        text = (
            f"Diverged at iteration {state.iteration + 1:,}: the {names[0]} is no longer finite. "
            f"The last finite state is kept. Try {', '.join(remedies[:-1])} or {remedies[-1]}."
        )
        return self._record(state, rows[:good], diverged=" ".join(filter(None, (text, self.scale))))

    def _held_out_loss(self, state: TrainingState) -> float:
        """Mean query loss after adaptation; infinite where it is not finite."""
        count = len(self._held_out.support_x)
        at_once = max(1, min(HELD_OUT_AT_ONCE, HELD_OUT_NUMBERS // len(state.learned)))
        family = self.config.tasks
        if family.is_costly:  # an image leaves more numbers in a network than the network has parameters
            hidden = self._held_out.query_x.shape[1] * self.config.model.hidden_numbers(family.input_size)
            at_once = max(1, min(at_once, HELD_OUT_HIDDEN // max(1, hidden)))
        total = 0.0
        for start in range(0, count, at_once):
            tasks = self._held_out.at(slice(start, start + at_once))
            part = float(self._judge.query_loss(state.learned, tasks))
            total += part * len(tasks.support_x) / count
        return total if math.isfinite(total) else math.inf


def check_startable(config: RunConfig, trainer: Trainer | None = None) -> None:
    """Find out before a run is made whether this machine and the chosen engine can do it.

    Nothing is built for it: the configuration and the model's structure tell. Only a user's own module is tried out,
    by the `trainer` that was made for the run.

    Raises:
        ConfigError: it would need too much memory, or too long for one meta-iteration, or its model cannot be made.
        DeviceError: the chosen device is not on this machine.
        EngineError: the chosen algorithm, or the chosen engine, cannot take the model.
    """
    config.tasks.check(config.shots + config.query_shots)
    model = trainer.model if trainer else config.structure()
    device = device_of(config, model)
    sizes = config.sizes(model)
    config.check_memory(sizes)
    seconds = config.seconds_estimate(sizes, sum(1 for _ in model.parameters()))
    seconds /= trainer.group.size if trainer else 1
    if device.type == "cpu" and seconds > SECONDS_LIMIT:
        raise ConfigError(
            f"One meta-iteration of this run would take about {seconds:,.0f} s: at most {SECONDS_LIMIT:g} s is "
            f"allowed; lower inner_steps = {config.inner_steps}"
            + (
                f", meta_batch_size = {config.meta_batch_size}, shots = {config.shots}, or the size of the model."
                if config.tasks.problem.calls == 1
                else ", which counts most with rollouts, or the meta-batch."
            )
        )
    config.method.check(model)
    engine_class(config).check(model, config.method, device)
    if config.uses_own_model and trainer:
        _try_out(trainer)


def _try_out(trainer: Trainer) -> None:
    """A meta-gradient and a step of adaptation, so that what a user's own forward cannot do comes out at the start.

    Raises:
        ConfigError: it fails in either, or its engine cannot do what it does.
    """
    config = trainer.config
    if isinstance(config.model, OwnModel):
        config.model.check_seeded(trainer.model, config.network().to(trainer.device))
        algorithm = config.method
        if algorithm.adapts_head and (algorithm.solves or not config.model.adapts):
            head = algorithm.head_layer(name for name, _ in trainer.model.named_parameters())
            points = config.trial_points().to(trainer.device)
            config.model.check_head(trainer.model, points, head, algorithm.name)
    tasks = held_out_tasks(config, 2, trainer.device)
    engine = make_engine(config, trainer.model)
    flat = trainer.state.parameters
    try:
        engine.meta_gradient(flat, tasks)
        theta = engine.layout.unflatten(flat)
        parts = trainer.model, theta.parameters, engine.algorithm, config.inner_lr, theta.extras, engine.problem
        Initialization(*parts).adapt(tasks, steps=1)
    except EngineError as error:  # the native loop cannot be made: `auto` would have gone on without it
        raise ConfigError(
            f"{config.model.kind} cannot be trained with engine = {config.engine}: {error} Choose engine = auto, which "
            "takes the vectorized one."
        ) from None
    except Exception as error:  # whatever the user's own code, or torch on its behalf, raises
        raise ConfigError(
            f"{config.model.kind} cannot be trained with engine = {config.engine} ({brief(error)}). It is run for all "
            "tasks at once: its forward must work under torch.func.vmap, without changing tensors in place and without "
            "branches on values, and use every parameter. BatchNorm needs track_running_stats=False."
        ) from None


def train(config: RunConfig) -> Initialization:
    """Train a run here and now, in this process, and return the best initialization by held-out loss.

    Nothing is stored: what should be kept, paused or watched belongs in a `Store`.

    >>> from maml_core import RunConfig, train
    >>> start = train(RunConfig(meta_iterations=20, meta_batch_size=2, engine="vectorized"))
    >>> sorted(start.parameters)
    ['0.bias', '0.weight', '2.bias', '2.weight']

    Raises:
        ConfigError: the configuration asks for more than this machine can do.
        DeviceError: the chosen device is not on this machine.
        EngineError: the chosen engine cannot take the model.
    """
    trainer = Trainer(config)
    try:
        check_startable(config, trainer)
        best, learned = math.inf, trainer.state.learned
        for progress in trainer.run():
            if progress.snapshot is not None and progress.held_out is not None and progress.held_out < best:
                best, learned = progress.held_out, progress.snapshot.learned
    finally:
        trainer.close()
    return config.initialization(learned.cpu())
