import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from maml_core.cli import main
from maml_core.config import RunConfig
from maml_core.learning.tasks import TaskBatch
from maml_core.presets import PRESETS
from maml_core.store.checkpoint import load_checkpoint, load_initialization
from maml_core.store.store import Store
from tests.conftest import ROOT
from tests.levels import levels

SMALL = ["--set", "meta_iterations=30", "--set", "model.hidden_sizes=[8]"]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]


def test_train_then_evaluate_then_list(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    trained = answer(capsys, "train", "--preset", "sine", *SMALL)
    assert set(trained) == {"run", "status", "iterations", "iterations_per_second", "query_loss", "held_out_loss"}
    assert (trained["status"], trained["iterations"]) == ("finished", 30)
    evaluated = answer(capsys, "evaluate", trained["run"], "--tasks", "20", "--steps", "3")
    assert evaluated["steps"] == [0, 1, 2, 3]
    assert len(evaluated["mse"]) == len(evaluated["ci95"]) == 4
    assert set(evaluated["baselines"]) == {"random", "predict_mean", "gp", "features", "oracle"}
    assert list(evaluated["by_shots"]["learned"]) == ["1", "2", "3", "5", "7", "10", "15", "20", "30", "50"]
    assert evaluated["outside"]["mse"] > 0
    bare = answer(capsys, "evaluate", trained["run"], "--tasks", "20", "--steps", "3", "--baselines", "none")
    assert set(bare["baselines"]) == {"random", "predict_mean"}
    assert bare["mse"] == evaluated["mse"]
    assert answer(capsys, "evaluate", trained["run"], "--tasks", "20", "--steps", "3") == evaluated
    best = Store(store_url).run(trained["run"]).best_iteration
    assert evaluated["iteration"] == best
    kept = ("evaluate", trained["run"], "--tasks", "20", "--steps", "3", "--checkpoint")
    assert answer(capsys, *kept, str(best))["mse"] == evaluated["mse"]
    assert answer(capsys, *kept, "latest")["iteration"] == 30
    assert answer(capsys, *kept, "0")["mse"] != evaluated["mse"]
    assert main([*kept, "29999"]) == 2
    assert "checkpoint = 29999 is not kept" in capsys.readouterr().err
    (listed,) = answer(capsys, "runs")["runs"]
    assert listed["run"] == trained["run"]
    assert set(answer(capsys, "presets")["presets"]) == set(PRESETS)


def test_a_run_adapts_to_points_of_ones_own(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = answer(capsys, "train", "--preset", "sine", *SMALL)["run"]
    support, query = tmp_path / "support.csv", tmp_path / "query.csv"
    support.write_text("x;y\n0,5;1,0\n2,0;-1,0\n")
    query.write_text("0.1\n3\n")
    said = answer(capsys, "adapt", run_id, str(support), str(query))
    run = store.run(run_id)
    start = load_initialization(store.checkpoint(run_id, "best") or b"", run.config)
    tasks = TaskBatch(
        *(torch.tensor([part]) for part in ([[0.5], [2.0]], [[1.0], [-1.0]], [[0.1], [3.0]], [[0.0], [0.0]]))
    )
    expected = start.adapt(tasks, run.config.inner_steps).predictions[-1, 0, :, 0]
    assert said["x"] == [0.1, 3.0]
    assert said["predictions"] == pytest.approx(expected.tolist())
    assert main(["adapt", run_id, str(support), str(query), "--steps", "0"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["0.1", "3.0"]
    for text, words in (
        ("0.5\n", "line 1 = '0.5' has 1 number, where 2 must be"),
        ("1,2\n1,3\n", "all points have x = 1"),
        ("1,1e30\n2,-1e30\n", "1, 1e+30 is not allowed: numbers must be at most 1,000,000 in size"),
        ("1e6,1\n-1e6,-1\n", "Adaptation diverges within 5 steps"),
    ):
        support.write_text(text)
        assert main(["adapt", run_id, str(support), str(query)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert main(["adapt", run_id, str(tmp_path / "none.csv"), str(query)]) == 2
    assert "none.csv cannot be read" in capsys.readouterr().err


def test_a_finished_run_goes_on_beyond_its_end_to_the_bits_of_one_planned_so(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    short = answer(capsys, "train", "--preset", "sine", *SMALL, "--set", "meta_iterations=20")["run"]
    long = answer(capsys, "train", "--preset", "sine", *SMALL, "--set", "meta_iterations=50")["run"]
    resumed = answer(capsys, "resume", short, "--iterations", "50")
    assert (resumed["status"], store.run(short).iteration) == ("finished", 50)
    ends = [load_checkpoint(store.checkpoint(run) or b"", store.run(run).config).state for run in (short, long)]
    for one, other in zip(ends[0].vectors, ends[1].vectors, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert store.run(short).config == store.run(long).config


def test_a_run_goes_on_by_another_engine_and_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = answer(capsys, "train", "--preset", "sine", *SMALL, "--set", "meta_iterations=20")["run"]
    answer(capsys, "resume", run_id, "--set", "engine=higher", "--iterations", "24")
    run = store.run(run_id)
    assert (run.config.engine, run.engine, run.iteration) == ("higher", "higher", 24)
    assert "Up to iteration 20" in run.message


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ([], ["--set", "inner_lr=0.1"], "--set inner_lr is not allowed with resume"),
        ([], ["--iterations", "20"], "the run has 20 behind it"),
        (["--set", "schedule=cosine"], ["--iterations", "30"], "schedule = cosine"),
        ([], ["--set", "engine=steam", "--iterations", "30"], "engine = 'steam'"),
    ],
)
def test_what_cannot_change_when_a_run_goes_on_is_refused_and_the_run_stays(
    settings: list[str], options: list[str], said: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = answer(capsys, "train", "--preset", "sine", *SMALL, "--set", "meta_iterations=20", *settings)["run"]
    before = store.run(run_id)
    assert main(["resume", run_id, *options]) == 2
    assert said in capsys.readouterr().err
    assert store.run(run_id) == before


def test_resume_goes_on_to_the_end(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(store_url)
    run_id = store.create_run(PRESETS["linear"].config.with_settings({"meta_iterations": 20}))
    store.ask(run_id, "pause")
    assert answer(capsys, "resume", run_id)["status"] == "finished"
    store.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--set", "inner_lr=-1"], ["inner_lr", "-1", "above 0"]),
        (["train", "--set", "inner_lr=NaN"], ["inner_lr", "finite"]),
        (["train", "--set", "shots=many"], ["shots", "'many'", "whole number"]),
        (["train", "--set", "wings=2"], ["wings is not a field"]),
        (["train", "--set", "wings"], ["KEY=VALUE"]),
        (["train", "--preset", "nope"], ["preset", "'nope'", "sine"]),
        (["train", "--set", "model.hidden_sizes=[65536,65536]"], ["GiB"]),
        (["train", "--store", "nonsense"], ["nonsense", "sqlite:///"]),
        (["train", "--store", "sqlite:////proc/none/maml.db"], ["/proc/none"]),
        (["evaluate", "nope"], ["'nope' does not exist"]),
        (["resume", "nope"], ["'nope' does not exist"]),
    ],
)
def test_bad_values_exit_2_with_one_line(
    store_url: str, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert len(text.strip().splitlines()) == 1
    for word in words:
        assert word in text
    assert Store(store_url).all_runs() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        [],
        ["evaluate", "x", "--tasks", "0"],
        ["evaluate", "x", "--seed", "a"],
        ["evaluate", "x", "--checkpoint", "worst"],
    ],
)
def test_bad_usage_exits_2_with_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_divergence_exits_1_and_says_what_to_try(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--preset", "sine", "--set", "inner_lr=1e30"]) == 1
    assert "Diverged at iteration 1" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_module_progress_goes_to_stderr(store_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "maml_core", "train", "--preset", "linear", "--set", "meta_iterations=5", "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ,
        check=True,
    )
    assert json.loads(done.stdout)["status"] == "finished"
    assert "5/5" in done.stderr


@pytest.mark.parametrize("encoding", levels(["ascii", "latin-1", "cp437"], [], ["ascii"]))
def test_a_terminal_of_another_alphabet_gets_what_it_can_show(store_url: str, encoding: str) -> None:
    store = Store(store_url)
    store.create_run(PRESETS["sine"].config, name="größer → 日本 📈")
    store.close()
    done = command_line("runs", environment={"PYTHONIOENCODING": encoding, "MAML_STORE": store_url})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"queued" in done.stdout
    assert b"?" in done.stdout


@pytest.mark.slow
def test_a_full_device_and_a_closed_pipe_give_no_traceback(store_url: str) -> None:
    store = Store(store_url)
    for _ in range(50):
        store.create_run(PRESETS["sine"].config)
    store.close()
    with open("/dev/full", "wb") as full:
        done = command_line("runs", "--json", environment={"MAML_STORE": store_url}, output=full)
    assert done.returncode == 1
    assert done.stderr.decode() == "The output cannot be written: no space is left on its device.\n"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = command_line("runs", "--json", environment={"MAML_STORE": store_url}, output=pipe)
    assert (done.returncode, done.stderr) == (0, b"")


def command_line(
    *arguments: str, environment: dict[str, str], output: BinaryIO | int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "maml_core", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=output,
        stderr=subprocess.PIPE,
        check=False,
    )


def test_names_and_cells_steer_no_terminal(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape codes clear screens and set titles, a line break forges a line, a mark from right to left hides an end."""
    store.create_run(RunConfig(), name="\x1b[31mred\x07 \u202etfel\r\nforged", tags="\x1b]0;title\x07")
    rows = "".join(f"g{group},{x},{x * group}\n" for group in range(20) for x in range(6))
    (tmp_path / "t.csv").write_text(f"group\x9b,x\x1b[2J,y\n{rows}".replace("g3,", "\x1b[31mg3,"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["runs", "--store", store.url]) == 0
    assert main(["compare", "--store", store.url]) in (0, 2)
    main(["tables", "add", str(tmp_path / "t.csv"), "--store", store.url])
    main(["tables", "--store", store.url])
    main(["evaluate", "\x1b[31mx", "--store", store.url])
    said = "".join(capsys.readouterr())
    assert "red" in said
    assert not set(said) & {"\x1b", "\x07", "\x9b", "\r", "\u202e"}
    assert "\nforged" not in said
