"""Start, pause, resume and stop from eight threads at once: one owner, one worker, a legal sequence of statuses."""

import random
import threading
import time
from collections.abc import Callable

import pytest

from maml_core.errors import RunBusyError
from maml_core.presets import PRESETS
from maml_core.training.session import TrainingSession

ROUNDS = 50
THREADS = 8
LEGAL = {
    ("queued", "running"),
    ("queued", "paused"),
    ("queued", "stopped"),
    ("running", "paused"),
    ("running", "stopped"),
    ("running", "finished"),
    ("paused", "stopped"),
    ("paused", "queued"),
    ("stopped", "queued"),
}


@pytest.mark.slow
def test_eight_threads_at_once(store_url: str) -> None:
    session = TrainingSession(store_url, limit=1)
    store = session.store
    with store.transaction(write=True) as connection:
        connection.exec_driver_sql("CREATE TABLE audit (run TEXT, old TEXT, new TEXT, owner TEXT)")
        connection.exec_driver_sql(
            "CREATE TRIGGER audited AFTER UPDATE OF status ON runs WHEN old.status <> new.status BEGIN "
            "INSERT INTO audit VALUES (new.id, old.status, new.status, new.owner); END"
        )
    sine = PRESETS["sine"].config.with_settings({"engine": "vectorized"})
    run_id = session.start(sine.with_settings({"meta_iterations": 1_000_000}))
    short = sine.with_settings({"meta_iterations": 3})
    actions: dict[str, Callable[[], object]] = {
        "start": lambda: session.start(short),
        "pause": lambda: store.ask(run_id, "pause"),
        "resume": lambda: session.resume(run_id),
        "stop": lambda: store.ask(run_id, "stop"),
    }
    gate = threading.Barrier(THREADS)
    done: dict[str, int] = dict.fromkeys(actions, 0)
    defects: list[BaseException] = []
    most_workers = 0

    def act(number: int) -> None:
        chance = random.Random(number)
        for _ in range(ROUNDS):
            gate.wait(60)
            name = chance.choices(list(actions), [1, 4, 6, 3])[0]
            try:
                actions[name]()
                done[name] += 1
            except RunBusyError:
                pass  # the loser is told
            except BaseException as error:
                defects.append(error)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(THREADS)]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most_workers = max(most_workers, len(session.workers()))
            time.sleep(0.02)
        assert not defects
        assert all(done.values()), done
        assert most_workers <= 1
        with store.transaction() as connection:
            audit = connection.exec_driver_sql("SELECT run, old, new, owner FROM audit ORDER BY rowid").all()
        assert {(old, new) for _, old, new, _ in audit} <= LEGAL
        assert all((owner is not None) == (new == "running") for _, _, new, owner in audit)
        last: dict[str, str] = {}
        for run, old, new, _ in audit:
            assert last.get(run, "queued") == old  # nothing happened twice, nothing was skipped
            last[run] = new
    finally:
        for worker in session.workers():
            worker.kill()
        store.close()
