"""Tables at the command line: add, train, evaluate, remove; and a sentence for whatever is wrong."""

from pathlib import Path

import pytest

from maml_core.cli import main
from maml_core.learning.adaptation import predict_rows
from maml_core.learning.fresh_rows import read_new_rows
from maml_core.learning.table import find, forget
from maml_core.learning.table_tasks import TableFamily
from maml_core.presets import PRESETS, config_for_table
from maml_core.processes import this_process
from maml_core.store.checkpoint import load_initialization
from maml_core.store.store import Store
from maml_core.training.stretch import train_run
from tests.core.test_cli import answer
from tests.core.test_tables import family_of, made

SMALL = ["--set", "meta_iterations=20", "--set", "model.hidden_sizes=[6]"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lines.csv"
    path.write_text(made(inputs=2, outputs=2).frame.to_csv(index=False))
    return path


def test_a_file_becomes_a_run_in_one_go(store_url: str, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    run_id = answer(capsys, "train", "--table", str(file), "--output", "y0", *SMALL)["run"]
    run = Store(store_url).run(run_id)
    assert run.name == "lines 1"
    assert isinstance(run.config.tasks, TableFamily)
    assert (run.config.tasks.task, run.config.tasks.outputs) == ("subject", ("y0",))
    assert run.config.tasks.inputs == ("x0", "x1", "y1")
    listed = answer(capsys, "tables")["tables"]
    assert [table["name"] for table in listed] == ["lines", "Example: sensors", "Example: signs"]
    again = answer(capsys, "train", "--table", listed[0]["table"][:10], *SMALL, "--set", "tasks.split_seed=3")
    config = Store(store_url).run(again["run"]).config
    assert isinstance(config.tasks, TableFamily)
    assert (config.tasks.table, config.tasks.split_seed) == (listed[0]["table"], 3)
    by_hash = answer(capsys, "train", *["--set=tasks.family=table", f"--set=tasks.table={listed[0]['table']}",
        "--set=tasks.task=subject", '--set=tasks.inputs=["x0"]', '--set=tasks.outputs=["y0"]', "--set=shots=3",
        "--set=query_shots=3"], *SMALL)  # fmt: skip  # a command line
    assert by_hash["status"] == "finished"


@pytest.mark.slow
def test_evaluate_says_whether_it_is_worth_it(store_url: str, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    options = ("--task", "subject", "--inputs", "x0,x1", "--output", "y0")
    run_id = answer(capsys, "train", "--table", str(file), *options, *SMALL)["run"]
    found = answer(capsys, "evaluate", run_id, "--steps", "2")
    assert set(found["errors"]) == {"learned", "line", "mean", "gp", "features", "pooled", "tuned", "random"}
    assert found["sentence"].startswith("On 2 held-out tasks (subject), from ")
    assert set(found["gains"]) == set(found["errors"]) - {"learned"}
    baseline = next(run for run in Store(store_url).all_runs() if run.id != run_id)
    assert (baseline.config.algorithm, baseline.name) == ("joint", "pooled, for lines 1")
    assert answer(capsys, "evaluate", run_id, "--steps", "2") == found
    assert len(Store(store_url).all_runs()) == 2
    assert main(["evaluate", run_id]) == 0
    printed = capsys.readouterr().out
    for words in ("a line per task", "against the number of support rows", "paired difference"):
        assert words in printed


def test_a_run_predicts_rows_of_a_new_task(
    store_url: str, capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    options = ("--task", "subject", "--inputs", "x0,x1", "--output", "y0")
    run_id = answer(capsys, "train", "--table", str(file), *options, *SMALL)["run"]
    support, query = tmp_path / "support.csv", tmp_path / "query.csv"
    support.write_text("x1;x0;y0\n0,5;1;2,25\n1;2;3\n-1;0;1\n")
    query.write_text("x0,x1,y0,note\n1,0.5,99,a\n2,1,,b\n")  # an output in the query is not looked at
    said = answer(capsys, "adapt", run_id, str(support), str(query))
    store = Store(store_url)
    run = store.run(run_id)
    start = load_initialization(store.checkpoint(run_id, "best") or b"", run.config)
    assert isinstance(run.config.tasks, TableFamily)
    data = b"x0,x1,y0\n1,0.5,2.25\n2,1,3\n0,-1,1\n1,0.5,\n2,1,\n"
    expected = predict_rows(start, read_new_rows(run.config.tasks, data, "rows.csv"), run.config.inner_steps)
    assert said["predictions"]["predicted y0"] == pytest.approx(expected["predicted y0"].tolist()[3:])
    assert main(["adapt", run_id, str(support), str(query)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("predicted y0")
    support.write_text("x0,x1\n1,2\n")
    assert main(["adapt", run_id, str(support), str(query)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_tables_are_added_and_removed(store_url: str, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    added = answer(capsys, "tables", "add", str(file))
    assert added["roles"]["task"] == "subject"
    assert main(["tables", "add", str(file)]) == 0
    assert "Train on it: python -m maml_core train --table" in capsys.readouterr().out
    answer(capsys, "train", "--table", added["table"][:8], *SMALL)
    assert main(["tables", "remove", added["table"][:8]]) == 2
    assert "needed by 1 run" in capsys.readouterr().err
    assert answer(capsys, "tables", "remove", added["table"][:8], "--with-runs")["removed"]
    assert len(answer(capsys, "tables")["tables"]) == 2
    assert answer(capsys, "runs")["runs"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tables", "add", "nowhere.csv"], "'nowhere.csv' is neither a file nor a table"),
        (["tables", "add"], "needs a FILE or an ID"),
        (["tables", "remove", "abcd"], "'abcd' is not a table of"),
        (["train", "--table", "abcd1234"], "'abcd1234' is not a table of"),
        (["train", "--table", "FILE", "--task", "nothing"], "'nothing' is not a column"),
        (["train", "--table", "FILE", "--output", "subject"], "'subject' holds words"),
        (["train", "--table", "FILE", "--set", "shots=9"], "0 tasks with at least"),
        (["train", "--set", "tasks.family=table", "--set", f"tasks.table={'0' * 64}"], "is not in this store"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    store_url: str, capsys: pytest.CaptureFixture[str], file: Path, arguments: list[str], said: str
) -> None:
    arguments = [str(file) if part == "FILE" else part for part in arguments]
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert said in text
    assert len(text.strip().splitlines()) == 1
    assert Store(store_url).all_runs() == []


def test_a_run_whose_table_is_missing_waits_unchanged_until_it_is_there(
    store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    """Imported without its rows: what is missing here is no fault of the run's."""
    store = Store(store_url)
    answer(capsys, "tables", "add", str(file))
    config = config_for_table(family_of(find(answer(capsys, "tables")["tables"][0]["table"])))
    run_id = store.create_run(config.with_settings({"meta_iterations": 30, "engine": "vectorized"}), steps=10)
    run = store.claim(this_process(), run_id)
    assert run is not None
    assert train_run(store, run, this_process()) == "paused"
    packed = tmp_path / "run.zip"
    assert main(["export", run_id, str(packed)]) == 0
    assert "without the rows of its table" in capsys.readouterr().out
    store.close()

    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    there = ("--store", elsewhere)
    arrived = answer(capsys, "import", str(packed), *there)["run"]
    forget(config.tasks.table)  # type: ignore[attr-defined]
    other = Store(elsewhere)
    before = other.run(arrived)
    for command in ("resume", "evaluate"):
        assert main([command, arrived, *there]) == 2
        assert "is not in this store: add its file" in capsys.readouterr().err
    assert other.run(arrived) == before
    assert len(other.all_runs()) == 1
    answer(capsys, "tables", "add", str(file), *there)
    assert answer(capsys, "resume", arrived, *there)["iterations"] == 30
    other.close()


@pytest.mark.parametrize("option", ["--task", "--inputs", "--output"])
def test_roles_without_a_table_are_refused(option: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", option, "Cow"]) == 2
    assert f"{option} Cow is not allowed without --table" in capsys.readouterr().err
    assert store.all_runs() == []


def test_a_run_whose_family_was_changed_is_called_by_its_tasks(store: Store) -> None:
    config = PRESETS["sine"].config
    assert store.run(store.create_run(config, preset="sine")).name == "sine 1"
    assert store.run(store.create_run(config.with_settings({"tasks.family": "line"}), preset="sine")).name == "line 2"
