"""A run out of one store and into another, and the script that goes with it."""

import contextlib
import hashlib
import io
import json
import runpy
import subprocess
import sys
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save_file

from maml_core.cli import main
from maml_core.config import RunConfig
from maml_core.errors import CheckpointError, ImportRefusedError, RunNotFoundError, StoreError
from maml_core.evaluation.of_runs import learned_by
from maml_core.learning.adaptation import predict_rows
from maml_core.learning.fresh_rows import read_new_rows
from maml_core.learning.models import build_model
from maml_core.learning.table import example
from maml_core.learning.table_files import read_table
from maml_core.learning.table_roles import Roles
from maml_core.learning.table_tasks import TableFamily
from maml_core.learning.tasks import FAMILIES, TaskBatch, parse_family
from maml_core.presets import PRESETS, config_for_table
from maml_core.processes import this_process
from maml_core.store.checkpoint import load_checkpoint
from maml_core.store.exchange import export_run, export_weights
from maml_core.store.imports import import_run
from maml_core.store.script import adapt_script, no_script
from maml_core.store.store import Store
from maml_core.training.stretch import train_run
from tests.levels import levels
from tests.trained import trained


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python adapt.py ...`, in this process: torch is imported here already."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv, sys.argv = sys.argv, ["adapt.py", *arguments]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path("adapt.py", run_name="__main__")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                if isinstance(end.code, str):
                    print(end.code, file=err)
            except Exception:
                code = 1
                traceback.print_exc()
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(["adapt.py", *arguments], code, out.getvalue(), err.getvalue())


def train(store: Store, run_id: str) -> None:
    run = store.claim(this_process(), run_id)
    assert run is not None
    train_run(store, run, this_process())


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'other.db'}")


@pytest.mark.parametrize("ema_decay", levels([None, 0.9], [0.9], [None]))
def test_a_run_arrives_whole(store: Store, other: Store, small_config: RunConfig, ema_decay: float | None) -> None:
    small_config = small_config.with_settings({"ema_decay": ema_decay})
    run_id = store.create_run(small_config, preset="sine", name="wave")
    store.edit(run_id, notes="the *first* one", tags="waves, best", pinned=True)
    train(store, run_id)
    file = export_run(store, run_id)
    assert export_run(store, run_id) == file
    arrived = other.run(import_run(other, file))
    sent = store.run(run_id)
    for name in (
        "name",
        "preset",
        "config",
        "status",
        "iteration",
        "pre_loss",
        "post_loss",
        "best_loss",
        "best_iteration",
        "notes",
        "tags",
        "created",
        "seconds",
    ):
        assert getattr(arrived, name) == getattr(sent, name), name
    assert arrived.id != run_id
    assert other.metrics(arrived.id).equals(store.metrics(run_id))
    assert other.checkpoint(arrived.id) == store.checkpoint(run_id)
    assert other.history(arrived.id) == store.history(run_id)
    for at, _ in other.history(arrived.id):
        states = [
            load_checkpoint(s.checkpoint(i, "history", at) or b"", small_config).state.learned
            for s, i in ((store, run_id), (other, arrived.id))
        ]
        assert torch.equal(*states)
    assert import_run(other, file) != arrived.id  # twice is two runs, neither in the other's way
    other.close()


def test_an_unfinished_run_goes_on_elsewhere_to_the_same_bits(
    store: Store, other: Store, small_config: RunConfig
) -> None:
    straight, part = store.create_run(small_config), store.create_run(small_config, steps=17)
    train(store, straight)
    train(store, part)
    arrived = import_run(other, export_run(store, part))
    assert other.run(arrived).status == "stopped"
    other.resume(arrived)
    train(other, arrived)
    assert other.checkpoint(arrived) == store.checkpoint(straight)
    assert other.metrics(arrived).equals(store.metrics(straight))
    other.close()


def test_weights_alone_are_the_parameters_by_name(store: Store, small_config: RunConfig) -> None:
    run_id = trained(store, small_config).id
    model = build_model(small_config.model, small_config.seed)
    tensors = load(export_weights(store, run_id))
    model.load_state_dict(tensors)
    state = load_checkpoint(store.checkpoint(run_id) or b"", small_config).state
    assert torch.equal(small_config.layout().from_file(tensors), state.parameters)


def test_what_cannot_be_exported_is_named(store: Store, small_config: RunConfig) -> None:
    with pytest.raises(RunNotFoundError):
        export_run(store, "nope")
    run_id = store.create_run(small_config)
    with pytest.raises(StoreError, match="no checkpoint yet: train it first"):
        export_run(store, run_id)
    train(store, run_id)
    with store.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE checkpoints SET data = x'00'")
    with pytest.raises(CheckpointError):
        export_weights(store, run_id)


def test_what_is_learned_beside_the_parameters_reaches_the_script_from_either_file(
    store: Store, small_config: RunConfig, tmp_path: Path
) -> None:
    run_id = trained(store, small_config.with_settings({"algorithm": "fo-meta-sgd", "meta_lr": 0.05})).id
    with zipfile.ZipFile(io.BytesIO(export_run(store, run_id))) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "alone.safetensors").write_bytes(export_weights(store, run_id))
    (tmp_path / "support.csv").write_text("0.5,1\n1,2\n")
    (tmp_path / "query.csv").write_text("0.1\n3\n")
    printed = [
        run_script(tmp_path, weights, "support.csv", "query.csv").stdout
        for weights in ("weights.safetensors", "alone.safetensors")
    ]
    assert printed[0] == printed[1] != ""


@pytest.mark.parametrize(
    "settings", [{"model.kind": "linear"}, pytest.param({"model.activation": "silu"}, marks=pytest.mark.slow)]
)
def test_the_script_adapts_with_torch_and_safetensors_alone(
    store: Store, small_config: RunConfig, tmp_path: Path, settings: dict[str, object]
) -> None:
    config = small_config.with_settings(settings)
    run_id = trained(store, config).id
    with zipfile.ZipFile(io.BytesIO(export_run(store, run_id))) as archive:
        archive.extractall(tmp_path)
    x, y, query = torch.linspace(-2, 2, 5), torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0]), torch.linspace(-3, 3, 7)
    (tmp_path / "support.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(x.tolist(), y.tolist(), strict=True)))
    (tmp_path / "query.csv").write_text("".join(f"{value}\n" for value in query.tolist()))
    script = (tmp_path / "adapt.py").read_text()
    assert script == adapt_script(config)
    assert "maml_core" not in script
    done = subprocess.run(  # in a process of its own, which has nothing of the lab
        [sys.executable, "-I", "adapt.py", "weights.safetensors", "support.csv", "query.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = torch.tensor([float(line.split(",")[1]) for line in done.stdout.split()])
    batch = TaskBatch(*(tensor[None, :, None] for tensor in (x, y, query, torch.zeros(7))))
    learned = config.layout().from_file(load(export_weights(store, run_id)))
    expected = config.initialization(learned).adapt(batch, config.inner_steps)
    torch.testing.assert_close(printed, expected.predictions[-1, 0, :, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("support", "query", "said"),
    [
        ("x;y\n0,5;1,0\n2,0;-1,0\n", "x\n0,1\n3,0\n", None),
        ("index,x,y\n0,0.5,1\n1,2,-1\n", "\ufeff0.1\n3\n", None),
        ("0.5\n2\n", "1\n", "support.csv: line 1 = '0.5' has 1 number, where 2 must be."),
        ("0.5,nan\n2,1\n", "1\n", "'nan' is not finite."),
        ("1,2\n3,4\n", "", "query.csv: there are no numbers."),
        ("0,1e30\n1,-1e30\n", "1\n", "Adaptation diverged"),
    ],
)
def test_the_script_reads_numbers_as_the_lab_does_and_says_what_is_wrong(
    tmp_path: Path, support: str, query: str, said: str | None
) -> None:
    config = PRESETS["sine"].config
    layout = config.layout()
    save_file(
        {name: value.contiguous() for name, value in layout.to_file(layout.start(config.network())).items()},
        tmp_path / "weights.safetensors",
    )
    (tmp_path / "adapt.py").write_text(adapt_script(config), encoding="utf-8")
    (tmp_path / "support.csv").write_text(support, encoding="utf-8")
    (tmp_path / "query.csv").write_text(query, encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_script(tmp_path, *arguments)

    done = run("weights.safetensors", "support.csv", "query.csv")
    assert "Traceback" not in done.stderr
    if said is None:
        assert done.returncode == 0, done.stderr
        assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["0.1", "3.0"]  # x as it was written
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    if not query:  # once is enough
        for arguments, words in (((), "usage: "), (("no.safetensors", "a", "b"), "no.safetensors cannot be read")):
            wrong = run(*arguments)
            assert wrong.returncode == 1
            assert wrong.stderr.startswith(words)
        helped = run("--help")
        assert (helped.returncode, helped.stdout.splitlines()[0]) == (
            0,
            "Adapt a meta-learned initialization to new data.",
        )


def test_export_and_import_on_the_command_line(
    store: Store, small_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = trained(store, small_config).id
    for name in ("run.zip", "run.safetensors", "adapt.py"):
        assert main(["export", run_id, str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 300
    assert main(["import", str(tmp_path / "run.zip"), "--json"]) == 0
    assert len(store.all_runs()) == 2
    capsys.readouterr()
    for arguments, words in (
        (["export", run_id, str(tmp_path / "run.exe")], "must end in .zip, .safetensors, .py"),
        (["export", run_id, str(tmp_path / "nowhere" / "run.zip")], "cannot be written"),
        (["export", "nope", str(tmp_path / "run.zip")], "does not exist"),
        (["import", str(tmp_path / "nothing.zip")], "cannot be read"),
        (["import", str(tmp_path / "adapt.py")], "cannot be imported"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    "algorithm", ["fomaml", "fo-anil", "fo-meta-sgd", "fo-meta-curvature", "ridge-head", "fo-b-maml"]
)
def test_the_standalone_script_adapts_as_the_lab_does(tmp_path: Path, algorithm: str) -> None:
    config = PRESETS["sine"].config.with_settings(
        {"algorithm": algorithm, "model.kind": "fourier-mlp", "model.activation": "sine", "inner_steps": 3}
    )
    layout = config.layout()
    flat = layout.start(config.network(seed=1)) * 1.1 + 0.01 * torch.linspace(-1, 1, layout.size)
    save_file(
        {name: value.contiguous() for name, value in layout.to_file(flat).items()}, tmp_path / "weights.safetensors"
    )
    (tmp_path / "adapt.py").write_text(adapt_script(config))
    (tmp_path / "support.csv").write_text("0.5,1.0\n2.0,-1.0\n")
    (tmp_path / "query.csv").write_text("1.0\n3.0\n")
    done = run_script(tmp_path, "weights.safetensors", "support.csv", "query.csv")
    assert done.returncode == 0, done.stderr
    found = [float(line.split(",")[1]) for line in done.stdout.splitlines()]
    support_x, support_y = torch.tensor([[[0.5], [2.0]]]), torch.tensor([[[1.0], [-1.0]]])
    query_x = torch.tensor([[[1.0], [3.0]]])
    batch = TaskBatch(support_x, support_y, query_x, torch.zeros(1, 2, 1))
    trajectory = config.initialization(flat).adapt(batch, steps=3)
    assert found == pytest.approx(trajectory.predictions[-1, 0, :, 0].tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("algorithm", ["fo-meta-sgd", "fo-meta-curvature"])
def test_a_run_with_much_learned_beside_is_imported(store: Store, algorithm: str) -> None:
    """What is learned beside lengthens every vector: the limits of an import know that."""
    config = PRESETS["sine"].config.with_settings(
        {"algorithm": algorithm, "model.hidden_sizes": [150, 150], "meta_iterations": 2, "engine": "vectorized"}
    )
    run_id = trained(store, config).id
    copy = store.run(import_run(store, export_run(store, run_id)))
    assert copy.config == config


@pytest.fixture
def on_table(store: Store) -> str:
    """A finished run on a table with words, dates and numbers."""
    lines = ["plant,kind,day,light,height (cm),leaves"]
    for i in range(120):
        kind, day = ("fern", "moss")[i % 2], f"2024-{1 + i % 9:02d}-{1 + i % 28:02d}"
        lines.append(f"p{i % 12},{kind},{day},{i * 7 % 13},{i * 3 % 17 + i % 12},{i % 5}")
    table = read_table("\n".join(lines).encode(), "plants.csv")
    roles = Roles("plant", ("kind", "day", "light"), ("height (cm)", "leaves"))
    store.add_table(table, roles)
    config = config_for_table(roles.family(table)).with_settings(
        {"meta_iterations": 20, "model.hidden_sizes": [8], "engine": "vectorized"}
    )
    return trained(store, config).id


def test_a_run_on_a_table_goes_without_its_rows_unless_asked(store: Store, other: Store, on_table: str) -> None:
    run = store.run(on_table)
    assert isinstance(run.config.tasks, TableFamily)
    table_id = run.config.tasks.table
    bare, whole = export_run(store, on_table), export_run(store, on_table, with_rows=True)
    assert not set(zipfile.ZipFile(io.BytesIO(bare)).namelist()) & {"table.json", "rows.parquet"}
    assert b"fern" not in unpacked(bare)
    arrived = import_run(other, bare)
    assert other.run(arrived).config == run.config
    assert other.table_or_none(table_id) is None
    arrived = import_run(other, whole)
    kept = other.table_or_none(table_id)
    assert kept is not None
    assert kept.id == table_id
    assert other.run(arrived).name == run.name


def unpacked(data: bytes) -> bytes:
    """Everything in a zip, unpacked, but for the script and the configuration, which name the categories."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    hidden = {"adapt.py", "run.json", "weights.safetensors"}
    return b"".join(archive.read(name) for name in archive.namelist() if name not in hidden)


def test_rows_that_are_not_the_runs_are_refused(store: Store, other: Store, on_table: str) -> None:
    whole = export_run(store, on_table, with_rows=True)
    archive = zipfile.ZipFile(io.BytesIO(whole))
    entries = {name: archive.read(name) for name in archive.namelist()}
    frame = pd.read_parquet(io.BytesIO(entries["rows.parquet"]))
    frame["light"] = frame["light"] + 1
    for name, rows, said in (
        ("other rows", example().to_parquet(), "damaged"),
        ("changed", frame_bytes(frame), "does not hold the table that the run names"),
        ("no Parquet", b"nothing", "damaged"),
    ):
        manifest = json.loads(entries["run.json"])
        manifest["sha256"]["rows.parquet"] = hashlib.sha256(rows).hexdigest()
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as packed:
            for entry, data in (entries | {"rows.parquet": rows, "run.json": json.dumps(manifest).encode()}).items():
                packed.writestr(entry, data)
        with pytest.raises(ImportRefusedError, match=said):
            import_run(other, file.getvalue())
        assert other.all_runs() == [], name


def frame_bytes(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize("separator", [",", ";"])
def test_the_script_of_a_table_predicts_what_the_lab_predicts(
    store: Store, on_table: str, tmp_path: Path, separator: str
) -> None:
    run = store.run(on_table)
    assert isinstance(run.config.tasks, TableFamily)
    (tmp_path / "adapt.py").write_text(adapt_script(run.config), encoding="utf-8")
    (tmp_path / "weights.safetensors").write_bytes(export_weights(store, on_table))
    head = ["light", "kind", "day", "height (cm)", "leaves"]
    known = [["3", "fern", "2024-03-04", "7.5", "2"], ["11", "moss", "2024-05-06", "9", "4"]]
    asked = [["5", "moss", "2024-04-04", "", ""], ["1.5", "fern", "2024-02-03", "", ""]]
    lines = [separator.join(cells) for cells in (head, *known)]
    query = [separator.join(cells) for cells in (head, *asked)]
    if separator == ";":
        lines, query = ([line.replace(".", ",") for line in each] for each in (lines, query))
    (tmp_path / "support.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    (tmp_path / "query.csv").write_text("\n".join(query), encoding="utf-8")
    done = run_script(tmp_path, "weights.safetensors", "support.csv", "query.csv")
    printed = pd.read_csv(io.StringIO(done.stdout))
    rows = "\n".join(",".join(cells) for cells in (head, *known, *asked))
    found = read_new_rows(run.config.tasks, rows.encode(), "rows")
    start = learned_by(store, run)
    assert start is not None
    expected = predict_rows(start, found, run.config.inner_steps)
    for name in ("predicted height (cm)", "predicted leaves"):
        np.testing.assert_allclose(printed[name], expected[name][2:], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("support", "said"),
    [
        ("light,kind,day\n1,fern,2024-01-01\n", "has no column 'height (cm)'"),
        ("light,kind,day,height (cm),leaves\n", "no rows below its header"),
        (
            "light,kind,day,height (cm),leaves\n1,palm,2024-01-01,2,3\n",
            "row 1, kind = 'palm' must be one of fern, moss",
        ),
        ("light,kind,day,height (cm),leaves\n1,fern,soon,2,3\n", "is not a date like %Y-%m-%d"),
        ("light,kind,day,height (cm),leaves\nx,fern,2024-01-01,2,3\n", "row 1, light = 'x' is not a number"),
        ("light,kind,day,height (cm),leaves\ninf,fern,2024-01-01,2,3\n", "is not finite"),
    ],
)
def test_the_script_of_a_table_says_what_is_wrong(
    store: Store, on_table: str, tmp_path: Path, support: str, said: str
) -> None:
    (tmp_path / "adapt.py").write_text(adapt_script(store.run(on_table).config), encoding="utf-8")
    (tmp_path / "w.safetensors").write_bytes(export_weights(store, on_table))
    (tmp_path / "s.csv").write_text(support)
    (tmp_path / "q.csv").write_text("light,kind,day\n1,fern,2024-01-01\n")
    done = run_script(tmp_path, "w.safetensors", "s.csv", "q.csv")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "family", levels(FAMILIES, ["sine", "circles", "navigation"], ["glyphs", "images", "table", "formula"])
)
def test_a_run_of_every_family_is_exported_whole(store: Store, other: Store, family: str) -> None:
    model = {"model.kind": "policy"} if not parse_family({"family": family}).problem.predicts else {}
    size = {"tasks.size": 12} if "size" in FAMILIES[family].model_fields else {}
    settings = {"tasks.family": family, "shots": 2, "query_shots": 2, "meta_iterations": 1, "meta_batch_size": 1}
    config = RunConfig().with_settings({**settings, **model, **size, "inner_steps": 1, "engine": "vectorized"})
    run_id = trained(store, config).id
    file = export_run(store, run_id, with_rows=True)
    assert other.run(import_run(other, file)).config == config
    names = zipfile.ZipFile(io.BytesIO(file)).namelist()
    assert ("adapt.py" in names) == (no_script(config) is None)
