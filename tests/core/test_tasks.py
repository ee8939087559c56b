import itertools
import math
import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maml_core.errors import ConfigError
from maml_core.learning.families import Line, Sine, TableFamily
from maml_core.learning.generated import FunctionFamily
from maml_core.learning.tasks import (
    FAMILIES,
    Normal,
    TaskBatch,
    TaskFamily,
    TaskSet,
    TaskStream,
    Uniform,
    parse_family,
    seeded,
)

EVERY_FAMILY = [family for name in FAMILIES if isinstance(family := parse_family({"family": name}), FunctionFamily)]
families = st.sampled_from([*EVERY_FAMILY, Sine(noise=0.5), Line(x=Uniform(low=0, high=1))])


def stream(family: TaskFamily, seed: int = 0, **options: object) -> TaskStream:
    return TaskStream(family, meta_batch_size=4, shots=3, query_shots=2, seed=seed, **options)  # type: ignore[arg-type]


@given(families, st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_shapes_and_dtype(family: FunctionFamily, shots: int, query_shots: int, seed: int) -> None:
    batch = family.sample_batch((2, 3), shots, query_shots, seeded(str(seed)))
    assert batch.support_x.shape == batch.support_y.shape == (2, 3, shots, 1)
    assert batch.query_x.shape == batch.query_y.shape == (2, 3, query_shots, 1)
    assert all(tensor.dtype == torch.float32 for tensor in batch)


@given(st.sampled_from(EVERY_FAMILY), st.integers(0, 1000))
def test_support_and_query_come_from_the_same_function(family: FunctionFamily, seed: int) -> None:
    """Draw the parameters a second time from the same seed: both halves must lie on that one curve."""
    family = family.model_copy(update={"noise": 0.0})
    batch = family.sample_batch((5,), 6, 4, seeded(str(seed)), dtype=torch.float64)
    parameters = family.sample_parameters((5,), seeded(str(seed)))
    torch.testing.assert_close(batch.support_y, family.curve(parameters, batch.support_x))
    torch.testing.assert_close(batch.query_y, family.curve(parameters, batch.query_x))


@given(families, st.integers(0, 1000))
def test_parameters_and_inputs_stay_in_range(family: FunctionFamily, seed: int) -> None:
    parameters = family.sample_parameters((50,), seeded(str(seed)))
    for name, distribution in family.distributions.items():
        if isinstance(distribution, Uniform):
            low, high = distribution.span
            assert ((parameters[name] >= low) & (parameters[name] <= high)).all()
    x, _ = family.sample_points(parameters, 10, seeded("x"))
    assert ((x >= family.x.low) & (x <= family.x.high)).all()


def test_moments() -> None:
    drawn = Line(slope=Normal(mean=2.0, std=0.5)).sample_parameters((40_000,), seeded("moments"))
    assert drawn["slope"].mean().item() == pytest.approx(2.0, abs=0.02)
    assert drawn["slope"].std().item() == pytest.approx(0.5, rel=0.02)
    sine = Sine().sample_parameters((40_000,), seeded("moments"))
    assert sine["amplitude"].mean().item() == pytest.approx(2.55, abs=0.03)
    assert sine["phase"].std().item() == pytest.approx(math.pi / 12**0.5, rel=0.02)
    assert (sine["frequency"] == 1).all()


def test_noise_has_the_stated_size() -> None:
    family = Sine(noise=0.3)
    parameters = family.sample_parameters((200,), seeded("n"))
    x, y = family.sample_points(parameters, 100, seeded("m"))
    assert (y - family.curve(parameters, x)).std().item() == pytest.approx(0.3, rel=0.03)


def test_the_curves_are_the_documented_ones() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0]])
    task = Sine().task(amplitude=2.5, phase=1.0)
    torch.testing.assert_close(Sine().curve(task, x), 2.5 * torch.sin(x.double() - 1.0))
    line = Line().task(slope=2.0, intercept=-1.0)
    torch.testing.assert_close(Line().curve(line, x), 2 * x.double() - 1)


def test_a_task_from_given_parameters_fills_in_the_middle() -> None:
    assert Sine().task(amplitude=2.5)["phase"].item() == pytest.approx(math.pi / 2)
    with pytest.raises(ConfigError, match="wings is not a parameter of the sine family"):
        Sine().task(wings=2)
    with pytest.raises(ConfigError, match="finite"):
        Sine().task(amplitude=math.nan)


@given(st.one_of(families, st.just(TableFamily())), st.integers(0, 600), st.integers(1, 300), st.integers(1, 50))
def test_the_stream_does_not_depend_on_how_it_is_read(family: TaskFamily, start: int, count: int, chunk: int) -> None:
    whole = stream(family).take(start, count)
    reader = stream(family)
    parts = [reader.take(i, min(chunk, start + count - i)) for i in range(start, start + count, chunk)]
    for name, tensor in whole._asdict().items():
        assert torch.equal(tensor, torch.cat([getattr(part, name) for part in parts]))


def test_streams_differ_by_seed_and_set() -> None:
    first = stream(Sine()).take(0, 1).support_x
    assert not torch.equal(first, stream(Sine(), seed=1).take(0, 1).support_x)
    assert not torch.equal(first, stream(Sine(), task_set=TaskSet.VALIDATION).take(0, 1).support_x)
    assert not torch.equal(first, stream(Sine()).take(1, 1).support_x)


def test_what_is_drawn_ahead_is_what_would_have_been_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawers: list[str] = []
    draw = Sine.sample_batch

    def noted(*args: Any, **options: Any) -> TaskBatch:
        drawers.append(threading.current_thread().name)
        return draw(*args, **options)

    monkeypatch.setattr(Sine, "sample_batch", noted)
    plain, ahead = stream(Sine()), stream(Sine())
    size = plain.block_size
    ahead.draw_ahead(until=3 * size)
    expected = [plain.take(start, size) for start in (0, size, 2 * size)]
    drawers.clear()
    for number, batch in enumerate(expected):
        assert all(map(torch.equal, batch, ahead.take(number * size, size)))
    assert [name.rpartition("_")[0] for name in drawers] == ["", "tasks", "tasks"]  # once each, and none beyond the end
    for start, count in ((3, size), (5 * size, 2), (1, 1), (0, 3 * size)):  # back, beyond the end, back, all of it
        assert all(map(torch.equal, plain.take(start, count), ahead.take(start, count)))
    ahead.close()
    assert torch.equal(ahead.take(9 * size, 1).query_y, plain.take(9 * size, 1).query_y)


def test_what_cannot_be_drawn_is_said_when_it_is_asked_for_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, draw, count = stream(Sine()), Sine.sample_batch, itertools.count()

    def ends(*args: Any, **options: Any) -> TaskBatch:
        if next(count) > 0:
            raise ConfigError("no further tasks")
        return draw(*args, **options)

    monkeypatch.setattr(Sine, "sample_batch", ends)
    reader.draw_ahead(until=10**6)
    reader.take(0, reader.block_size)
    with pytest.raises(ConfigError, match="no further tasks"):
        reader.take(reader.block_size, 1)
    reader.close()
