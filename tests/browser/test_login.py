"""A lab that several people log in to, with a real provider and real browsers."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maml_core.config import RunConfig
from maml_core.processes import this_process
from maml_core.store.people import Person
from maml_core.store.store import Store
from tests.lab import PATIENCE, Server, Tab, free_port, start_server, stop_server
from tests.levels import levels
from tests.oidc import provider


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("shared")
    port = free_port()
    with provider() as url:
        (folder / "secrets.toml").write_text(
            f"""[lab]
admins = ["Root@example.org"]
[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "a long secret that nobody guesses"
client_id = "the-lab"
client_secret = "its secret"
server_metadata_url = "{url}/.well-known/openid-configuration"
"""
        )
        server = start_server(
            f"sqlite:///{folder / 'maml.db'}", f"--secrets.files={folder / 'secrets.toml'}", port=port
        )
        yield server
        stop_server(server)


def enter(tab: Tab, server: Server, who: str) -> None:
    """Log in as somebody."""
    tab.open(server.url)
    tab.press("Log in")
    tab.page.get_by_role("link", name=who).click()
    tab.page.get_by_role("button", name="Log out").wait_for()


@pytest.mark.slow
def test_each_run_says_who_started_it_and_only_they_or_an_admin_stop_and_delete_it(
    shared: Server, new_tab: Callable[..., Tab]
) -> None:
    alice, bob, root = new_tab(), new_tab(), new_tab()
    alice.open(shared.url)
    alice.page.get_by_text("This lab is shared").wait_for()
    assert alice.page.get_by_role("button", name="Train").count() == 0  # nothing of the lab without a login
    enter(alice, shared, "alice")
    alice.page.get_by_text("alice@example.org").first.wait_for()
    alice.open(f"{shared.url}/?preset=paper-10-shot&meta_iterations=10000000")
    alice.press("Train")
    alice.status("running")
    link = alice.page.url
    run_id = re.findall(r"run=(\w+)", link)[0]
    alice.page.goto("about:blank")  # a page in sight is drawn again and again, here by the processor

    enter(bob, shared, "bob")
    bob.open(link)
    bob.page.get_by_text(re.compile(r"started by alice@\W?example\.org")).first.wait_for()  # no link is made of it
    stop = bob.page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop")
    assert stop.is_disabled()
    bob.page.goto("about:blank")
    store = Store(shared.store_url)
    assert store.run(run_id).started_by == "alice@example.org"

    enter(root, shared, "root")
    root.open(link)
    root.page.get_by_text("admin", exact=False).first.wait_for()
    root.press("Stop")
    root.until(lambda: store.run(run_id).status == "stopped", "the admin's stop")
    for tab, is_theirs in ((bob, True), (alice, False)):
        tab.open(f"{shared.url}/Runs?run={run_id}")
        delete = tab.page.get_by_role("button", name="Delete", exact=False)
        delete.wait_for()
        assert delete.is_disabled() == is_theirs
    delete.click()
    alice.page.get_by_text("is deleted").wait_for()
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["mallory", pytest.param("eve", marks=pytest.mark.nightly)])
def test_an_address_that_the_provider_has_not_checked_makes_nobody_its_owner(
    shared: Server, new_tab: Callable[..., Tab], who: str
) -> None:
    store = Store(shared.store_url)
    claimed = store.on_behalf_of(Person("alice@example.org" if who == "mallory" else "root@example.org"))
    run_id = claimed.create_run(RunConfig(), owner=this_process())
    tab = new_tab()
    enter(tab, shared, who)
    tab.page.get_by_text(f"id-of-{who}").first.wait_for()
    assert tab.page.get_by_text("· admin").count() == 0
    tab.open(f"{shared.url}/?run={run_id}")
    tab.status("running")
    stop = tab.page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop")
    stop.wait_for(timeout=1000 * PATIENCE)
    assert stop.is_disabled()
    tab.page.get_by_role("button", name="Log out").click()
    tab.page.get_by_text("This lab is shared").wait_for()
    store.release(run_id, this_process(), "stopped")
    store.close()


SLIPS = [("[auth", "secrets cannot be read"), ("[auth]", "missing or empty")]


@pytest.mark.parametrize(("text", "said"), levels(SLIPS, [], SLIPS[:1]))
def test_a_slip_in_the_secrets_does_not_open_the_lab_to_everybody(
    tmp_path: Path, new_tab: Callable[..., Tab], text: str, said: str
) -> None:
    (tmp_path / "secrets.toml").write_text(text)
    server = start_server(f"sqlite:///{tmp_path / 'maml.db'}", f"--secrets.files={tmp_path / 'secrets.toml'}")
    try:
        tab = new_tab()
        tab.open(server.url)
        tab.page.get_by_text(said).wait_for(timeout=1000 * PATIENCE)
        assert tab.page.get_by_role("button", name="Train").count() == 0
    finally:
        stop_server(server)
