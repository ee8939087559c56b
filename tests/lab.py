"""A real server and a real Chromium."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from playwright.sync_api import Browser, Error, FloatRect, Locator, Page, sync_playwright

ROOT = Path(__file__).parent.parent

PATIENCE = 300
"""Seconds to wait for something that is bound to happen: a slow machine fails no test."""

_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")  # lightest first

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def worker_processes(server: int) -> list[psutil.Process]:
    """The processes that train for a server: copies of its nursery where it has one."""
    found = []
    for process in psutil.Process(server).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if process.name() == "maml-worker" or "maml_core.training.worker" in process.cmdline():
                found.append(process)
    return found


@dataclass
class Server:
    """A running lab."""

    url: str
    store_url: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def said(self) -> str:
        """What it has printed so far."""
        self.output.seek(0)
        return self.output.read().decode(errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start_server(store_url: str, *options: str, port: int | None = None) -> Server:
    port = port or free_port()
    output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the server is stopped)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            "app.py",
            "--server.headless=true",
            f"--server.port={port}",
            *options,
        ],
        cwd=ROOT,
        env=os.environ | {"MAML_STORE": store_url},
        stdout=output,
        stderr=output,
    )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return Server(url, store_url, process, output)
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the server did not start: {Server(url, store_url, process, output).said()}")


def stop_server(server: Server, signal_number: signal.Signals = signal.SIGINT) -> int:
    server.process.send_signal(signal_number)
    try:
        return server.process.wait(timeout=PATIENCE)
    finally:
        server.process.kill()
        server.process.wait()
        server.output.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        reason = "no Chromium or Chrome on this machine"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("lab")
    server = start_server(f"sqlite:///{folder / 'maml.db'}")
    yield server
    stop_server(server)


@dataclass
class Tab:
    """A browser tab that remembers what its console complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    messages: int = 0
    """How many messages the server has sent."""

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds, however slow the machine is; fail with `what` if it never does."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, f"waited in vain: {what}"
            self.page.wait_for_timeout(50)

    def still(self, place: Locator) -> FloatRect:
        """Where something is once it has stopped moving."""
        place.wait_for(state="attached", timeout=1000 * PATIENCE)
        seen: list[FloatRect | None] = []

        def rests() -> bool:
            seen.append(place.bounding_box())
            return len(seen) > 5 and seen[-1] is not None and all(box == seen[-1] for box in seen[-5:])

        self.until(rests, "it never comes to rest")
        assert seen[-1] is not None
        return seen[-1]

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.get_by_test_id("stMain").wait_for(timeout=1000 * PATIENCE)

    def chart(self, name: str) -> int:
        """Wait until the chart of that name is drawn; return how many updates it has had."""
        chart = self.page.locator(f'.live-chart[data-name="{name}"] .chart')
        chart.locator(".scatterlayer .trace path").first.wait_for(state="attached", timeout=1000 * PATIENCE)
        return int(chart.get_attribute("data-updates") or 0)

    def wait_for_updates(self, name: str, count: int) -> None:
        start = self.chart(name)
        self.page.wait_for_function(
            "([name, n]) => "
            "Number(document.querySelector(`.live-chart[data-name='${name}'] .chart`).dataset.updates) >= n",
            arg=[name, start + count],
            timeout=1000 * PATIENCE,
        )

    def press(self, label: str) -> None:
        self.page.get_by_test_id("stMain").get_by_role("button", name=label, exact=True).click(timeout=1000 * PATIENCE)

    def status(self, word: str) -> None:
        self.page.locator(".stMarkdownBadge", has_text=word).first.wait_for(timeout=1000 * PATIENCE)


@pytest.fixture
def new_tab(browser: Browser) -> Iterator[object]:
    contexts = []

    def make(**options: object) -> Tab:
        # What moves by itself is drawn by the processor here; whoever looks at that asks for it.
        usual = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        whole: dict[str, Any] = {**usual, **options}
        context = browser.new_context(**whole)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        tab = Tab(context.new_page())

        def count(_: object) -> None:
            tab.messages += 1

        tab.page.on("websocket", lambda socket: socket.on("framereceived", count))

        def note(message: object) -> None:
            # Streamlit itself probes for its base path on a deep link and takes the 404 for an answer.
            where = message.location.get("url", "")  # type: ignore[attr-defined]
            if message.type == "error" and "/_stcore/" not in where:  # type: ignore[attr-defined]
                tab.complaints.append(f"{message.text} {where}")  # type: ignore[attr-defined]

        tab.page.on("console", note)
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        return tab

    yield make
    for context in contexts:
        for page in context.pages:
            with suppress(Error):  # for whoever reads how the test failed, which shows what was printed
                print(page.url, page.get_by_test_id("stMain").inner_text(timeout=1000)[:2000], sep="\n")
        context.close()
