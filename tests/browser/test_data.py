"""From a dropped file to a run, in a real browser, as someone would do it who has never seen the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from maml_core.store.store import Store
from tests.browser.test_lab import NewTab
from tests.conftest import ROOT
from tests.core.test_own_images import folder_of, zip_of
from tests.lab import Server, Tab

FILE = ROOT / "tests" / "data" / "chick_weight.csv"


@pytest.fixture(autouse=True)
def _leave_nothing_running(server: Server) -> Iterator[None]:
    yield
    store = Store(server.store_url)
    for run in store.all_runs():
        if run.is_active:
            store.ask(run.id, "stop")
    store.close()


@pytest.mark.slow
def test_a_dropped_file_is_trained_on_in_three_clicks(server: Server, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Data")
    tab.page.set_input_files("input[type=file]", FILE)
    tab.page.get_by_text("Chick says the task").wait_for()
    tab.chart("tasks")
    tab.press("Train on these")
    tab.page.get_by_text("for each Chick").wait_for()
    tab.press("Train")
    tab.wait_for_updates("loss", 1)
    tab.status("finished")
    store = Store(server.store_url)
    run = store.all_runs()[0]
    assert run.name.startswith("chick_weight")
    store.close()

    tab.open(f"{server.url}/Adapt?run={run.id}")
    tab.chart("replay")
    click_a_row(tab)
    tab.until(lambda: "rows=" in tab.page.url, "a click on a row takes it into the support")
    tab.page.get_by_text("Is it worth it?").click()
    tab.page.get_by_text("held-out tasks (Chick)").wait_for()
    tab.chart("worth")
    tab.chart("worth-rows")
    assert tab.complaints == []


def click_a_row(tab: Tab) -> None:
    """Click one of the rows that are not in the support, where it is drawn."""
    tab.still(tab.page.locator(".live-chart[data-name='replay'] .chart"))
    x, y = tab.page.evaluate(
        """() => {
            const chart = document.querySelector(".live-chart[data-name='replay'] .chart");
            const {xaxis, yaxis} = chart._fullLayout;
            const {x, y} = chart._fullData.find((each) => each.name === "other rows");
            const box = chart.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.l2p(x[0]), box.top + yaxis._offset + yaxis.l2p(y[0])];
        }"""
    )
    tab.page.mouse.move(x - 3, y)
    tab.page.mouse.move(x, y)
    tab.page.mouse.click(x, y)


@pytest.mark.slow
def test_a_folder_and_a_zip_of_images_are_trained_on(server: Server, new_tab: NewTab, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things", classes=7, images=8)
    tab = new_tab()
    tab.open(f"{server.url}/Data")
    tab.page.get_by_text("Images", exact=True).click()
    tab.page.get_by_text("Or as a folder").wait_for()
    tab.page.locator("input[type=file]").nth(1).set_input_files(folder)
    chosen = tab.page.get_by_role("combobox", name="Table")
    tab.until(lambda: "things · 56 images" in (chosen.input_value() + chosen.inner_text()), "the folder is a table")
    tab.page.locator(".live-chart[data-name='classes'] .heatmaplayer image").first.wait_for()
    packed = tmp_path / "packed.zip"
    packed.write_bytes(zip_of(folder))
    tab.page.locator("input[type=file]").first.set_input_files(packed)
    tab.until(lambda: "packed · 56 images" in (chosen.input_value() + chosen.inner_text()), "the zip is the same one")
    store = Store(server.store_url)
    assert sum(row.row_count == 56 for row in store.all_tables()) == 1
    store.close()
    tab.press("Train on these")
    tab.page.get_by_text("which class is it?").wait_for()
    tab.press("Train")
    tab.wait_for_updates("loss", 1)
    assert tab.complaints == []
