"""Engine `auto`: when it changes over, what it says, and that it can be replayed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maml_core.config import RunConfig
from maml_core.engines import Compilation, CompiledEngine, CompileStage, MetaOptimizer
from maml_core.engines.package_cache import PackageCache
from maml_core.learning.algorithms import InnerLoop
from maml_core.learning.models import build_model
from maml_core.learning.tasks import TaskBatch
from maml_core.training.compile_job import CompileJob
from maml_core.training.trainer import Progress, Trainer, make_engine, training_stream
from tests.conftest import ROOT
from tests.core.starts import FOMAML


class FakeJob:
    """A compilation that ends when the test says so."""

    def __init__(self, config: RunConfig) -> None:
        self.answer = Compilation(CompileStage.WORKING)
        self.canceled = False

    def status(self) -> Compilation:
        return self.answer

    def cancel(self) -> None:
        self.canceled = True


@pytest.fixture
def config(small_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run that is worth compiling, by decree, and whose loop nobody has made yet."""
    monkeypatch.setattr("maml_core.engines.auto.WORTH_SECONDS", 0.0)
    monkeypatch.setattr("maml_core.engines.auto.CompiledEngine.is_ready_for", lambda *_: False)
    return small_config.with_settings({"meta_iterations": 60})


def run(trainer: Trainer, job_is_done_at: int | None = None) -> list[Progress]:
    reports = []
    for progress in trainer.run():
        reports.append(progress)
        job = trainer.engine._job  # type: ignore[attr-defined]
        if job is not None and job_is_done_at is not None and progress.state.iteration >= job_is_done_at:
            job.answer = Compilation(CompileStage.READY)
    return reports


def test_it_changes_over_and_replays_bit_for_bit(config: RunConfig) -> None:
    trainer = Trainer(config, start_job=FakeJob)
    assert trainer.engine.status == "vectorized"
    reports = run(trainer, job_is_done_at=20)
    swapped_at = trainer.engine.swapped_at
    assert swapped_at is not None
    assert 20 <= swapped_at < 60
    assert trainer.engine.status == "compiled"
    rows = [row for report in reports for row in report.rows]

    again = Trainer(config, swapped_at=swapped_at)
    assert [row for report in run(again) for row in report.rows] == rows
    assert torch.equal(again.state.parameters, trainer.state.parameters)

    for stop in (5, swapped_at, 50):
        first = Trainer(config, swapped_at=swapped_at)
        first.limit = stop
        run(first)
        second = Trainer(config, first.state, first.pending, first.engine.swapped_at)
        run(second)
        assert torch.equal(second.state.parameters, trainer.state.parameters)


def test_trouble_is_said_once_and_training_goes_on(config: RunConfig) -> None:
    trainer = Trainer(config, start_job=FakeJob)
    for _ in trainer.run():
        if trainer.engine._job is not None:  # type: ignore[attr-defined]
            reason = "The compiled loop cannot be made (no compiler)."
            trainer.engine._job.answer = Compilation(CompileStage.FAILED, reason)  # type: ignore[attr-defined]
    assert trainer.state.iteration == 60
    assert trainer.engine.swapped_at is None
    assert trainer.engine.notice is not None
    assert "no compiler" in trainer.engine.notice
    assert "goes on with the vectorized engine" in trainer.engine.notice


def test_a_short_run_is_not_compiled(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_core.engines.auto.WORTH_SECONDS", 30.0)
    started: list[FakeJob] = []
    trainer = Trainer(config, start_job=lambda config: started.append(FakeJob(config)) or started[-1])  # type: ignore[func-returns-value]
    run(trainer)
    assert started == []


def test_a_job_that_nobody_waits_for_is_canceled(config: RunConfig) -> None:
    jobs: list[FakeJob] = []
    trainer = Trainer(config, start_job=lambda config: jobs.append(FakeJob(config)) or jobs[-1])  # type: ignore[func-returns-value]
    run(trainer)
    trainer.close()
    assert jobs[0].canceled


def test_a_job_makes_the_loop_and_a_new_process_finds_it(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAML_CACHE", str(tmp_path / "cache"))
    job = CompileJob(small_config)
    job._process.wait(timeout=200)
    assert job.status().stage is CompileStage.READY
    job.cancel()
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    trainer = Trainer(small_config)
    list(trainer.run())
    assert trainer.engine.swapped_at == 1
    # One loop serves every inner_lr, meta_lr, seed and number of iterations.
    other = small_config.with_settings({"inner_lr": 0.02, "meta_lr": 0.01, "seed": 5, "meta_iterations": 30})
    trainer = Trainer(other)
    list(trainer.run())
    assert trainer.engine.swapped_at == 1


def test_without_a_compiler_it_says_so(small_config: RunConfig, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "maml_core.training.compile_job", "--parent", str(os.getpid()), small_config.to_json()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=os.environ
        | {
            "MAML_CACHE": str(tmp_path),
            "CXX": "/nonexistent",
            "PATH": "/nonexistent",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        },
    )
    assert done.returncode == 1
    assert "a C++ compiler is needed" in done.stdout.splitlines()[-1]


def test_a_damaged_package_is_made_again_and_an_open_folder_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    (folder / "broken.pt2").write_bytes(b"not a package")
    assert PackageCache(folder).load("broken") is None
    assert not (folder / "broken.pt2").exists()
    (folder / "other.pt2").write_bytes(b"x")
    folder.chmod(0o777)
    assert not PackageCache(folder).has("other")


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maml_core.engines.package_cache.MAX_PACKAGES", 3)
    for number in range(5):
        path = tmp_path / f"{number}.pt2"
        path.write_bytes(b"x")
        os.utime(path, (number, number))
    PackageCache(tmp_path)._prune()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.pt2", "3.pt2", "4.pt2"]


def test_the_compiled_engine_refuses_another_device(small_config: RunConfig) -> None:
    model = build_model(small_config.model, 0).to("meta")
    with pytest.raises(Exception, match="runs on the CPU only"):
        make_engine(small_config, model, "compiled")
    assert training_stream(small_config).block_size == 256


def test_the_name_of_a_loop_tells_apart_whatever_changes_it() -> None:
    tasks = TaskBatch(*(torch.zeros(3, 5, 1) for _ in range(4)))

    def name(slope: float = 0.01, tasks: TaskBatch = tasks, hook: bool = False, **parts: object) -> str:
        model = nn.Sequential(nn.Linear(1, 4), nn.LeakyReLU(slope), nn.Linear(4, 1))
        if hook:
            model.register_forward_hook(lambda module, given, out: 2 * out)
        settings = {"inner": InnerLoop(0.01, 2), "meta_optimizer": MetaOptimizer(0.001), "algorithm": FOMAML} | parts
        return CompiledEngine(model, **settings)._package_name(tasks)  # type: ignore[arg-type]

    names = [
        name(),
        name(slope=0.2),
        name(hook=True),
        name(inner=InnerLoop(0.01, 3)),
        name(meta_optimizer=MetaOptimizer(0.001, clip_norm=1.0)),
        name(tasks=TaskBatch(*(torch.zeros(3, 6, 1) for _ in range(4)))),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]
    assert name(inner=InnerLoop(0.5, 2)) == names[0]  # rates are inputs of a loop, so one serves all
    assert name(meta_optimizer=MetaOptimizer(0.1)) == names[0]


def test_a_model_of_ones_own_is_named_by_its_operations() -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.layer, self._scale = nn.Linear(1, 1), scale

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self._scale  # type: ignore[no-any-return]

    tasks = TaskBatch(*(torch.zeros(3, 5, 1) for _ in range(4)))
    names = {
        CompiledEngine(
            Scaled(scale), inner=InnerLoop(0.01, 1), meta_optimizer=MetaOptimizer(0.1), algorithm=FOMAML
        )._package_name(tasks)
        for scale in (1.5, 2.5)
    }
    assert len(names) == 2
