"""Tasks drawn in native code: torch's bits, or torch's own drawing."""

import math

import pytest
import torch

from maml_core.config import RunConfig
from maml_core.engines.native import Sampler, sampling, toolchain
from maml_core.engines.native.program import Program
from maml_core.errors import EngineError
from maml_core.learning.families import Quadratic
from maml_core.learning.tasks import FAMILIES, TaskBatch, TaskStream, parse_family
from maml_core.training import parts
from maml_core.training.parts import quicken, training_stream
from maml_core.training.trainer import Trainer
from tests.conftest import wait_for

LEFT_TO_TORCH = {"spiral", "circles", "navigation", "steering", "glyphs", "gaussian-process", "mixture"}
"""Families that do more than arithmetic with their numbers."""


def stream_of(family: dict[str, object], *, shots: int = 5, **settings: object) -> TaskStream:
    return TaskStream(
        parse_family(family), meta_batch_size=3, shots=shots, query_shots=8, seed=4, **settings  # type: ignore[arg-type]
    )  # fmt: skip


def ready(stream: TaskStream) -> Sampler:
    """A sampler whose code is there."""
    sampler = Sampler(stream)
    assert sampler._build is not None
    wait_for(sampler._build.is_done)
    return sampler


def drawn_alike(stream: TaskStream, sampler: Sampler) -> bool:
    """Whether native code drew some blocks; that they are torch's in each case is asserted."""
    drew = []
    for seed in (0, 1, 2**31, 2**32 - 1, 2**32 + 1, 2**63 + 5, 2**64 - 1):
        found, expected = sampler(seed), stream.sample(torch.Generator().manual_seed(seed))
        drew.append(found is not None)
        if found is not None:
            assert [part.shape for part in found] == [part.shape for part in expected]
            assert all(map(torch.equal, found, expected))
            assert all(part.is_contiguous() for part in found)
    assert len(set(drew)) == 1
    return drew[0]


FORMULA = {"family": "formula", "parameters": {"a": [0.5, 2], "b": [0, 1]}}


@pytest.mark.parametrize(
    "family",
    [
        {"family": "quadratic"},
        {"family": "absolute-value"},
        {"family": "sine", "frequency": [0.5, 2.0], "amplitude": [1.0, 1.0]},
        {"family": "sine", "noise": 0.3},
        {"family": "tanh"},
        {"family": "harmonic"},
        {"family": "line"},
        FORMULA | {"formula": "a*sin(x) + exp(-b*x*x) + x**3"},
        FORMULA | {"formula": "log(1 + a*abs(x)) / sqrt(1 + b) - max(x, min(a, 2*b)) + where(x < b, x, -a)"},
        FORMULA | {"formula": "sin(a*cos(x) + exp(-b))"},  # of one another
        FORMULA | {"formula": "1000*(exp(a*x/1000) - 1) + b"},  # whose last bits are its first ones
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_bits_are_torchs(family: dict[str, object], dtype: torch.dtype) -> None:
    """In double precision a function of another library would differ at once."""
    stream = stream_of(family, dtype=dtype)
    assert drawn_alike(stream, ready(stream))


@pytest.mark.parametrize("shots", [1, 3, 8, 40])
def test_any_number_of_points_will_do(shots: int) -> None:
    stream = stream_of({"family": "quadratic"}, shots=shots)
    assert drawn_alike(stream, ready(stream))


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"table", "images"}))
def test_a_family_is_drawn_alike_or_left_to_torch(name: str) -> None:
    stream = stream_of({"family": name})
    if name in LEFT_TO_TORCH:
        with pytest.raises(EngineError, match=r"draws no tasks with aten\."):
            Sampler(stream)
    else:
        assert drawn_alike(stream, ready(stream))


def test_a_family_that_rounds_in_a_way_of_its_own_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def sums(self: Quadratic, x: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        return x * x.sum()

    def rounds(self: Quadratic, x: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        return (x.float() * 3).double()

    def scales(self: Quadratic, x: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        return torch.add(x, parameters["curvature"], alpha=3)

    for function in (sums, rounds, scales):
        monkeypatch.setattr(Quadratic, "function", function)
        with pytest.raises(EngineError, match="draws no tasks with"):
            Sampler(stream_of({"family": "quadratic"}))


def test_a_stream_of_another_precision_is_left_to_torch() -> None:
    with pytest.raises(EngineError, match="on the CPU"):
        Sampler(stream_of({"family": "quadratic"}, dtype=torch.bfloat16))


@pytest.mark.parametrize("shots", [1, 3, 500])
def test_nothing_is_read_or_written_beyond_its_memory(shots: int) -> None:
    stream = stream_of({"family": "sine", "noise": 0.1}, shots=shots)
    sampler = ready(stream)
    before = sampler._numbers
    sampler._numbers = torch.full((len(before) + 1000,), math.nan, dtype=torch.float64)
    assert drawn_alike(stream, sampler)
    assert torch.isnan(sampler._numbers[len(before) :]).all()
    plan = sampler._plan
    for each in (*plan.drawn, *plan.asked):  # the last task's vectors end within
        assert each.first + (sampler._tasks - 1) * each.count + math.prod(each.node.meta["shape"]) <= plan.size


def test_a_stream_reads_the_same_with_and_without() -> None:
    plain, quick = stream_of({"family": "quadratic"}), stream_of({"family": "quadratic"})
    quick.sampler = ready(quick)
    quick.draw_ahead(2000)
    for start, count in ((0, 3), (3, 700), (703, 1), (1500, 40), (20, 300)):
        for found, expected in zip(quick.take(start, count), plain.take(start, count), strict=True):
            assert torch.equal(found, expected)
    quick.close()
    assert quick.sampler._calls is not None


def test_one_whose_bits_are_others_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_LOOP", sampling._LOOP.replace("(long t = 0;", "(long t = 1;"))
    stream = stream_of({"family": "quadratic"})
    stream.sampler = sampler = ready(stream)
    assert all(map(torch.equal, stream.take(0, 2), stream_of({"family": "quadratic"}).take(0, 2)))
    assert sampler(5) is None


def test_one_that_cannot_be_compiled_leaves_it_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_LOOP", sampling._LOOP + "\nno C++ at all")
    stream = stream_of({"family": "quadratic"})
    assert ready(stream)(1) is None


def test_without_a_compiler_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    stream = stream_of({"family": "quadratic"}, shots=2)
    assert quicken(stream, 10**9) is None
    assert stream.sampler is None


def test_few_tasks_are_not_worth_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "Sampler", lambda stream: pytest.fail("it asked for one"))
    assert quicken(stream_of({"family": "quadratic"}), 1000) is None


def test_products_are_rounded_before_they_are_added_to() -> None:
    stream = stream_of({"family": "quadratic"})
    program: Program = Sampler(stream)._program
    given = toolchain.flags(program)
    assert given.index("-ffp-contract=off") > given.index("-ffp-contract=fast")  # the last of them counts


def test_a_run_is_the_same_run(small_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config.with_settings({"engine": "native", "tasks": {"family": "quadratic"}, "meta_iterations": 2000})
    stream = training_stream(config)
    assert isinstance(stream, TaskStream)
    assert ready(stream)(0) is not None  # and its code is kept
    ends = []
    for worth in (0, 10**12):
        monkeypatch.setattr(parts, "WORTH_SAMPLING", worth)
        trainer = Trainer(config)
        rows = [row for report in trainer.run() for row in report.rows]
        ends.append((rows, trainer.state.parameters))
        if not worth:
            assert trainer._sampler is not None
            assert trainer._sampler._calls is not None  # it did draw
        trainer.close()
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def test_the_time_of_a_compiler_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of({"family": "quadratic"}, shots=7)
    stream.sampler = sampler = Sampler(stream)
    monkeypatch.setattr(sampler._build, "is_done", lambda: False)
    found: TaskBatch = stream.take(0, 5)
    assert all(map(torch.equal, found, stream_of({"family": "quadratic"}, shots=7).take(0, 5)))
    assert sampler._calls is None
    sampler.close()
    assert sampler(3) is None
