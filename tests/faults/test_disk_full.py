"""No room left on the disk: said clearly, nothing lost, and everything goes on once there is room."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from maml_core.config import RunConfig
from maml_core.errors import StoreError
from maml_core.presets import PRESETS
from maml_core.processes import this_process
from maml_core.store.checkpoint import load_checkpoint
from maml_core.store.database import log_path
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.session import TrainingSession
from maml_core.training.worker import train_safely
from tests.conftest import wait_for
from tests.levels import levels


@pytest.fixture
def room() -> Iterator[dict[str, int]]:
    """`room["pages"]` limits how far a database opened from now on may grow."""
    limit: dict[str, int] = {}

    def apply(connection: Any, _record: Any) -> None:
        if limit:
            connection.execute(f"PRAGMA max_page_count = {limit['pages']}")

    sa.event.listen(sa.engine.Engine, "connect", apply)
    yield limit
    sa.event.remove(sa.engine.Engine, "connect", apply)


def train(store: Store, run_id: str) -> tuple[str, str] | None:
    run = store.claim(this_process(), run_id)
    assert isinstance(run, Run)
    return train_safely(store, run, this_process(), threading.Event())


@pytest.mark.parametrize("pages", levels([0, 2, 6, 12, 24], [6], [0, 24]))
def test_a_full_disk_interrupts_with_a_sentence_and_training_goes_on_later(
    store: Store, small_config: RunConfig, room: dict[str, int], pages: int
) -> None:
    config = small_config.with_settings({"meta_iterations": 400})
    straight = store.create_run(config)
    assert train(store, straight) is None
    run_id = store.create_run(config)
    store.set_pace(run_id, 400.0)
    with store.transaction() as connection:
        room["pages"] = pages + int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)
    full = Store(store.url)
    end = train(full, run_id)
    assert end is not None, "the disk was not full"
    status, message = end
    assert status == "interrupted"
    assert "disk is full" in message
    assert "free some space" in message
    full.close()
    room.clear()

    at, saved = store.run(run_id).iteration, store.checkpoint(run_id)
    assert (load_checkpoint(saved, config).state.iteration if saved else 0) == at
    store.release(run_id, this_process(), status, message)
    store.set_pace(run_id, None)
    store.resume(run_id)
    assert train(store, run_id) is None
    assert store.checkpoint(run_id) == store.checkpoint(straight)
    assert store.metrics(run_id).equals(store.metrics(straight))


@pytest.mark.slow
def test_a_worker_gives_its_run_back_as_soon_as_it_can(store_url: str) -> None:
    """Not even the status can be written: the run must not stay `running` for as long as its worker lives."""
    session = TrainingSession(store_url, limit=1)
    store = session.store
    try:
        run_id = session.start(
            PRESETS["sine"].config.with_settings({"meta_iterations": 100_000, "engine": "vectorized"})
        )
        wait_for(lambda: store.run(run_id).iteration > 0)
        with store.transaction(write=True) as connection:
            for name, event in (("rows", "INSERT ON metrics"), ("status", "UPDATE OF status ON runs")):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER {name} BEFORE {event} BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
                )
        wait_for(lambda: f"run {run_id} is interrupted" in log_path(store.url).read_text())
        stuck = store.run(run_id)
        assert stuck.status == "running"
        with store.transaction(write=True) as connection:
            connection.exec_driver_sql("DROP TRIGGER rows")
            connection.exec_driver_sql("DROP TRIGGER status")
        wait_for(lambda: store.run(run_id).status == "interrupted")
        assert "disk is full" in store.run(run_id).message
        session.resume(run_id)
        wait_for(lambda: store.run(run_id).iteration > stuck.iteration)
        assert len(session.workers()) == 1
    finally:
        for worker in session.workers():
            worker.kill()
        store.close()


def test_a_full_disk_is_told_at_the_start_of_a_run(store: Store, small_config: RunConfig) -> None:
    with store.transaction(write=True) as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        store.create_run(small_config)
