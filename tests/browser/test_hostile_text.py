"""Names, notes, cells and links made to be read as something else than text."""

from collections.abc import Callable
from urllib.parse import quote

import pytest

from maml_core.config import RunConfig
from maml_core.learning.table import Table
from maml_core.learning.table_files import read_table
from maml_core.learning.table_roles import Roles
from maml_core.processes import this_process
from maml_core.store.store import Store
from maml_core.training.stretch import train_run
from tests.lab import PATIENCE, Server, Tab
from tests.levels import levels

MARKUP = "<img src=x onerror=hit()><a href=//evil.example>a</a> $x^2$ **b** :red[r]"
ADDRESS = "[l](//evil.example) www.evil.example me@evil.example https://evil.example"
CODES = "\u202e tfel \x1b[31mred\x07 `c` javascript:hit()"


def hostile_table() -> Table:
    names = [f"task {MARKUP}", f"in {MARKUP}", f"out {ADDRESS}"]
    cells = [(f"{group} {MARKUP}", x, x * group % 5) for group in range(12) for x in range(8)]
    rows = [",".join(f'"{value}"' for value in row) for row in cells]
    head = ",".join(f'"{name}"' for name in names)
    return read_table("\n".join([head, *rows]).encode(), f"table {MARKUP}.csv")


@pytest.fixture(scope="module")
def traps(server: Server) -> dict[str, str]:
    """Runs and a table of which every text that a person can give is hostile; the address of each page on them."""
    store = Store(server.store_url)
    table = hostile_table()
    task, x, y = (column.name for column in table.columns)
    roles = Roles(task, (x,), (y,))
    store.add_table(table, roles)
    small = {"model.hidden_sizes": [4], "meta_iterations": 20, "meta_batch_size": 2}
    configs = [RunConfig().with_settings({"model.kind": "mlp"}).with_settings(small)]
    configs.append(configs[0].model_copy(update={"tasks": roles.family(table), "shots": 3, "query_shots": 3}))
    ids = []
    for config in configs:
        run_id = store.create_run(config, owner=this_process(), name=MARKUP, tags=f"{ADDRESS}, {CODES}")
        train_run(store, store.run(run_id), this_process())
        store.edit(run_id, notes=f"{MARKUP} {ADDRESS} {CODES}")
        ids.append(run_id)
    store.close()
    return {
        "lab": f"/?run={ids[1]}",
        "link": f"/?preset={quote(MARKUP)}&hide={quote(MARKUP)}&model.kind={quote(ADDRESS)}",
        "adapt": f"/Adapt?run={ids[1]}",
        "adapt to functions": f"/Adapt?run={ids[0]}&view={quote(MARKUP)}&points={quote(MARKUP)}",
        "runs": f"/Runs?run={ids[1]}&search=evil",
        "gradients": f"/Gradients?run={ids[0]}",
        "data": f"/Data?table={table.id}",
        "compare": f"/Compare?runs={','.join(ids)}",
    }


LAST = {"gradients": "three engines", "data": "for twelve tasks", "compare": "What leads where"}
"""What is the last to be there, on pages that are not drawn in one go."""
PAGES = ["lab", "link", "adapt", "adapt to functions", "runs", "gradients", "data", "compare"]


@pytest.mark.parametrize("page", levels(PAGES, ["adapt to functions"], ["lab", "link", "compare"]))
def test_what_people_write_is_text(
    server: Server, traps: dict[str, str], new_tab: Callable[..., Tab], page: str
) -> None:
    tab = new_tab()
    tab.page.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1; }")
    tab.open(server.url + traps[page])
    tab.page.get_by_text("evil.example").or_(tab.page.get_by_text("onerror")).first.wait_for(timeout=1000 * PATIENCE)
    last = tab.page.get_by_text(LAST[page]) if page in LAST else tab.page.get_by_test_id("stApp")
    last.first.wait_for(timeout=1000 * PATIENCE)
    tab.page.locator("[data-test-script-state=notRunning]").wait_for(timeout=1000 * PATIENCE)
    assert tab.page.evaluate("window.hits") == 0
    marks = "img[src='x'], a[href*='evil'], a[href^='javascript'], a[href^='mailto'], svg a, .katex-html"
    there = tab.page.locator(marks).evaluate_all("all => all.map(one => one.outerHTML.slice(0, 200))")
    assert [html for html in there if "evil" in html or 'src="x"' in html or "x^2" in html] == []
    assert tab.page.get_by_test_id("stException").count() == 0
