"""Processes that torchrun starts: the same bits however many there are, and whichever of them is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from maml_core.presets import PRESETS
from maml_core.processes import child_environment
from maml_core.store.run import Run
from maml_core.store.store import Store
from tests.conftest import wait_for
from tests.faults.test_kills import fingerprint
from tests.lab import free_port
from tests.trained import trained

SETTINGS = {"shards": 4, "meta_batch_size": 8, "meta_iterations": 300, "engine": "vectorized"}
CONFIG = PRESETS["sine"].config.with_settings(SETTINGS)

pytestmark = pytest.mark.slow


@contextmanager
def started(*options: str, config: dict[str, object] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A call of torchrun, which ends with the test."""
    settings = [part for name, value in (config or SETTINGS).items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--local-addr", "localhost", *options]
    command += ["-m", "maml_core", "train", "--preset", "sine", *settings]
    process = subprocess.Popen(command, env=child_environment(), stdout=-1, stderr=-2, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.communicate()


def workers(agent: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The processes that torchrun has started, by rank."""
    found = {}
    for child in psutil.Process(agent.pid).children():
        environment = Path(f"/proc/{child.pid}/environ").read_text(errors="replace")
        rank = re.search(r"\0RANK=(\d+)", environment)
        if rank:
            found[int(rank[1])] = child
    return found


def only_run(store: Store) -> Run:
    (run,) = [run for run in store.all_runs() if run.tags]
    return run


def begun(store: Store, iteration: int) -> bool:
    return any(run.tags and run.iteration >= iteration for run in store.all_runs())


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_any_number_of_processes_gives_the_same_bits(store: Store, processes: int) -> None:
    alone = trained(store, CONFIG)
    with started("--master-port", str(free_port()), "--nproc-per-node", str(processes)) as agent:
        said, _ = agent.communicate(timeout=400)
    assert agent.returncode == 0, said
    assert said.count("finished after 300 iterations") == 1  # those who follow say nothing
    assert fingerprint(store, only_run(store).id) == fingerprint(store, alone.id)


@pytest.mark.skipif(sys.platform != "linux", reason="it finds processes by /proc")
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.nightly)])
def test_a_lost_process_is_started_again_and_the_run_goes_on(store: Store, rank: int) -> None:
    alone = trained(store, CONFIG)
    with started("--standalone", "--nproc-per-node", "2", "--max-restarts", "2") as agent:
        wait_for(lambda: begun(store, 20), 300)
        workers(agent)[rank].send_signal(signal.SIGKILL)
        said, _ = agent.communicate(timeout=400)
    assert agent.returncode == 0, said
    assert fingerprint(store, only_run(store).id) == fingerprint(store, alone.id)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="it finds processes by /proc")
def test_two_hosts_lose_a_process_and_the_run_goes_on(store: Store) -> None:
    alone = trained(store, CONFIG)
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", f"test-{os.getpid()}-{time.time_ns()}"]
    meeting += ["--rdzv-endpoint", f"localhost:{free_port()}", "--nnodes", "2", "--max-restarts", "2"]
    with started(*meeting) as one, started(*meeting) as other:
        wait_for(lambda: begun(store, 20), 300)
        follower = {**workers(one), **workers(other)}[1]
        follower.kill()
        for agent in (one, other):
            said, _ = agent.communicate(timeout=400)
            assert agent.returncode == 0, said
    assert fingerprint(store, only_run(store).id) == fingerprint(store, alone.id)


def test_what_cannot_be_shared_out_gets_a_sentence_and_no_run(store: Store) -> None:
    with started("--standalone", "--nproc-per-node", "2", config={"shards": 1}) as agent:
        said, _ = agent.communicate(timeout=400)
    assert agent.returncode == 1
    assert "shards = 1 cannot be shared out among 2 processes: set shards = 2 or a multiple of it" in said
    assert 'File "' not in said.split("ChildFailedError")[0].split("Traceback")[0]
    assert store.all_runs() == []
