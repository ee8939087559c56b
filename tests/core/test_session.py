"""The real thing: worker processes of this process, found, counted, and gone when their server is."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from maml_core.config import RunConfig
from maml_core.presets import PRESETS
from maml_core.processes import this_process
from maml_core.store.schema import checkpoints
from maml_core.store.store import Store
from maml_core.training.session import TrainingSession
from maml_core.training.stretch import train_run
from tests.conftest import PATIENCE, ROOT, wait_for
from tests.lab import worker_processes


def test_training_in_the_background_with_pause_resume_and_queue(session: TrainingSession) -> None:
    config = PRESETS["sine"].config.with_settings({"meta_iterations": 100_000, "engine": "vectorized"})
    first = session.start(config)
    wait_for(lambda: session.store.run(first).iteration > 20)
    second = session.start(config)
    assert len(session.workers()) == 1
    time.sleep(0.3)
    assert session.store.run(second).status == "queued"
    session.store.ask(first, "pause")
    wait_for(lambda: session.store.run(first).status == "paused")
    wait_for(lambda: session.store.run(second).iteration > 0)
    session.store.ask(second, "stop")
    wait_for(lambda: session.store.run(second).status == "stopped")
    at = session.store.run(first).iteration
    session.resume(first, steps=1)
    wait_for(lambda: session.store.run(first).status == "paused")
    assert session.store.run(first).iteration == at + 1


def test_a_second_session_takes_over_the_same_worker(session: TrainingSession, small_config: RunConfig) -> None:
    wait_for(lambda: all(worker.pid for worker in session.workers()))
    again = TrainingSession(session.store.url, limit=1)
    assert len(session.workers()) == 1
    assert again.workers() == session.workers()
    again.store.close()


@pytest.mark.slow
def test_a_killed_worker_leaves_a_run_that_resumes_exactly(session: TrainingSession) -> None:
    config = PRESETS["sine"].config.with_settings({"meta_iterations": 600})
    straight = session.start(config)
    wait_for(lambda: session.store.run(straight).status == "finished")
    killed = session.start(config)
    wait_for(lambda: 0 < session.store.run(killed).iteration < 600)
    for worker in session.workers():
        worker.kill()
    wait_for(lambda: session.store.run(killed).status == "interrupted", 5)
    assert 0 < session.store.run(killed).iteration < 600
    session.resume(killed)
    wait_for(lambda: session.store.run(killed).status == "finished")
    assert session.store.checkpoint(killed) == session.store.checkpoint(straight)
    assert session.store.metrics(killed).equals(session.store.metrics(straight))


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [pytest.param(signal.SIGTERM, marks=pytest.mark.nightly), signal.SIGKILL])
def test_no_worker_outlives_its_server(store_url: str, signal_number: signal.Signals) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, store_url], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    store = Store(store_url)
    wait_for(lambda: any(run.iteration > 0 for run in store.all_runs()))
    workers = psutil.Process(server.pid).children(recursive=True)
    assert worker_processes(server.pid)
    server.send_signal(signal_number)
    server.wait()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not alive
    (run,) = store.all_runs()
    assert run.status == "interrupted"
    store.resume(run.id)
    store.close()


_SERVER = """
import sys, time
from maml_core.presets import PRESETS
from maml_core.training.session import TrainingSession
session = TrainingSession(sys.argv[1], limit=1)
session.start(PRESETS["sine"].config.with_settings({"meta_iterations": 100_000, "engine": "vectorized"}))
time.sleep(300)
"""


@pytest.mark.slow
def test_a_server_that_is_ended_waits_for_what_is_computing() -> None:
    """A thread that came back from torch into an interpreter that is being taken down would abort the process."""
    found = subprocess.run([sys.executable, "-c", _COMPUTES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "leaves\nhas computed\n", "")


_COMPUTES = """
import threading
import torch
from maml_core.training import session

def compute():
    with session.computing():
        computes.set()
        leaves.wait()
        for _ in range(1000):
            torch.ones(200, 200) @ torch.ones(200, 200)
        print("has computed", flush=True)

computes, leaves = threading.Event(), threading.Event()
threading.Thread(target=compute, daemon=True).start()
assert computes.wait(300)
print("leaves", flush=True)
leaves.set()
"""


def test_a_fault_of_the_surroundings_is_no_outcome_of_the_run(store: Store, small_config: RunConfig) -> None:
    """A device that is missing, a checkpoint that is damaged: the one interrupts with a sentence, the other fails."""
    run_id = store.create_run(small_config.with_settings({"device": "mps"}))
    run = store.claim(this_process(), run_id)
    assert run is not None
    assert train_run(store, run, this_process()) == "interrupted"
    assert "mps" in store.run(run_id).message
    assert store.run(run_id).is_resumable
    other = store.create_run(small_config, steps=5)
    run = store.claim(this_process(), other)
    assert run is not None
    assert train_run(store, run, this_process()) == "paused"
    sound = store.checkpoint(other)
    assert sound is not None
    for data, ended in ((b"damaged", "failed"), (sound, "finished")):
        with store.transaction(write=True) as connection:
            connection.execute(checkpoints.update().where(checkpoints.c.kind == "latest").values(data=data))
        store.resume(other)
        run = store.claim(this_process(), other)
        assert run is not None
        assert train_run(store, run, this_process()) == ended
