"""What all tests share: a store of their own, and one thread for torch."""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from maml_core.config import RunConfig
from maml_core.learning.families import Sine
from maml_core.learning.models import MLP
from maml_core.store.store import Store
from maml_core.training.session import TrainingSession
from tests.lab import PATIENCE, browser, new_tab, server
from tests.postgres import Postgres, postgres_server

__all__ = ["PATIENCE", "browser", "new_tab", "server"]  # one server and one browser for all tests that want them

ROOT = Path(__file__).parent.parent


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker for each core, four at most; for the slow tests, which wait for pages and leases, half as many more."""
    workers = min(4, os.cpu_count() or 1)
    return workers + workers // 2 if config.option.markexpr.startswith("slow") else workers


def pytest_collection_finish() -> None:
    """What is there before the first test is there to the end: no collection of garbage need look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_native_loops(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for all tests, so that a loop is compiled once, and none in the user's own.

    CI names a folder, and so has one for all that it runs.
    """
    base = tmp_path_factory.getbasetemp()
    own = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Path(os.environ.get("MAML_TESTS_FOLDER", own)) / "cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["MAML_CACHE"] = str(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests that want one."""
    yield from postgres_server()


@pytest.fixture
def store_kind() -> str:
    """Where stores are kept: in a `file`, or on a `server`; a module may have its tests run on both."""
    return "file"


@pytest.fixture
def store_url(request: pytest.FixtureRequest, store_kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path / 'runs' / 'maml.db'}"
    if store_kind == "server":
        url = request.getfixturevalue("postgres").new_database()
    monkeypatch.setenv("MAML_STORE", url)
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = Store(store_url)
    yield opened
    opened.close()


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something holds that is bound to, however slow the machine is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def at_once(count: int, act: Callable[[int], object]) -> None:
    """Have so many threads do it, each with its number, and wait for all of them."""
    threads = [threading.Thread(target=act, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def session(store_url: str) -> Iterator[TrainingSession]:
    """A session with one worker, which ends with the test."""
    session = TrainingSession(store_url, limit=1)
    yield session
    for worker in session.workers():
        worker.kill()
    wait_for(lambda: not session.workers())
    session.store.close()


@pytest.fixture
def small_config() -> RunConfig:
    """A run of a fraction of a second."""
    return RunConfig(
        model=MLP(hidden_sizes=(8,), activation="tanh"),
        tasks=Sine(),
        shots=5,
        query_shots=5,
        meta_batch_size=3,
        meta_iterations=40,
        inner_steps=2,
    )
