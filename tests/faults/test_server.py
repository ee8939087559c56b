"""The Streamlit server killed in mid-training, its cache cleared under it, and a day of polling."""

import base64
import http.client
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from maml_core.presets import PRESETS
from maml_core.store.checkpoint import load_checkpoint
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.trainer import Trainer
from tests.conftest import wait_for
from tests.lab import PATIENCE, Server, Tab, start_server, stop_server, worker_processes

NewTab = Callable[..., Tab]
CONFIG = PRESETS["sine"].config.with_settings({"engine": "vectorized", "meta_iterations": 200_000})


def newest(store: Store) -> Run:
    return store.all_runs()[0]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.nightly)])
def test_killed_servers_leave_no_process_and_runs_that_resume_exactly(
    tmp_path: Path, new_tab: NewTab, times: int
) -> None:
    url = f"sqlite:///{tmp_path / 'maml.db'}"
    store = Store(url)
    run_id = store.create_run(CONFIG, preset="sine")
    store.ask(run_id, "pause")
    for number in [signal.SIGTERM] * times + [signal.SIGKILL] * times:
        before = store.run(run_id).iteration
        server = start_server(url)
        tab = new_tab()
        tab.open(f"{server.url}/?run={run_id}")
        tab.press("Resume")
        wait_for(lambda: store.run(run_id).iteration > before + 10)  # noqa: B023
        workers = worker_processes(server.process.pid)
        assert len(workers) == 1
        server.process.send_signal(number)
        server.process.wait(timeout=PATIENCE)
        server.output.close()
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert not alive
        wait_for(lambda: store.run(run_id).status == "interrupted")
        tab.page.context.close()  # or it would look for its server for ever
    reached = store.run(run_id).iteration
    straight = Trainer(CONFIG)
    straight.limit = reached
    for _ in straight.run():
        pass
    saved = load_checkpoint(store.checkpoint(run_id) or b"", CONFIG)
    assert saved.state.iteration == straight.state.iteration
    assert saved.state.parameters.equal(straight.state.parameters)
    assert store.metrics(run_id)["iteration"].is_unique
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.nightly)])
def test_a_browser_that_clears_the_cache_changes_nothing(tmp_path: Path, new_tab: NewTab, times: int) -> None:
    url = f"sqlite:///{tmp_path / 'maml.db'}"
    server = start_server(url, "--client.toolbarMode=developer")
    store = Store(url)
    try:
        tab = new_tab()
        tab.open(f"{server.url}/?preset=sine&meta_iterations=200000&engine=vectorized")
        tab.press("Train")
        tab.chart("loss")
        run_id = newest(store).id
        (worker,) = worker_processes(server.process.pid)
        owner = store.run(run_id).owner
        for _ in range(times):
            before = store.run(run_id).iteration
            tab.page.keyboard.press("c")
            tab.page.get_by_role("dialog").get_by_role("button", name="Clear cache").click()
            tab.page.get_by_role("dialog").wait_for(state="hidden")
            wait_for(lambda: store.run(run_id).iteration > before)  # noqa: B023
            assert [other.pid for other in worker_processes(server.process.pid)] == [worker.pid]
            assert store.run(run_id).owner == owner
        assert len(store.all_runs()) == 1
    finally:
        stop_server(server, signal.SIGTERM)
        store.close()


def handshake(server: Server, host: str | None = None, origin: str | None = None) -> int:
    """The status that asking for the page's websocket is answered with: 101 is yes."""
    place = server.url.removeprefix("http://")
    name, port = place.split(":")
    connection = http.client.HTTPConnection(name, int(port), timeout=PATIENCE)
    headers = {
        "Host": host or place,
        "Origin": origin or server.url,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Protocol": "streamlit",
    }
    connection.putrequest("GET", "/_stcore/stream", skip_host=True)
    for header, value in headers.items():
        connection.putheader(header, value)
    connection.endheaders()
    answer = connection.getresponse().status
    connection.close()
    return answer


def test_the_server_answers_to_its_own_names_alone(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    assert handshake(server) == 101
    assert handshake(server, f"localhost:{port}", f"http://localhost:{port}") == 101
    assert handshake(server, origin="https://example.com") == 403
    assert handshake(server, f"example.com:{port}", f"http://example.com:{port}") == 403  # a name made to mean us
    assert handshake(server, "example.com") == 403


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_long_run_with_a_page_polling_grows_nothing(tmp_path: Path, new_tab: NewTab) -> None:
    url = f"sqlite:///{tmp_path / 'maml.db'}"
    server = start_server(url)
    store = Store(url)

    def measure() -> tuple[float, int, int]:
        found = [psutil.Process(server.process.pid), *worker_processes(server.process.pid)]
        return (
            sum(process.memory_info().rss for process in found) / 2**20,
            sum(process.num_threads() for process in found),
            sum(process.num_fds() for process in found),
        )

    try:
        tab = new_tab()
        tab.open(f"{server.url}/?preset=sine&meta_iterations=100000&engine=vectorized")
        tab.press("Train")
        tab.chart("loss")
        run_id = newest(store).id
        wait_for(lambda: store.run(run_id).iteration > 20_000, 600)
        warm = measure()
        while store.run(run_id).iteration < 95_000:
            time.sleep(2)
        end = measure()
        print(f"MiB, threads, files: {warm} -> {end}")
        assert end[0] - warm[0] < 50
        assert end[1] <= warm[1] + 2
        assert end[2] <= warm[2] + 5
        wait_for(lambda: store.run(run_id).status == "finished", 300)
    finally:
        stop_server(server, signal.SIGTERM)
        store.close()
