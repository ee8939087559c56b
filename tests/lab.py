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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parent.parent

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Server:
    """A running lab."""

    url: str
    store_url: str
    process: subprocess.Popen[bytes]


def start_server(store_url: str, *options: str) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = tempfile.TemporaryFile()  # noqa: SIM115 (the server has it open as long as it lives)
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
    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return Server(url, store_url, process)
        except OSError:
            time.sleep(0.1)
    process.kill()
    output.seek(0)
    raise AssertionError(f"the server did not start: {output.read().decode(errors='replace')}")


def stop_server(server: Server, signal_number: signal.Signals = signal.SIGINT) -> int:
    server.process.send_signal(signal_number)
    try:
        return server.process.wait(timeout=15)
    finally:
        server.process.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
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

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.get_by_test_id("stMain").wait_for(timeout=30_000)

    def chart(self, name: str) -> int:
        """Wait until the chart of that name is drawn; return how many updates it has had."""
        chart = self.page.locator(f'.live-chart[data-name="{name}"] .chart')
        chart.locator(".scatterlayer .trace path").first.wait_for(state="attached", timeout=60_000)
        return int(chart.get_attribute("data-updates") or 0)

    def wait_for_updates(self, name: str, count: int) -> None:
        start = self.chart(name)
        self.page.wait_for_function(
            "([name, n]) => "
            "Number(document.querySelector(`.live-chart[data-name='${name}'] .chart`).dataset.updates) >= n",
            arg=[name, start + count],
            timeout=60_000,
        )

    def press(self, label: str) -> None:
        self.page.get_by_test_id("stMain").get_by_role("button", name=label, exact=True).click(timeout=30_000)

    def status(self, word: str) -> None:
        self.page.locator(".stMarkdownBadge", has_text=word).first.wait_for(timeout=30_000)


@pytest.fixture
def new_tab(browser: Browser) -> Iterator[object]:
    contexts = []

    def make(**options: object) -> Tab:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        tab = Tab(context.new_page())

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
        context.close()
