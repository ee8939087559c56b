"""Tables: reading files, what a hash says, tasks from rows, and the sets that never meet."""

import contextlib
import gzip
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

from maml_core.config import RunConfig
from maml_core.engines import ENGINES, MetaOptimizer, initial_state
from maml_core.errors import ConfigError, StoreError
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.fresh_rows import draw_rows_tasks, read_new_rows
from maml_core.learning.image_tables import signs
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.models import MLP, build_model
from maml_core.learning.shuffles import draw_rows
from maml_core.learning.table import Column, ColumnKind, Table, example, find, forget, keep
from maml_core.learning.table_files import read_table
from maml_core.learning.table_roles import Roles, guess_roles
from maml_core.learning.table_tasks import TableFamily
from maml_core.learning.tasks import TaskSet, seeded
from maml_core.presets import config_for_table
from maml_core.store.store import Store
from maml_core.training.trainer import Trainer
from tests.conftest import at_once

BASE = "task,x,y,kind,day\na,1.5,2,red,2024-01-02\na,2.5,3,blue,2024-01-03\nb,1,NA,red,\nb,-2,4.25,größer,2024-02-01\n"


def as_parquet(text: str) -> bytes:
    file = io.BytesIO()
    pd.read_csv(io.StringIO(text), parse_dates=["day"]).to_parquet(file)
    return file.getvalue()


DIALECTS: dict[str, bytes] = {
    "semicolons, decimal commas": BASE.replace(",", ";").replace(".", ",").encode(),
    "tabs": BASE.replace(",", "\t").encode(),
    "bars": BASE.replace(",", "|").encode(),
    "byte order mark": ("\ufeff" + BASE).encode(),
    "Windows lines": BASE.replace("\n", "\r\n").encode(),
    "latin-1": BASE.encode("latin-1"),
    "UTF-16": BASE.encode("utf-16"),
    "gzip": gzip.compress(BASE.encode()),
    "Parquet": as_parquet(BASE),
    "quoted": BASE.replace("red", '"red"').encode(),
    "blank lines and spaces": BASE.replace("\n", "\n\n").replace(",", " , ").encode(),
    "German dates": BASE.replace("2024-01-02", "02.01.2024")
    .replace("2024-01-03", "03.01.2024")
    .replace("2024-02-01", "1.2.2024")
    .encode(),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_is_the_same_however_its_file_was_written(dialect: str) -> None:
    assert read_table(DIALECTS[dialect], "other name.csv").id == read_table(BASE.encode(), "t.csv").id


def test_columns_are_numbers_dates_or_words() -> None:
    table = read_table(BASE.encode(), "folder/my table.csv.gz")
    assert table.name == "my table"
    assert {column.name: column.kind.value for column in table.columns} == {
        "task": "category", "x": "number", "y": "number", "kind": "category", "day": "date",
    }  # fmt: skip  # a table
    assert table.values("y").tolist()[:2] == [2.0, 3.0]
    assert math.isnan(table.values("y")[2])
    assert table.values("day")[0] == (pd.Timestamp("2024-01-02") - pd.Timestamp("1970-01-01")).days
    assert table.values("kind=red").tolist() == [1, 0, 1, 0]
    assert table.expanded(["x", "kind"]) == ("x", "kind=blue", "kind=größer", "kind=red")


@settings(max_examples=40, deadline=None)
@given(st.permutations(["task", "x", "y", "kind", "day"]))
def test_the_order_of_columns_changes_nothing(order: list[str]) -> None:
    frame = pd.read_csv(io.StringIO(BASE), dtype=str, keep_default_na=False)
    assert read_table(frame[order].to_csv(index=False).encode(), "t").id == read_table(BASE.encode(), "t").id


def test_a_table_survives_its_parquet() -> None:
    for table in (read_table(BASE.encode(), "t"), example()):
        again = Table.from_parquet("other", table.columns, table.to_parquet())
        assert again.id == table.id
        assert Table.from_parquet("x", list(reversed(table.columns)), table.to_parquet()).id == table.id
    changed = read_table(BASE.replace("1.5", "1.6").encode(), "t")
    assert changed.id != read_table(BASE.encode(), "t").id


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "header only": (b"a,b,c\n", "no row below"),
    "no numbers": (b"a,b\nx,y\nz,w\n", "no column holds numbers"),
    "duplicate names": (b"a,a,b\n1,2,3\n", "two columns are called 'a'"),
    "10,000 columns": (",".join(f"c{i}" for i in range(10_000)).encode() + b"\n1\n", "10,000 columns, at most 500"),
    "an image": (b"\x89PNG\r\n\x1a\n\x00\x00", "not a table of text"),
    "a bomb": (gzip.compress(b"0" * (65 * 2**20)), "more than 64 MiB"),
    "half a gzip": (gzip.compress(b"a,b\n1,2\n")[:8] + b"zzzzz", "not a whole gzip file"),
    "infinite": (b"a,b\n1,2\n2,inf\n", "'b' is infinite in line 3"),
    "ragged": (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, where the header has 2"),
    "an open quote": (b'a,b\n"1,2\n3,4\n', "quotation mark"),
    "no header": (b"1,2\n3,4\n", "no column names"),
    "half a Parquet": (b"PAR1xxxx", "Parquet file is damaged"),
    "a long name": (b"a" * 300 + b",b\n1,2\n", "longer than 200"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_file_is_said(case: str) -> None:
    data, said = BAD[case]
    with pytest.raises(ConfigError, match=said) as error:
        read_table(data, "bad.csv")
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_give_a_table_or_a_sentence(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        read_table(data, "any")


def test_a_quoted_line_end_is_part_of_its_cell() -> None:
    table = read_table(b'name,b\n"x\ny",1\n"z",2\n', "t")
    assert table.rows == 2
    assert table.labels("name").tolist() == ["x\ny", "z"]


# Roles ----------------------------------------------------------------------------------------------------------


def made(tasks: int = 12, rows: int = 8, inputs: int = 1, outputs: int = 1, seed: int = 0) -> Table:
    """A table of random lines: y = slope * x + offset for each task."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(tasks), rows)
    x = random.normal(size=(tasks * rows, inputs)).round(6)
    slope, offset = random.normal(size=(tasks, inputs, outputs)), random.normal(size=(tasks, outputs))
    y = (np.einsum("ni,nio->no", x, slope[owner]) + offset[owner]).round(6)
    frame = pd.DataFrame({"subject": [f"s{i:03d}" for i in owner]})
    for i in range(inputs):
        frame[f"x{i}"] = x[:, i]
    for i in range(outputs):
        frame[f"y{i}"] = y[:, i]
    return keep(read_table(frame.to_csv(index=False).encode(), "made"))


def family_of(table: Table, **changes: Any) -> TableFamily:
    names = [column.name for column in table.columns]
    inputs, outputs = (tuple(name for name in names if name[0] == letter) for letter in "xy")
    return Roles("subject", inputs, outputs).family(table).model_copy(update=changes)


def test_roles_are_guessed_and_said_why() -> None:
    roles = guess_roles(made(inputs=2))
    assert (roles.task, roles.inputs, roles.outputs) == ("subject", ("x0", "x1"), ("y0",))
    assert "subject says the task: 12 values with 8 rows each." in roles.why
    roles = guess_roles(example())
    assert roles.task == "sensor"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n1\n2\n", "has 1 column"),
        ("task,x,y\n" + "".join(f"same,{i},{i}\n" for i in range(20)), "no column looks like a task"),
        ("task,x,y\n" + "".join(f"t{i},{i}.5,{i}.1\n" for i in range(20)), "no column looks like a task"),
        ("task,x,y\n" + "".join(f"t{i % 10},{i % 10}.5,{i % 10}.1\n" for i in range(60)), "no number varies"),
    ],
)
def test_what_has_no_tasks_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        guess_roles(read_table(text.encode(), "t"))


def test_columns_that_cannot_have_a_role_are_said() -> None:
    table = read_table(BASE.encode(), "t")
    for roles, said in (
        (Roles("kind", ("x",), ("nothing",)), "'nothing' is not a column"),
        (Roles("kind", ("nothing",), ("y",)), "'nothing' is not a column"),
        (Roles("kind", ("x",), ("task",)), "'task' holds words"),
        (Roles("day", ("x",), ("y",)), "another value in every row"),
    ):
        with pytest.raises(ConfigError, match=said):
            roles.family(table).rows  # noqa: B018 (read for its errors)
    one = read_table(b"task,x,y\n" + b"same,1,2\nsame,2,3\n" * 10, "t")
    with pytest.raises(ConfigError, match="there is one task"):
        Roles("task", ("x",), ("y",)).family(one)
    with pytest.raises(ConfigError, match="not allowed twice"):
        family_of(made(), inputs=("x0", "x0")).rows  # noqa: B018


def test_too_few_tasks_and_constant_columns_are_said() -> None:
    with pytest.raises(ConfigError, match="has 7 tasks with at least 8 rows"):
        family_of(made(tasks=7)).check(8)
    with pytest.raises(ConfigError, match="has 0 tasks with at least 9 rows"):
        family_of(made()).check(9)
    text = "subject,x0,y0\n" + "".join(f"t{i % 10},{i}.5,7\n" for i in range(60))
    with pytest.raises(ConfigError, match="'y0' is 7 in every row"):
        family_of(keep(read_table(text.encode(), "t"))).check(4)
    text = "subject,x0,y0\n" + "".join(f"t{i % 10},{i % 10},{i}\n" for i in range(60))
    with pytest.raises(ConfigError, match="no task left to train on"):
        family_of(keep(read_table(text.encode(), "t"))).check(4)


def test_tasks_with_the_same_inputs_in_all_rows_and_incomplete_rows_are_left_out_and_counted() -> None:
    text = "subject,x0,y0\n" + "".join(f"t{i % 12},{3 if i % 12 == 0 else i},{i}\n" for i in range(120)) + "t1,5,\n"
    found = family_of(keep(read_table(text.encode(), "t"))).summary(3, 3)
    assert (found.flat, found.incomplete, found.small) == (1, 1, 0)
    assert found.training + found.validation + found.held_out == 11


# Tasks ----------------------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=20)


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(0, 10_000))
def test_rows_are_drawn_without_replacement_and_below_the_count(sizes: list[int], seed: int) -> None:
    counts = torch.tensor(sizes)
    points = int(counts.min())
    drawn = draw_rows(counts, points, seeded(str(seed)))
    assert ((drawn >= 0) & (drawn < counts[:, None])).all()
    assert all(len(set(row)) == points for row in drawn.tolist())


def test_every_row_is_as_likely_as_any_other_in_every_place() -> None:
    for count, points in ((5, 5), (7, 3), (500, 3)):  # the last by the way that suits long lists
        drawn = draw_rows(torch.full((40_000,), count), points, seeded("likely"))
        for place in range(points):
            share = torch.bincount(drawn[:, place].clamp(max=6), minlength=7)[: min(count, 6)] / 40_000
            torch.testing.assert_close(share, torch.full_like(share, 1 / count), atol=0.012, rtol=0)


def test_both_ways_to_draw_give_the_same_rows() -> None:
    counts = torch.randint(30, 300, (50,), generator=seeded("counts"))
    short, long = draw_rows(counts, 10, seeded("same")), None
    from maml_core.learning import shuffles

    u = torch.rand(10, 50, generator=seeded("same"), dtype=torch.float64)
    steps = torch.arange(10)[:, None]
    targets = (steps + (u * (counts - steps)).long()).minimum(counts - 1)
    long = shuffles._shuffle_swaps(targets, 300).T
    assert torch.equal(short, long)


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 40), st.integers(0, 5), st.integers(2, 6))
def test_sets_never_share_a_task_and_support_never_a_row_with_query(tasks: int, split_seed: int, shots: int) -> None:
    table = made(tasks=tasks, rows=12)
    family = family_of(table, split_seed=split_seed, standardize=False)
    sets = [set(members.tolist()) for members in family.rows.sets.values()]
    assert sum(map(len, sets)) == len(set.union(*sets)) == tasks
    assert all(sets)
    owners = dict(zip(table.values("x0").astype(np.float32).tolist(), table.labels("subject"), strict=True))
    seen: dict[TaskSet, set[str]] = {}
    for task_set in TaskSet:
        batch = family.sample_batch((20,), shots, shots, seeded("s"), task_set=task_set)
        for support, query in zip(batch.support_x[..., 0].tolist(), batch.query_x[..., 0].tolist(), strict=True):
            assert not set(support) & set(query)
            found = {owners[x] for x in support + query}
            assert len(found) == 1
            seen.setdefault(task_set, set()).update(found)
    assert not seen[TaskSet.TRAINING] & seen[TaskSet.HELD_OUT]
    assert not seen[TaskSet.TRAINING] & seen[TaskSet.VALIDATION]
    assert not seen[TaskSet.VALIDATION] & seen[TaskSet.HELD_OUT]


def test_no_setting_of_a_run_moves_a_task_to_another_set() -> None:
    family = family_of(made(tasks=30))
    sets = family.rows.sets
    other = family.model_copy(update={"standardize": False, "inputs": ("x0",)})
    assert all(torch.equal(sets[name], other.rows.sets[name]) for name in TaskSet)


def test_standardization_is_of_the_training_tasks_and_inverts() -> None:
    table = made(tasks=20, inputs=2, outputs=2)
    family = family_of(table)
    rows = family.rows
    training = torch.isin(torch.repeat_interleave(torch.arange(20), rows.count), rows.sets[TaskSet.TRAINING])
    torch.testing.assert_close(rows.x[training].mean(0), torch.zeros(2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(rows.y[training].std(0, correction=0), torch.ones(2).double())
    x = torch.from_numpy(np.stack([table.values("x0"), table.values("x1")], 1))
    torch.testing.assert_close(rows.scaling.original_x(rows.x), x)  # the file is in the order of its tasks
    torch.testing.assert_close(rows.scaling.scale_y(rows.scaling.original_y(rows.y)), rows.y)


def test_a_run_is_the_same_whatever_the_order_of_columns() -> None:
    table = made()
    shuffled = Table("other", list(reversed(table.columns)), table.frame[list(reversed(list(table.frame)))])
    assert shuffled.id == table.id
    config = config_for_table(family_of(table)).with_settings({"engine": "vectorized", "meta_iterations": 10})
    rows = [row for progress in Trainer(config).run() for row in progress.rows]
    keep(shuffled)
    again = [row for progress in Trainer(RunConfig.from_json(config.to_json())).run() for row in progress.rows]
    assert rows == again


def test_a_table_that_nobody_has_is_said() -> None:
    config = RunConfig.from_dict({"tasks": {"family": "table", "table": "0" * 64}})  # listed, and shown, all the same
    assert config.sizes().parameters > 0
    with pytest.raises(ConfigError, match="is not in this store: add its file"):
        config.tasks.check(20)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", ["fomaml", "maml"])
def test_gradients_with_several_inputs_and_outputs_are_autograds(engine: str, algorithm: str) -> None:
    """The meta-gradient of a table's tasks by every engine, against one written out here by autograd alone."""
    family = family_of(made(inputs=3, outputs=2))
    batch = family.sample_batch((4,), 3, 3, seeded("g"), dtype=torch.float64)
    model = build_model(MLP(hidden_sizes=(6,), activation="tanh"), 1, 3, 2).double()
    names = [name for name, _ in model.named_parameters()]
    theta = [value.detach().clone().requires_grad_() for value in model.parameters()]

    def loss(values: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        predicted: Tensor = functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return (predicted - y).square().mean()

    expected = [torch.zeros_like(value) for value in theta]
    for i in range(4):
        phi = theta
        for _ in range(2):
            support = loss(phi, batch.support_x[i], batch.support_y[i])
            steps = torch.autograd.grad(support, phi, create_graph=algorithm == "maml")
            phi = [value - 0.05 * step for value, step in zip(phi, steps, strict=True)]
        if algorithm == "fomaml":
            phi = [value.detach().requires_grad_() for value in phi]
        query = loss(phi, batch.query_x[i], batch.query_y[i])
        found = torch.autograd.grad(query, theta if algorithm == "maml" else phi)
        expected = [total + part / 4 for total, part in zip(expected, found, strict=True)]
    made_engine = ENGINES[engine](
        model, inner=InnerLoop(0.05, 2), meta_optimizer=MetaOptimizer(0.01), algorithm=ALGORITHMS[algorithm]
    )
    gradient = made_engine.meta_gradient(initial_state(model, ALGORITHMS[algorithm]).parameters, batch).gradient
    torch.testing.assert_close(gradient, torch.cat([part.reshape(-1) for part in expected]), rtol=1e-10, atol=1e-13)


# New rows -------------------------------------------------------------------------------------------------------


def test_held_out_tasks_by_number_are_the_same_again_with_another_support() -> None:
    family = family_of(made(tasks=20))
    first, *_, again = draw_rows_tasks(family, 0, 5, 3).tasks
    assert first.label == again.label  # 4 held-out tasks: number 4 is number 0 with other rows
    assert first.support.tolist() != again.support.tolist()
    chosen = draw_rows_tasks(family, 0, 1, 3, support=[1, 2]).tasks[0]
    assert chosen.support.tolist() == [1, 2]
    assert chosen.others.tolist() == [0, 3, 4, 5, 6, 7]
    for wrong in ([], [99], list(range(8))):
        with pytest.raises(ConfigError, match="rows = "):
            draw_rows_tasks(family, 0, 1, 3, support=wrong)


def test_new_rows_are_learned_from_or_predicted() -> None:
    family = family_of(made(inputs=2))
    found = read_new_rows(family, b"y0;x1;x0\n1,5;2;3\n;4;5\n2;1;0,5\n", "mine.csv")
    assert found.asked.tolist() == [False, True, False]
    task = found.tasks.tasks[0]
    assert task.support.tolist() == [0, 2]
    torch.testing.assert_close(
        family.rows.scaling.original_x(task.x.double()),
        torch.tensor([[3.0, 2.0], [5.0, 4.0], [0.5, 1.0]]).double(),
        rtol=1e-5,
        atol=1e-5,
    )
    for text, said in (
        ("x0,y0\n1,2\n", "'x1' is not a column"),
        ("x0,x1,y0\n1,,2\n", "row 1: 'x1' is missing"),
        ("x0,x1,y0\n1,2,\n", "give at least one to learn from"),
        ("x0,x1\n1,2\n", "give at least one to learn from"),
        ("x0,x1,y0\nred,1,2\n", "'x0' holds"),
        ("subject,x0,x1,y0\na,1,1,2\nb,1,2,3\n", "rows of 2 tasks"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_new_rows(family, text.encode(), "mine.csv")


def test_words_of_new_rows_must_be_those_of_the_table() -> None:
    text = "subject,kind,x,y\n" + "".join(f"s{i % 10},{'red' if i % 3 else 'blue'},{i},{i * 2}\n" for i in range(80))
    table = keep(read_table(text.encode(), "t"))
    family = Roles("subject", ("kind", "x"), ("y",)).family(table)
    assert family.inputs == ("kind=blue", "kind=red", "x")
    found = read_new_rows(family, b"kind,x,y\nred,1,2\nblue,2,\n", "mine")
    scaled = family.rows.scaling.original_x(found.tasks.tasks[0].x.double()).round()
    assert scaled.tolist() == [[0.0, 1.0, 1.0], [1.0, 0.0, 2.0]]
    with pytest.raises(ConfigError, match="kind = 'green' is not allowed: it must be one of blue, red"):
        read_new_rows(family, b"kind,x,y\ngreen,1,2\n", "mine")


# The store ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_threads_that_keep_find_and_forget_tables_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [Column("x", ColumnKind.NUMBER)]
    tables = [Table(f"t{number}", columns, pd.DataFrame({"x": [float(number)]})) for number in range(8)]
    troubles: list[BaseException] = []

    def act(number: int) -> None:
        try:
            for turn in range(40):
                table = keep(tables[(number + turn) % 8])
                with contextlib.suppress(ConfigError):  # another thread has forgotten it
                    assert find(table.id) is table
                if turn % 5 == 0:
                    forget(table.id)
        except BaseException as error:
            troubles.append(error)

    between = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        at_once(4, act)
    finally:
        sys.setswitchinterval(between)
    assert troubles == []


def test_a_store_keeps_tables_by_content(store: Store) -> None:
    table = made()
    roles = guess_roles(table)
    assert store.add_table(table, roles) == store.add_table(Table("again", table.columns, table.frame)) == table.id
    first, last, images = store.all_tables()
    assert images.id == signs().id
    assert images.extent == "800 images"
    assert (first.name, first.row_count, first.roles, first.id) == ("again", 96, roles, table.id)
    assert last.id == example().id
    assert store.table_row(table.id[:6]).id == table.id
    kept = store.table_or_none(table.id)
    assert kept is not None
    assert kept.id == table.id
    store.rename_table(table.id, "better")
    assert store.table_row(table.id).name == "better"
    with pytest.raises(StoreError, match="is not a table of"):
        store.table_row("abcdef")
    with pytest.raises(StoreError, match="1 to 80 characters"):
        store.rename_table(table.id, " ")


def test_a_table_that_a_run_needs_goes_only_with_the_run(store: Store) -> None:
    table = made()
    store.add_table(table)
    run_id = store.create_run(config_for_table(family_of(table)), preset="sine")
    run = store.run(run_id)
    assert (run.name, run.preset) == ("made 1", None)
    with pytest.raises(StoreError, match=f"needed by 1 run .{run_id}"):
        store.remove_table(table.id)
    store.remove_table(table.id, with_runs=True)
    assert [row.id for row in store.all_tables()] == [example().id, signs().id]
    assert store.all_runs() == []
    with pytest.raises(StoreError, match="part of the lab"):
        store.remove_table(example().id)
    with pytest.raises(StoreError, match="part of the lab"):
        store.rename_table(example().id, "x")


def test_a_table_is_found_in_any_open_store(store: Store, tmp_path: Path) -> None:
    table = read_table(made(seed=99).frame.to_csv(index=False).encode(), "apart")
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    other.add_table(table)
    assert find(table.id).id == table.id
    other.close()
    assert store.table_or_none(table.id) is None


def test_a_damaged_table_is_said(store: Store) -> None:
    from maml_core.store.schema import tables

    table = made(seed=5)
    store.add_table(table)
    with store.transaction(write=True) as connection:
        connection.execute(tables.update().values(data=b"PAR1 nothing"))
    with pytest.raises(StoreError, match="is damaged: delete it and add its file anew"):
        store.table_or_none(table.id)


def test_kinds_stay_what_they_were(store: Store) -> None:
    table = read_table(BASE.encode(), "t")
    store.add_table(table)
    kept = store.table_or_none(table.id)
    assert kept is not None
    assert [column.kind for column in kept.columns] == [column.kind for column in table.columns]
    assert kept.column("day").kind == ColumnKind.DATE
    assert kept.labels("day").tolist()[0] == "2024-01-02"


def test_a_cell_of_a_million_letters_is_refused_at_once() -> None:
    names = [f"g{group}" for group in range(9)]
    names[1] = "a" * 1_000_000
    rows = "".join(f"{name},{x},{x}\n" for name in names for x in range(6))
    with pytest.raises(ConfigError, match=r"line 8 has 1,000,000 characters in 'group': at most 1,000 are allowed"):
        read_table(f"group,x,y\n{rows}".encode(), "big.csv")
