"""A user's own module: loaded by the command line, and by nothing else."""

import io
import json
import linecache
import os
import random
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn

from maml_core import cli, cli_train
from maml_core.config import RunConfig
from maml_core.engines import ENGINES, initial_state
from maml_core.errors import CheckpointError, ConfigError, EngineError, ImportRefusedError
from maml_core.learning.binding import call
from maml_core.learning.models import MLP, build_model
from maml_core.learning.own_model import OwnModel, own_models
from maml_core.logs import LOG
from maml_core.processes import this_process
from maml_core.store.checkpoint import load_initialization
from maml_core.store.exchange import HASHED, export_run, export_weights
from maml_core.store.imports import import_run
from maml_core.store.store import Store
from maml_core.training.parts import held_out_tasks, make_engine
from maml_core.training.session import TrainingSession
from maml_core.training.stretch import train_run
from maml_core.training.trainer import Trainer, check_startable

HERE = "tests.core.test_own_model"


class Wide(nn.Module):
    """What a user may write: layers of several kinds, and a parameter of its own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, 1))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.scale * self.layers(x)
        return scaled


class Bessel(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.layer_norm(torch.special.bessel_j0(x.detach()), (1,)) + x)


class Summed(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).sum()


class Planar(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(7, 7))


class Still(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Doubled(Wide):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.double())


class Frozen(Wide):
    def __init__(self) -> None:
        super().__init__()
        self.scale.requires_grad_(False)


class Noisy(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.rand(())


class Branching(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 100 else super().forward(2 * x)


class Reading(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / float(self.scale.detach().norm())


class TwoPoints(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.view(2, 1))


class Remembering(Wide):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Logarithmic(Wide):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.log10(x))


class Compiled(Wide):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.compile(self.layers)  # type: ignore[assignment]


class Timed(Wide):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.full((), float(int.from_bytes(os.urandom(2)))))


class Drawn(Wide):
    """Draws from numpy and random: decided by the run's seed all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([np.random.rand(), random.random()]).float().sum())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = self.shift
        assert isinstance(shift, torch.Tensor)
        return super().forward(x + shift)


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.table(x[..., 0].round().long()))
        return found


class Headless(nn.Module):
    """Its layer of the predictions is declared first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)
        self.body = nn.Linear(1, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.tanh(self.body(x)))
        return found


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.randn(1, 8), torch.randn(8, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.tanh(x @ self.w[0]) @ self.w[1]
        return found


class Recurrent(nn.Module):
    def __init__(self, cell: str = "GRU") -> None:
        super().__init__()
        self.layer = getattr(nn, cell)(1, 6)
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.layer(x)[0])
        return found


class Normed(Wide):
    def __init__(self) -> None:
        super().__init__()
        self.layers.append(nn.BatchNorm1d(1))


def config_of(kind: str = f"{HERE}:Wide", **settings: object) -> RunConfig:
    small = {"meta_iterations": 20, "meta_batch_size": 4, "engine": "vectorized"}
    return RunConfig.from_dict({"model": {"kind": kind}, **small}).with_settings(settings)


def test_the_command_line_trains_resumes_and_evaluates_it(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = (f"model.kind={HERE}:Wide", "model.arguments.width=6", "meta_iterations=30", "engine=vectorized")
    flags = [part for setting in settings for part in ("--set", setting)]
    assert cli.main(["train", *flags, "--json"]) == 0
    run = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (run["status"], run["iterations"]) == ("finished", 30)
    config = Store(store_url).run(run["run"]).config
    assert config.model == OwnModel(kind=f"{HERE}:Wide", arguments={"width": 6})
    assert RunConfig.from_json(config.to_json()) == config
    assert cli.main(["evaluate", run["run"], "--tasks", "20", "--steps", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["mse"]) == 3


def test_engines_agree_on_it() -> None:
    with own_models():
        ends = [
            [row.post_loss for part in Trainer(config_of(engine=engine)).run() for row in part.rows][-1]
            for engine in ("higher", "vectorized")
        ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (f"{HERE}:Logarithmic", {"tasks.x": [0.1, 10.0]}),
        (f"{HERE}:Embedded", {"tasks.x": [0.0, 10.0]}),
        (f"{HERE}:Drawn", {}),
        *(
            pytest.param(f"{HERE}:Recurrent", {"model.arguments": {"cell": cell}}, marks=mark)
            for cell, mark in (("RNN", pytest.mark.slow), ("GRU", pytest.mark.nightly), ("LSTM", pytest.mark.nightly))
        ),
    ],
)
def test_what_is_sound_on_the_points_of_its_tasks_trains_and_adapts(kind: str, settings: dict[str, object]) -> None:
    ends = []
    with own_models():
        for engine in ("higher", "vectorized"):
            config = config_of(kind, engine=engine, meta_iterations=5, shots=3, query_shots=2, **settings)
            trainer = Trainer(config)
            check_startable(config, trainer)
            list(trainer.run())
            ends.append(trainer.state.parameters)
        adapted = config.initialization(ends[1]).adapt(config.tasks.held_out(tasks=3, shots=5, query_shots=4), steps=2)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-5)
    assert torch.isfinite(adapted.predictions).all()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Headless", "declares body last, but its predictions come from head"),
        ("Listed", "its predictions come from no layer of its own"),
    ],
)
def test_a_head_that_is_not_the_last_layer_declared_is_refused_where_it_matters(kind: str, said: str) -> None:
    with own_models():
        for algorithm in ("fo-anil", "anil"):
            config = config_of(f"{HERE}:{kind}", algorithm=algorithm)
            with pytest.raises(ConfigError, match=said):
                check_startable(config, Trainer(config))
        whole = config_of(f"{HERE}:{kind}")
        check_startable(whole, Trainer(whole))


@pytest.mark.parametrize(
    ("kind", "adapts", "adapted"),
    [
        ("Headless", ["head"], {"head.weight", "head.bias"}),
        ("Headless", ["head.bias", "body"], {"head.bias", "body.weight", "body.bias"}),
        ("Listed", ["w.1"], {"w.1"}),
    ],
)
@pytest.mark.parametrize("algorithm", ["anil", "fo-anil"])
def test_the_user_names_the_part_that_adapts(kind: str, adapts: list[str], adapted: set[str], algorithm: str) -> None:
    config = config_of(f"{HERE}:{kind}", algorithm=algorithm).with_settings({"model.adapts": adapts})
    with own_models():
        check_startable(config, Trainer(config))
        start = RunConfig.from_json(config.to_json()).untrained()
        engines = [make_engine(config, config.network(), name) for name in ENGINES]
    tasks = held_out_tasks(config, 3)
    after = start.adapted(tasks, steps=2)
    moved = {name for name, value in after.items() if not torch.equal(value[0], start.parameters[name])}
    assert moved == adapted
    flat = initial_state(engines[0].model, engines[0].algorithm).parameters
    found = [engine.meta_gradient(flat, tasks).gradient for engine in engines]
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-4, atol=1e-5)


def test_a_ridge_head_solves_for_the_layer_that_is_named() -> None:
    with own_models():
        config = config_of(f"{HERE}:Headless", algorithm="ridge-head").with_settings({"model.adapts": ["head"]})
        check_startable(config, Trainer(config))
        body = config.with_settings({"model.adapts": ["body"]})
        with pytest.raises(ConfigError, match=r'names body, but .* come from head; set model.adapts = \["head"\]'):
            check_startable(body, Trainer(body))
        with pytest.raises(EngineError, match=r"solves for one layer, and model.adapts names head, body"):
            Trainer(config.with_settings({"model.adapts": ["head", "body"]}))
        with pytest.raises(EngineError, match=r"must be nn.Linear: head.weight"):
            Trainer(config.with_settings({"model.adapts": ["head.weight"]}))
        with pytest.raises(ConfigError, match=r"names 'tail', which is no layer .* it has head.weight"):
            Trainer(config.with_settings({"model.adapts": ["tail"]}))


def test_what_its_file_does_to_the_random_state_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seeding_file.py").write_text(
        "import torch\ntorch.manual_seed(7)\n\nclass Net(torch.nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(1, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = torch.random.get_rng_state()
    with own_models():
        first, second = (build_model(OwnModel(kind="seeding_file:Net"), seed=3) for _ in range(2))
    assert torch.equal(next(first.parameters()), next(second.parameters()))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch.compile, as it is imported
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nowhere:Net", "cannot be imported (ModuleNotFoundError"),
        (f"{HERE}:Nothing", "cannot be imported (AttributeError"),
        ("os:getcwd", "must be a subclass of torch.nn.Module"),
        (f"{HERE}:Summed", "takes x of shape (10, 1) to (): it must be (10, 1)"),
        (f"{HERE}:Planar", "cannot be applied to x of shape (10, 1), from -"),
        (f"{HERE}:Still", "has no parameters to train"),
        (f"{HERE}:Doubled", "float64: parameters must be float32 and trainable"),
        (f"{HERE}:Frozen", "has a parameter scale that is frozen"),
        (f"{HERE}:Noisy", "must not draw random numbers"),
        (f"{HERE}:Branching", "must work under torch.func.vmap"),
        (f"{HERE}:Reading", "a number is made of a tensor that differs from call to call"),
        (f"{HERE}:TwoPoints", "cannot be applied to x of shape (10, 1)"),
        (f"{HERE}:Normed", "BatchNorm1d (layers.4) updates its running statistics in place; give it track_running_st"),
        (f"{HERE}:Remembering", "it keeps something from one call to the next"),
        (f"{HERE}:Logarithmic", "gives nan at x = [-"),
        (f"{HERE}:Compiled", "uses torch.compile (layers)"),
        (f"{HERE}:Timed", "is made with another shift each time, though torch, numpy and random have the same seed"),
        ("os.path:", "it must be where the class is imported from, such as my_models:Wide"),
        ("../evil:Net", "it must be where the class is imported from, such as my_models:Wide"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    kind: str, said: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--set", f"model.kind={kind}", "--set", "engine=vectorized"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not store.all_runs()


def test_what_the_native_engine_has_no_operation_for_is_said_with_the_remedy_before_there_is_a_run(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--set", f"model.kind={HERE}:Bessel", "--set", "meta_iterations=5", "--set"]
    assert cli.main([*train, "engine=native"]) == 2
    assert capsys.readouterr().err == (
        f"{HERE}:Bessel cannot be trained with engine = native: The operation aten.special_bessel_j0.default is not in "
        "the native engine's table. Choose engine = auto, which takes the vectorized one.\n"
    )
    assert not store.all_runs()
    assert cli.main([*train, "engine=auto"]) == 0


def test_wrong_arguments_and_too_large_ones_are_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for argument, said, algorithm in (
        ("depth=3", "cannot be made with model.arguments (TypeError", "fomaml"),
        ("width=1999999", "GiB", "fomaml"),
        ("width=99999", "GiB with 25 tasks per meta-batch and algorithm = fo-meta-curvature", "fo-meta-curvature"),
    ):
        kind = ["--set", f"model.kind={HERE}:Wide", "--set", f"model.arguments.{argument}"]
        assert cli.main(["train", *kind, "--set", f"algorithm={algorithm}"]) == 2
        assert said in capsys.readouterr().err


def test_the_reference_engine_refuses_what_evaluation_could_not_run(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--set", f"model.kind={HERE}:Normed", "--set", "engine=higher"]) == 2
    assert "BatchNorm needs track_running_stats=False" in capsys.readouterr().err
    assert not store.all_runs()


def test_what_fails_later_is_one_sentence_too_and_the_run_can_go_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the class has changed")

    monkeypatch.setattr(cli_train, "train_run", fail)
    assert cli.main(["train", "--set", f"model.kind={HERE}:Wide", "--set", "engine=vectorized"]) == 2
    assert (
        "failed (RuntimeError: the class has changed) after 0 iterations: mend it, then go on with `python"
        in capsys.readouterr().err
    )
    assert store.all_runs()[0].status == "interrupted"


def test_nothing_but_the_command_line_loads_it(session: TrainingSession) -> None:
    config = config_of(f"{HERE}_never_imported:Net")  # reading the configuration imports nothing
    with pytest.raises(ConfigError, match="only the command line loads"):
        build_model(config.model, seed=0)
    with pytest.raises(ConfigError, match="only the command line loads"):
        session.start(config)
    run_id = session.store.create_run(config)
    session.store.ask(run_id, "stop")
    with pytest.raises(ConfigError, match="only the command line loads"):
        session.resume(run_id)
    assert session.store.run(run_id).status == "stopped"


def test_a_run_of_it_goes_into_another_store_and_nothing_is_loaded_on_the_files_word(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "travelling.py").write_text(NET.replace("torch.tensor(1.0)", "torch.rand(())"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with own_models():
        run = store.claim(this_process(), store.create_run(config_of("travelling:Net", algorithm="meta-sgd")))
        assert run is not None
        assert train_run(store, run, this_process()) == "finished"
        data = export_run(store, run.id)
        best = load_initialization(store.checkpoint(run.id) or b"", run.config)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert b"class Net(torch.nn.Module)" in archive.read("model.py")
        assert "adapt.py" not in archive.namelist()

    sys.modules.pop("travelling")
    (tmp_path / "travelling.py").rename(tmp_path / "away.py")
    elsewhere = Store(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    there = import_run(elsewhere, data)  # outside `own_models`, and without the class
    assert "travelling" not in sys.modules
    assert elsewhere.metrics(there).equals(store.metrics(run.id))
    assert [at for at, *_ in elsewhere.history(there)] == [at for at, *_ in store.history(run.id)]

    (tmp_path / "away.py").rename(tmp_path / "travelling.py")
    monkeypatch.setattr(LOG, "propagate", True)
    with own_models():
        again = load_initialization(elsewhere.checkpoint(there) or b"", elsewhere.run(there).config)
        tasks = run.config.tasks.held_out(tasks=2, shots=5, query_shots=3)
        assert torch.equal(again.adapt(tasks, 2).predictions, best.adapt(tasks, 2).predictions)
        for name in HASHED:
            with (
                zipfile.ZipFile(io.BytesIO(data)) as one,
                zipfile.ZipFile(io.BytesIO(export_run(elsewhere, there))) as two,
            ):
                assert one.read(name) == two.read(name)
    assert "has been edited" not in caplog.text
    elsewhere.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shapes": None}, "it does not state the shapes"),
        ({"shapes": {}}, "it does not state the shapes"),
        ({"shapes": {"one.weight": [10**12]}}, "its model is too large"),
        ({"shapes": {"one.weight": [5, 1]}}, "does not hold just the tensors"),
        ({"shapes": {"one.weight": [-5, 1]}}, "shapes"),
        ({"model.kind": "antigravity:Fly"}, "is no class of a user's own"),
        ({"source": "x" * 65}, "a SHA-256"),
        ({"sha256": "buffers.safetensors"}, "buffers.safetensors does not match its SHA-256"),
    ],
)
def test_a_forged_run_of_it_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    (tmp_path / "forged.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    with own_models():
        run = store.claim(this_process(), store.create_run(config_of("forged:Net", meta_iterations=2)))
        assert run is not None
        train_run(store, run, this_process())
        with zipfile.ZipFile(io.BytesIO(export_run(store, run.id))) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(parts["run.json"])
    ((name, value),) = change.items()
    if name == "model.kind":
        manifest["config"]["model"]["kind"] = value
    elif name == "sha256":
        manifest["sha256"][value] = "0" * 64
    else:
        manifest[name] = value
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry, data in (parts | {"run.json": json.dumps(manifest).encode()}).items():
            archive.writestr(entry, data)
    with pytest.raises(ImportRefusedError, match=re.escape(said)):
        import_run(store, file.getvalue())


def test_a_script_cannot_hold_it(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = store.create_run(config_of())
    assert cli.main(["export", run_id, str(tmp_path / "adapt.py")]) == 2
    assert "export the weights as .safetensors" in capsys.readouterr().err


def test_the_default_model_is_none_of_these() -> None:
    assert isinstance(config_of().with_settings({"model.kind": "mlp"}).model, MLP)


@pytest.mark.parametrize(
    "code",
    ["import sys; sys.exit(0)", "import argparse; argparse.ArgumentParser(prog='theirs').parse_args(['--wrong'])"],
)
def test_a_file_that_ends_the_program_is_refused_in_one_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    name = f"script_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["train", "--set", f"model.kind={name}:Net"]) == 2
    printed = capsys.readouterr()
    assert "ends the program as it is read" in printed.err
    assert "usage" not in printed.err + printed.out
    assert len(printed.err.strip().splitlines()) == 1
    assert store.all_runs() == []


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Linear(1, 5)
        self.two = torch.nn.Linear(5, 1)
        self.register_buffer("shift", torch.tensor(1.0))

    def forward(self, x):
        return self.two(torch.tanh(self.one(x + self.shift)))
"""
ONE, TWO = (f"        self.{line}\n" for line in ("one = torch.nn.Linear(1, 5)", "two = torch.nn.Linear(5, 1)"))


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        (NET.replace(ONE, "").replace(TWO, TWO + ONE), None),
        (NET.replace("torch.tensor(1.0)", "torch.tensor(2.0)"), None),
        (NET.replace("two", "last"), "when it was trained, two.weight was of shape [1, 5], and now it is not there"),
        (NET.replace("5", "6"), "one.weight was of shape [5, 1], and now it is of shape [6, 1]"),
    ],
    ids=["other order", "other buffer", "other name", "other size"],
)
def test_a_class_edited_after_training_gives_the_same_function_or_is_refused(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    edited: str,
    said: str | None,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "edited_file.py").write_text(NET)
    config = config_of("edited_file:Net")
    tasks = config.tasks.held_out(tasks=3, shots=5, query_shots=4)
    with own_models():
        owner = this_process()
        run = store.claim(owner, store.create_run(config))
        assert run is not None
        assert train_run(store, run, owner) == "finished"
        saved = store.checkpoint(run.id)
        assert saved is not None
        before = load_initialization(saved, config).adapt(tasks, steps=2).predictions
        (tmp_path / "edited_file.py").write_text(edited)
        del sys.modules["edited_file"]
        linecache.clearcache()
        try:
            if said is None:
                monkeypatch.setattr(LOG, "propagate", True)
                after = load_initialization(saved, config).adapt(tasks, steps=2).predictions
                torch.testing.assert_close(after, before)
                assert "has been edited since the run was trained" in caplog.text
            else:
                with pytest.raises(CheckpointError, match=re.escape(said)):
                    load_initialization(saved, config)
        finally:
            del sys.modules["edited_file"]


class Tied(nn.Module):
    """One tensor under two names, a buffer, a module registered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(1, 4)
        self.head = nn.Linear(4, 1)
        self.net = nn.Sequential(self.body, nn.Tanh(), self.head)
        self.register_buffer("shift", torch.rand(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = self.shift
        assert isinstance(shift, torch.Tensor)
        found: torch.Tensor = self.net(x + shift)
        return found


@pytest.mark.parametrize("algorithm", ["fomaml", "fo-meta-sgd"])
def test_exported_weights_load_strictly(store: Store, algorithm: str) -> None:
    config = config_of(f"{HERE}:Tied", algorithm=algorithm)
    with own_models():
        owner = this_process()
        run = store.claim(owner, store.create_run(config))
        assert run is not None
        assert train_run(store, run, owner) == "finished"
        model = Tied()
        model.load_state_dict(load(export_weights(store, run.id)))
        start = load_initialization(store.checkpoint(run.id) or b"", config)
    x = torch.linspace(-2, 2, 7)[:, None]
    torch.testing.assert_close(model(x), call(start.model, start.parameters, x))
