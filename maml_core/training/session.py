"""The background session: keeps worker processes for one server. The store, not this object, holds the truth.

Nothing is lost when the object is: the workers are this process's, so a second session (after a browser cleared the
cache, say) takes over the same ones.
"""

import atexit
import copy
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch

from maml_core.config import RunConfig
from maml_core.errors import ConfigError, DeviceError, StoreDamagedError
from maml_core.logs import LOG, log_to
from maml_core.store.database import log_path, set_aside, store_url
from maml_core.store.imports import import_run
from maml_core.store.people import Person
from maml_core.store.run import ACTIVE
from maml_core.store.store import Store
from maml_core.training.background import Background
from maml_core.training.driver import Driver
from maml_core.training.search import Search, Span
from maml_core.training.sweep import Sweep, open_sweep
from maml_core.training.trainer import check_startable
from maml_core.training.workers import Worker, start_worker, workers_of

MOST_WORKERS = 1024

END_SECONDS = 5.0
"""What a worker is given to end."""

FLEET_END_SECONDS = 25.0
"""And one of a fleet, which commits and gives back what it trains: schedulers leave thirty seconds for all."""

PAGE_FAULTS = ("streamlit.error_util", "streamlit.runtime.scriptrunner.script_runner")
"""Streamlit's loggers of what a page raises, and of a page that is no Python."""

_SPAWN_LOCK = threading.Lock()
_COMPUTING = threading.Lock()
_DRIVERS: dict[tuple[str, str, str], Driver] = {}  # of searches, by store, name and who has asked
# A thread that comes back from torch while the interpreter is being taken down aborts the process (exit code 134).
# So at exit this lock is taken for good: what is computing ends first, and nothing starts any more. A turn takes less
# than a second where nothing is compiled or loaded, and several where a machine is slow and it is the first.
atexit.register(_COMPUTING.acquire, timeout=30.0)


@contextmanager
def computing() -> Iterator[None]:
    """Use torch inside a server: one thread at a time, never while the server is being taken down."""
    with _COMPUTING:
        torch.set_num_threads(1)
        yield


def default_limit() -> int:
    """Runs at once unless told otherwise: `$MAML_WORKERS`, else all cores but one, which is left to the screen.

    With none, a lab only watches: workers elsewhere train what it queues.

    Raises:
        ConfigError: `$MAML_WORKERS` is no whole number.
    """
    told = os.environ.get("MAML_WORKERS", "").strip()
    if told and not (told.isascii() and told.isdigit() and int(told) <= MOST_WORKERS):
        raise ConfigError(f"MAML_WORKERS = {told[:40]!r} is not allowed: it must be from 0 to {MOST_WORKERS}.")
    return int(told) if told else max(1, (os.cpu_count() or 2) - 1)


class TrainingSession:
    """Starts runs and sees to it that there are workers for them."""

    def __init__(self, url: str | None = None, limit: int | None = None, *, in_fleet: bool = False) -> None:
        """Open the store and warm up one worker, so that the first run starts at once.

        A damaged store is set aside and a new one opened in its place, which `notice` then says. Workers `in_fleet`
        queue what they have not finished for others when they are ended.

        Raises:
            ConfigError: `$MAML_WORKERS` is no whole number.
            StoreError: the store cannot be opened.
        """
        self.notice: str | None = None
        log_to(log_path(store_url(url)), "server", *PAGE_FAULTS)
        try:
            self.store = Store(url)
        except StoreDamagedError:
            aside = set_aside(store_url(url))
            self.store = Store(url)
            LOG.error("the store %s is damaged and was set aside as %s", self.store.database.name, aside)
            self.notice = f"The store was damaged. It was set aside as {aside}, untouched; this is a new, empty one."
        self.limit = default_limit() if limit is None else limit
        self.in_fleet = in_fleet
        self.background = Background()
        self.ensure_workers()

    def on_behalf_of(self, person: Person | None) -> Self:
        """The same session for one person: what they start says so, and what is not theirs they cannot change."""
        other = copy.copy(self)
        other.store = self.store.on_behalf_of(person)
        return other

    def start(self, config: RunConfig, *, preset: str | None = None, steps: int | None = None) -> str:
        """Queue a new run, for `steps` iterations only if given; return its id.

        Raises:
            DeviceError: the chosen device is not on this machine.
            EngineError: the chosen engine cannot take the model.
        """
        self._check_startable(config)
        run_id = self.store.create_run(config, preset=preset, steps=steps)
        self.ensure_workers()
        return run_id

    def sweep(self, base: RunConfig, grid: Mapping[str, Sequence[Any]], *, preset: str | None = None) -> Sweep:
        """Queue a grid of runs, as `open_sweep` does.

        Raises:
            ConfigError, DeviceError, EngineError: as `open_sweep`.
        """
        opened = open_sweep(self.store, base, grid, preset=preset)
        self.ensure_workers()
        return opened

    def search(
        self, base: RunConfig, spans: Mapping[str, Span], *, trials: int, seeds: int, prunes: bool, preset: str | None
    ) -> Driver:
        """Have Optuna choose settings in the background; the same search asked for again goes on.

        Raises:
            ConfigError: Optuna is not installed, or a name is that of no setting.
        """
        at_once = max(1, self.limit // seeds)
        options: dict[str, Any] = {"trials": trials, "seeds": seeds, "at_once": at_once, "prunes": prunes}
        search = Search(self.store, base, spans, preset=preset, **options)
        name = self.store.url, search.name, self.store.person.name if self.store.person else ""
        if name in _DRIVERS:
            _DRIVERS[name].stop()  # it may be asked for more trials
        _DRIVERS[name] = Driver(search, self.ensure_workers)
        return _DRIVERS[name]

    def drivers(self) -> list[Driver]:
        """The searches that this server drives, or has driven, in this store; the newest first."""
        return [driver for (url, *_), driver in reversed(list(_DRIVERS.items())) if url == self.store.url]

    def resume(self, run_id: str, *, steps: int | None = None) -> None:
        """Queue a run that was paused, stopped or interrupted.

        Raises:
            ConfigError: its model is a class of the user's own, or its table is not at hand.
            DeviceError: its device is not on this machine.
            RunBusyError: it is not one that can go on.
        """
        config = self.store.run(run_id).config
        config.model.check_loadable()
        self._check_startable(config)
        self.store.resume(run_id, steps=steps)
        self.ensure_workers()

    def _check_startable(self, config: RunConfig) -> None:
        """Refuse what cannot be trained here; a lab that only watches cannot know what devices others have."""
        try:
            check_startable(config)
        except DeviceError:
            if self.limit:
                raise

    def add(self, file: bytes) -> str:
        """Import an exported run; return its new id.

        Raises:
            ImportRefusedError: the file is not an exported run, or does not hold together.
        """
        with computing():
            return import_run(self.store, file)

    def ensure_workers(self) -> None:
        """Make sure that there are as many workers as active runs, at least one and at most the limit."""
        wanted = min(self.limit, max(1, self.store.count(*ACTIVE)))
        with _SPAWN_LOCK:
            for _ in range(wanted - len(self.workers())):
                start_worker(self.store.database.name, self.store.url, in_fleet=self.in_fleet)

    def workers(self) -> list[Worker]:
        """The workers of this server and store, those among them that are still to come."""
        return workers_of(self.store.database.name)

    def close(self) -> None:
        """End the workers; what one of them is training goes on from its last commit when it is resumed."""
        ended = self.workers()
        for worker in ended:
            worker.terminate()
        until = time.monotonic() + (FLEET_END_SECONDS if self.in_fleet else END_SECONDS)
        for worker in ended:
            if not worker.wait(until - time.monotonic()):
                worker.kill()
        self.store.close()
