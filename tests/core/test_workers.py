"""Workers as copies of a nursery: ready at once, in today's surroundings, and none that nobody wants any more."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from maml_core.config import RunConfig
from maml_core.presets import PRESETS
from maml_core.training import workers
from maml_core.training.session import TrainingSession
from tests.conftest import wait_for
from tests.lab import PATIENCE, worker_processes

LONG = PRESETS["sine"].config.with_settings({"meta_iterations": 100_000, "engine": "vectorized"})
only_copies = pytest.mark.skipif(not workers.CAN_COPY, reason="processes are not copied on this system")


def nursery_of(session: TrainingSession) -> psutil.Process:
    wait_for(lambda: all(worker.pid for worker in session.workers()))
    (worker,) = session.workers()
    parent = psutil.Process(worker.pid).parent()
    assert parent is not None
    assert parent.name() == "maml-nursery"
    return parent


@only_copies
def test_a_worker_that_nobody_wants_any_more_does_not_come(session: TrainingSession) -> None:
    nursery = nursery_of(session)
    (first,) = session.workers()
    nursery.send_signal(signal.SIGSTOP)
    try:
        for end in ("terminate", "kill"):
            workers.start_worker("nobody's", "sqlite:///nobodys.db", in_fleet=False)
            (unwanted,) = workers.workers_of("nobody's")
            assert unwanted.pid is None
            assert not unwanted.has_ended()
            getattr(unwanted, end)()
            assert unwanted.has_ended()
        assert workers.workers_of("nobody's") == []
        session.limit = 2
        session.store.create_run(LONG)
        session.store.create_run(LONG)
        session.ensure_workers()
        session.ensure_workers()
        assert len(session.workers()) == 2  # the one that is still to come counts
    finally:
        nursery.send_signal(signal.SIGCONT)
    wait_for(lambda: all(worker.pid for worker in session.workers()))
    second = next(worker for worker in session.workers() if worker is not first)
    wait_for(lambda: {child.pid for child in nursery.children()} == {first.pid, second.pid})


@only_copies
def test_a_worker_lives_in_the_surroundings_of_its_order(
    session: TrainingSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nursery_of(session)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("MAML_CACHE", str(tmp_path / "loops"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    session.limit = 2
    for _ in range(2):
        session.store.create_run(LONG)
    session.ensure_workers()
    wait_for((tmp_path / "loops").exists)
    wait_for(lambda: all(worker.pid for worker in session.workers()))
    folders = {psutil.Process(worker.pid).cwd() for worker in session.workers()}
    assert str(tmp_path / "elsewhere") in folders


@only_copies
def test_where_there_can_be_no_more_processes_those_there_are_go_on(
    session: TrainingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = session.start(LONG)
    wait_for(lambda: session.store.run(run_id).iteration > 0)
    nursery = nursery_of(session)

    def exhausted(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("maml_core.training.workers.socket.socketpair", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            workers.start_worker("nobody's", "sqlite:///nobodys.db", in_fleet=False)
    workers.start_worker(session.store.database.name, session.store.url, in_fleet=False)
    wait_for(lambda: all(worker.pid for worker in session.workers()))
    assert nursery.is_running()
    assert session.store.run(run_id).status == "running"


@only_copies
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_a_job_ends_no_worker_before_its_time(
    session: TrainingSession, number: signal.Signals
) -> None:
    nursery = nursery_of(session)
    (worker,) = session.workers()
    nursery.send_signal(number)
    workers.start_worker(session.store.database.name, session.store.url, in_fleet=False)
    wait_for(lambda: all(one.pid for one in session.workers()))
    assert not worker.has_ended()
    assert len(session.workers()) == 2
    worker.terminate()
    assert worker.wait(PATIENCE)


@only_copies
def test_a_nursery_that_is_killed_takes_its_workers_along_and_another_comes(
    session: TrainingSession, small_config: RunConfig
) -> None:
    run_id = session.start(LONG)
    wait_for(lambda: session.store.run(run_id).iteration > 0)
    nursery = nursery_of(session)
    nursery.kill()
    wait_for(lambda: session.store.run(run_id).status == "interrupted")
    wait_for(lambda: not session.workers())
    other = session.start(small_config)
    wait_for(lambda: session.store.run(other).status == "finished")
    assert nursery_of(session).pid != nursery.pid


@pytest.mark.slow
def test_where_processes_are_not_copied_each_worker_is_started_anew(
    store_url: str, small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CAN_COPY", False)
    session = TrainingSession(store_url, limit=1)
    (worker,) = session.workers()
    assert worker.pid in [process.pid for process in worker_processes(psutil.Process().pid)]
    run_id = session.start(small_config)
    wait_for(lambda: session.store.run(run_id).status == "finished")
    session.close()
    assert worker.has_ended()
    assert session.workers() == []


@pytest.mark.slow
def test_the_nursery_loads_all_that_a_first_gradient_needs_and_computes_nothing() -> None:
    said = subprocess.run([sys.executable, "-c", _LOADS], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


_LOADS = """
import sys
import torch

def refuse(*_):
    raise AssertionError("what asks the driver cannot be copied")

kept = {name: getattr(torch.cuda, name) for name in ("is_available", "device_count", "_lazy_init")}
for name in kept:
    setattr(torch.cuda, name, refuse)
import maml_core.training.nursery
for name, function in kept.items():
    setattr(torch.cuda, name, function)
from maml_core.training.worker import _warm_up
before = set(sys.modules)
_warm_up()
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_a_worker_that_comes_after_its_store_was_moved_makes_nothing_in_its_place(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'moved' / 'maml.db'}"
    command = [sys.executable, "-m", "maml_core.training.worker", "--store", url, "--parent", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert list(tmp_path.iterdir()) == []
