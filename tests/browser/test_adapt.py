"""The Adapt page in a real browser: replay, points placed by hand, links, both themes."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest

from maml_core.store.store import Store
from tests.lab import Server, Tab
from tests.levels import levels
from tests.trained import trained_run

NewTab = Callable[..., Tab]


def trained(server: Server, preset: str, settings: dict[str, Any]) -> str:
    """A run of a preset with changes, trained here and now."""
    return trained_run(Store(server.store_url), preset, {"engine": "vectorized"} | settings).id


@pytest.fixture(scope="module")
def run_id(server: Server) -> str:
    return trained(server, "sine", {"meta_iterations": 30})


@pytest.mark.slow
def test_replay_plays_without_asking_the_server(server: Server, new_tab: NewTab, run_id: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={run_id}&task=3&steps=40")
    tab.chart("replay")
    chart = tab.page.locator('.live-chart[data-name="replay"] .chart')
    before, frames = chart.get_attribute("data-updates"), int(chart.get_attribute("data-frames") or 0)
    tab.page.get_by_role("button", name="Play the replay", exact=True).click()
    tab.page.wait_for_function(
        "n => Number(document.querySelector(`.live-chart[data-name='replay'] .chart`).dataset.frames) >= n",
        arg=frames + 20,
    )
    tab.page.get_by_role("button", name="Pause the replay", exact=True).click()
    slider = tab.page.get_by_role("slider", name="Adaptation step")
    slider.fill("0")
    tab.page.get_by_text("step 0 of 40").wait_for()
    assert chart.get_attribute("data-updates") == before  # a server's answer would have drawn the chart anew
    assert tab.complaints == []


@pytest.mark.slow
def test_points_are_placed_moved_and_deleted_by_hand(server: Server, new_tab: NewTab, run_id: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={run_id}")
    tab.chart("replay")
    tab.page.get_by_text("My points", exact=True).click()
    tab.page.get_by_text("Place at least two points").wait_for()
    tab.page.locator('.live-chart.edited[data-name="replay"] .nsewdrag').wait_for()  # clicks place points from now on

    def points() -> list[str]:
        found = parse_qs(urlparse(tab.page.url).query).get("points", [""])[0]
        return [part for part in found.split(";") if part]

    def at(x: float, y: float) -> tuple[float, float]:
        whole = tab.page.locator('.live-chart[data-name="replay"] .chart').bounding_box()
        assert whole is not None
        return whole["x"] + 60 + x * 400, whole["y"] + 60 + y * 250

    marks = tab.page.locator('.live-chart[data-name="replay"] .subplot.xy .scatterlayer .trace .points path')

    def wait_for(count: int) -> None:
        tab.until(lambda: len(points()) == count, f"there are never {count} points")

    def is_drawn() -> bool:
        """Whether the picture has come that the server drew of these points, on its own scale."""
        drawn = tab.page.locator('.live-chart[data-name="replay"] .chart').evaluate(
            "chart => chart._fullData.filter(({ mode, xaxis }) => mode === 'markers' && xaxis === 'x')"
            ".flatMap(({ x, y }) => Array.from(x, (value, k) => [value, y[k]]))"
        )
        told = [[float(number) for number in point.split(",")] for point in points()]
        return bool(np.shape(drawn) == np.shape(told) and np.allclose(drawn, told, rtol=1e-3))

    tab.page.mouse.click(*at(0.2, 0.3))
    wait_for(1)
    tab.until(lambda: marks.count() == 1, "the point is never drawn")
    tab.page.mouse.click(*at(0.6, 0.6))
    wait_for(2)
    tab.chart("replay")
    tab.page.get_by_text("Meta-learned, after").wait_for()
    tab.until(is_drawn, "the second point is never drawn")
    box = tab.still(marks.last)  # the picture has a new scale now: find a point where it is drawn
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    first = points()
    tab.page.mouse.move(x, y)
    tab.page.mouse.down()
    tab.page.mouse.move(x - 10, y - 60, steps=5)
    tab.page.mouse.up()
    tab.until(lambda: points() != first, "the point never moves")
    assert len(points()) == 2
    tab.until(is_drawn, "the moved point is never drawn")
    box = tab.still(marks.last)
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wait_for(1)
    assert tab.complaints == []


@pytest.mark.parametrize("scheme", levels(["light", "dark"], [], ["dark"]))
def test_a_link_opens_the_same_picture_in_a_fresh_browser(
    server: Server, new_tab: NewTab, run_id: str, scheme: str
) -> None:
    tab = new_tab(color_scheme=scheme)
    tab.open(f"{server.url}/Adapt?run={run_id}&task=5&p.amplitude=2.5&steps=7&checkpoint=0")
    tab.chart("replay")
    tab.page.get_by_text("Meta-learned, after 7 steps").wait_for()
    said = tab.page.locator(".replay output").inner_text()
    other = new_tab(color_scheme=scheme)
    other.open(tab.page.url)
    other.chart("replay")
    assert other.page.locator(".replay output").inner_text() == said
    assert tab.complaints == other.complaints == []


@pytest.mark.slow
def test_a_cell_of_the_map_and_a_picture_of_the_wall_open_their_task(
    server: Server, new_tab: NewTab, run_id: str
) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={run_id}&view=Where it breaks")
    heat = tab.page.locator('.live-chart[data-name="landscape"] .chart')
    box = tab.still(heat.locator(".heatmaplayer image"))
    tab.page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.1)
    tab.page.get_by_text("Meta-learned, after").wait_for()
    assert "p.amplitude=" in tab.page.url
    assert tab.complaints == []


@pytest.fixture(scope="module")
def spiral(server: Server) -> str:
    return trained(server, "spiral", {"meta_iterations": 60, "model.hidden_sizes": [16], "tasks.classes": 3})


@pytest.mark.slow
def test_a_decision_field_is_scrubbed_without_asking_the_server(server: Server, new_tab: NewTab, spiral: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={spiral}&task=3")
    tab.chart("replay")
    chart = tab.page.locator('.live-chart[data-name="replay"] .chart')
    fields = tab.page.locator('.live-chart[data-name="replay"] .heatmaplayer image')
    tab.until(lambda: fields.count() == 2, "the fields of two starts are never drawn")

    def drawn() -> list[str | None]:
        return [fields.nth(i).get_attribute("href") for i in range(2)]

    after, updates = drawn(), chart.get_attribute("data-updates")
    tab.page.get_by_role("slider", name="Adaptation step").fill("0")
    tab.page.get_by_text("step 0 of 10").wait_for()
    tab.until(lambda: all(a != b for a, b in zip(drawn(), after, strict=True)), "a field never changes")
    tab.page.get_by_role("slider", name="Adaptation step").fill("10")
    tab.until(lambda: drawn() == after, "the fields never come back")
    assert chart.get_attribute("data-updates") == updates
    assert tab.complaints == []


@pytest.mark.slow
def test_points_of_a_chosen_class_are_placed_by_hand(server: Server, new_tab: NewTab, spiral: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={spiral}")
    tab.chart("replay")
    tab.page.get_by_text("My points", exact=True).click()
    tab.page.locator('.live-chart.edited[data-name="replay"] .nsewdrag').wait_for()
    square = tab.page.locator('.live-chart[data-name="replay"] .nsewdrag').first

    def points() -> list[str]:
        found = parse_qs(urlparse(tab.page.url).query).get("points", [""])[0]
        return [part for part in found.split(";") if part]

    def classes() -> list[str]:
        return [point.split(",")[2] for point in points()]

    def click(across: float, up: float) -> None:
        box = tab.still(square)
        tab.page.mouse.click(box["x"] + across * box["width"], box["y"] + up * box["height"])

    click(0.25, 0.25)
    tab.until(lambda: classes() == ["1"], "the first point never gets the first class")
    tab.page.get_by_role("radio", name="3", exact=True).click()
    tab.page.locator('[data-testid="stSidebar"] [aria-checked="true"]', has_text="3").first.wait_for()
    click(0.75, 0.7)
    tab.until(lambda: classes() == ["1", "3"], "the second point never gets the chosen class")
    tab.page.get_by_text("Meta-learned, after").wait_for()
    x, y, _ = (float(value) for value in points()[0].split(","))
    assert x < 0 < y  # left and above the middle, where it was placed
    box = tab.still(square)
    for across, up in ((0.4, 0.6), (0.6, 0.3), (0.3, 0.8)):  # faster than the server answers
        tab.page.mouse.click(box["x"] + across * box["width"], box["y"] + up * box["height"])
    tab.until(lambda: classes() == ["1", "3", "3", "3", "3"], "a point is lost, or another one's class")
    assert tab.complaints == []


@pytest.mark.slow
def test_a_field_on_the_wall_opens_its_task_wherever_it_is_clicked(
    server: Server, new_tab: NewTab, spiral: str
) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={spiral}&view=A wall of fresh tasks&task=0")
    wall = tab.page.locator('.live-chart[data-name="wall"] .chart')
    tab.until(lambda: wall.locator(".heatmaplayer image").count() == 12, "the wall is never drawn")
    box = tab.still(wall.locator(".heatmaplayer image").nth(2))
    tab.page.mouse.click(box["x"] + 0.08 * box["width"], box["y"] + 0.08 * box["height"])  # a corner without points
    tab.page.get_by_text("Meta-learned, after").wait_for()
    tab.until(lambda: parse_qs(urlparse(tab.page.url).query)["task"] == ["3"], "another task is opened")
    assert tab.complaints == []


@pytest.fixture(scope="module")
def navigation(server: Server) -> str:
    small = {"meta_iterations": 2, "meta_batch_size": 2, "shots": 4, "query_shots": 4, "model.hidden_sizes": [8]}
    return trained(server, "navigation", small)


STAR = """element => {
    const trace = element.data[element.latest.figure.handle];
    const { xaxis, yaxis } = element._fullLayout;
    const box = element.getBoundingClientRect();
    const [x, y] = [trace.x[0], trace.y[0]];
    return { x, y, px: box.left + xaxis._offset + xaxis.d2p(x), py: box.top + yaxis._offset + yaxis.d2p(y) };
}"""


@pytest.mark.slow
def test_the_goal_is_dragged_and_the_paths_answer(server: Server, new_tab: NewTab, navigation: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={navigation}&p.goal_x=0.2&p.goal_y=0.1")
    tab.chart("replay")
    chart = tab.page.locator('.live-chart[data-name="replay"] .chart')
    tab.page.get_by_text("Drag the star").wait_for()
    tab.still(chart)
    start, said = chart.evaluate(STAR), tab.page.get_by_test_id("stMetricValue").all_inner_texts()
    assert (start["x"], start["y"]) == (pytest.approx(0.2), pytest.approx(0.1))
    headings = chart.evaluate("element => element.layout.annotations.map((one) => [one.x, one.y])")
    mouse = tab.page.mouse
    mouse.move(start["px"], start["py"])
    mouse.down()
    mouse.move(start["px"] - 90, start["py"] + 60, steps=6)
    tab.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    held = chart.evaluate(STAR)
    assert held["x"] < 0 < 0.1 > held["y"]  # at once, before the server has been asked
    assert chart.evaluate("element => element.layout.annotations.map((one) => [one.x, one.y])") == headings
    mouse.up()
    tab.page.wait_for_function(
        """x => Math.abs(Number(new URL(location.href).searchParams.get("p.goal_x")) - x) < 0.02""", arg=held["x"]
    )
    tab.page.wait_for_function("() => document.querySelector(\"[data-name='replay'] .chart\").held === null")
    tab.until(lambda: tab.page.get_by_test_id("stMetricValue").all_inner_texts() != said, "the returns never change")
    assert tab.page.get_by_text("Goal x").count() == 1  # and the sliders are where they were
    assert tab.complaints == []


@pytest.mark.slow
def test_paths_are_replayed_whole_without_asking_the_server(server: Server, new_tab: NewTab, navigation: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={navigation}&task=3")
    tab.chart("replay")
    chart = tab.page.locator('.live-chart[data-name="replay"] .chart')
    updates = chart.get_attribute("data-updates")
    lines = chart.locator(".subplot.xy .scatterlayer .trace").first.locator(".js-line")
    tab.until(lambda: lines.count() == 10, "the paths of ten rollouts are never drawn")

    def drawn() -> str:
        return "".join(lines.nth(i).get_attribute("d") or "" for i in range(lines.count()))

    after = drawn()
    slider = tab.page.get_by_role("slider", name="Adaptation step")
    slider.fill("0")
    tab.page.get_by_text("step 0 of 3").wait_for()
    tab.until(lambda: drawn() != after, "the paths never move")
    assert drawn().count("M") == 10  # each begins at the start, and none is drawn twice
    frames = int(chart.get_attribute("data-frames") or 0)
    tab.page.get_by_role("button", name="Play the replay", exact=True).click()
    tab.page.wait_for_function(
        "n => Number(document.querySelector(`.live-chart[data-name='replay'] .chart`).dataset.frames) > n",
        arg=frames + 3,
    )
    tab.page.get_by_role("button", name="Play the replay", exact=True).wait_for()  # it has come to its end
    tab.until(lambda: drawn() == after, "the paths do not end where they did")
    assert chart.get_attribute("data-updates") == updates
    assert tab.complaints == []


@pytest.fixture(scope="module")
def images(server: Server) -> str:
    small = {"meta_iterations": 4, "meta_batch_size": 2, "tasks.size": 12, "model.channels": 4, "model.blocks": 2}
    return trained(server, "glyphs", small | {"tasks.classes": 2})


@pytest.mark.slow
def test_what_the_reader_draws_is_named(server: Server, new_tab: NewTab, images: str) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Adapt?run={images}")
    tab.chart("replay")
    tab.page.get_by_text("My drawings", exact=True).click()
    boxes = tab.page.locator(".drawing-board canvas")
    boxes.nth(2).wait_for()
    assert boxes.count() == 3  # one for each class, and one to be named

    def draw(number: int, *corners: tuple[float, float]) -> None:
        before = drawn()
        box = tab.still(boxes.nth(number))
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        tab.page.mouse.move(*at[0])
        tab.page.mouse.down()
        for place in at[1:]:
            tab.page.mouse.move(*place, steps=5)
        tab.page.mouse.up()
        tab.until(lambda: drawn() != before, "a stroke never reaches the link")

    def drawn() -> str:
        return parse_qs(urlparse(tab.page.url).query).get("drawn", [""])[0]

    draw(0, (0.5, 0.1), (0.5, 0.9))
    draw(1, (0.1, 0.5), (0.9, 0.5))
    tab.page.get_by_text("Now draw one of them again").wait_for()
    draw(2, (0.3, 0.2), (0.3, 0.8))
    shares = tab.page.locator(".drawing-board .shares")
    shares.get_by_text("class 2").wait_for()
    tab.page.get_by_text("Meta-learned, after").wait_for()
    named = re.findall(r"class (\d)\n(\d+) %", shares.inner_text())
    assert [number for number, _ in named] == ["1", "2"]
    assert 98 <= sum(int(share) for _, share in named) <= 102
    assert len(drawn().split("~")) == 3

    other = new_tab()
    other.open(tab.page.url)  # a link opens the same drawings
    other.page.locator(".drawing-board .shares").get_by_text("class 2").wait_for()
    assert other.page.locator(".drawing-board .shares").inner_text() == shares.inner_text()

    tab.page.get_by_role("button", name="Clear which is it?").click()
    tab.until(lambda: not drawn().split("~")[2], "the drawing is never cleared")
    shares.locator("i").first.wait_for(state="detached")
    assert tab.complaints == other.complaints == []
