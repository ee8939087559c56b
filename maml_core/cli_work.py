"""Workers at the command line: on any machine that reaches the store, started by hand, by ssh or by a scheduler."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from maml_core.errors import ConfigError
from maml_core.store.run import ACTIVE, Run
from maml_core.training.session import TrainingSession, default_limit
from maml_core.training.stretch import patiently

LOOK_SECONDS = 0.5


def add_work_options(command: argparse.ArgumentParser) -> None:
    """What `work` takes, beside --store."""
    command.add_argument("--jobs", type=int, default=None, metavar="N", help="runs at once (cores less one)")
    command.add_argument("--until-done", action="store_true", help="end when no run is queued or training any more")


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Train what is queued in a store until told to end, and say what has come of each run.

    When it is ended (Ctrl-C, SIGTERM), the runs under way are committed and queued again, for other workers or a later
    one to go on with.

    Raises:
        MamlError: in one sentence, why that cannot be.
    """
    jobs = default_limit() if options.jobs is None else options.jobs
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs} is not allowed: it must be at least 1.")
    ended: dict[str, str] = {}
    with closing(TrainingSession(options.store, limit=jobs, in_fleet=True)) as session, _ended_in_order():
        store = session.store
        print(f"{jobs} at once, of what is queued in {store.database.name}; Ctrl-C ends it", file=sys.stderr)
        before: dict[str, Run] = {}
        while True:
            now = {run.id: run for run in patiently(store.all_runs, "work")}
            for run in now.values():
                seen = before.get(run.id)
                if seen and seen.is_active and not run.is_active:
                    ended[run.id] = run.status
                    if not options.json:
                        print(f"{run.id}  {run.status:<11}  {run.iteration:>10,}  {run.name}", flush=True)
            before = now
            if options.until_done and not any(run.status in ACTIVE for run in now.values()):
                break
            patiently(session.ensure_workers, "work")
            time.sleep(LOOK_SECONDS)
    return {"runs": [{"run": run_id, "status": status} for run_id, status in ended.items()]}


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Take SIGTERM, as schedulers send it, for Ctrl-C."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
