"""What a newcomer sees in the first minutes, in a real browser."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from maml_core.presets import PRESETS
from maml_core.store.store import Store
from tests.lab import Server, Tab
from tests.levels import levels
from tests.trained import trained

NewTab = Callable[..., Tab]
TASK = '.live-chart[data-name="task"]'


@pytest.fixture
def run_id(server: Server) -> str:
    store = Store(server.store_url)
    config = PRESETS["first-run"].config.with_settings({"meta_iterations": 300, "engine": "vectorized"})
    run = trained(store, config, preset="first-run")
    store.close()
    return run.id


CONTRAST = """element => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const over = (color, under) => {
        canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
      };
      const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const page = getComputedStyle(document.querySelector("[data-testid=stApp]")).backgroundColor;
      const pair = [light(over(getComputedStyle(element).color, page)), light(over(page, page))].sort((a, b) => b - a);
      return (pair[0] + 0.05) / (pair[1] + 0.05);
    }"""
"""How many to one a text is lighter, or darker, than its page (WCAG 2.1, 1.4.3)."""


@pytest.mark.parametrize("scheme", levels(["light", "dark"], [], ["dark"]))
def test_the_whole_story_is_in_sight_without_scrolling_and_can_be_read(
    server: Server, new_tab: NewTab, run_id: str, scheme: str
) -> None:
    tab = new_tab(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    tab.open(f"{server.url}/?run={run_id}")
    for name in ("task", "loss", "small-tasks"):
        tab.chart(name)
        box = tab.still(tab.page.locator(f'.live-chart[data-name="{name}"]'))
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 800, name
    for label in ("Algorithm", "Inner learning rate", "Inner steps", "Shots"):
        control = tab.page.get_by_test_id("stSidebar").get_by_text(label, exact=True).first.bounding_box()
        assert control is not None
        assert control["y"] < 800
    caption = tab.page.get_by_test_id("stMain").get_by_test_id("stCaptionContainer").locator("p").first
    assert caption.evaluate(CONTRAST) >= 4.5
    assert tab.complaints == []


@pytest.mark.slow
def test_nothing_is_wider_than_the_screen(server: Server, new_tab: NewTab, run_id: str) -> None:
    tab = new_tab(viewport={"width": 390, "height": 800})
    main = tab.page.get_by_test_id("stMain")
    for path, chart, widths in (("/Runs", "run-loss", (390,)), ("/", "small-tasks", (390, 768, 1920))):
        tab.open(f"{server.url}{path}?run={run_id}")
        tab.chart(chart)
        for width in widths:
            tab.page.set_viewport_size({"width": width, "height": 800})
            shown = tab.page.locator(f'.live-chart[data-name="{chart}"]')
            tab.still(shown)
            if chart == "small-tasks":
                high = partial(
                    shown.evaluate, "(element, rows) => element.offsetHeight === 150 * rows", 1 + (width == 390)
                )
                tab.until(high, f"so high at {width} px")  # two rows on a phone
            fits = partial(main.evaluate, "element => element.scrollWidth <= element.clientWidth")
            tab.until(fits, f"{path} fits into {width} px")  # charts follow in a while


@pytest.mark.slow
def test_a_task_moves_by_itself_unless_the_reader_wants_no_motion(server: Server, new_tab: NewTab, run_id: str) -> None:
    moving = new_tab(reduced_motion="no-preference")
    moving.open(f"{server.url}/?run={run_id}")
    moving.page.wait_for_function(f"() => Number(document.querySelector('{TASK} .chart')?.dataset.frames) > 1")
    moving.page.locator(f"{TASK} output", has_text="step 5 of 5").wait_for()  # and comes to rest at the end
    still = new_tab()
    still.open(f"{server.url}/?run={run_id}")
    still.chart("task")
    still.page.locator(f"{TASK} output", has_text="step 5 of 5").wait_for()
    assert still.page.locator(f"{TASK} .chart").get_attribute("data-frames") is None


@pytest.mark.slow
def test_a_chart_is_taken_away_by_its_reader_alone(
    server: Server, new_tab: NewTab, run_id: str, tmp_path: Path
) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/?run={run_id}")
    tab.chart("loss")
    for ending in ("svg", "png", "csv"):
        tab.page.locator('.live-chart[data-name="loss"]').hover()
        button = tab.page.locator(f'.live-chart[data-name="loss"] .modebar-btn[data-title*="{ending.upper()}"]')
        with tab.page.expect_download() as download:
            button.click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert file.name == f"loss.{ending}"
        data = file.read_bytes()
        if ending == "csv":
            lines = data.decode().splitlines()
            assert lines[0] == "trace,x,y"
            assert any(line.startswith("after adaptation,") for line in lines)
        else:
            assert data.startswith(b"<svg" if ending == "svg" else b"\x89PNG")
    buttons = tab.page.locator('.live-chart[data-name="loss"] .modebar-btn')
    titles = [buttons.nth(i).get_attribute("data-title") or "" for i in range(buttons.count())]
    assert any("PNG" in title for title in titles)
    assert not any("share" in title.lower() or "cloud" in title.lower() for title in titles), titles


@pytest.mark.slow
def test_any_term_opens_the_glossary(server: Server, new_tab: NewTab, run_id: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/?run={run_id}")
    tab.page.locator("a", has_text="starting point").click()
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_text("The weights that every task starts from").first.wait_for()
    tab.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    tab.page.get_by_test_id("stSidebar").get_by_test_id("stTooltipIcon").nth(2).hover()  # a field's own explanation
    tab.page.locator('[data-testid="stTooltipContent"] a', has_text="meta-gradient").click()
    dialog.get_by_text("The direction in which the initialization moves").first.wait_for()
    tab.page.keyboard.type("no such thing")
    dialog.get_by_text("No term says so.").wait_for()
    dialog.get_by_role("searchbox").fill("few STEPS of gradient")
    dialog.get_by_text("Adaptation", exact=True).wait_for()
    assert dialog.locator("dt:visible").count() == 1
    box = tab.still(dialog)
    within = box["x"] + box["width"] / 2, box["y"] + box["height"] - 20  # where there is no term any more
    tab.page.mouse.click(*within)
    dialog.get_by_role("searchbox").hover()
    tab.page.mouse.down()
    tab.page.mouse.move(5, 5)  # as who selects what is written there
    tab.page.mouse.up()
    assert dialog.is_visible()
    tab.page.mouse.click(5, 5)
    dialog.wait_for(state="hidden")
    assert tab.complaints == []


def test_a_page_that_is_drawn_anew_leaves_the_glossary_alone(server: Server, new_tab: NewTab, run_id: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/?run={run_id}")
    still = tab.page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')
    tab.page.locator("a", has_text="Glossary").click()
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_role("searchbox").fill("rollout")
    dialog.evaluate("dialog => { dialog.is_the_same = true; }")
    still.wait_for()
    sent = tab.messages
    dialog.get_by_role("button", name="Close").focus()
    tab.page.keyboard.press("r")  # Streamlit's key for it
    tab.until(lambda: tab.messages > sent, "the page is drawn anew")
    still.wait_for()
    assert dialog.evaluate("dialog => dialog.open && dialog.is_the_same")
    assert dialog.get_by_role("searchbox").input_value() == "rollout"
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")
    tab.page.emulate_media(color_scheme="dark")  # for which Streamlit runs a component's script again
    tab.page.get_by_test_id("stSidebar").get_by_role("link", name="Data").click()
    tab.page.get_by_test_id("stMain").locator('a[href^="#term-"]').first.click()
    dialog.wait_for()
    assert tab.complaints == []


def test_all_terms_are_within_reach_on_a_low_screen(server: Server, new_tab: NewTab, run_id: str) -> None:
    tab = new_tab(viewport={"width": 667, "height": 375})
    tab.open(f"{server.url}/?run={run_id}&term=algorithm")
    last = tab.page.get_by_role("dialog").locator(".all dd").last
    last.scroll_into_view_if_needed()
    box = tab.still(last)
    assert 0 < box["y"] < box["y"] + box["height"] < 375


def test_an_address_opens_the_glossary_once(server: Server, new_tab: NewTab, run_id: str) -> None:
    tab = new_tab()
    dialog = tab.page.get_by_role("dialog")
    unknown = "term = 'constructor' is not in the glossary."  # though JavaScript knows such a name
    for term, said in {"constructor": unknown, "Inner+learning rate": "Step size of adaptation"}.items():
        tab.open(f"{server.url}/?run={run_id}&term={term}")
        dialog.locator("[role=status], .chosen").get_by_text(said).wait_for()
        tab.until(lambda: "term=" not in tab.page.url, "the address forgets it")
    tab.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    tab.page.get_by_test_id("stSidebar").get_by_role("link", name="Adapt").click()
    tab.chart("replay")
    assert not dialog.is_visible()


@pytest.mark.slow
def test_what_adapt_shows_plays_in_a_page_of_its_own(
    server: Server, new_tab: NewTab, run_id: str, tmp_path: Path
) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={run_id}")
    tab.chart("replay")
    tab.page.get_by_role("button", name="Share", exact=True).click()
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="The task as a page that plays").click()
    file = tmp_path / "adaptation.html"
    download.value.save_as(file)
    alone = new_tab(offline=True, reduced_motion="no-preference")
    alone.page.goto(file.as_uri())
    alone.page.locator("output", has_text="step 10 of 10 · meta-learned").wait_for()
    assert "random" in alone.page.locator("output").inner_text()
    assert alone.complaints == []
