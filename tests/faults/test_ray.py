"""A sweep whose workers Ray places: a worker and a whole node are killed, and every run ends in the same bits."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from maml_core.cli import main
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training import ray_fleet
from maml_core.training.devices import software
from tests.conftest import wait_for
from tests.faults.test_database_server import fingerprint
from tests.lab import free_port

ROOT = Path(__file__).parents[2]
SETTINGS = ["--preset", "sine", "--set", "meta_iterations=2000", "--set", "engine=vectorized", "--grid", "seed=0,1"]
PACE = 60.0
SECRET = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "an-open-secret-of-the-tests-0123456789"}


def ray(*arguments: str) -> None:
    program = str(Path(sys.executable).with_name("ray"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, env=os.environ | SECRET)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Two nodes on this machine, of one processor each: the address of the first, and the second."""
    address = f"127.0.0.1:{free_port()}"
    common = ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    dashboard = ["--include-dashboard=false", f"--temp-dir={folder}"]
    try:
        ray("start", "--head", f"--port={address.rsplit(':', 1)[1]}", *common, *dashboard)
        head = nodes()
        ray("start", f"--address={address}", *common)
        (second,) = nodes() - head
        yield address, second
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(str(folder) in part or address in part for part in process.info["cmdline"] or []):
                process.kill()


def nodes() -> set[psutil.Process]:
    return {process for process in psutil.process_iter() if process.name() == "raylet"}


def train_twin(kind: str, tmp_path: Path) -> list[str]:
    """What the runs end as where nothing happens to them."""
    url = f"sqlite:///{tmp_path / f'{kind}.db'}"
    assert main(["sweep", *SETTINGS, "--store", url, "--jobs", "1"]) == 0
    store = Store(url)
    found = [fingerprint(store, run.id) for run in in_order(store)]
    store.close()
    return found


def in_order(store: Store) -> list[Run]:
    return sorted(store.all_runs(), key=lambda run: run.config.seed)


@pytest.mark.nightly
def test_a_killed_worker_and_a_killed_node_lose_nothing(store: Store, tmp_path: Path) -> None:
    with cluster(Path("/tmp") / f"maml-ray-{os.getpid()}") as (address, node):
        sweep = subprocess.Popen(
            [sys.executable, "-m", "maml_core", "sweep", *SETTINGS, "--on", "ray", "--jobs", "2"],
            cwd=ROOT,
            env=os.environ | {"MAML_STORE": store.url, "RAY_ADDRESS": address} | SECRET,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for(lambda: len(store.all_runs()) == 2 or sweep.poll() is not None)
            assert sweep.poll() is None, sweep.communicate()[0]
            ids = [run.id for run in in_order(store)]
            for run_id in ids:
                store.set_pace(run_id, PACE)
            wait_for(lambda: all(store.run(run_id).iteration > 5 for run_id in ids))
            workers = [psutil.Process(int((store.run(run_id).owner or "").rsplit(":", 2)[1])) for run_id in ids]
            workers[0].kill()
            wait_for(lambda: store.run(ids[0]).lost == 1)
            before = store.run(ids[0]).iteration
            wait_for(lambda: store.run(ids[0]).iteration > before)
            on_node = [run_id for run_id in ids if node.pid in parents_of_worker(store, run_id)]
            assert len(on_node) == 1
            node.kill()
            wait_for(lambda: node.pid not in parents_of_worker(store, on_node[0]))
            for run_id in ids:
                store.set_pace(run_id, None)
            said, _ = sweep.communicate()
            assert sweep.returncode == 0, said
        finally:
            sweep.kill()
            sweep.wait()
            assert sweep.stdout is not None
            sweep.stdout.close()
    assert [fingerprint(store, run_id) for run_id in ids] == train_twin("twin", tmp_path)


def parents_of_worker(store: Store, run_id: str) -> list[int]:
    owner = store.run(run_id).owner
    try:
        return [one.pid for one in psutil.Process(int(owner.rsplit(":", 2)[1])).parents()] if owner else []
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def store_kind() -> str:
    return "server"


class FakeRay(SimpleNamespace):
    """A cluster of two machines whose software differs."""

    def __init__(self) -> None:
        super().__init__(done=[], init=lambda **_: None, shutdown=lambda: None, cancel=lambda *_, **__: None)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}, {"Alive": True}, {"Alive": False}]

    def remote(self, **_: object) -> Any:
        return lambda work: SimpleNamespace(remote=lambda url, name, software: self.done.append((work, url, name)) or 0)

    def wait(self, given: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return given, []

    def get(self, given: list[Any]) -> list[str]:
        return [self.done[0][0]("", "", "Python 2.7 and torch 0.1") for _ in given]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(ray_fleet, "_ray", lambda: made)
    return made


def test_a_file_that_other_machines_do_not_reach_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fake: FakeRay
) -> None:
    url = f"sqlite:///{tmp_path / 'maml.db'}"
    assert main(["sweep", *SETTINGS, "--store", url, "--on", "ray"]) == 2
    assert "which the 1 other machines of the cluster do not reach" in capsys.readouterr().err
    assert fake.done == []


def test_machines_with_other_software_are_refused_with_both_named(
    store: Store, capsys: pytest.CaptureFixture[str], fake: FakeRay
) -> None:
    assert main(["sweep", *SETTINGS, "--on", "ray"]) == 2
    said = capsys.readouterr().err
    assert f"The machine {socket.gethostname()} has {software()}, and the one that asks has Python 2.7" in said
    assert len(fake.done) == 3  # one for each processor


def test_without_ray_one_sentence_says_what_to_install(
    store_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", *SETTINGS, "--on", "ray"]) == 2
    assert "Ray, which is not installed: pip install -r requirements-cluster.txt" in capsys.readouterr().err
