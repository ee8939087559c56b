"""A process that trains runs out of the store, one after another.

Started by a server, it stays warm between runs and ends with the server; as one of a fleet, it gives back what it has
not finished for the others to go on with.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import get_args

import torch

from maml_core.config import RunConfig
from maml_core.errors import RunBusyError, StoreAwayError, StoreError
from maml_core.logs import LOG, log_to
from maml_core.presets import DEFAULT, get_preset
from maml_core.processes import this_process, when_parent_is_gone
from maml_core.store.database import database_path, log_path
from maml_core.store.run import Run
from maml_core.store.server import shown
from maml_core.store.store import Store
from maml_core.training.devices import available_devices, processors
from maml_core.training.stretch import SHARED, train_run
from maml_core.training.trainer import Trainer

IDLE_SECONDS = 0.05

GRACE_SECONDS = 1.5
"""How long a worker whose server has gone may take to commit before it is ended in mid-iteration."""

MOST_RUNS = 50
"""After which a worker of a fleet makes room for a new one: each leaves a few MiB in memory."""


def serve(store: Store, ending: threading.Event, *, left_as: str = "interrupted", most: int | None = None) -> None:
    """Train whatever is queued, one run after another, until `ending` is set, or `most` runs are behind it.

    A run that is under way then is left as `left_as`.
    """
    owner = this_process()
    lacking = set(get_args(RunConfig.model_fields["device"].annotation)) - {"auto", *available_devices()}
    is_shared = store.database.is_shared
    idle_seconds = IDLE_SECONDS * (SHARED if is_shared else 1.0)
    kept: dict[str, tuple[str, str]] = {}  # run: status and message that it could not be given back with
    trained, is_unsure = 0, False
    while not ending.is_set() or kept:
        try:
            for run_id, (status, message) in list(kept.items()):
                store.release(run_id, owner, status, message)
                del kept[run_id]
            if is_unsure:  # a run may have been given to it, and the answer lost
                store.release_all(owner)
                is_unsure = False
            if ending.is_set() or trained == most:
                return
            run = store.claim(owner, processors=processors(), lacking=sorted(lacking) if is_shared else ())
            if run is None:
                ending.wait(idle_seconds)
                continue
            trained += 1
            end = train_safely(store, run, owner, ending, left_as)
            if end:
                kept[run.id] = end
        except StoreError as error:
            LOG.warning("%s", error)
            is_unsure = isinstance(error, StoreAwayError)
            if ending.is_set():
                return  # its lease runs out by itself
            ending.wait(1.0)  # a full disk or a locked database: what is committed stays, so try again


def _warm_up() -> None:
    """Pay for torch's one-off imports and for the first run's native loop now, not after someone has pressed Train."""
    trainer = Trainer(get_preset(DEFAULT).config)
    next(trainer.run())
    trainer.close()


def train_safely(
    store: Store, run: Run, owner: str, ending: threading.Event, left_as: str = "interrupted"
) -> tuple[str, str] | None:
    """Train a run; where that ends out of order, the status and message to give it back with."""
    try:
        train_run(store, run, owner, should_end=ending.is_set, left_as=left_as)
    except RunBusyError:
        return None  # deleted or taken over: the owner is the one that goes on
    except StoreError as error:
        if isinstance(error, StoreAwayError) and left_as == "queued":
            LOG.warning("run %s is left to others: %s", run.id, error)
            return "queued", ""
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


def main(told: Sequence[str] | None = None) -> None:
    """Entry point of `python -m maml_core.training.worker`, which only a server or `work` should start.

    A password of the store stands in its environment, which others on the machine cannot read, and in no argument.
    """
    parser = argparse.ArgumentParser(prog="python -m maml_core.training.worker", description=serve.__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--parent", required=True, type=int)
    parser.add_argument("--fleet", action="store_true")
    arguments = parser.parse_args(told)
    url = os.environ.get("MAML_STORE", "")
    url = url if shown(url) == arguments.store else arguments.store
    ending = threading.Event()
    torch.set_num_threads(1)  # small networks: one thread is faster than two, and leaves the screen a core
    when_parent_is_gone(arguments.parent, lambda: _end(ending))
    # Of a store that was moved away meanwhile a new one would be taken for it, and a folder be in the way.
    log_to(log_path(url), "worker", makes_folder=database_path(url) is None)
    try:
        store = Store(url, creates=False)
        if arguments.fleet:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: ending.set())
        LOG.info("ready for runs")
        _warm_up()
        if arguments.fleet:
            serve(store, ending, left_as="queued", most=MOST_RUNS)
        else:
            serve(store, ending)
    except StoreError as error:
        LOG.warning("the worker ended: %s", error)
        os._exit(1)
    except Exception as error:
        LOG.exception("the worker ended because of a bug")
        print(f"A worker ended ({type(error).__name__}); see the log {log_path(url)}.", file=sys.stderr)
        os._exit(1)
    os._exit(0)  # everything is committed, and taking torch down in order can take a second


if __name__ == "__main__":
    main()
