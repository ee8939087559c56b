"""A store that several people share: each changes their own, and sees what is everybody's."""

from collections.abc import Callable

import pytest

from maml_core.config import RunConfig
from maml_core.errors import NotYoursError, RunNotFoundError
from maml_core.learning.table import example
from maml_core.learning.table_roles import Roles
from maml_core.store.people import Person
from maml_core.store.store import Store
from maml_core.training.sweep import open_sweep

ALICE, BOB, ROOT = Person("alice@example.org"), Person("bob@example.org"), Person("root@example.org", is_admin=True)
CHANGES: dict[str, Callable[[Store, str], object]] = {
    "stop": lambda store, run_id: store.ask(run_id, "stop"),
    "pause": lambda store, run_id: store.ask(run_id, "pause"),
    "resume": lambda store, run_id: store.resume(run_id),
    "pace": lambda store, run_id: store.set_pace(run_id, 3.0),
    "rename": lambda store, run_id: store.edit(run_id, name="mine"),
    "discard": lambda store, run_id: store.discard(run_id),
    "restore": lambda store, run_id: store.restore(run_id),
    "delete": lambda store, run_id: store.delete(run_id),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_who_started_a_run_and_admins_change_it(store: Store, change: str) -> None:
    alices, bobs, roots = (store.on_behalf_of(person) for person in (ALICE, BOB, ROOT))
    for allowed in (alices, roots, store):
        run_id = alices.create_run(RunConfig())
        assert bobs.run(run_id).started_by == "alice@example.org"
        if change == "resume":
            alices.ask(run_id, "stop")
        if change == "restore":
            alices.discard(run_id)
        before = [run for run in store.all_runs() if run.id == run_id]
        with pytest.raises(NotYoursError, match=rf"run = {run_id} .* was started by alice@example.org: only they or"):
            CHANGES[change](bobs, run_id)
        assert [run for run in store.all_runs() if run.id == run_id] == before
        CHANGES[change](allowed, run_id)
        assert [run for run in store.all_runs() if run.id == run_id] != before


def test_a_run_that_nobody_is_named_for_is_changed_by_admins_alone(store: Store) -> None:
    run_id = store.create_run(RunConfig())
    assert store.run(run_id).started_by == ""
    with pytest.raises(NotYoursError, match="without a login: only an admin"):
        store.on_behalf_of(ALICE).delete(run_id)
    store.on_behalf_of(ROOT).delete(run_id)
    with pytest.raises(RunNotFoundError):
        store.run(run_id)


def test_what_is_not_there_is_said_as_ever(store: Store) -> None:
    with pytest.raises(RunNotFoundError):
        store.on_behalf_of(ALICE).edit("none", name="x")


def test_a_sweep_is_its_starters(store: Store) -> None:
    alices = store.on_behalf_of(ALICE)
    open_sweep(alices, RunConfig(), {"seed": [0, 1]}, preset=None)
    assert {run.started_by for run in store.all_runs()} == {"alice@example.org"}


def test_what_somebody_else_has_stopped_of_a_sweep_is_made_anew(store: Store) -> None:
    alices, bobs = store.on_behalf_of(ALICE), store.on_behalf_of(BOB)
    first = open_sweep(alices, RunConfig(), {"seed": [0, 1]}, preset=None)
    alices.ask(first.run_ids[0], "stop")
    second = open_sweep(bobs, RunConfig(), {"seed": [0, 1]}, preset=None)
    assert second.made == 1
    assert second.run_ids[1] == first.run_ids[1]
    assert store.run(second.run_ids[0]).started_by == "bob@example.org"
    assert store.run(first.run_ids[0]).status == "stopped"


def test_a_table_is_changed_by_who_brought_it(store: Store) -> None:
    table = example()
    roles = Roles("sensor", ("reading",), ("temperature (°C)",))
    alices, bobs = store.on_behalf_of(ALICE), store.on_behalf_of(BOB)
    alices.add_table(table, roles)
    name = store.table_row(table.id).name
    refusal = r"was brought by alice@example\.org"
    with pytest.raises(NotYoursError, match=refusal):
        bobs.rename_table(table.id, "bob's")
    with pytest.raises(NotYoursError, match=refusal):
        bobs.set_roles(table.id, Roles("sensor", ("reading",), ("reading",)))
    with pytest.raises(NotYoursError, match=refusal):
        bobs.remove_table(table.id, with_runs=True)
    assert bobs.add_table(table) == table.id  # the same rows, dropped by another: they are there already
    assert store.table_row(table.id).name == name
    bobs.create_run(RunConfig(tasks=roles.family(table), shots=2, query_shots=2))
    with pytest.raises(NotYoursError, match=r"was started by bob@example\.org"):  # which would go along with it
        alices.remove_table(table.id, with_runs=True)
    assert store.table_row(table.id).added_by == "alice@example.org"
    store.on_behalf_of(ROOT).remove_table(table.id, with_runs=True)
    assert store.all_runs() == []
