"""The command line on a run of classes in the plane: train, evaluate, adapt, export."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from maml_core.cli import main

SMALL = ["--set", "meta_iterations=30", "--set", "engine=vectorized", "--set", "model.hidden_sizes=[16]"]


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("MAML_STORE", f"sqlite:///{tmp_path / 'runs.db'}")
    assert main(["train", "--preset", "spiral", *SMALL, "--set", "tasks.classes=3", "--json"]) == 0
    return str(json.loads(capsys.readouterr().out.splitlines()[-1])["run"])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    support, query = tmp_path / "support.csv", tmp_path / "query.csv"
    support.write_text("x,y,class\n0.1,0.2,1\n1,1,2\n-1,1,3\n0.5,-0.5,1\n")
    query.write_text("x;y\n0,1;0,3\n1,1;0,9\n")
    return support, query


def test_evaluation_says_accuracy(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", run_id, "--tasks", "20", "--steps", "2", "--baselines", "neighbor"]) == 0
    said = capsys.readouterr().out
    assert "accuracy on 20 held-out" in said
    assert "tasks (50 further points of each class), mean" in said
    assert "nearest support point" in said
    assert main(["evaluate", run_id, "--tasks", "20", "--steps", "2", "--baselines", "neighbor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "mse" not in found
    assert len(found["error"]) == 3
    first = float(next(line for line in said.splitlines() if line.strip().startswith("0 ")).split()[1])
    assert first == pytest.approx(1 - found["error"][0], abs=1e-4)


def test_adapt_and_the_exported_script_name_the_same_classes(
    run_id: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support, query = files
    assert main(["adapt", run_id, str(support), str(query)]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["0.1", "0.3"], ["1.1", "0.9"]]
    assert all(line[2] in "123" and len(line) == 6 for line in lines)
    assert all(sum(map(float, line[3:])) == pytest.approx(1, abs=1e-4) for line in lines)
    script, weights = tmp_path / "adapt.py", tmp_path / "weights.safetensors"
    assert main(["export", run_id, str(script)]) == main(["export", run_id, str(weights)]) == 0
    capsys.readouterr()
    command = [sys.executable, str(script), str(weights), str(support), str(query)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [line.split(",") for line in done.stdout.splitlines()]
    assert [line[:3] for line in found] == [line[:3] for line in lines]
    for mine, other in zip(found, lines, strict=True):
        assert [float(value) for value in mine[3:]] == pytest.approx([float(value) for value in other[3:]], abs=1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0 1\n1 1 9\n", "its class must be a whole number from 1 to 3"),
        ("0 0\n1 1\n", "3 must be"),
        ("0 0 1\n", "there must be from 2 to 10,000"),
    ],
)
def test_a_bad_support_gets_one_sentence_that_names_the_file(
    run_id: str, files: tuple[Path, Path], text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    support, query = files
    support.write_text(text)
    assert main(["adapt", run_id, str(support), str(query)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "support.csv" in error
    assert "Traceback" not in error
