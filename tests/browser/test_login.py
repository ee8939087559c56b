"""A lab that several people log in to, with a real provider and real browsers."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maml_core.config import RunConfig
from maml_core.store.store import Store
from tests.lab import PATIENCE, Server, Tab, free_port, start_server, stop_server
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


def test_each_run_says_who_started_it_and_only_they_or_an_admin_stop_and_delete_it(
    shared: Server, new_tab: Callable[..., Tab]
) -> None:
    alice, bob, root = new_tab(), new_tab(), new_tab()
    alice.open(shared.url)
    alice.page.get_by_text("This lab is shared").wait_for()
    assert alice.page.get_by_role("button", name="Train").count() == 0  # nothing of the lab without a login
    enter(alice, shared, "alice")
    alice.page.get_by_text("alice@example.org").first.wait_for()
    alice.open(f"{shared.url}/?preset=paper-10-shot&meta_iterations=1000000")
    alice.press("Train")
    alice.status("running")
    link = alice.page.url
    run_id = re.findall(r"run=(\w+)", link)[0]

    enter(bob, shared, "bob")
    bob.open(link)
    bob.page.get_by_text(re.compile(r"started by alice@\W?example\.org")).first.wait_for()  # no link is made of it
    stop = bob.page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop")
    assert stop.is_disabled()
    bob.open(f"{shared.url}/Runs?run={run_id}")
    delete = bob.page.get_by_role("button", name="Delete", exact=False)
    delete.wait_for()
    assert delete.is_disabled()
    store = Store(shared.store_url)
    assert store.run(run_id).started_by == "alice@example.org"

    enter(root, shared, "root")
    root.open(link)
    root.page.get_by_text("admin", exact=False).first.wait_for()
    root.press("Stop")
    root.until(lambda: store.run(run_id).status == "stopped", "the admin's stop")
    alice.open(f"{shared.url}/Runs?run={run_id}")
    alice.page.get_by_role("button", name="Delete", exact=False).click()
    alice.page.get_by_text("is deleted").wait_for()
    store.close()


def test_an_address_that_the_provider_has_not_checked_makes_nobody_its_owner(
    shared: Server, new_tab: Callable[..., Tab]
) -> None:
    store = Store(shared.store_url)
    run_id = store.create_run(RunConfig(), owner="elsewhere:1:1")
    tab = new_tab()
    enter(tab, shared, "mallory")
    tab.page.get_by_text("id-of-mallory").first.wait_for()
    tab.open(f"{shared.url}/?run={run_id}")
    stop = tab.page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop")
    stop.wait_for(timeout=1000 * PATIENCE)
    assert stop.is_disabled()  # a run that is nobody's
    tab.page.get_by_role("button", name="Log out").click()
    tab.page.get_by_text("This lab is shared").wait_for()
    store.close()


def test_a_lab_whose_secrets_cannot_be_read_lets_nobody_in(tmp_path: Path, new_tab: Callable[..., Tab]) -> None:
    """A slip in the file that asks for a login does not open the lab to everybody."""
    (tmp_path / "secrets.toml").write_text("[auth")
    server = start_server(f"sqlite:///{tmp_path / 'maml.db'}", f"--secrets.files={tmp_path / 'secrets.toml'}")
    tab = new_tab()
    tab.open(server.url)
    tab.page.get_by_text("The lab's secrets cannot be read").wait_for(timeout=1000 * PATIENCE)
    assert tab.page.get_by_role("button", name="Train").count() == 0
    stop_server(server)
