"""A store that is moved, deleted, replaced or held by another while it is in use: said, waited for, nothing lost."""

import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from maml_core.config import RunConfig
from maml_core.errors import RunNotFoundError, StoreAwayError, StoreDamagedError
from maml_core.logs import LOG
from maml_core.processes import this_process
from maml_core.store import database
from maml_core.store.store import Store
from maml_core.training.stretch import train_run
from maml_core.training.worker import train_safely
from tests.conftest import wait_for


def path_of(store: Store) -> Path:
    assert store.database.path is not None
    return store.database.path


@contextmanager
def moved(store: Store) -> Iterator[Path]:
    """Its whole folder under another name."""
    folder = path_of(store).parent
    aside = folder.with_name("elsewhere")
    folder.rename(aside)
    yield aside
    aside.rename(folder)


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Locked by another program."""
    with closing(sqlite3.connect(path_of(store), timeout=30.0, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_a_store_that_is_moved_is_missed_and_goes_on_when_it_is_back(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    with moved(store):
        for _ in range(2):
            with pytest.raises(StoreAwayError, match=r"is gone: its file was moved or deleted .* Put it back"):
                store.all_runs()
        with pytest.raises(StoreAwayError, match="is gone"):
            store.edit(run_id, name="lost?")
        assert not path_of(store).exists()  # nothing empty was made in its place
    store.edit(run_id, name="kept")
    assert [run.name for run in store.all_runs()] == ["kept"]


def test_another_store_in_its_place_is_the_one_that_is_used(
    store: Store, small_config: RunConfig, tmp_path: Path
) -> None:
    gone = store.create_run(small_config)
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    there = other.create_run(small_config)
    other.close()
    shutil.move(tmp_path / "other.db", path_of(store))
    assert [run.id for run in store.all_runs()] == [there]
    with pytest.raises(RunNotFoundError):
        store.run(gone)
    path_of(store).unlink()
    path_of(store).write_bytes(b"my notes\n" * 500)
    with pytest.raises(StoreDamagedError, match="not a database"):
        store.all_runs()


@pytest.mark.parametrize("trouble", [moved, pytest.param(held, marks=pytest.mark.slow)])
def test_training_waits_for_its_store(
    store: Store,
    small_config: RunConfig,
    trouble: Callable[[Store], Iterator[None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(LOG, "propagate", True)
    caplog.set_level(logging.INFO, "maml_core")
    config = small_config.with_settings({"meta_iterations": 400, "engine": "vectorized"})
    straight = store.claim(this_process(), store.create_run(config))
    assert straight is not None
    assert train_run(store, straight, this_process()) == "finished"
    run = store.claim(this_process(), store.create_run(config))
    assert run is not None
    store.set_pace(run.id, 200.0)
    worker = Store(store.url)
    ends: list[object] = []
    training = threading.Thread(
        target=lambda: ends.append(train_safely(worker, run, this_process(), threading.Event()))
    )
    training.start()
    wait_for(lambda: store.run(run.id).iteration > 0)
    with trouble(store):  # type: ignore[attr-defined]
        wait_for(lambda: f"run {run.id} waits for its store" in caplog.text)
    wait_for(lambda: f"run {run.id} goes on: its store is back" in caplog.text)
    store.set_pace(run.id, None)
    training.join()
    assert ends == [None]
    assert store.run(run.id).status == "finished"
    assert store.checkpoint(run.id) == store.checkpoint(straight.id)
    assert store.metrics(run.id).equals(store.metrics(straight.id))
    worker.close()


def test_a_worker_that_is_ended_meanwhile_gives_its_run_back_later(
    store: Store, small_config: RunConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOG, "propagate", True)
    run = store.claim(this_process(), store.create_run(small_config.with_settings({"meta_iterations": 100_000})))
    assert run is not None
    store.set_pace(run.id, 100.0)
    ending, ends = threading.Event(), []
    training = threading.Thread(target=lambda: ends.append(train_safely(store, run, this_process(), ending)))
    training.start()
    wait_for(lambda: store.run(run.id).iteration > 0)
    with moved(store):
        wait_for(lambda: f"run {run.id} waits for its store" in caplog.text)
        ending.set()
        training.join()
    assert ends[0] is not None
    status, message = ends[0]
    assert status == "interrupted"
    assert "is gone" in message
    store.release(run.id, this_process(), status, message)
    assert store.checkpoint(run.id) is not None
