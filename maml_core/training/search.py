"""A search for good settings by Optuna: a trial is an ordinary run, or one for each seed.

The study lies in the store's own database, where optuna-dashboard finds it too. A trial is known by its settings, so
that a driver that was killed and is started again goes on with the runs that are there, and doubles nothing.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from maml_core.config import RunConfig
from maml_core.errors import ConfigError, MamlError, RunBusyError, StoreAwayError
from maml_core.store import server
from maml_core.store.database import BUSY_SECONDS
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.stretch import patiently
from maml_core.training.sweep import Sweep, name_for, open_sweep, values_of

if TYPE_CHECKING:
    import optuna

LOOK_SECONDS = 0.25
MOST_REFUSED = 20
"""Trials in a row whose settings break a rule: then the ranges are wrong, not the luck."""
WARM_UP_TRIALS = 5
"""Trials that are never cut short: a median of fewer says nothing."""


@dataclass(frozen=True)
class Span:
    """What a setting may be: between two numbers, or one of some values."""

    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False
    values: tuple[Any, ...] = ()

    def distribution(self) -> "optuna.distributions.BaseDistribution":
        """As Optuna has it; values are JSON texts, since it takes no lists."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution([json.dumps(value) for value in self.values])
        if self.is_whole:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.is_log)
        return distributions.FloatDistribution(self.low, self.high, log=self.is_log)

    def value(self, suggested: Any) -> Any:
        """The setting that a suggestion means."""
        return json.loads(suggested) if self.values else suggested


def parse_search(pairs: Iterable[str], *, flag: str = "") -> dict[str, Span]:
    """`["inner_lr=log:1e-4:0.3", "shots=5:20", "model.activation=relu,tanh"]` as spans by field.

    `flag` is what stands before a pair where it is typed, as messages quote it.

    Raises:
        ConfigError: a pair has no such form, its ends are in the wrong order, or a field stands twice.
    """
    spans: dict[str, Span] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            raise _unclear(flag + pair)
        if name in spans:
            raise ConfigError(f"{flag}{name} stands twice: give all that it may be at once.")
        is_log, ends = text.startswith("log:"), text.removeprefix("log:").split(":")
        if len(ends) == 1 and not is_log:
            spans[name] = Span(values=tuple(values_of(text)))
            continue
        try:
            low, high = (float(end) for end in ends)
        except ValueError:
            raise _unclear(flag + pair) from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high) or (is_log and low <= 0):
            rule = "above 0 and in order" if is_log else "finite and in order"
            raise ConfigError(f"{flag}{pair} is not allowed: its two ends must be {rule}.")
        spans[name] = Span(low, high, is_log, all(end.strip().lstrip("+-").isdigit() for end in ends))
    if not spans:
        raise ConfigError(f"A search needs at least one {flag}FIELD=RANGE, such as inner_lr=log:1e-4:0.3.")
    return spans


def _unclear(pair: str) -> ConfigError:
    return ConfigError(
        f"{pair} is not allowed: it must be FIELD=LOW:HIGH, FIELD=log:LOW:HIGH or FIELD=VALUE,VALUE,..., such "
        "as inner_lr=log:1e-4:0.3."
    )


@dataclass(frozen=True)
class Trial:
    """What became of one set of settings."""

    number: int
    settings: dict[str, Any]
    state: str  # complete, pruned, fail or running
    value: float | None  # mean of the best held-out losses


class Search:
    """Trials one after the other, several at once where there are workers; `step` is to be called until it is done."""

    def __init__(
        self,
        store: Store,
        base: RunConfig,
        spans: Mapping[str, Span],
        *,
        trials: int,
        seeds: int = 1,
        at_once: int = 1,
        prunes: bool = False,
        name: str | None = None,
        preset: str | None = None,
    ) -> None:
        """Open the study of that name, or make it, and take up what an earlier driver left.

        Raises:
            ConfigError: Optuna is not installed, or a name is that of no setting.
        """
        self.store, self.base, self.spans, self.preset = store, base, dict(spans), preset
        self.name = name or name_for(base, {field: repr(span) for field, span in spans.items()}, "search")
        self.trials, self.at_once, self.prunes = trials, at_once, prunes
        self.seeds = [base.seed + i for i in range(seeds)]
        self._running: dict[int, tuple[optuna.Trial | None, Sweep]] = {}
        self._asked: optuna.Trial | None = None
        self._refused = 0
        for field, span in spans.items():
            if field == "seed":
                raise ConfigError("seed cannot be searched for: nobody can choose luck; ask for several in each trial.")
            self.base.with_settings({field: span.values[0] if span.values else _middle(span)})
            if span.is_whole:
                with suppress(ConfigError):  # 1:10 of what takes halves, too, is no whole number
                    self.base.with_settings({field: span.low + 0.5})
                    self.spans[field] = replace(span, is_whole=False)
        with _quiet():
            self._study = _open_study(store.url, self.name)
            for left in self._study.get_trials(deepcopy=False):
                if left.state.name == "RUNNING":
                    self._begin(left.number, left.params, None)

    def step(self) -> bool:
        """Begin what there is room for, see how the others do; whether the search is over."""
        with _quiet():
            now = {run.id: run for run in self.store.all_runs()}
            for number in list(self._running):
                self._look(number, now)
            while self._asked or (len(self._running) < self.at_once and self._counted() < self.trials):
                # Kept until its runs are there, for a store that is away in between.
                self._asked = self._asked or self._study.ask(
                    {name: span.distribution() for name, span in self.spans.items()}
                )
                self._begin(self._asked.number, self._asked.params, self._asked)
                self._asked = None
            return not self._running

    def work(
        self,
        ensure_workers: Callable[[], None],
        report: Callable[["Search"], None],
        should_end: Callable[[], bool] = lambda: False,
    ) -> None:
        """Call `step` until the search is over, or `should_end` says so."""
        while not should_end() and not patiently(self.step, self.name, should_end):
            patiently(ensure_workers, self.name)
            patiently(lambda: report(self), self.name)
            time.sleep(LOOK_SECONDS)
        patiently(lambda: report(self), self.name)

    def results(self) -> list[Trial]:
        """All trials so far, those that broke a rule left out; the best first."""
        with _quiet():
            found = [
                Trial(
                    trial.number,
                    {name: self.spans[name].value(value) for name, value in trial.params.items() if name in self.spans},
                    trial.state.name.lower(),
                    trial.value if trial.state.name == "COMPLETE" else None,
                )
                for trial in self._study.get_trials(deepcopy=False)
                if trial.state.name != "FAIL"
            ]
        return sorted(found, key=lambda trial: math.inf if trial.value is None else trial.value)

    def _counted(self) -> int:
        return sum(trial.state.name != "FAIL" for trial in self._study.get_trials(deepcopy=False))

    def _begin(self, number: int, params: Mapping[str, Any], trial: "optuna.Trial | None") -> None:
        """Queue the runs of a trial, or find those that are there."""
        grid = {name: [self.spans[name].value(value)] for name, value in params.items() if name in self.spans}
        try:
            opened = open_sweep(self.store, self.base, grid | {"seed": self.seeds}, name=self.name, preset=self.preset)
        except StoreAwayError:
            raise
        except MamlError as error:
            self._tell(number, state="FAIL")
            self._refused += 1
            if self._refused >= MOST_REFUSED:
                raise ConfigError(f"{MOST_REFUSED} trials in a row break a rule, the last so: {error}") from None
            return
        self._refused = 0
        self._running[number] = trial, opened

    def _look(self, number: int, now: Mapping[str, Run]) -> None:
        """See how a trial does, among all runs `now`, by their ids; one that was deleted is left out."""
        trial, opened = self._running[number]
        runs = [now[run_id] for run_id in opened.run_ids if run_id in now]
        if not any(run.is_active for run in runs):
            del self._running[number]
            value = _value(runs)
            self._tell(number, value) if value is not None else self._tell(number, state="FAIL")
        elif trial is not None and self.prunes and self._is_hopeless(trial, runs):
            del self._running[number]
            for run in runs:
                with suppress(RunBusyError):  # it has ended meanwhile
                    self.store.ask(run.id, "stop")
            self._tell(number, state="PRUNED")

    def _is_hopeless(self, trial: "optuna.Trial", runs: Sequence[Run]) -> bool:
        """Whether the live held-out loss is above the median of earlier trials at the same iteration."""
        histories = [dict(self.store.history(run.id)) for run in runs]
        for at in sorted(set.intersection(*(set(history) for history in histories))):
            losses = [history[at] for history in histories]
            trial.report(sum(math.inf if loss is None else loss for loss in losses) / len(losses), at)
        return trial.should_prune()

    def _tell(self, number: int, value: float | None = None, state: str | None = None) -> None:
        from optuna.trial import TrialState

        with suppress(ValueError):  # another driver of the same study was quicker
            self._study.tell(number, value, state=TrialState[state] if state else None)


def _value(runs: Sequence[Run]) -> float | None:
    """The mean of a trial's best held-out losses; infinite where a run diverged, None where one has not finished."""
    if any(run.status == "diverged" for run in runs):
        return math.inf
    losses = [run.best_loss for run in runs if run.status == "finished"]
    if not runs or len(losses) < len(runs):
        return None
    return sum(math.inf if loss is None else loss for loss in losses) / len(losses)


def _middle(span: Span) -> Any:
    middle = math.sqrt(span.low * span.high) if span.is_log else (span.low + span.high) / 2
    return round(middle) if span.is_whole else middle


def _open_study(url: str, name: str) -> "optuna.Study":
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "A search needs Optuna, which is not installed: pip install -r requirements-cluster.txt."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    is_file = url.startswith("sqlite")
    options = {"connect_args": {"timeout": BUSY_SECONDS}} if is_file else server.ENGINE_OPTIONS
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WARM_UP_TRIALS),
    )
    # The same search again gives the same trials; one that goes on must not suggest its first ones once more.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)), constant_liar=True)
    return study


@contextmanager
def _quiet() -> Any:
    """Without Optuna's notes on its own experiments, and with its word for a database that is away in the lab's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except MamlError:
            raise
        except Exception as error:
            if type(error).__name__ != "StorageInternalError" and not isinstance(error, sa.exc.DBAPIError):
                raise
            raise StoreAwayError("The study of the search cannot be reached just now: try again.") from None
