"""The gradients page in a real browser: what only a pointer can do, and what only time can."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.lab import PATIENCE, Server, Tab


@pytest.mark.slow
def test_the_initialization_is_dragged_and_the_arrows_follow(server: Server, new_tab: Callable[..., Tab]) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/Gradients")
    above = tab.page.get_by_text("three engines").or_(tab.page.get_by_text("No runs yet"))
    above.first.wait_for(timeout=1000 * PATIENCE)  # what is found in the background moves what is below it
    tab.chart("toy")
    chart = tab.page.locator('.live-chart[data-name="toy"] .chart')
    tab.still(chart)
    chart.scroll_into_view_if_needed()
    handle = """element => {
        const trace = element.data.find((trace) => trace.meta === "handle");
        const { xaxis, yaxis } = element._fullLayout;
        const box = element.getBoundingClientRect();
        const place = ([x, y]) => [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
        const point = [trace.x[0], trace.y[0]];
        return { point, pixel: place(point), tails: element.layout.annotations.map((a) => [a.ax, a.ay]) };
    }"""
    start = chart.evaluate(handle)
    mouse, (x, y) = tab.page.mouse, start["pixel"]
    mouse.move(x, y)
    mouse.down()
    updates = tab.chart("toy")
    mouse.move(x + 120, y - 60, steps=5)
    tab.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    held = chart.evaluate(handle)
    assert held["point"][0] > start["point"][0] + 0.3  # at once, before the server has been asked
    assert held["point"][1] > start["point"][1] + 0.2
    assert np.allclose(held["tails"], held["point"])
    tab.page.wait_for_function(
        "([name, n]) => Number(document.querySelector(`.live-chart[data-name='${name}'] .chart`).dataset.updates) > n",
        arg=["toy", updates],
    )  # the server's arrows come while the button is still down
    mouse.move(x + 180, y - 90, steps=8)
    mouse.up()
    tab.page.wait_for_function(
        """a => Math.abs(Number(new URL(location.href).searchParams.get("toy.a")) - a) < 0.02""",
        arg=chart.evaluate(handle)["point"][0],
    )
    # What is left on the screen is the server's own figure of that place.
    tab.page.wait_for_function("() => document.querySelector(\"[data-name='toy'] .chart\").held === null")
    end = chart.evaluate(handle)
    assert abs(end["pixel"][0] - (x + 180)) < 3
    assert abs(end["pixel"][1] - (y - 90)) < 3
    assert len(end["tails"]) == len(start["tails"])
    assert not tab.complaints


@pytest.mark.slow
def test_every_engine_takes_part(server: Server, new_tab: Callable[..., Tab]) -> None:
    tab = new_tab()
    tab.open(f"{server.url}/?preset=linear&meta_iterations=30&meta_batch_size=7")
    tab.press("Train")
    tab.status("finished")
    run = tab.page.evaluate('() => new URL(location.href).searchParams.get("run")')
    tab.open(f"{server.url}/Gradients?run={run}")
    tab.chart("cosines")
    assert tab.page.get_by_text("takes no part").count() == 0
    assert tab.page.get_by_role("alert").all_inner_texts() == []
    assert not tab.complaints
