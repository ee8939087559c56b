"""Many at once, and files that are too much: the server errs for nobody."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from maml_core.config import RunConfig
from maml_core.processes import this_process
from maml_core.store.exchange import export_run
from maml_core.store.store import Store
from maml_core.training.stretch import train_run
from tests.conftest import wait_for
from tests.lab import Server, start_server, stop_server
from tests.visitors import Visitor, crowd, tour

IMPORTS = "A run exported by this lab, as .zip"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Server]:
    server = start_server(f"sqlite:///{tmp_path / 'maml.db'}")
    yield server
    stop_server(server)


@pytest.mark.slow
def test_twenty_visitors_three_of_them_training_see_no_error(lab: Server) -> None:
    tour(lab.url)
    seen = crowd(lab.url, 20, 30.0)
    assert [one.trouble for one in seen] == [[]] * 20
    assert all(one.reruns for one in seen)
    store = Store(lab.store_url)
    runs = store.all_runs()
    assert len(runs) == 3
    assert {run.status for run in runs} <= {"queued", "running"}
    wait_for(lambda: max(run.iteration for run in store.all_runs()) > 0)
    store.close()


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_memory_stays_flat_over_half_an_hour_of_visitors(lab: Server) -> None:
    process = psutil.Process(lab.process.pid)
    tour(lab.url)
    crowd(lab.url, 20, 300.0)
    before = process.memory_info().rss
    seen = crowd(lab.url, 20, 1800.0)
    assert [one.trouble for one in seen] == [[]] * 20
    assert process.memory_info().rss < before + 150 * 2**20


@pytest.mark.slow
def test_ten_uploads_at_once_are_all_imported_and_one_too_large_is_refused(lab: Server) -> None:
    store = Store(lab.store_url)
    config = RunConfig(meta_iterations=20, meta_batch_size=2, engine="vectorized")
    run_id = store.create_run(config, owner=this_process(), name="to be sent")
    train_run(store, store.run(run_id), this_process())
    file = export_run(store, run_id)
    store.delete(run_id)
    statuses, trouble = [], []

    def send(number: int) -> None:
        visitor = Visitor(lab.url)
        visitor.open("Runs")
        statuses.append(visitor.upload(IMPORTS, f"{number}.zip", file))
        trouble.extend(visitor.seen.trouble)
        visitor.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (statuses, trouble) == ([204] * 10, [])
    runs = store.all_runs()
    assert [(run.name, run.iteration) for run in runs] == [("to be sent", 20)] * 10
    assert len({store.checkpoint(run.id) for run in runs}) == 1

    visitor = Visitor(lab.url)
    visitor.open("Runs")
    assert visitor.upload(IMPORTS, "large.zip", bytes(65 * 2**20)) == 413
    assert visitor.upload(IMPORTS, "no.zip", b"this is no archive") == 204
    assert any("not a zip file of an exported run" in text for text in visitor.seen.trouble)
    visitor.open("Runs")  # and the page works on
    assert len(store.all_runs()) == 10
    visitor.close()
    store.close()
