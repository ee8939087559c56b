"""The lab as a reader uses it, in a real browser."""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from maml_core.store.store import Store
from tests.lab import PATIENCE, Server, Tab, start_server, stop_server
from tests.levels import levels

NewTab = Callable[..., Tab]
LONG = "?preset=sine&meta_iterations=200000&engine=vectorized"
PACE = 50.0  # meta-iterations a second: the processor is left to the browser


@pytest.fixture(autouse=True)
def _leave_nothing_running(server: Server) -> Iterator[None]:
    yield
    store = Store(server.store_url)
    for run in store.all_runs():
        if run.is_active:
            store.ask(run.id, "stop")
    store.close()


def train(server: Server, tab: Tab) -> None:
    """Press Train, and let the run take its time."""
    tab.press("Train")
    tab.until(lambda: "run=" in tab.page.url, "the link names the run")
    store = Store(server.store_url)
    store.set_pace(re.findall(r"run=(\w+)", tab.page.url)[0], PACE)
    store.close()


def axis_range(tab: Tab, name: str) -> list[float]:
    return tab.page.evaluate(  # type: ignore[no-any-return]
        "name => document.querySelector(`.live-chart[data-name='${name}'] .chart`).layout.xaxis.range", name
    )


def test_train_watch_zoom_leave_and_return(server: Server, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.open(server.url + "/" + LONG)
    tab.chart("task")  # an untrained initialization is shown before the first click
    train(server, tab)
    tab.wait_for_updates("loss", 2)

    box = tab.still(tab.page.locator('.live-chart[data-name="loss"] .nsewdrag'))
    tab.page.mouse.move(box["x"] + 80, box["y"] + 60)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 220, box["y"] + 180, steps=5)
    tab.page.mouse.up()
    whole = '.live-chart[data-name="loss"] .chart'
    tab.page.wait_for_function("place => document.querySelector(place).layout.xaxis.autorange === false", arg=whole)
    zoomed = axis_range(tab, "loss")
    tab.wait_for_updates("loss", 5)
    assert axis_range(tab, "loss") == pytest.approx(zoomed)
    assert tab.page.locator('.live-chart[data-name="loss"] .chart').get_attribute("data-mounts") == "1"

    address = tab.page.url
    second = new_tab()
    second.open(address)
    second.wait_for_updates("loss", 2)
    second.status("running")

    tab.page.get_by_test_id("stSidebar").get_by_text("Runs", exact=True).click()
    tab.page.get_by_text("Every run").wait_for()
    tab.page.go_back()
    tab.wait_for_updates("loss", 2)
    tab.status("running")

    second.press("Pause")
    tab.status("paused")
    second.status("paused")
    tab.press("Resume")
    second.status("running")
    tab.press("Stop")
    second.status("stopped")
    assert tab.complaints == []
    assert second.complaints == []


@pytest.mark.slow
def test_a_run_from_the_command_line_is_seen_live(server: Server, new_tab: NewTab) -> None:
    store = Store(server.store_url)
    from maml_core.presets import PRESETS

    run_id = store.create_run(PRESETS["sine"].config.with_settings({"meta_iterations": 10_000_000}))
    tab = new_tab()
    tab.open(f"{server.url}/?run={run_id}")
    tab.wait_for_updates("loss", 2)
    store.ask(run_id, "stop")
    tab.status("stopped")
    store.close()


@pytest.mark.slow
def test_fullscreen_survives_updates(server: Server, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.open(server.url + "/" + LONG)
    train(server, tab)
    tab.wait_for_updates("loss", 1)
    tab.page.locator('.live-chart[data-name="loss"]').hover()
    tab.page.locator('.live-chart[data-name="loss"] [data-title="Fullscreen"]').click()
    tab.page.wait_for_function("document.fullscreenElement?.dataset.name === 'loss'")
    tab.wait_for_updates("loss", 3)
    assert tab.page.evaluate("document.fullscreenElement?.dataset.name") == "loss"
    tab.page.evaluate("document.exitFullscreen()")
    tab.press("Stop")
    tab.status("stopped")


@pytest.mark.parametrize("scheme", levels(["light", "dark"], [], ["dark"]))
def test_a_theme_reaches_the_charts(server: Server, new_tab: NewTab, scheme: str) -> None:
    tab = new_tab(color_scheme=scheme)
    tab.open(server.url)
    tab.chart("task")
    color = tab.page.evaluate("document.querySelector(\".live-chart[data-name='task'] .xtitle\").style.fill")
    channels = [int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (sum(channels) > 380) == (scheme == "dark")


@pytest.mark.slow
def test_cold_deep_link_shows_the_whole_page_and_ctrl_c_ends_everything(tmp_path: Path, new_tab: NewTab) -> None:
    """The first request to a fresh server is for /Adapt; then training is under way when Ctrl-C comes."""
    server = start_server(f"sqlite:///{tmp_path / 'maml.db'}")
    try:
        tab = new_tab()
        tab.open(server.url + "/Adapt")
        tab.page.get_by_text("No runs yet").wait_for()
        tab.page.get_by_test_id("stSidebar").get_by_text("Lab", exact=True).wait_for()
        tab.open(server.url + "/" + LONG)
        tab.press("Train")
        tab.wait_for_updates("loss", 2)
        workers = psutil.Process(server.process.pid).children(recursive=True)
        assert workers
        assert stop_server(server, signal.SIGINT) in (0, -signal.SIGINT, 130)
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert not alive
        assert tab.complaints == [] or all("ERR_CONNECTION" in text or "WebSocket" in text for text in tab.complaints)
    finally:
        if server.process.poll() is None:
            stop_server(server, signal.SIGKILL)
    store = Store(server.store_url)
    (run,) = store.all_runs()
    assert run.status == "interrupted"
    assert run.iteration > 0
    store.close()


@pytest.mark.slow
def test_runs_page_opens_renames_and_deletes(server: Server, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.open(server.url + "/?preset=linear&meta_iterations=20")
    tab.press("Train")
    tab.status("finished")
    name = Store(server.store_url).all_runs()[0].name
    tab.page.get_by_test_id("stSidebar").get_by_text("Runs", exact=True).click()
    main = tab.page.get_by_test_id("stMain")
    field = main.get_by_label("Name", exact=True)
    field.wait_for()  # of the newest run, which is selected
    assert field.input_value() == name
    field.fill("my best run")
    field.press("Enter")
    main.get_by_text("my best run").first.wait_for(state="attached")
    tab.press("Delete")
    tab.press("Undo")
    store = Store(server.store_url)
    tab.until(lambda: any(run.name == "my best run" for run in store.all_runs()), "the run never comes back")
    store.close()
    tab.page.get_by_role("button", name="Undo").wait_for(state="hidden")  # taken up, and gone
    field.wait_for()
    tab.press("Delete")
    tab.page.get_by_role("button", name="Undo").wait_for(state="visible")
    tab.page.get_by_role("button", name="Undo").wait_for(state="hidden")  # after its ten seconds
    store = Store(server.store_url)
    tab.until(lambda: all(run.name != "my best run" for run in store.all_runs()), "the run is never deleted")
    store.close()
    assert tab.complaints == []


@pytest.mark.slow
def test_charts_follow_their_column_when_the_sidebar_is_folded(server: Server, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.open(server.url)
    tab.chart("task")
    plot = tab.page.locator('.live-chart[data-name="task"] .main-svg').first
    before = tab.still(plot)["width"]
    tab.page.get_by_test_id("stSidebarHeader").hover()  # its button is shown then
    tab.page.get_by_test_id("stSidebarCollapseButton").locator("button").click()
    tab.until(lambda: tab.still(plot)["width"] > before + 50, "the chart never takes the room that is there now")
    assert tab.complaints == []
